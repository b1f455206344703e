"""How well reference captions do by the scores that models are given: each against its picture's others.

    python eval/human.py nocaps_val_4500_captions.json --out human.json

The sanity row of every table: people's captions on nocaps score about 86 CIDEr by this (published: 87.1, an eleventh
caption against ten), so a model at 86 writes captions that are as close to people's as people's are to each other. Of
each picture the mean over its captions counts; the first captions alone are given too. How, and why the document
frequencies are what they are: vivo/metrics/human.py. eval/score.py prints these rows beside every table.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import read_nocaps
from vivo.data.partition import with_partition
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.human import human_record
from vivo.metrics.java import JavaScoreError
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import domains_note
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", help="captions file in nocaps or COCO format, two captions a picture at least")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--partition", metavar="FILE", help="domains from here (vivo/data/partition.py)")
    parser.add_argument("--meteor", action="store_true", help="METEOR too (Java; minutes)")
    arguments = parser.parse_args(argv)
    if arguments.out:
        writable_folder(arguments.out.parent)
    examples = read_nocaps(arguments.references)
    if arguments.partition:
        examples = with_partition(examples, arguments.partition)
    try:
        record = human_record(examples, Meteor() if arguments.meteor else None)
    except JavaScoreError as error:
        raise UserError(f"METEOR cannot be had: {error}") from error
    sizes = {part: sum(e.domain == f"{part}-domain" for e in examples) for part in ("in", "near", "out")}
    note = domains_note(sizes, arguments.partition or "")
    fewest, most = record["references"]
    count = str(most - 1) if fewest == most else f"{fewest - 1} to {most - 1}"
    for name, title in (("mean", "mean over captions"), ("first", "first captions")):
        print_table(record[name], f"{title}, against {count} others")
    if note:
        Console().print(note, highlight=False, soft_wrap=True)
    if arguments.out:
        about = {"references_file": arguments.references, "pictures": len(examples), "domains": note}
        atomic_write_json(arguments.out, record | about)
        print(f"written: {arguments.out}")


def print_table(rows: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Domains as columns, metrics as rows, each value over its 95 % interval."""
    view = Table("", *rows, title=title)
    for column in view.columns[1:]:
        column.justify = "right"
    for metric in rows["overall"]:
        view.add_row(metric, *(interval_text(row[metric]) for row in rows.values()))
    Console().print(view)


def interval_text(interval: Sequence[float]) -> str:
    """86.2 [84.8, 87.5]."""
    value, low, high = interval
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
