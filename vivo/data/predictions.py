"""Files of predicted captions: a JSON list of {"image_id", "caption", "score"}, as EvalAI reads it.

Beside `predictions.json` lies `predictions.header.json`: what made the captions (decode settings,
checkpoint, fingerprint of the region features). The header may be missing, as it is beside files of
other projects. "score" (log-probability of the caption, as decoding ranks captions) may be missing too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.data.coco import picture_id, read_json
from vivo.errors import UserError
from vivo.files import atomic_write_text, json_text, remove_file

MOST_BYTES = 100_000
"""Longest caption in UTF-8 bytes: what is longer is a broken file, and scoring it would take hours."""


def read_predictions(path: str | Path) -> dict[str, str]:
    """Captions by picture id, in the order of the file.

    Ids become text (42, "42" and "000000000042" are the same picture, "img_42" is another: a name); white space is
    normalised, since metrics read one caption a line. A caption may be empty: a model that says nothing scores 0.

    Raises:
        UserError: naming file and entry: not JSON (nor is NaN), not a list, an empty list, no id or one that is neither
            a whole number nor text, an id twice, no caption, one that is not text or longer than 100 kB.
    """
    content = read_json(Path(path))
    if not isinstance(content, list):
        raise UserError(
            f'{path}: a {type(content).__name__}, expected a list of {{"image_id", "caption"}}; is it predictions?'
        )
    if not content:
        raise UserError(f"{path}: the list is empty: there is no prediction to score")
    captions: dict[str, str] = {}
    for number, record in enumerate(content):
        where = f"{path}, entry {number}"
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected {{"image_id", "caption"}}, found {_shortened(record)}')
        for key in ("image_id", "caption"):
            if key not in record:
                found = ", ".join(map(str, record)) or "nothing"
                raise UserError(f'{where}: no "{key}" (found: {_shortened(found)})')
        image_id = picture_id(record["image_id"], f"{where}: image_id")
        if image_id in captions:
            raise UserError(f"{where}: picture {image_id} has two captions; keep one")
        captions[image_id] = _checked_caption(record["caption"], f"{where}, picture {image_id}")
    return captions


def write_predictions(
    path: str | Path,
    records: Sequence[Mapping[str, Any]],
    header: Mapping[str, Any],
    traces: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write predictions and what lies beside them, the header and the traces of constraints; each whole or not at all.

    Older predictions go first and the new ones come last: a kill in between leaves none, and never captions beside the
    header or the traces of others.

    Args:
        records: {"image_id", "caption", "score"} a picture.
        header: JSON values that say how the captions were made.
        traces: of constrained search, one a picture (vivo/constrained_prediction.py); None: there were no constraints.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    text = json_text([dict(record) for record in records])  # what cannot be written costs no older file
    told = json_text(dict(header))
    lines = None if traces is None else "".join(json.dumps(trace, ensure_ascii=False) + "\n" for trace in traces)
    for older in (path, constraints_path(path)):
        remove_file(older)
    atomic_write_text(header_path(path), told)
    if lines is not None:
        atomic_write_text(constraints_path(path), lines)
    atomic_write_text(path, text)


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of the predictions file `path`; {} where none lies beside it.

    Raises:
        UserError: the header is not JSON or not an object.
    """
    beside = header_path(path)
    if not beside.is_file():
        return {}
    header = read_json(beside)
    if not isinstance(header, dict):
        raise UserError(f"{beside}: a {type(header).__name__}, expected an object; remove the file or write it anew")
    return header


def header_path(path: str | Path) -> Path:
    """predictions.json -> predictions.header.json."""
    path = Path(path)
    return path.with_name(f"{path.stem}.header.json")


def constraints_path(path: str | Path) -> Path:
    """predictions.json -> predictions.constraints.jsonl: which constraint put which word there (docs/decoding.md)."""
    path = Path(path)
    return path.with_name(f"{path.stem}.constraints.jsonl")


def n_best_path(path: str | Path) -> Path:
    """predictions.json -> predictions.n_best.jsonl: several captions of each picture (vivo/n_best.py)."""
    path = Path(path)
    return path.with_name(f"{path.stem}.n_best.jsonl")


def _checked_caption(caption: object, where: str) -> str:
    if not isinstance(caption, str):
        raise UserError(f"{where}: the caption must be text, found {_shortened(caption)}")
    size = len(caption.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        raise UserError(f"{where}: a caption of {size:,} bytes (at most {MOST_BYTES:,}); is the file damaged?")
    # a lone surrogate (half an emoji, "\ud83d" in JSON) cannot be written as UTF-8 later
    return " ".join(caption.encode("utf-8", "replace").decode().split())


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
