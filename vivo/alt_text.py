"""Alternative texts for a folder of pictures, as a site needs them: one file, resumable.

    vivo caption PICTURES --checkpoint DIR --alt-text out.csv        or out.json, or out.html

    file          of the picture, relative to the folder that was given (in .html also where it lies from there); bytes
                  of a name that are no UTF-8 are written as \\xfc
    alt           the caption as a sentence; empty where the model is not sure enough, or the picture is broken
    confidence    P(every object named is there), where the checkpoint is calibrated (eval/calibrate.py)
    caption       what the model wrote, also where it is not sure
    problem       why a picture was left out

What is done is kept, a line a picture, beside the file to write (`.out.csv.part.jsonl`); the same command goes on from
there, and the file appears when all pictures are done. A picture that has changed in between is captioned again. A file
that is there already is not replaced: texts may have been edited in it.
"""

import csv
import html
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from vivo.calibration import Calibration
from vivo.captioner import Captioner
from vivo.data.class_forms import ClassWords
from vivo.errors import UserError
from vivo.files import atomic_write_text, json_text, lock_folder, printable, remove_file, writable_folder
from vivo.progress import progress_of

KINDS = (".csv", ".json", ".html")


@dataclass(frozen=True)
class AltText:
    """One picture's row, see the module."""

    file: str
    alt: str
    confidence: float | None
    caption: str
    problem: str = ""


def check_target(out: Path) -> None:
    """Raises: UserError, for a kind that we do not write and for a file that is there."""
    if out.suffix.lower() not in KINDS:
        raise UserError(f"--alt-text {out}: write a .csv, .json or .html")
    if out.exists():
        raise UserError(f"--alt-text {out}: is there already, perhaps with texts edited by hand; name another file")


def write_alt_texts(
    captioner: Captioner,
    checkpoint: Path,
    files: Sequence[tuple[Path, str]],
    out: Path,
    beam: int = 1,
    constraints: ClassWords | None = None,
) -> list[AltText]:
    """Caption what is not done yet, then write all.

    Args:
        checkpoint: the captioner's folder, for its calibration.
        files: each picture and the name that it has in the file.

    Returns:
        The rows, in the order of `files`.

    Raises:
        UserError: see `check_target`; an interrupted run of another model or search; another process is at it.
    """
    check_target(out)
    held = lock_folder(writable_folder(out.parent), f"{out.name} or another file of this folder")
    try:
        rows = _all_rows(captioner, checkpoint, files, out, beam, constraints)
    finally:
        os.close(held)
    ordered = [rows[name] for _, name in files]
    here = out.parent.resolve()
    sources = {name: Path(os.path.relpath(path.resolve(), here)).as_posix() for path, name in files}
    atomic_write_text(out, as_text(ordered, out.suffix.lower(), sources))
    remove_file(_journal_of(out))
    return ordered


def _journal_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.part.jsonl")


def _all_rows(
    captioner: Captioner,
    checkpoint: Path,
    files: Sequence[tuple[Path, str]],
    out: Path,
    beam: int,
    constraints: ClassWords | None,
) -> dict[str, AltText]:
    """Rows by name: those of the journal, and the others, which it gets as they come."""
    calibration = Calibration.from_folder(checkpoint)
    journal = _journal_of(out)
    settings = {"checkpoint": _identity(checkpoint), "beam": beam, "constraints": constraints is not None}
    done = _read_journal(journal, settings)
    rows: dict[str, AltText] = {}
    waiting = []
    for path, name in files:
        row, stamp = done.get(name, (None, None))
        if row is not None and stamp == _stamp(path):
            rows[name] = row
        else:
            waiting.append((path, name))
    known = len(rows)
    with journal.open("a", encoding="utf-8") as file, progress_of("alt texts", len(files), before=known) as update:
        if not file.tell():
            file.write(json.dumps(settings) + "\n")
        for row, stamp in _captioned(captioner, calibration, waiting, beam, constraints):
            rows[row.file] = row
            file.write(json.dumps({**asdict(row), "stamp": stamp}) + "\n")
            file.flush()
            update(len(rows), len(rows) - known)
    return rows


