"""Command-line arguments that name a source of pictures (docs/data.md), for `vivo data check` and the programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vivo.data.own import OwnData

_COLUMNS = ("image", "captions", "tags", "boxes", "image_id")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, --pictures, --instances, --split and the --...-column options."""
    parser.add_argument("source", help="JSON lines (.jsonl), COCO (.json), Parquet, a folder, or a data set's hub id")
    parser.add_argument("--pictures", type=Path, help="folder that paths are relative to; default: the source's own")
    parser.add_argument("--instances", type=Path, help="COCO instances JSON: adds boxes and their class names as tags")
    parser.add_argument("--split", default="train", help="of a `datasets` source; default: train")
    for name in _COLUMNS:
        option = "id" if name == "image_id" else name
        parser.add_argument(
            f"--{option}-column", default=name, metavar="NAME", dest=f"{name}_column", help=f"default: {name}"
        )


def read_source(arguments: argparse.Namespace) -> "OwnData":
    """What the arguments name; see `vivo.data.own.read_own`."""
    from vivo.data.own import Columns, read_own

    columns = Columns(**{name: getattr(arguments, f"{name}_column") for name in _COLUMNS})
    return read_own(arguments.source, arguments.pictures, columns, arguments.split, arguments.instances)


def sources_of(arguments: argparse.Namespace) -> list[Path]:
    """The files and folders that the arguments name to be read, as far as they lie on disk."""
    named = (Path(arguments.source), arguments.pictures, arguments.instances)
    return [path for path in named if path is not None and path.exists()]
