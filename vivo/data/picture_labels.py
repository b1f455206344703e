"""What people say a picture shows: image-level labels and boxes of Open Images, for the pictures of an evaluation.

The files are those of `vivo.data.open_images`; nocaps pictures come from Open Images' validation and test sets, and the
annotation files of those sets hold many more pictures than nocaps has. They name pictures by Open Images ids, captions
by numbers: `names_of_pictures` has both. **Labels and boxes of evaluation pictures are for measuring captions, never
for making them.**

Labels are not exhaustive: a class is verified present, verified absent, or nobody was asked.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vivo.data.coco import read_caption_file
from vivo.data.open_images import Box, box_table, image_label_table, read_boxes, read_image_labels
from vivo.errors import UserError


@dataclass
class PictureLabels:
    """What is said of some pictures.

    Attributes:
        present, absent: class ids by picture id, each once, in the order of the file; pictures without are left out.
        known: class ids that the file has anywhere, of any picture: what its annotators knew.
    """

    present: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


@dataclass
class PictureBoxes:
    """The boxes of some pictures.

    Attributes:
        boxes: by picture id (that of the captions, as `Box.image_id` also is), in the order of the file.
        known: class ids that the file has anywhere.
    """

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


def names_of_pictures(references: str | Path) -> dict[str, str]:
    """How other files may call the pictures of a captions file -> their id there.

    By "open_images_id" (nocaps); where an entry has none, by its id and by its file name without the extension.

    Raises:
        UserError: as `read_caption_file`; two pictures that have a name in common.
    """
    found: dict[str, str] = {}
    for number, (image_id, image, _) in enumerate(read_caption_file(references, require_captions=False)):
        given = image.get("open_images_id")
        names = {str(given)} if given else {image_id, Path(image.get("file_name", "")).stem} - {""}
        for name in names:
            if found.setdefault(name, image_id) != image_id:
                raise UserError(
                    f"{references}, images[{number}]: pictures {found[name]} and {image_id} are both called {name!r};"
                    " labels and boxes could be of either, so give each a name (open_images_id or file_name)"
                )
    return found


def read_picture_labels(path: str | Path, pictures: Mapping[str, str]) -> PictureLabels:
    """The human-verified labels of the pictures.

    Args:
        path: an image label file.
        pictures: id in the file -> id to be known by.

    Raises:
        UserError: what `read_image_labels` raises; a label file that has none of the pictures.
    """
    labels = PictureLabels()
    for name, mid, present in read_image_labels(image_label_table(path)):
        labels.known.add(mid)
        image_id = pictures.get(name)
        if image_id is not None:
            said = (labels.present if present else labels.absent).setdefault(image_id, [])
            if mid not in said:
                said.append(mid)
    _check_some(path, labels.present.keys() | labels.absent.keys(), pictures, "labels")
    return labels


def read_picture_boxes(path: str | Path, pictures: Mapping[str, str]) -> PictureBoxes:
    """The boxes of the pictures; arguments and errors as `read_picture_labels`."""
    found = PictureBoxes()
    for box in read_boxes(box_table(path)):
        found.known.add(box.mid)
        image_id = pictures.get(box.image_id)
        if image_id is not None:
            found.boxes.setdefault(image_id, []).append(box._replace(image_id=image_id))
    _check_some(path, found.boxes.keys(), pictures, "boxes")
    return found


def _check_some(path: str | Path, found: Collection[str], pictures: Mapping[str, str], what: str) -> None:
    if not found:
        raise UserError(
            f"{path}: has no {what} of the {len(pictures):,} pictures (their ids look like"
            f" {', '.join(list(pictures)[:2])}); give the file of the same pictures, such as"
            " validation-annotations-… for nocaps validation"
        )
