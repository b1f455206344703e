"""A caption file into caption examples for fine-tuning: COCO's layout or Karpathy's split files.

    python finetune/prepare_coco.py captions_train2017.json train.parquet
    python finetune/prepare_coco.py dataset_coco.json train.parquet --split train
    python finetune/prepare_coco.py captions_train2014.json train.parquet --document-frequencies coco_frequencies.json
    python finetune/prepare_coco.py captions_train2014.json train.parquet --show-and-tell train
        --validation captions_val2014.json        the split of Show and Tell's authors

Files that carry an official name are checked for their official counts: 118,287 pictures in train2017;
113,287 / 5,000 / 5,000 in Karpathy's splits of COCO, whose train includes restval.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivo.data.coco import SHOW_AND_TELL, read_captions, read_show_and_tell_split
from vivo.data.examples import write_caption_examples
from vivo.data.karpathy import SPLITS, read_karpathy
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.files import writable_folder
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the preparation; see `vivo.data.coco.read_captions` and `vivo.data.karpathy.read_karpathy`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="captions JSON in COCO's or Karpathy's layout")
    parser.add_argument("out", type=Path, help="file to write, .parquet or .jsonl")
    parser.add_argument("--split", choices=tuple(SPLITS), help="of a file in Karpathy's layout; train includes restval")
    parser.add_argument(
        "--show-and-tell",
        choices=SHOW_AND_TELL,
        help="of COCO 2014 as Show and Tell's authors divided it; with --validation",
    )
    parser.add_argument("--validation", type=Path, metavar="JSON", help="captions_val2014.json, for --show-and-tell")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures: check that every one is there")
    parser.add_argument("--any-count", action="store_true", help="accept official files with other counts")
    parser.add_argument(
        "--document-frequencies",
        type=Path,
        metavar="JSON",
        help="also count for CIDEr in how many pictures each n-gram is: for rewards, and scores of few pictures",
    )
    parser.add_argument("--dry-run", action="store_true", help="read and check all, write nothing")
    arguments = parser.parse_args(argv)
    if arguments.out.resolve() == arguments.captions.resolve():
        raise UserError(f"{arguments.out}: is the file that is read; name another one to write")
    if arguments.document_frequencies is not None:  # before OUT is written
        if not arguments.dry_run:
            writable_folder(arguments.document_frequencies.parent)
        if arguments.document_frequencies.is_dir():
            raise UserError(f"{arguments.document_frequencies}: is a folder; name a file to write")

    if bool(arguments.show_and_tell) != bool(arguments.validation):
        raise UserError("--show-and-tell and --validation: the one needs the other")
    if arguments.show_and_tell:
        files = (arguments.captions, arguments.validation)
        examples = read_show_and_tell_split(*files, arguments.show_and_tell, arguments.any_count)
    elif arguments.split is None:
        examples = read_captions(arguments.captions, any_count=arguments.any_count)
    else:
        examples = read_karpathy(arguments.captions, arguments.split, arguments.any_count)
    if arguments.pictures is not None:
        missing = [example for example in examples if not (arguments.pictures / example.file_name).is_file()]
        if missing:
            raise UserError(
                f"{arguments.pictures}: {len(missing)} of {len(examples)} pictures of {arguments.captions} are not"
                f" there (first: {missing[0].file_name or missing[0].image_id}); is it the folder of this split?"
            )
    captions = sum(len(example.captions) for example in examples)
    if arguments.dry_run:
        print(f"dry run: {len(examples)} pictures with {captions} captions; {arguments.out} was not written")
        return
    pictures = write_caption_examples(examples, arguments.out)
    print(f"{arguments.out}: {pictures} pictures with {captions} captions ({captions / pictures:.1f} a picture)")
    if arguments.document_frequencies is not None:
        _write_frequencies(examples, arguments.document_frequencies)


def _write_frequencies(examples: Sequence[CaptionExample], path: Path) -> None:
    """Count and save the document frequencies of the captions, with a bar on stderr."""
    from vivo.metrics.document_frequencies import count_document_frequencies

    columns = (TextColumn("document frequencies"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(examples))
        frequencies = count_document_frequencies(
            (example.captions for example in examples), lambda done: bar.update(task, completed=done)
        )
    frequencies.save(path)
    common = sum(count > 1 for count in frequencies.counts.values())
    print(f"{path}: {common} n-grams that two or more of {frequencies.pictures} pictures have")


if __name__ == "__main__":
    sys.exit(main())
