"""Open Images labels (the official CSV files) into tag examples for pre-training.

    python pretrain/prepare_open_images.py train-annotations-human-imagelabels.csv class-descriptions.csv tags.parquet
    python pretrain/prepare_open_images.py LABELS DESCRIPTIONS OUT --classes boxable --boxes train-annotations-bbox.csv

Tags of a picture are the names of the classes that people verified as present, lower case, without repetition.
Reads in a stream: memory does not grow with the number of labels.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from vivo.data.examples import write_tag_examples
from vivo.data.open_images import boxable_classes, tag_examples
from vivo.data.types import TagExample
from vivo.errors import UserError, exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the preparation; see `vivo.data.open_images.tag_examples`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="…-annotations-human-imagelabels.csv")
    parser.add_argument("descriptions", type=Path, help="class-descriptions.csv: class id, name")
    parser.add_argument("out", type=Path, help="file to write, .parquet or .jsonl")
    parser.add_argument(
        "--classes",
        choices=("all", "boxable"),
        default="all",
        help="vocabulary: all described classes (the paper's 6.4K), or those that have boxes (its 500); default: all",
    )
    parser.add_argument("--boxes", type=Path, help="boxes CSV or class-descriptions-boxable.csv: which have boxes")
    arguments = parser.parse_args(argv)

    classes = None
    if arguments.classes == "boxable":
        if arguments.boxes is None:
            raise UserError("--classes boxable needs --boxes: the boxes CSV or class-descriptions-boxable.csv")
        classes = boxable_classes(arguments.boxes)
    elif arguments.boxes is not None:
        raise UserError("--boxes is only read with --classes boxable; add that or leave --boxes out")

    tags_written = 0

    def counted() -> Iterator[TagExample]:
        nonlocal tags_written
        for example in tag_examples(arguments.labels, arguments.descriptions, classes):
            tags_written += len(example.tags)
            yield example

    start = perf_counter()
    pictures = write_tag_examples(counted(), arguments.out)
    print(
        f"{arguments.out}: {pictures} pictures with {tags_written} tags ({tags_written / pictures:.1f} a picture)"
        f" in {perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
