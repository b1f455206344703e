"""Are two sets of captions really different? Paired bootstrap over pictures, per domain and metric.

    python eval/compare.py A.json B.json --references nocaps_val_captions.json [--classes classes.json]
    python eval/compare.py A0.json B0.json --more-a A1.json A2.json --more-b B1.json B2.json --references ...

Prints A - B with a 95 % interval for CIDEr, ROUGE-L, BLEU and, where asked for, METEOR, SPICE and the F1 of named
objects, and says "within noise" where the interval contains 0. Both are judged on the same resampled pictures; BLEU,
METEOR and F1 are computed anew on each resample. Of one training each, intervals speak of the pictures alone, and two
seeds of one model can be further apart. Captions of other seeds (--more-a and --more-b) make them speak of both.

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
from vivo.metrics.comparison import compare_systems, compare_systems_and_seeds, mean_table
from vivo.metrics.human import kept_human_record
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import Scores, SplitScorer, domains_note
from vivo.metrics.spice import Spice
from vivo.program import exits_cleanly
from vivo.report.evaluation import human_means

Scored = Mapping[str, Mapping[str, float]]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    for side in "ab":
        help_text = f"captions of the same pictures by other seeds of {side.upper()}"
        parser.add_argument(f"--more-{side}", nargs="+", default=[], metavar="FILE", help=help_text)
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
    if bool(arguments.more_a) != bool(arguments.more_b):
        raise UserError("--more-a and --more-b: how seeds differ must be known of both sides; give both, or neither")
    if arguments.out:
        writable_folder(Path(arguments.out).parent)
    if arguments.html:
        writable_folder(arguments.html.parent)
    classes = read_classes(arguments.classes) if arguments.classes else None
    sides = [[arguments.a, *arguments.more_a], [arguments.b, *arguments.more_b]]
    predictions = [[read_predictions(path) for path in paths] for paths in sides]
    examples = read_nocaps(arguments.references)
    if arguments.partition:
        examples = with_partition(examples, arguments.partition)
    meteor = Meteor() if arguments.meteor else None
    spice = Spice(arguments.spice or None) if arguments.spice is not None else None
    scorer = SplitScorer(examples, classes, meteor=meteor, spice=spice)
    a, b = ([scorer.score(captions) for captions in seeds] for seeds in predictions)
    compare = compare_systems_and_seeds if arguments.more_a else compare_systems
    differences = compare(scorer, a, b, arguments.resamples, arguments.seed)
    tables = mean_table(a), mean_table(b)
    human = human_means(kept_human_record(examples)) if all(len(e.captions) > 1 for e in examples) else {}
    print_differences(differences, *tables, human)
    sizes = {part: row["pictures"] for part, row in a[0].table.items() if "pictures" in row}
    lines = [of_seeds(len(a), len(b)), *notes(a, b, domains_note(sizes, arguments.partition or "")), *human_note(human)]
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    if arguments.out:
        found = {part: {m: i._asdict() for m, i in row.items()} for part, row in differences.items()}
        atomic_write_json(arguments.out, found | {"notes": lines} | ({"human": human} if human else {}))
        print(f"written: {arguments.out}")
    if arguments.html:
        from vivo.report.comparison_page import write_comparison

        names, provenance = (arguments.a, arguments.b), {"references": arguments.references}
        captions = predictions[0][0], predictions[1][0]
        write_comparison(
            arguments.html,
            names,
            captions,
            scorer,
            (a[0], b[0]),
            tables,
            differences,
            examples,
            arguments.pictures,
            lines,
            provenance,
            human,
        )
        print(f"written: {arguments.html}")


def print_differences(differences: Mapping[str, Mapping[str, Interval]], a: Scored, b: Scored, human: Scored) -> None:
    """One row a domain and metric: the references' score, both values, the difference, its interval, the verdict."""
    view = Table("", "metric", "[dim]references[/]", "A", "B", "A - B", title="A against B")
    view.add_column("95 % interval", no_wrap=True)
    view.add_column("", no_wrap=True)
    for part, row in differences.items():
        for metric, interval in row.items():
            digits = 3 if metric.startswith("F1") else 1
            values = (a[part][metric], b[part][metric], *interval)
            shown_a, shown_b, difference, low, high = (f"{value:.{digits}f}" for value in values)
            people = human.get(part, {}).get(metric)
            view.add_row(
                part,
                metric,
                "" if people is None else f"[dim]{people:.1f}[/]",
                shown_a,
                shown_b,
                difference,
                f"{low} .. {high}",
                verdict(interval),
            )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(view)


def of_seeds(a: int, b: int) -> str:
    """What the intervals speak of."""
    if min(a, b) == 1:
        return (
            "One training each: the intervals speak of the pictures, and two seeds of one model can be further apart. "
            "With --more-a and --more-b they speak of seeds too."
        )
    return f"Means of {a} seeds of A and {b} of B; the intervals speak of pictures and seeds."


def human_note(human: Scored) -> list[str]:
    """What the references' own scores are."""
    return ["references: each reference caption against its picture's others, mean over pictures."] if human else []


def notes(a: Sequence[Scores], b: Sequence[Scores], domains: str) -> list[str]:
    """What must be known beside the table."""
    lines = [domains] if domains else []
    for name, seeds in (("A", a), ("B", b)):
        found = {metric: why for scores in seeds for metric, why in scores.missing.items()}
        lines += [f"{metric} of {name} is missing: {why}" for metric, why in found.items()]
    return lines


def verdict(difference: Interval) -> str:
    """What the interval of A - B lets one say."""
    if difference.within_noise:
        return "within noise"
    return "A is better" if difference.value > 0 else "B is better"


if __name__ == "__main__":
    sys.exit(main())
