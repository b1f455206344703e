"""COCO caption files: {"images": [{"id", "file_name", ...}], "annotations": [{"image_id", "id", "caption"}]}.

Files that carry the name of an official one must hold what it holds (`OFFICIAL_COUNTS`): half a data set trains
without complaint, and its score is compared with the wrong ones.
"""

import codecs
import json
from pathlib import Path
from typing import Any

from vivo.data.types import CaptionExample
from vivo.errors import UserError

# Pictures and captions of the official files.
OFFICIAL_COUNTS = {
    "captions_train2014.json": (82_783, 414_113),
    "captions_val2014.json": (40_504, 202_654),
    "captions_train2017.json": (118_287, 591_753),
    "captions_val2017.json": (5_000, 25_014),
}


def read_captions(path: str | Path, require_captions: bool = True, any_count: bool = False) -> list[CaptionExample]:
    """All pictures of a COCO caption file in the order of its "images".

    Captions lose line breaks and repeated spaces (metrics read one caption a line). Picture ids become
    text: 42 -> "42".

    Args:
        path: the JSON file.
        require_captions: False for files that list pictures to be captioned ("annotations" may be missing).
        any_count: accept a file with an official name and another number of pictures or captions.

    Raises:
        UserError: naming file and entry: see `read_caption_file`; expected and found numbers of an official file.
    """
    examples = [
        CaptionExample(image_id, image.get("file_name", ""), captions)
        for image_id, image, captions in read_caption_file(path, require_captions)
    ]
    if not any_count and Path(path).name in OFFICIAL_COUNTS:
        pictures, captions = OFFICIAL_COUNTS[Path(path).name]
        check_count(path, "pictures", pictures, len(examples))
        check_count(path, "captions", captions, sum(len(example.captions) for example in examples))
    return examples


SHOW_AND_TELL = ("train", "val", "test")


def read_show_and_tell_split(
    train: str | Path, validation: str | Path, part: str, any_count: bool = False
) -> list[CaptionExample]:
    """A part of the split that Show and Tell was published with (im2txt's build_mscoco_data.py): all of train2014 and
    the first 85 % of val2014's pictures to train, the next 5 % to validate, the last 10 % to test, in the files' order.

    With the official files these are 20,267 captions to test and 586,368 to train, of which the published 586,363 lack
    the five of a picture whose file could not be decoded. It is not Karpathy's split.

    Args:
        train, validation: captions_train2014.json and captions_val2014.json. part: of `SHOW_AND_TELL`.
        any_count: see `read_captions`.
    """
    rest = read_captions(validation, any_count=any_count)
    first, second = int(0.85 * len(rest)), int(0.90 * len(rest))
    if part == "train":
        return read_captions(train, any_count=any_count) + rest[:first]
    return rest[first:second] if part == "val" else rest[second:]


def check_count(where: str | Path, what: str, expected: int, found: int, hint: str = "") -> None:
    """Raise `UserError` unless an official file holds as many as it is published with."""
    if found != expected:
        raise UserError(
            f"{where}: expected {expected:,} {what}, found {found:,}{hint and f' ({hint})'}; get the official file"
            " again, or, if it is a part on purpose, rename it (prepare_coco also has --any-count)"
        )


def read_caption_file(path: str | Path, require_captions: bool = True) -> list[tuple[str, dict[str, Any], list[str]]]:
    """(id, entry of "images", clean captions) of every picture; shared by COCO and nocaps.

    Raises:
        UserError: naming file and entry: not JSON, a key missing or mistyped, a picture's or caption's id twice, a
            caption of a picture that is not in "images", a blank caption, no pictures; with `require_captions` also no
            captions at all, or a picture without any.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise UserError(f'{path}: a {type(content).__name__}, expected {{"images": [...], "annotations": [...]}}')
    images = entries_of(path, content, "images")
    if images and "sentences" in images[0]:
        raise UserError(f"{path}: Karpathy's layout, with several splits in one file; choose one (--split train)")
    pictures: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for number, image in enumerate(images):
        image_id = picture_id(image.get("id"), f"{path}, images[{number}].id")
        if image_id in pictures:
            raise UserError(f"{path}, images[{number}]: picture {image_id} is listed twice; keep one entry")
        if not isinstance(image.get("file_name", ""), str):
            raise UserError(f"{path}, images[{number}]: file_name must be text, found {image['file_name']!r}")
        pictures[image_id] = (image, [])
    if not pictures:
        raise UserError(f'{path}: "images" is empty; is it the right file?')

    if "annotations" not in content and not require_captions:
        content = {**content, "annotations": []}
    annotations = entries_of(path, content, "annotations")
    caption_ids: set[object] = set()
    for number, annotation in enumerate(annotations):
        where = f"{path}, annotations[{number}]"
        caption_id = annotation.get("id")
        if isinstance(caption_id, int | str):
            if caption_id in caption_ids:
                raise UserError(f"{where}: caption {caption_id!r} is listed twice; keep one, or give each its own id")
            caption_ids.add(caption_id)
        image_id = picture_id(annotation.get("image_id"), f"{where}.image_id")
        if image_id not in pictures:
            raise UserError(
                f'{where}: caption of picture {image_id}, which "images" does not list; were pictures removed without'
                " their captions?"
            )
        caption = annotation.get("caption")
        if not isinstance(caption, str):
            raise UserError(f"{where}: caption must be text, found {caption!r}; is this a captions file?")
        clean = join_lines(caption)
        if not clean:
            raise UserError(f"{where}: the caption of picture {image_id} is blank; remove or write it")
        pictures[image_id][1].append(clean)
    if require_captions:
        if not annotations:
            raise UserError(f'{path}: "annotations" is empty: there are no captions in this file')
        for image_id, (_, captions) in pictures.items():
            if not captions:
                raise UserError(f"{path}: picture {image_id} has no caption; remove it or add one")
    return [(image_id, image, captions) for image_id, (image, captions) in pictures.items()]


def join_lines(caption: str) -> str:
    """A caption on one line with single spaces: metrics and files read one caption a line."""
    return " ".join(caption.split())


def picture_id(value: object, where: str) -> str:
    """The id of a JSON entry as text: 42, "42" and "000000000042" are all "42" (as `image_id_of` has it).

    Raises:
        UserError: neither a whole number nor text.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value and value.isprintable():  # it is printed in messages and written to files
        return plain_id(value)
    found = repr(value)
    raise UserError(
        f"{where}: must be a whole number or text, found {found if len(found) <= 60 else found[:57] + '...'}"
    )


def plain_id(text: str) -> str:
    """Digits as COCO pads them (12 at most) without leading zeros; any other text unchanged.

    Open Images ids are 16 hexadecimal digits, some without a letter: those must stay as they are.
    """
    return str(int(text)) if len(text) <= 12 and text.isascii() and text.isdigit() else text


def read_json(path: Path) -> Any:
    """A JSON file; `UserError` with file and line if it is none. NaN and Infinity, which Python would take, are not."""
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_no_json)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}); the file is empty, truncated"
            " or of another kind"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON of any kind we know (brackets within brackets by the thousand)") from error
    except ValueError as error:  # NaN, numbers of thousands of digits
        raise UserError(f"{path}: not JSON ({error}); write it anew") from error


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark; `UserError` if it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}: UTF-16 text, expected UTF-8; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); is it unpacked, and saved as UTF-8?"
        ) from error


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def entries_of(path: str | Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under `key`; `UserError` if it is none."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f'{path}: no list "{key}" (keys found: {", ".join(content) or "none"}); is it a COCO file?')
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, {key}[{number}]: an object is wanted, found {entry!r}")
    return entries
