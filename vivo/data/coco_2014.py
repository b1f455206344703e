"""All captions of COCO 2014 (2017's are the same in other splits), out of pycocoevalcap's wheel, which carries them.

With them a file of captions can be told to be COCO's by what is in it, and not by its name.
"""

import importlib.util
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from vivo.data.coco import join_lines
from vivo.data.types import CaptionExample

_JAR = Path("spice") / "spice-1.0.jar"
_FILES = ("coco/annotations/captions_train2014.json", "coco/annotations/captions_val2014.json")


def coco_captions(image_ids: Iterable[str]) -> dict[str, set[str]] | None:
    """COCO's captions of these pictures, those that are COCO's; None where the wheel is not there or has none.

    Args:
        image_ids: as text, "42". Two files of 97 MB together are read for any number of them.
    """
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return None
    jar = Path(package.submodule_search_locations[0]) / _JAR
    wanted = set(image_ids)
    found: dict[str, set[str]] = {}
    try:
        with zipfile.ZipFile(jar) as archive:
            for name in _FILES:
                for annotation in json.loads(archive.read(name))["annotations"]:
                    image_id = str(annotation["image_id"])
                    if image_id in wanted:
                        found.setdefault(image_id, set()).add(join_lines(annotation["caption"]))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return None
    return found


def strange_captions(examples: Iterable[CaptionExample], known: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(picture id, caption) of every caption that is not in `known`, COCO's captions of these pictures."""
    nothing: set[str] = set()
    return [
        (example.image_id, caption)
        for example in examples
        for caption in example.captions
        if join_lines(caption) not in known.get(example.image_id, nothing)
    ]