def _captioned(
    captioner: Captioner,
    calibration: Calibration | None,
    waiting: Sequence[tuple[Path, str]],
    beam: int,
    constraints: ClassWords | None,
) -> Iterator[tuple[AltText, list[int]]]:
    threshold = calibration.threshold if calibration else 0.0
    stamps = [_stamp(path) for path, _ in waiting]
    found = captioner.caption_files((path for path, _ in waiting), beam=beam, constraints=constraints)
    for (_, name), stamp, one in zip(waiting, stamps, found, strict=True):
        if one.problem:
            yield AltText(name, "", None, "", one.problem), stamp
            continue
        best = one.captions[0]
        confidence = round(calibration.confidences([best])[0], 4) if calibration else None
        sure = confidence is None or confidence >= threshold
        yield AltText(name, sentence(best.text) if sure else "", confidence, best.text), stamp


def sentence(caption: str) -> str:
    """A caption with a capital and a full stop."""
    text = caption.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) or not text else ".")


def as_text(rows: Sequence[AltText], kind: str, sources: Mapping[str, str] | None = None) -> str:
    """The file's content.

    Args:
        sources: of each picture's name, where it lies from the file; None: where its name says.
    """
    if kind == ".json":
        return json_text([_cells(row) for row in rows])
    if kind == ".csv":
        written = io.StringIO()
        table = csv.DictWriter(written, list(asdict(rows[0])), lineterminator="\n")
        table.writeheader()
        table.writerows(_no_formula(row) for row in rows)
        return written.getvalue()
    return _page(rows, sources or {})


def _cells(row: AltText) -> dict[str, str | float | None]:
    """The row, with a name that can be written."""
    return asdict(row) | {"file": printable(row.file), "problem": printable(row.problem)}


def _no_formula(row: AltText) -> dict[str, str | float | None]:
    """The row, so that no table program takes a cell of it for a formula (=cmd|...): a name gets ./, a text an '."""
    cells = _cells(row)
    for name, cell in cells.items():
        if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            cells[name] = ("./" if name == "file" else "'") + cell
    return cells


def _page(rows: Sequence[AltText], sources: Mapping[str, str]) -> str:
    """A page to read the texts beside their pictures."""
    figures = []
    for row in rows:
        source, alt = html.escape(quote(os.fsencode(sources.get(row.file, row.file)))), html.escape(row.alt)
        sure = "" if row.confidence is None else f" <small>({row.confidence:.0%})</small>"
        note = html.escape(printable(row.problem) or row.alt or f"not sure enough: {row.caption}") + sure
        picture = f'<img src="{source}" alt="{alt}" loading="lazy">'
        figures.append(f"<figure>{picture}<figcaption>{note}</figcaption></figure>")
    style = "figure{display:inline-block;width:16rem;margin:.5rem;vertical-align:top}img{max-width:100%}"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Alternative texts</title>\n'
        f"<style>{style}</style>\n<h1>{len(rows)} pictures</h1>\n" + "\n".join(figures) + "\n</html>\n"
    )


def _identity(checkpoint: Path) -> list[list[str | int]]:
    """What tells one checkpoint from another: its files, their sizes and times."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return [[path.relative_to(checkpoint).as_posix(), *_stamp(path)] for path in files]


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; [] of one that cannot be asked (captioning will say why)."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _read_journal(path: Path, settings: dict) -> dict[str, tuple[AltText, list[int]]]:
    """What an interrupted run has done. A last line that was cut off is no line."""
    if not path.is_file():
        return {}
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # a name or text may hold other ends of lines
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    if not lines:
        remove_file(path)
        return {}
    if lines[0] != settings:
        raise UserError(f"{path}: was begun with another checkpoint or search; delete it, or name another file")
    atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    rows = ((line.pop("stamp"), AltText(**line)) for line in lines[1:])
    return {row.file: (row, stamp) for stamp, row in rows}
