"""Are two sets of captions really different? Paired bootstrap over pictures, per domain.

    python eval/compare.py A.json B.json --references nocaps_val_captions.json [--classes classes.json]

Prints A - B with a 95 % interval for CIDEr, ROUGE-L and, with classes, the F1 of named objects, and says
"within noise" where the interval contains 0. --html FILE writes a page with all that and the captions side by side,
--pictures FOLDER with the pictures (small copies lie beside the page; docs/reports.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.predictions import read_predictions
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.bootstrap import Interval
from vivo.metrics.comparison import compare_systems
from vivo.metrics.nocaps import SplitScorer
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--classes", help="classes.json, for the F1 of named objects")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--html", type=Path, help="page to write: wins and losses side by side")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of the picture files, for --html")
    arguments = parser.parse_args(argv)
    if arguments.resamples < 1:
        raise UserError(f"--resamples {arguments.resamples}: at least 1 is needed, 1000 is usual")
    if arguments.out:
        writable_folder(Path(arguments.out).parent)
    if arguments.html:
        writable_folder(arguments.html.parent)
    classes = read_classes(arguments.classes) if arguments.classes else None
    predictions = [read_predictions(path) for path in (arguments.a, arguments.b)]
    examples = read_nocaps(arguments.references)
    scorer = SplitScorer(examples, classes)
    a, b = (scorer.score(captions) for captions in predictions)
    differences = compare_systems(scorer, [a], [b], arguments.resamples, arguments.seed)
    view = Table("", "metric", "A", "B", "A - B", title="A against B")
    view.add_column("95 % interval", no_wrap=True)
    view.add_column("", no_wrap=True)
    for part, row in differences.items():
        for metric, interval in row.items():
            digits = 3 if metric.startswith("F1") else 1
            values = (a.table[part][metric], b.table[part][metric], *interval)
            shown_a, shown_b, difference, low, high = (f"{value:.{digits}f}" for value in values)
            view.add_row(part, metric, shown_a, shown_b, difference, f"{low} .. {high}", verdict(interval))
    Console().print(view)
    if arguments.out:
        atomic_write_json(
            arguments.out, {part: {m: i._asdict() for m, i in row.items()} for part, row in differences.items()}
        )
        print(f"written: {arguments.out}")
    if arguments.html:
        from vivo.report.comparison_page import write_comparison

        write_comparison(
            arguments.html,
            (arguments.a, arguments.b),
            (predictions[0], predictions[1]),
            scorer,
            (a, b),
            differences,
            examples,
            arguments.pictures,
            {"A": arguments.a, "B": arguments.b, "references": arguments.references},
        )
        print(f"written: {arguments.html}")


def verdict(difference: Interval) -> str:
    """What the interval of A - B lets one say."""
    if difference.within_noise:
        return "within noise"
    return "A is better" if difference.value > 0 else "B is better"


if __name__ == "__main__":
    sys.exit(main())
