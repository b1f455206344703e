"""Captions as nocaps' evaluation server takes them, and what it would refuse, said before anything is uploaded.

    [{"image_id": 0, "caption": "a dog"}, ...]      one entry for every picture of the split, ids as nocaps has them

The server is EvalAI (challenge 355; phase 742 is validation, 743 test). Nothing is uploaded from here:
`upload_command` is what a person may run with EvalAI's own client.
"""

import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivo.data.coco import read_json
from vivo.data.nocaps import OFFICIAL, PICTURES, check_split, read_nocaps
from vivo.data.predictions import read_header, read_predictions
from vivo.errors import UserError
from vivo.files import atomic_write_text

CHALLENGE = 355
PHASES = {"val": 742, "test": 743}
TITLES = {"val": "validation", "test": "test"}
MOST_WORDS = 50
"""Longer captions are said: the server's SPICE needs minutes for some of them."""


@dataclass(frozen=True)
class Split:
    """A split of nocaps: "val" or "test", and its picture ids in the order of the official file."""

    name: str
    image_ids: list[int]
    info: Path


def read_split(info: Path) -> Split:
    """The split that an official file lists, told by its number of pictures.

    Args:
        info: nocaps_val_image_info.json, nocaps_test_image_info.json, or the file with validation's captions.

    Raises:
        UserError: no such split, ids that are not nocaps'; see also `vivo.data.nocaps.read_nocaps`.
    """
    examples = read_nocaps(info, require_captions=False, any_count=True)
    name = next((name for name, count in PICTURES.items() if count == len(examples)), None)
    if name is None:
        raise UserError(
            f"{info}: lists {len(examples):,} pictures; nocaps validation has {PICTURES['val']:,} and test"
            f" {PICTURES['test']:,}, and the server takes whole splits alone: give the official image info"
        )
    check_split(info, examples, OFFICIAL.get(info.name, name))
    strange = [e.image_id for e in examples if not e.image_id.isascii() or not e.image_id.isdigit()]
    if strange:
        raise UserError(f"{info}: picture id {strange[0]!r} is no whole number, as nocaps' are; give the official file")
    return Split(name, [int(e.image_id) for e in examples], info)


def check_captions(predictions: Path, split: Split) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries to submit, in the order of the split, and what is worth a warning.

    Raises:
        UserError: what the server would refuse or score as nothing: see `vivo.data.predictions.read_predictions`;
            pictures without a caption or of another split, Open Images ids, empty captions, damaged characters, and
            captions of a control.
    """
    captions = read_predictions(predictions)
    if control := read_header(predictions).get("control"):
        raise UserError(f"{predictions}: are the captions of a control ({control}), no result to submit")
    _check_ids(predictions, captions, split)
    empty = [i for i, caption in captions.items() if not caption]
    if empty:
        raise UserError(
            f"{predictions}: {len(empty):,} captions are empty (first: picture {empty[0]}); the server would score them"
            " 0: caption these pictures again (decode.min_tokens=5 forbids it)"
        )
    _check_characters(predictions)
    records = [{"image_id": number, "caption": captions[str(number)]} for number in split.image_ids]
    return records, _doubts([record["caption"] for record in records])


def write_submission(out: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the file, whole or not at all: ASCII alone, so that no server can decode it wrongly.

    Raises:
        UserError: it cannot be written, or does not read back as what was to be written.
    """
    atomic_write_text(out, json.dumps(list(records)) + "\n")
    if read_json(out) != list(records):
        raise UserError(f"{out}: does not read back as it was written; is the disk damaged?")


def upload_command(split: Split, out: Path) -> str:
    """What uploads `out`, by EvalAI's client (`pip install evalai`), once `evalai set_token TOKEN` has been run."""
    return f"evalai challenge {CHALLENGE} phase {PHASES[split.name]} submit --file {shlex.quote(str(out))}"


def _check_ids(predictions: Path, captions: dict[str, str], split: Split) -> None:
    title, wanted = TITLES[split.name], {str(number) for number in split.image_ids}
    unknown = [i for i in captions if i not in wanted]
    missing = [str(number) for number in split.image_ids if str(number) not in captions]
    if not unknown and not missing:
        return
    others = {count: name for name, count in PICTURES.items() if name != split.name}
    hint = ""
    if len(captions) in others:
        hint = f"; {len(captions):,} captions are those of {TITLES[others[len(captions)]]}: give its image info"
    elif unknown and (number := _of_open_images(split.info).get(unknown[0])) is not None:
        hint = f"; that is an Open Images id, nocaps' own id of this picture is {number}: take the ids of {split.info}"
    said = [f"{len(missing):,} of {len(wanted):,} pictures have no caption (first: {missing[0]})"] if missing else []
    if unknown:
        said.append(
            f"{len(unknown):,} captions are of pictures that nocaps {title} does not have (first: {unknown[0]})"
        )
    raise UserError(f"{predictions}: {', and '.join(said)}{hint or '; caption the whole split'}")


def _of_open_images(info: Path) -> dict[str, int]:
    """Open Images id -> nocaps' id."""
    return {str(image.get("open_images_id", "")): image["id"] for image in read_json(info)["images"]}


def _check_characters(predictions: Path) -> None:
    """Refuse what is no text: control characters, U+FFFD, halves of characters (as JSON's "\\ud83d" alone)."""
    for number, record in enumerate(read_json(predictions)):
        for character in " ".join(record["caption"].split()):
            if unicodedata.category(character) in ("Cc", "Cs") or character == "\ufffd":
                raise UserError(
                    f"{predictions}, entry {number}, picture {record['image_id']}: the caption has the character"
                    f" U+{ord(character):04X}, which is no text; was the file decoded wrongly? write it again as UTF-8"
                )


def _doubts(captions: Sequence[str]) -> list[str]:
    """What the server accepts and nobody wants."""
    found = []
    text, count = Counter(captions).most_common(1)[0]
    if 2 * count > len(captions):
        found.append(f"one caption stands for {count:,} of {len(captions):,} pictures: {text!r}")
    long = [caption for caption in captions if len(caption.split()) > MOST_WORDS]
    if long:
        found.append(
            f"{len(long):,} captions have more than {MOST_WORDS} words; the server's SPICE may not end on them"
        )
    foreign = [caption for caption in captions if not caption.isascii()]
    if foreign:
        found.append(f"{len(foreign):,} captions have other characters than ASCII's (first: {foreign[0]!r})")
    return found
