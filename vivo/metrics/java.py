"""Java programs that score captions (METEOR, SPICE): found, checked, and run in processes of their own.

Where such a program breaks off, hangs or is missing, the caller gets a `JavaScoreError` with the reason and what helps,
and no score. Nothing is written beside the programs, which may be installed read-only: what they write goes into
`vivo.files.cache_folder("java")`.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vivo.errors import UserError
from vivo.files import cache_folder

INSTALL = "apt-get install default-jre-headless"


class JavaScoreError(Exception):
    """A score is missing. found: why. fix: what helps, one line."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found}; {fix}")
        self.found, self.fix = found, fix


@dataclass(frozen=True)
class Java:
    """A Java that starts. program: its path. version: 8, 11, 17, ... shown: its own line."""

    program: str
    version: int
    shown: str


def find_java() -> Java:
    """The first `java` on PATH.

    Raises:
        JavaScoreError: there is none, or it does not start.
    """
    program = shutil.which("java")
    if program is None:
        raise JavaScoreError("java is not on PATH", INSTALL)
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        text = str(error).strip().splitlines()[0]
        raise JavaScoreError(
            f"{program} does not start: {type(error).__name__}: {text}", f"again: {INSTALL}"
        ) from error
    said = (done.stderr or done.stdout).strip()
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    # JAVA_TOOL_OPTIONS is announced on a line of its own, before the version
    shown = next((line for line in said.splitlines() if "version" in line), said.splitlines()[0] if said else "")
    if done.returncode or not found:
        raise JavaScoreError(f"{program} does not start: {shown}", f"again: {INSTALL}")
    return Java(program, int(found[1]), shown)


def wheel_folder(name: str) -> Path:
    """A folder of the installed pycocoevalcap, which has no __init__.py: "meteor" or "spice".

    Raises:
        JavaScoreError: it is not installed.
    """
    package = importlib.util.find_spec("pycocoevalcap")
    places = list(package.submodule_search_locations or ()) if package else []
    if not places:
        raise JavaScoreError("pycocoevalcap is not installed", "pip install pycocoevalcap")
    return Path(places[0]) / name


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for one run of a program, gone afterwards.

    Raises:
        JavaScoreError: the cache cannot be written.
    """
    try:
        base = cache_folder("java")
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=base, ignore_cleanup_errors=True)
    except (UserError, OSError) as error:
        found, _, fix = str(error).partition("; ")
        raise JavaScoreError(found, fix or "export VIVO_CACHE=FOLDER with one that can be written") from error
    with folder as path:
        yield Path(path)


class JavaProcess:
    """One run of a program that answers lines with lines; ends, by force where need be, with the block.

        with JavaProcess([java, "-jar", ...], folder, limit=600) as process:
            answers = process.ask(["a question"], 1)

    Args:
        command: program and arguments. folder: where it runs and writes; its messages go to stderr.txt there.
        limit: seconds until it is taken to hang and is ended.
    """

    def __init__(self, command: Sequence[str], folder: Path, limit: float) -> None:
        self._command, self._folder, self._limit = command, folder, limit
        self._expired = False

    def __enter__(self) -> "JavaProcess":
        self._messages: IO[bytes] = (self._folder / "stderr.txt").open("wb")
        try:
            # A session of its own: a launcher script's children are ended with it. Numbers with a point, not a comma.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                start_new_session=True,
            )
        except OSError as error:
            self._messages.close()
            raise JavaScoreError(f"{self._command[0]} does not start: {error.strerror}", f"again: {INSTALL}") from error
        self._timer = threading.Timer(self._limit, self._expire)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what could not be sent
                    pipe.close()
        self._process.wait()
        self._messages.close()

    def ask(self, lines: Sequence[str], answers: int) -> list[str]:
        """Send `lines` and read `answers` lines.

        Raises:
            JavaScoreError: the program ended before it had answered, or took too long.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        # Sent while answers are read: both pipes are small, and either side would wait for the other.
        sender = threading.Thread(target=self._send, args=(lines,), daemon=True)
        sender.start()
        found = []
        for _ in range(answers):
            line = self._process.stdout.readline()
            if not line.endswith(b"\n"):
                raise self._broken()
            found.append(line.decode("utf-8", "replace").strip())
        sender.join()
        return found

    def finish(self) -> None:
        """Let the program end by itself.

        Raises:
            JavaScoreError: it took too long, or its exit status is not 0.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.read()
        if self._process.wait() or self._expired:
            raise self._broken()

    def _send(self, lines: Sequence[str]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it ended; the reader sees that
            self._process.stdin.writelines(f"{line}\n".encode() for line in lines)
            self._process.stdin.flush()

    def _expire(self) -> None:
        self._expired = True
        self._end()

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _broken(self) -> JavaScoreError:
        """Why there is no answer."""
        status = self._process.wait()
        if self._expired:
            return JavaScoreError(f"no answer within {self._limit:g} s", "a larger --java-limit waits longer")
        ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        self._messages.flush()
        said = (self._folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line.strip() for line in said if line.strip() and not line.startswith("Picked up ")]
        # The class of an exception says most ("java.lang.OutOfMemoryError: Java heap space").
        telling = [line for line in lines if re.search(r"\w(Exception|Error)\b", line)]
        telling = telling or [line for line in lines if "error" in line.lower()] or lines[-1:]
        return JavaScoreError(f"{ended}: {telling[0][:200]}" if telling else ended, "vivo doctor tries it alone")
