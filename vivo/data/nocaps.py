"""nocaps validation files, and the class list of the embedded world that imitates nocaps.

nocaps is COCO's layout plus "domain" in each entry of "images". Its picture ids are 0..4499; files are
named after Open Images ids. **The domains of the public validation file are 417 / 2,670 / 1,413 pictures,
those of the published scores 648 / 2,938 / 914**: scores by domain that are computed from this file do
not compare with papers, only the overall score does.

Files that carry an official name (`OFFICIAL`) must hold what it holds: 4,500 pictures of validation, 10,600 of test.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from vivo.data.coco import check_count, read_caption_file, read_json
from vivo.data.types import CaptionExample
from vivo.errors import UserError

DOMAINS = ("in-domain", "near-domain", "out-domain")
# File name -> split. Validation: pictures 0..4499 with 10 captions each in the file that has captions.
OFFICIAL = {
    "nocaps_val_4500_captions.json": "val",
    "nocaps_val_image_info.json": "val",
    "nocaps_test_image_info.json": "test",
}
# Files with the captions of evaluation pictures, and the file beside them that lists the same pictures without.
WITH_CAPTIONS = ("nocaps_val_captions.json", "nocaps_val_4500_captions.json")
WITHOUT_CAPTIONS = "nocaps_val_image_info.json"
PICTURES = {"val": 4_500, "test": 10_600}
VAL_DOMAINS = {"in-domain": 417, "near-domain": 2_670, "out-domain": 1_413}
VAL_REFERENCES = 10


@dataclass(frozen=True)
class WorldClass:
    """One class of the embedded world.

    Attributes:
        name, plural: the words of captions ("traffic light", "traffic lights").
        forms: all word forms by which a caption may name it.
        mid: its id in the Open Images files.
        role: "base" classes occur in training captions, "novel" ones never do.
        detector: whether the detector knows the class.
        parents: names of more general classes, nearest first.
    """

    name: str
    plural: str
    forms: list[str]
    mid: str
    role: Literal["base", "novel"]
    detector: bool
    parents: list[str]


def read_nocaps(path: str | Path, require_captions: bool = True, any_count: bool = False) -> list[CaptionExample]:
    """All pictures of a nocaps file, with domain and up to 10 references.

    Files that name no domain at all (test image info) give domain "".

    Args:
        path: the JSON file.
        require_captions: False for image-info files.
        any_count: accept a file with an official name and other contents.

    Raises:
        UserError: naming file and entry: an unknown domain, some entries without one, what
            `vivo.data.coco.read_caption_file` raises, and of a file with an official name what `check_split` raises.
    """
    pictures = read_caption_file(path, require_captions)
    any_domain = any("domain" in image for _, image, _ in pictures)
    examples = []
    for number, (image_id, image, captions) in enumerate(pictures):
        domain = image.get("domain", "")
        if any_domain and domain not in DOMAINS:
            found = repr(domain) if "domain" in image else "none"
            raise UserError(f"{path}, images[{number}]: domain must be one of {', '.join(DOMAINS)}, found {found}")
        file_name = image.get("file_name") or (f"{image['open_images_id']}.jpg" if "open_images_id" in image else "")
        examples.append(CaptionExample(image_id, file_name, captions, domain))
    if not any_count and Path(path).name in OFFICIAL:
        check_split(path, examples, OFFICIAL[Path(path).name])
    return examples


def read_pictures(references: str | Path) -> list[CaptionExample]:
    """The pictures of an evaluation with file names and domains, never their captions: for what must not see them.

    Args:
        references: a COCO or nocaps file, with or without captions. Where it is one of `WITH_CAPTIONS` and
            `WITHOUT_CAPTIONS` stands beside it, that one is read, and the file itself need not even be there.

    Raises:
        UserError: as `read_nocaps`.
    """
    path = Path(references)
    info = path.with_name(WITHOUT_CAPTIONS)
    if path.name in WITH_CAPTIONS and info.is_file():
        path = info
    ours = Path(references).name in ("nocaps_val_captions.json", WITHOUT_CAPTIONS)  # of a part or a benchmark, too
    return [replace(e, captions=[]) for e in read_nocaps(path, require_captions=False, any_count=ours)]


def check_split(path: str | Path, examples: Sequence[CaptionExample], split: str) -> None:
    """Raise `UserError` unless `examples` are all of nocaps' "val" or "test".

    Of validation also the ids (0 to 4499), the domains where there are any, and ten captions a picture where there
    are any are checked; of test the number of pictures alone, for more than that is not published.
    """
    check_count(path, f"nocaps {split} pictures", PICTURES[split], len(examples))
    if split != "val":
        return
    strange = {example.image_id for example in examples} - {str(number) for number in range(PICTURES["val"])}
    if strange:
        raise UserError(
            f"{path}: {len(strange)} picture ids are none of nocaps validation's 0 to 4499 (one is {min(strange)!r});"
            " take the ids of the official file, the server knows no others"
        )
    domains = Counter(example.domain for example in examples)
    if set(domains) != {""}:
        for domain, expected in VAL_DOMAINS.items():
            check_count(path, f"{domain} pictures", expected, domains[domain])
    if any(example.captions for example in examples):
        for number, example in enumerate(examples):
            where = f"{path}, images[{number}], picture {example.image_id}"
            check_count(where, "captions", VAL_REFERENCES, len(example.captions))


def read_classes(path: str | Path) -> list[WorldClass]:
    """The classes of a world (classes.json).

    Raises:
        UserError: naming file and entry: not a list of objects, a key missing, unknown or mistyped, a name
            twice, no classes.
    """
    content = read_json(Path(path))
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: expected a list of classes that is not empty; is it a world's classes.json?")
    keys = [field.name for field in fields(WorldClass)]
    wanted = {"name": str, "plural": str, "mid": str, "role": str, "detector": bool, "forms": list, "parents": list}
    classes: dict[str, WorldClass] = {}
    for number, entry in enumerate(content):
        where = f"{path}, class {number}"
        if not isinstance(entry, dict) or sorted(entry) != sorted(keys):
            found = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
            raise UserError(f"{where}: must have the keys {', '.join(keys)}, found {found}")
        for key, kind in wanted.items():
            value = entry[key]
            if not isinstance(value, kind) or (kind is list and not all(isinstance(item, str) for item in value)):
                raise UserError(f'{where}: "{key}" must be {_WORDS[kind]}, found {value!r}')
        if entry["role"] not in ("base", "novel"):
            raise UserError(f'{where}: "role" must be base or novel, found {entry["role"]!r}')
        if entry["name"] in classes:
            raise UserError(f"{where}: {entry['name']!r} is listed twice")
        classes[entry["name"]] = WorldClass(**entry)
    return list(classes.values())


_WORDS = {str: "text", bool: "true or false", list: "a list of texts"}
