"""Score predicted captions against references, by nocaps domain, without Java.

    python eval/score.py --predictions P.json --references nocaps_val_captions.json --out scores.json

References are a nocaps or COCO captions file. Writes {"in", "near", "out", "overall"} with CIDEr, ROUGE-L
and BLEU times 100, and scores of every picture beside it (scores.pictures.json). With --classes
classes.json also the F1 of named objects (0..1): in = base classes, out = novel ones, over all pictures.

With --run R/finetune, the folder of the training whose model wrote the captions, the scores are kept with that run:
as a record of its metrics.jsonl and, where it is tracked, in the summary of its W&B run (docs/tracking.md).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.predictions import read_predictions
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.nocaps import METRICS, PARTITION_NOTE, PUBLIC_SIZES, Scores, score_predictions
from vivo.program import exits_cleanly
from vivo.training.scores import check_scored, record_scores


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, help="JSON list of {image_id, caption}")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--classes", help="classes.json, for the F1 of named objects")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of the training whose model wrote the captions")
    arguments = parser.parse_args(argv)
    header = check_scored(arguments.run, Path(arguments.predictions)) if arguments.run else {}
    out = Path(arguments.out)
    writable_folder(out.parent)
    predictions = read_predictions(arguments.predictions)
    classes = read_classes(arguments.classes) if arguments.classes else None
    scores = score_predictions(predictions, read_nocaps(arguments.references), classes)
    print_table(scores.table, Console())
    atomic_write_json(out.with_name(f"{out.stem}.pictures.json"), per_picture(scores, predictions))
    atomic_write_json(out, scores.table | ({"per_class": scores.per_class} if scores.per_class else {}))
    print(f"written: {out}")
    if arguments.run:
        print(record_scores(arguments.run, header, arguments.references, scores.table))


def per_picture(scores: Scores, predictions: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """{picture id: {"caption", "CIDEr", "ROUGE_L" and, with classes, "named": [class]}}."""
    names = list(scores.per_class)
    rows: dict[str, dict[str, object]] = {}
    for number, (image_id, row) in enumerate(scores.per_picture().items()):
        rows[image_id] = {"caption": predictions[image_id], **row}
        if scores.named is not None:
            rows[image_id]["named"] = [names[c] for c in scores.named[number].nonzero()[0]]
    return rows


def print_table(table: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Domains as columns, metrics as rows; and what the domains do not compare with."""
    view = Table("", *table, title="scores by domain")
    for column in view.columns[1:]:
        column.justify = "right"
    for metric in (*METRICS, "F1", "F1_unknown", "pictures"):
        values = [row.get(metric) for row in table.values()]
        if any(value is not None for value in values):
            digits = 0 if metric == "pictures" else 3 if metric.startswith("F1") else 1
            view.add_row(metric, *("" if value is None else f"{value:,.{digits}f}" for value in values))
    console.print(view)
    if all(table.get(part, {}).get("pictures") == size for part, size in PUBLIC_SIZES.items()):
        console.print(PARTITION_NOTE)


if __name__ == "__main__":
    sys.exit(main())
