"""Regions and features of a folder of pictures, into a RegionStore.

    python pretrain/extract_regions.py PICTURES STORE
    python pretrain/extract_regions.py PICTURES STORE --ids-from nocaps_val_4500_captions.json

On several GPUs of one machine, and on two machines that share STORE (MACHINE_RANK is 0 and 1):

    accelerate launch --multi_gpu --num_processes 8 pretrain/extract_regions.py PICTURES STORE --detector grid
    accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank MACHINE_RANK \\
        --main_process_ip HOST --main_process_port 29500 pretrain/extract_regions.py PICTURES STORE

On a CPU, also `--multi_gpu`: with `--cpu` accelerate silently starts one process. A run that was interrupted or
killed, in one process or all, goes on when the same command is given again, on any number of processes, and the store
will be the same byte for byte. Pictures that cannot be read are listed in STORE/broken.txt; the exit status is 0 as
long as one could be, or 1 with --fail-on-broken.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.nocaps import read_nocaps
from vivo.detectors.base import load_detector
from vivo.detectors.extract import BROKEN, extract_regions, find_pictures, image_id_of
from vivo.detectors.extraction_report import try_extraction
from vivo.errors import UserError
from vivo.processes import join_processes
from vivo.program import exits_cleanly


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


def listed_pictures(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Pictures and ids that the command line asks for."""
    if arguments.list:
        return read_list(arguments.list, arguments.pictures)
    if arguments.ids_from:
        return read_ids(arguments.ids_from, arguments.pictures)
    pictures = find_pictures(arguments.pictures)
    return pictures, [image_id_of(path) for path in pictures]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of region extraction; see `vivo.detectors.extract.extract_regions`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parser.add_argument("store", type=Path, help="folder of the RegionStore; made if missing")
    parser.add_argument(
        "--detector",
        default="embedded",
        help="specification as grid,dtype=bfloat16 (docs/detectors.md) or saved folder (default: embedded)",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a detector call (default: 16)")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads of each process (default: 2)")
    parser.add_argument(
        "--shard-pictures", type=int, default=512, help="pictures a shard, the unit of work (default: 512)"
    )
    parser.add_argument(
        "--threads", type=int, help="computing threads of each process on a CPU; they decide the last bits of features"
    )
    parser.add_argument("--fail-on-broken", action="store_true", help="exit status 1 if a picture could not be read")
    parser.add_argument(
        "--dry-run", action="store_true", help="a few pictures, the store's size and the time, then end"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--list", type=Path, help="file with `path` or `id<TAB>path` a line, relative to PICTURES")
    source.add_argument("--ids-from", type=Path, help="COCO or nocaps JSON that gives the pictures and their ids")
    arguments = parser.parse_args(argv)

    processes = join_processes("pretrain/extract_regions.py")
    pictures, ids = processes.on_main(lambda: listed_pictures(arguments)) or ([], [])
    if arguments.dry_run:
        paths = [str(path) for path in pictures]
        tried = processes.on_main(lambda: try_extraction(paths, arguments.store, load_detector(arguments.detector)))
        print(*(tried or []), sep="\n", end="\n" if tried else "")
        return 0
    result = extract_regions(
        pictures,
        arguments.store,
        load_detector(arguments.detector),
        image_ids=ids,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        shard_pictures=arguments.shard_pictures,
        threads=arguments.threads,
        processes=processes,
    )
    if processes.is_main:
        by = f" by {processes.count} processes" if processes.count > 1 else ""
        print(f"{arguments.store}: {result}{by}" + (f", see {arguments.store / BROKEN}" if result.broken else ""))
    return 1 if arguments.fail_on_broken and result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
