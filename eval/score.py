"""Score predicted captions against references, by nocaps domain, without Java.

    python eval/score.py --predictions P.json --references nocaps_val_captions.json --out scores.json

References are a nocaps or COCO captions file. Writes {"in", "near", "out", "overall"} with CIDEr, ROUGE-L
and BLEU times 100, and scores of every picture beside it (scores.pictures.json). With --classes
classes.json also the F1 of named objects (0..1): in = base classes, out = novel ones, over all pictures.

--meteor and --spice [FOLDER] add METEOR and SPICE through Java. Where one of them fails, hangs or is missing, the
table says so and why; it is never counted as 0, and the other scores are there. What the numbers compare with,
domains above all, is printed and written beside them (docs/evaluation.md).

Beside each score stands that of the reference captions themselves, each against its picture's others (eval/human.py).

With --run R/finetune, the folder of the training whose model wrote the captions, the scores are kept with that run:
as a record of its metrics.jsonl and, where it is tracked, in the summary of its W&B run (docs/tracking.md).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.partition import with_partition
from vivo.data.predictions import read_predictions
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.human import kept_human_record
from vivo.metrics.java import JavaScoreError
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import DEFINITIONS, JAVA_METRICS, Scores, SplitScorer, domains_note
from vivo.metrics.spice import Spice
from vivo.program import exits_cleanly

ROWS = ("CIDEr", "SPICE", "METEOR", "ROUGE_L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "F1", "F1_unknown", "pictures")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, print, write."""
    arguments = parse(argv)
    header: dict[str, Any] = {}
    if arguments.run:
        from vivo.training.scores import check_scored, record_scores  # what trains is large

        header = check_scored(arguments.run, Path(arguments.predictions))
    out = Path(arguments.out)
    writable_folder(out.parent)
    predictions = read_predictions(arguments.predictions)
    classes = read_classes(arguments.classes) if arguments.classes else None
    examples = read_nocaps(arguments.references)
    if arguments.partition:
        examples = with_partition(examples, arguments.partition)
    stored = arguments.document_frequencies
    frequencies = DocumentFrequencies.load(stored) if stored else None
    limits = {} if arguments.java_limit is None else {"limit": arguments.java_limit}
    meteor = Meteor(**limits) if arguments.meteor else None
    spice = Spice(arguments.spice or None, **limits) if arguments.spice is not None else None
    for name, program in (("METEOR", meteor), ("SPICE", spice)):
        if program is not None:
            warn_early(name, program)
    scores = SplitScorer(examples, classes, frequencies, meteor, spice).score(predictions)
    about = notes(arguments, examples, scores, frequencies)
    human = None if arguments.no_human or stored else human_rows(examples, about, meteor)
    print_table(scores, about, human, Console())
    atomic_write_json(out.with_name(f"{out.stem}.pictures.json"), per_picture(scores, predictions))
    record: dict[str, Any] = scores.table | {"about": about}
    if human:
        record["human"] = human
    if scores.per_class:
        record["per_class"] = scores.per_class
    atomic_write_json(out, record)
    print(f"written: {out}")
    if arguments.run:
        print(record_scores(arguments.run, header, arguments.references, scores.table, about.get("domains", "")))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, help="JSON list of {image_id, caption}")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--classes", help="classes.json, for the F1 of named objects")
    parser.add_argument("--partition", metavar="FILE", help="domains from here, say the server's: JSON or CSV")
    parser.add_argument("--meteor", action="store_true", help="METEOR too, through Java")
    parser.add_argument(
        "--spice",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="SPICE too, through Java; FOLDER has the jars of Stanford CoreNLP 3.6.0 (default: $VIVO_SPICE)",
    )
    parser.add_argument(
        "--java-limit", type=float, metavar="SECONDS", help="take METEOR and SPICE to hang after so long"
    )
    parser.add_argument(
        "--document-frequencies",
        metavar="FILE",
        help="CIDEr's, from finetune/prepare_coco.py; for single pictures. Papers take those of the references",
    )
    parser.add_argument("--no-human", action="store_true", help="without the scores of the reference captions")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of the training whose model wrote the captions")
    arguments = parser.parse_args(argv)
    if arguments.run and arguments.document_frequencies:
        raise UserError(
            f"--run {arguments.run}: CIDEr by --document-frequencies compares with no other run's and is not kept; "
            "leave one of the two out"
        )
    if arguments.java_limit is not None and not arguments.java_limit > 0:
        raise UserError(f"--java-limit {arguments.java_limit:g}: must be more than 0")
    return arguments


def warn_early(name: str, program: Meteor | Spice) -> None:
    """Say that a score will be missing before minutes of work."""
    try:
        program.check()
    except JavaScoreError as error:
        print(f"{name} will be missing: {error}", file=sys.stderr)


