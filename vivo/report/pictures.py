"""All pictures of an evaluation, gathered for a page that shows every one: records, and where the pixels are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vivo.data.nocaps import WorldClass
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.types import CaptionExample
from vivo.detectors.pictures import picture_file, picture_size
from vivo.errors import UserError
from vivo.report.images import SIZES, jpeg_data_uri, write_thumbnails
from vivo.report.records import EvaluatedPicture

ONE_FILE_BYTES = 24_000_000
"""Of all pictures inside a page: what a mail server takes (25 MB), less the rest of the page."""


@dataclass
class ShownRow:
    """The captions of one row of a page.

    Attributes:
        captions: by picture id. metrics: picture id -> metric -> score.
        named: bool [N, C], which classes each caption names; None without classes.
        traces: picture id -> constraint trace.
    """

    captions: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]]
    named: np.ndarray | None = None
    traces: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def make_pictures(
    examples: Sequence[CaptionExample],
    rows: Mapping[str, ShownRow],
    files: Mapping[str, Path],
    classes: Sequence[WorldClass] = (),
    truth: np.ndarray | None = None,
    store: RegionStore | None = None,
    tags: TagSource | None = None,
) -> list[EvaluatedPicture]:
    """One record a picture, in the order of `examples`.

    Args:
        files: image id -> picture file; those without one are shown without pixels.
        classes, truth: bool [N, C], which classes the references name; without them nothing is known of novel objects.
        store: their regions; None for pages without boxes.
        tags: what the models were shown; None where nobody knows.

    Raises:
        UserError: the store lacks a picture.
    """
    if store is not None:
        missing = [e.image_id for e in examples if e.image_id not in store]
        if missing:
            raise UserError(
                f"{store.path}: no regions of {len(missing):,} of {len(examples):,} pictures (first: {missing[0]}); "
                "give the store that the captions were written from"
            )
    novel = [number for number, named in enumerate(classes) if named.role == "novel"]
    pictures = []
    for place, example in enumerate(examples):
        i = example.image_id
        of_picture = [] if truth is None else [number for number in novel if truth[place, number]]
        regions = store[i] if store is not None else None
        if regions is not None:
            size = regions.width, regions.height
        else:
            size = picture_size(files[i]) if i in files else None
        pictures.append(
            EvaluatedPicture(
                image_id=i,
                picture_path=files.get(i, Path()),
                domain=example.domain,
                boxes=regions.boxes.tolist() if regions else [],
                labels=list(regions.labels) if regions else [],
                scores=regions.scores.tolist() if regions else [],
                width=size[0] if size else 4,
                height=size[1] if size else 3,
                references=example.captions,
                captions={name: row.captions[i] for name, row in rows.items()},
                novel_objects=[classes[number].name for number in of_picture],
                unknown_objects=[classes[number].name for number in of_picture if not classes[number].detector],
                named={
                    name: [classes[number].name for number in of_picture if row.named[place, number]]
                    for name, row in rows.items()
                    if row.named is not None
                },
                tags=tags(i, [], regions) if tags is not None else [],
                metrics={name: dict(row.metrics[i]) for name, row in rows.items()},
                traces={name: row.traces[i] for name, row in rows.items() if i in row.traces},
            )
        )
    return pictures


def find_files(examples: Sequence[CaptionExample], folder: Path, option: str) -> dict[str, Path]:
    """The picture files that are in `folder`, by image id.

    Raises:
        UserError: none of them is there; `option` named the folder.
    """
    found: dict[str, Path] = {}
    problem: UserError | None = None
    for example in examples:
        try:
            found[example.image_id] = picture_file(folder, example.image_id, example.file_name, option)
        except UserError as error:
            problem = problem or error
    if not found and problem is not None:
        raise problem
    return found


def thumbnails_folder(page: Path) -> Path:
    """DIR/report.html -> DIR/report.pictures, which travels with the page."""
    return page.with_name(f"{page.stem}.pictures")


def images_beside(files: Mapping[str, Path], page: Path) -> dict[str, str]:
    """Small copies in a folder beside the page: image id -> address.

    Raises:
        UserError: the pictures themselves are in that folder, or a picture cannot be read.
    """
    folder = thumbnails_folder(page)
    if any(path.parent.resolve() == folder.resolve() for path in files.values()):
        raise UserError(f"{folder}: is where the pictures are; the page wants to write there, so name another --out")
    names = write_thumbnails(files, folder, *SIZES[0])
    return {image_id: f"{quote(folder.name)}/{quote(name)}" for image_id, name in names.items()}


def images_linked(files: Mapping[str, Path], page: Path) -> dict[str, str]:
    """No copies: addresses of the files as seen from the page. The page works where both stay where they are."""
    start = page.parent.resolve()
    return {i: quote(os.path.relpath(path.resolve(), start).replace(os.sep, "/")) for i, path in files.items()}


def images_inside(files: Mapping[str, Path]) -> dict[str, str]:
    """Pixels in the page itself, as large as all of them fit into `ONE_FILE_BYTES`.

    Raises:
        UserError: they do not fit.
    """
    for longest, quality in SIZES:
        found: dict[str, str] = {}
        size = 0
        for image_id, path in files.items():
            found[image_id] = jpeg_data_uri(path, longest, quality)
            size += len(found[image_id])
            if size > ONE_FILE_BYTES:
                break
        else:
            return found
    raise UserError(
        f"--one-file: {len(files):,} pictures do not fit into {ONE_FILE_BYTES // 1_000_000} MB; leave it out and pack"
        " the page and the folder beside it together"
    )
