"""Regions and features of a folder of pictures, into a RegionStore.

    python pretrain/extract_regions.py PICTURES STORE
    python pretrain/extract_regions.py PICTURES STORE --ids-from nocaps_val_4500_captions.json

A run that was interrupted goes on when the same command is given again. Pictures that cannot be read
are listed in STORE/broken.txt; the exit status is 0 as long as one could be.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.nocaps import read_nocaps
from vivo.detectors.base import load_detector
from vivo.detectors.extract import BROKEN, extract_regions, find_pictures, image_id_of
from vivo.errors import UserError, exits_cleanly


def read_list(file: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures and ids of a list file: `path` or `id<TAB>path` a line, paths relative to `folder`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the list cannot be read ({error}); check the path") from error
    entries = [line.rpartition("\t") for line in lines if line.strip()]
    if not entries:
        raise UserError(f"{file}: the list is empty; write one path a line")
    return [folder / path for _, _, path in entries], [image_id or image_id_of(path) for image_id, _, path in entries]


def read_ids(file: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures and ids of a COCO or nocaps JSON file: what "images" lists, by id and file_name."""
    examples = read_nocaps(file, require_captions=False)
    unnamed = next((example.image_id for example in examples if not example.file_name), None)
    if unnamed is not None:
        raise UserError(f"{file}: picture {unnamed} has no file_name; use --list with lines `id<TAB>path`")
    return [folder / example.file_name for example in examples], [example.image_id for example in examples]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of region extraction; see `vivo.detectors.extract.extract_regions`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parser.add_argument("store", type=Path, help="folder of the RegionStore; made if missing")
    parser.add_argument("--detector", default="embedded", help="name or saved folder of a detector (default: embedded)")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a detector call (default: 16)")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads (default: 2)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--list", type=Path, help="file with `path` or `id<TAB>path` a line, relative to PICTURES")
    source.add_argument("--ids-from", type=Path, help="COCO or nocaps JSON that gives the pictures and their ids")
    arguments = parser.parse_args(argv)

    if arguments.list:
        pictures, ids = read_list(arguments.list, arguments.pictures)
    elif arguments.ids_from:
        pictures, ids = read_ids(arguments.ids_from, arguments.pictures)
    else:
        pictures = find_pictures(arguments.pictures)
        ids = [image_id_of(path) for path in pictures]
    result = extract_regions(
        pictures,
        arguments.store,
        load_detector(arguments.detector),
        image_ids=ids,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    print(f"{arguments.store}: {result}" + (f", see {arguments.store / BROKEN}" if result.broken else ""))


if __name__ == "__main__":
    sys.exit(main())
