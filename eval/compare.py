"""Are two sets of captions really different? Paired bootstrap over pictures, per domain and metric.

    python eval/compare.py A.json B.json --references nocaps_val_captions.json [--classes classes.json]

Prints A - B with a 95 % interval for CIDEr, ROUGE-L, BLEU and, where asked for, METEOR, SPICE and the F1 of named
objects, and says "within noise" where the interval contains 0. Both are judged on the same resampled pictures; BLEU,
METEOR and F1 are computed anew on each resample. Intervals speak of the pictures, not of another training's seed.

--html FILE writes a page with all that, wins and losses side by side; --pictures FOLDER puts the pictures there (small
copies lie beside the page; docs/reports.md).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.partition import with_partition
from vivo.data.predictions import read_predictions
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.bootstrap import Interval
from vivo.metrics.comparison import compare_systems
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import Scores, SplitScorer, domains_note
from vivo.metrics.spice import Spice
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--classes", help="classes.json, for the F1 of named objects")
    parser.add_argument("--partition", metavar="FILE", help="domains from here (vivo/data/partition.py)")
    parser.add_argument("--meteor", action="store_true", help="METEOR too, through Java")
    parser.add_argument("--spice", nargs="?", const="", metavar="FOLDER", help="SPICE too, through Java")
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
    if arguments.partition:
        examples = with_partition(examples, arguments.partition)
    meteor = Meteor() if arguments.meteor else None
    spice = Spice(arguments.spice or None) if arguments.spice is not None else None
    scorer = SplitScorer(examples, classes, meteor=meteor, spice=spice)
    a, b = (scorer.score(captions) for captions in predictions)
    differences = compare_systems(scorer, [a], [b], arguments.resamples, arguments.seed)
    print_differences(differences, a, b)
    sizes = {part: row["pictures"] for part, row in a.table.items() if "pictures" in row}
    lines = notes(a, b, domains_note(sizes, arguments.partition or ""))
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    if arguments.out:
        found = {part: {m: i._asdict() for m, i in row.items()} for part, row in differences.items()}
        atomic_write_json(arguments.out, found | ({"notes": lines} if lines else {}))
        print(f"written: {arguments.out}")
    if arguments.html:
        from vivo.report.comparison_page import write_comparison

        names, provenance = (arguments.a, arguments.b), {"references": arguments.references}
        captions = (predictions[0], predictions[1])
        write_comparison(
            arguments.html,
            names,
            captions,
            scorer,
            (a, b),
            differences,
            examples,
            arguments.pictures,
            lines,
            provenance,
        )
        print(f"written: {arguments.html}")


def print_differences(differences: Mapping[str, Mapping[str, Interval]], a: Scores, b: Scores) -> None:
    """One row a domain and metric: both values, the difference, its interval, the verdict."""
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


def notes(a: Scores, b: Scores, domains: str) -> list[str]:
    """What must be known beside the table."""
    lines = [domains] if domains else []
    for name, scores in (("A", a), ("B", b)):
        lines += [f"{metric} of {name} is missing: {why}" for metric, why in scores.missing.items()]
    return lines


def verdict(difference: Interval) -> str:
    """What the interval of A - B lets one say."""
    if difference.within_noise:
        return "within noise"
    return "A is better" if difference.value > 0 else "B is better"


if __name__ == "__main__":
    sys.exit(main())
