"""Writing files so that nothing half-written is ever found under its final name.

Everything is written beside its place under a temporary name and renamed when it is whole: after a
crash or Ctrl-C there is the old content or none, and the next run starts from there.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vivo.errors import UserError


def writable_folder(path: str | Path) -> Path:
    """Make the folder `path` with its parents, try a file in it, and return it as a `Path`.

    To be called before a long computation, so that it is not lost for want of a place to put it.
    """
    folder = Path(path)
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot("write into", folder, error) from error
    return folder


def cache_folder(name: str) -> Path:
    """The folder `name` for what can be computed anew, made if need be: in $VIVO_CACHE, else in vivo/ of
    $XDG_CACHE_HOME, else in ~/.cache/vivo. Never in the installed packages, which may be read-only.

    Raises:
        UserError: it cannot be written.
    """
    own, common = os.environ.get("VIVO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else Path(common or Path("~/.cache").expanduser()) / "vivo"
    try:
        return writable_folder(base / name)
    except UserError as error:
        raise UserError(f"{str(error).split(';')[0]}; export VIVO_CACHE=FOLDER with one that can be written") from error


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, target)
    except OSError as error:
        raise _cannot("write", target, error) from error
    finally:
        with suppress(OSError):  # gone when all went well
            temporary.unlink()


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all.

    NaN and infinity are refused with a `ValueError`: they are not JSON, and a score that is one is a bug.
    """
    atomic_write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `atomic_write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def printable(text: str) -> str:
    """The text with bytes of a file name that are no UTF-8 as \\xfc: Python reads such names, but cannot write them."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def remove_file(path: str | Path) -> None:
    """Delete the file `path`, if it is there."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise _cannot("remove", Path(path), error) from error


def refuse_loss(path: str | Path, ours: Collection[str], needed: Iterable[str | Path] = ()) -> None:
    """`UserError` where writing the folder `path` anew would lose what the program did not write.

    To be called before the work, by programs whose users name the folder: `atomic_folder` replaces all of it.

    Args:
        ours: names of what the program writes into the folder; anything else there is the user's.
        needed: files and folders that the program reads: `path` must be none of them and not hold them.
    """
    folder = Path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{path}: is a file; name a folder to write")
    if folder == Path.cwd():
        raise UserError(f"{path}: is the folder that you are in and would be replaced; name another one")
    for source in needed:
        if folder in (Path(source).resolve(), *Path(source).resolve().parents):
            raise UserError(f"{path}: would be replaced, but {source} is read from there; name another folder to write")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours) if folder.is_dir() else []
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{path}: would be replaced, but holds {others[0]}{more}, which this program did not write; name another"
            " folder, or remove that first"
        )


def lock_folder(folder: Path, what: str) -> int:
    """Hold a folder against a second command; returns the descriptor to close.

    Args:
        what: is written there, for the error.

    Raises:
        UserError: another process holds it.
    """
    import fcntl  # here: nothing else of this module is for Unix alone

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is writing {what}; wait for it or choose another folder") from error
    except OSError:
        pass  # a file system without locks on folders: no reason to refuse work
    return descriptor


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` when the block ends well.

    What stood at `path` stays until then, and for good if the block raises (see `refuse_loss`). One writer at a
    time: the temporary names are fixed, so that the next run clears what a killed one left.

        with atomic_folder("runs/demo/vivo") as folder:
            model.save_pretrained(folder)
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    replaced = target.with_name(f".{target.name}.old")
    try:
        writable_folder(target.parent)
        if replaced.exists() and not target.exists():  # killed between the two renames below
            replaced.rename(target)
        _remove(temporary)
        _remove(replaced)
        temporary.mkdir()
    except OSError as error:
        raise _cannot("write", target, error) from error
    try:
        yield temporary
        if target.exists():
            target.rename(replaced)  # a folder cannot be renamed onto one that has files
        temporary.rename(target)
        _remove(replaced)
    finally:
        _remove(temporary)


def _remove(folder: Path) -> None:
    """Delete `folder` with all in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def _cannot(verb: str, path: Path, error: OSError) -> UserError:
    """`error` as one line for the user."""
    return UserError(f"cannot {verb} {path}: {error.strerror or error}; choose another place")
