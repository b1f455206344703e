"""Files of predicted captions: a JSON list of {"image_id", "caption", "score"}, as EvalAI reads it.

Beside `predictions.json` lies `predictions.header.json`: what made the captions (decode settings,
checkpoint, fingerprint of the region features). The header may be missing, as it is beside files of
other projects. "score" (log-probability of the caption, as decoding ranks captions) may be missing too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.data.coco import picture_id, read_json
from vivo.errors import UserError
from vivo.files import atomic_write_json

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


def write_predictions(path: str | Path, records: Sequence[Mapping[str, Any]], header: Mapping[str, Any]) -> None:
    """Write predictions and, beside them, their header; each whole or not at all.

    The header comes first: where there are predictions, there is their header.

    Args:
        records: {"image_id", "caption", "score"} a picture.
        header: JSON values that say how the captions were made.

    Raises:
        UserError: the folder cannot be written.
    """
    atomic_write_json(header_path(path), dict(header))
    atomic_write_json(path, [dict(record) for record in records])


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
