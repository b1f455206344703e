"""The files of a world in the formats of Open Images, COCO Captions and nocaps.

Column orders and keys are the official ones: boxes are XMin,XMax,YMin,YMax, normalised; class
descriptions have no header; nocaps names its domains "in-domain", "near-domain", "out-domain".
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivo.world.classes import CLASS_BY_NAME, CLASSES
from vivo.world.relations import area, intersection
from vivo.world.scenes import Scene, SceneObject
from vivo.world.tags import ROOT_MID, hierarchy, tag_mids

FOLDERS = {"open_images": "open_images", "coco_train": "coco", "coco_val": "coco", "nocaps": "nocaps"}
_DATE = "2000-01-01 00:00:00"  # of every picture: a clock has no place in reproducible bytes
_BOX_COLUMNS = (
    "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf IsDepiction IsInside"
)
_LICENSES = [{"id": 0, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}]


@dataclass(frozen=True)
class Picture:
    """What the files say about one picture.

    `boxes` are rows of (class name, x1, y1, x2, y2 as shares 0..1, occluded): of detector classes only in training
    pictures, of all classes in evaluation pictures.
    """

    split: str
    index: int
    hex_id: str
    file_name: str
    size: tuple[int, int]
    domain: str
    tags: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    boxes: list[tuple[str, float, float, float, float, bool]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def file_name(split: str, index: int, hex_id: str) -> str:
    """COCO numbers its pictures (validation after training would collide, so it starts at 900000)."""
    if split in ("open_images", "nocaps"):
        return f"{hex_id}.jpg"
    return f"{coco_id(split, index):012d}.jpg"


def coco_id(split: str, index: int) -> int:
    """The id of a coco picture, over both its splits."""
    return index + 1 + (900_000 if split == "coco_val" else 0)


def boxes_of(scene: Scene, of_all: bool = False) -> list[tuple[str, float, float, float, float, bool]]:
    """Normalised boxes of the objects whose class has any, and whether another object hides a part.

    Args:
        of_all: of classes that the detector does not know as well: the truth of evaluation pictures.
    """
    rows = []
    for place, item in enumerate(scene.objects):
        if not item.name or not (of_all or CLASS_BY_NAME[item.name].detector):
            continue
        x1, y1, x2, y2 = item.box
        w, h = scene.width, scene.height
        rows.append((item.name, x1 / w, y1 / h, x2 / w, y2 / h, _occluded(item, scene.objects[place + 1 :])))
    return rows


def _occluded(item: SceneObject, in_front: Iterable[SceneObject]) -> bool:
    return any(intersection(item.box, other.box) > 0.05 * area(item.box) for other in in_front)


def write_open_images(folder: Path, pictures: list[Picture]) -> None:
    """Image labels (present and absent), boxes, class descriptions and hierarchy."""
    _write_labels_and_boxes(folder, "train", pictures)
    named = [[mid, name.capitalize(), ""] for name, mid in tag_mids().items()]
    _csv(folder / "class-descriptions.csv", None, [[ROOT_MID, "Entity", ""], *named])
    _json(folder / "bbox_labels_hierarchy.json", hierarchy())


def write_evaluation_labels(folder: Path, pictures: list[Picture]) -> None:
    """What the nocaps pictures show, as the validation files of Open Images say it: only for measuring captions."""
    _write_labels_and_boxes(folder, "validation", pictures)


def _write_labels_and_boxes(folder: Path, part: str, pictures: list[Picture]) -> None:
    """{part}-annotations-human-imagelabels.csv and {part}-annotations-bbox.csv."""
    mids = tag_mids()
    _csv(
        folder / f"{part}-annotations-human-imagelabels.csv",
        ["ImageID", "Source", "LabelName", "Confidence"],
        (
            [picture.hex_id, "verification", mids[tag], confidence]
            for picture in pictures
            for confidence, names in (("1", picture.tags), ("0", picture.absent))
            for tag in names
        ),
    )
    _csv(
        folder / f"{part}-annotations-bbox.csv",
        _BOX_COLUMNS.split(),
        (
            [picture.hex_id, "xclick", mids[name], "1", *(f"{side:.6f}" for side in (x1, x2, y1, y2))]
            + [str(int(occluded)), "0", "0", "1", "0"]
            for picture in pictures
            for name, x1, y1, x2, y2, occluded in picture.boxes
        ),
    )


def write_coco(path: Path, split: str, pictures: list[Picture]) -> None:
    """A COCO captions file; annotation ids are unique over both splits."""
    images, annotations = [], []
    first = 1 + (9_000_000 if split == "coco_val" else 0)
    for picture in pictures:
        number = coco_id(split, picture.index)
        images.append(_image(picture, number))
        annotations += [
            {"image_id": number, "id": first + len(annotations) + place, "caption": caption}
            for place, caption in enumerate(picture.captions)
        ]
    _json(path, _dataset("OpenMoji captions, in the format of COCO Captions", images, annotations))


def write_nocaps(folder: Path, pictures: list[Picture]) -> None:
    """nocaps_val_captions.json, and nocaps_val_image_info.json without the captions; ids count from 0 as there."""
    images, annotations = [], []
    for picture in pictures:
        images.append(_image(picture, picture.index) | {"open_images_id": picture.hex_id, "domain": picture.domain})
        annotations += [
            {"image_id": picture.index, "id": len(annotations) + place, "caption": caption}
            for place, caption in enumerate(picture.captions)
        ]
    description = "OpenMoji nocaps validation, in the format of nocaps"
    _json(folder / "nocaps_val_captions.json", _dataset(description, images, annotations))
    _json(folder / "nocaps_val_image_info.json", _dataset(description, images, []))


def write_classes(path: Path) -> None:
    """classes.json: word forms, roles and parents (nearest first) of every class."""
    _json(
        path,
        [
            {
                "name": entry.name,
                "plural": entry.plural,
                "forms": list(entry.forms),
                "mid": entry.mid,
                "role": entry.role,
                "detector": entry.detector,
                "parents": list(reversed(entry.parents)),
            }
            for entry in CLASSES
        ],
    )


def _image(picture: Picture, number: int) -> dict[str, Any]:
    width, height = picture.size
    return {
        "id": number,
        "height": height,
        "width": width,
        "coco_url": "",
        "file_name": picture.file_name,
        "license": 0,
        "date_captured": _DATE,
    }


def _dataset(description: str, images: list[dict], annotations: list[dict]) -> dict[str, Any]:
    info = {"description": description, "version": "1.0", "year": 2000, "contributor": "vivo", "date_created": _DATE}
    return {"licenses": _LICENSES, "info": info, "images": images, "annotations": annotations}


def _csv(path: Path, header: list[str] | None, rows: Iterable[list[str]] | Iterator[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")
