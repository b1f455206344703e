"""What one check of the machine found."""

from dataclasses import dataclass

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: what was looked at. found: what is there, in a few words.
        status: `OK`; `WARNING`, something optional is missing or will be slow; `FAILURE`, training cannot run.
        fix: what to do about it, one line; "" where all is well.
    """

    name: str
    status: str
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, OK, found)


def warning(name: str, found: str, fix: str) -> Finding:
    """Training runs all the same."""
    return Finding(name, WARNING, found, fix)


def failure(name: str, found: str, fix: str) -> Finding:
    """Training does not run before this is mended."""
    return Finding(name, FAILURE, found, fix)


def first_line(error: BaseException) -> str:
    """The kind of an exception and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