def notes(
    arguments: argparse.Namespace,
    examples: Sequence[CaptionExample],
    scores: Scores,
    frequencies: DocumentFrequencies | None,
) -> dict[str, Any]:
    """What the numbers are and what they compare with, for the JSON file and the lines under the table."""
    counts = [len(example.captions) for example in examples]
    about: dict[str, Any] = {
        "references": arguments.references,
        "references_per_picture": [min(counts), max(counts)],
        "metrics": DEFINITIONS,
        "document_frequencies": f"references of these {len(examples):,} pictures",
    }
    sizes = {part: row["pictures"] for part, row in scores.table.items() if "pictures" in row}
    if note := domains_note(sizes, arguments.partition or ""):
        about["domains"] = note
    if frequencies is not None:
        about["document_frequencies"] = (
            f"{arguments.document_frequencies} ({frequencies.pictures:,} pictures): CIDEr does not compare with papers,"
            " which take those of the references"
        )
    if scores.missing:
        about["missing"] = scores.missing
    if left_out := [metric for metric in JAVA_METRICS if metric not in scores.table["overall"]]:
        about["without"] = [metric for metric in left_out if metric not in scores.missing]
    return about


def human_rows(
    examples: Sequence[CaptionExample], about: dict[str, Any], meteor: Meteor | None
) -> dict[str, Any] | None:
    """The reference captions' own scores (`vivo.metrics.human`); None, and a word in `about`, where there are none."""
    try:
        try:
            return kept_human_record(examples, meteor)
        except JavaScoreError:  # said of the captions' own METEOR
            return kept_human_record(examples)
    except UserError as error:
        about["human"] = f"no scores of the reference captions themselves: {error}"
        return None


def per_picture(scores: Scores, predictions: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """{picture id: {"caption", "CIDEr", "ROUGE_L" and, where there are, "SPICE", "METEOR", "named": [class]}}."""
    names = list(scores.per_class)
    rows: dict[str, dict[str, object]] = {}
    for number, (image_id, row) in enumerate(scores.per_picture().items()):
        rows[image_id] = {"caption": predictions[image_id], **row}
        if scores.named is not None:
            rows[image_id]["named"] = [names[c] for c in scores.named[number].nonzero()[0]]
    return rows


def print_table(scores: Scores, about: Mapping[str, Any], human: Mapping[str, Any] | None, console: Console) -> None:
    """Domains as columns, metrics as rows, the reference captions' own scores under each; then what to know of them."""
    table = scores.table
    view = Table("", *table, title="scores by domain")
    for column in view.columns[1:]:
        column.justify = "right"
    for metric in ROWS:
        if metric in scores.missing:
            view.add_row(f"[red]{metric}[/]", *("[red]missing[/]" for _ in table))
        values = [row.get(metric) for row in table.values()]
        if any(value is not None for value in values):
            digits = 0 if metric == "pictures" else 3 if metric.startswith("F1") else 1
            view.add_row(metric, *("" if value is None else f"{value:,.{digits}f}" for value in values))
        found = {} if human is None else human["mean"]
        if metric in found.get("overall", {}):
            cells = [found[part][metric] if metric in found.get(part, {}) else None for part in table]
            view.add_row("  [dim]references[/]", *("" if c is None else f"[dim]{c[0]:.1f}[/]" for c in cells))
    console.print(view)
    for text in lines_under(about, human, any("F1" in row for row in table.values())):
        style = "red" if " is missing: " in text else None
        console.print(escape(text), highlight=False, style=style, soft_wrap=True)


def lines_under(about: Mapping[str, Any], human: Mapping[str, Any] | None, with_f1: bool) -> list[str]:
    """What must be known beside the table."""
    lines = [about["domains"]] if "domains" in about else []
    if "papers" in about["document_frequencies"]:
        lines.append(f"Document frequencies: {about['document_frequencies']}.")
    if with_f1:
        lines.append(
            "F1 of named objects is over all pictures: base classes under in, novel ones under out, all under overall; "
            "F1_unknown: novel ones that the detector does not know."
        )
    if human is not None:
        value, low, high = human["mean"]["overall"]["CIDEr"]
        lines.append(
            "references: each reference caption against its picture's others, mean over pictures "
            f"(overall CIDEr {value:.1f} [{low:.1f}, {high:.1f}])."
        )
    if "human" in about:
        lines.append(about["human"])
    lines += [f"{metric} is missing: {why}" for metric, why in about.get("missing", {}).items()]
    if about.get("without"):
        options = ", ".join(f"--{metric.lower()}" for metric in about["without"])
        lines.append(f"Without {' and '.join(about['without'])} ({options}).")
    return lines


if __name__ == "__main__":
    sys.exit(main())
