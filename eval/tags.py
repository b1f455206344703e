"""Compare sources of tags: what each says of the pictures of a split, against what the references name.

    python eval/tags.py --regions STORE --references nocaps_val_captions.json --classes classes.json \
        --source detector --source file=tags.jsonl --source self=runs/world/pretrain/model

A source is `detector` (the labels of the store), `file=TAGS.jsonl` (a tagger's), `self=MODEL` (written by a
pre-trained model from regions alone) or `labels=EXAMPLES.jsonl` (what people gave: an upper bound, never an input at
test). A tag counts for the class whose name or word form it is. Precision and recall are over all pairs of picture and
class; F1 is the mean over classes, as for captions: base classes, novel ones, and those that no detector knows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.f1 import f1_table
from vivo.metrics.nocaps import SplitScorer
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder
from vivo.program import exits_cleanly
from vivo.self_tagging import open_tag_source

COLUMNS = ("tags a picture", "precision", "recall", "F1 base", "F1 novel", "F1 unknown")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=Path, required=True, help="RegionStore of the pictures")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--classes", required=True, help="classes.json: the objects that count, with word forms")
    parser.add_argument("--source", action="append", required=True, metavar="KIND[=PATH]", help="may be repeated")
    parser.add_argument("--out", type=Path, help="JSON file to write as well")
    arguments = parser.parse_args(argv)
    if arguments.out:
        writable_folder(arguments.out.parent)
    store, classes = RegionStore(arguments.regions), read_classes(arguments.classes)
    scorer = SplitScorer(read_nocaps(arguments.references), classes)
    missing = [image_id for image_id in scorer.image_ids if image_id not in store]
    if missing:
        raise UserError(
            f"{arguments.regions}: no regions of {len(missing)} pictures (first: {missing[0]}); extract them"
        )
    finder = ClassFinder(classes)
    results = {}
    for text in arguments.source:
        source = open_source(text, store, scorer.image_ids)
        tags = [source(i, [], store[i] if source.needs_regions else None) for i in scorer.image_ids]
        tokens = iter(ptb_tokenize_all([tag for of_one in tags for tag in of_one]))
        named = finder.mentions([[next(tokens) for _ in of_one] for of_one in tags])
        hits, f1 = int((named & scorer.truth).sum()), f1_table(named, scorer.truth, classes)
        numbers = [
            sum(map(len, tags)) / len(tags),
            hits / max(int(named.sum()), 1),
            hits / max(int(np.sum(scorer.truth)), 1),
            f1["in"],
            f1["out"],
            f1["out_unknown"],
        ]
        results[text] = dict(zip(COLUMNS, numbers, strict=True))
    table = Table(title=f"tags of {len(scorer.image_ids):,} pictures against their references")
    table.add_column("source", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for text, row in results.items():
        table.add_row(text, *("-" if value is None else f"{value:.3f}" for value in row.values()))
    Console().print(table)
    if arguments.out:
        atomic_write_json(arguments.out, results)


def open_source(text: str, store: RegionStore, image_ids: Sequence[str]) -> TagSource:
    """The source that `KIND[=PATH]` names, with the tags of these pictures at hand."""
    kind, _, path = text.partition("=")
    if kind not in ("detector", "file", "labels", "self"):
        raise UserError(f"--source {text}: must be detector, file=TAGS.jsonl, labels=EXAMPLES.jsonl or self=MODEL")
    if (kind == "detector") == bool(path):
        raise UserError(f"--source {text}: {'takes no path' if path else 'needs a path behind ='}")
    if kind == "self":
        return open_tag_source("self", store, image_ids, tagger=path)
    return open_tag_source("detector" if kind == "detector" else "file", store, image_ids, path)


if __name__ == "__main__":
    sys.exit(main())
