"""The paper's Tables 4 to 6 from training runs alone, whoever made them: rows are placed by their configurations.

    python eval/ablation_table.py runs/full --out table.md --json table.json
    python eval/ablation_table.py --wandb ENTITY/PROJECT --out table.md

RUNS are folders that hold runs at any depth, as `vivo demo --ablations` and README's commands leave them: for each row
and seed R/finetune, R/pretrain (unless it has none) and R/predictions.json or R/eval/predictions.json, with R named
seed<k> in a folder with the row's name, or named after the row. References and classes are those of a demo among RUNS
unless they are given. W&B knows scores and no captions, so intervals are over seeds there (the download of its records
has not been verified against the service).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.errors import UserError
from vivo.experiment.ablation_text import to_json, to_markdown
from vivo.experiment.ablations import Ablations, make_ablations
from vivo.files import atomic_write_json, atomic_write_text, writable_folder
from vivo.program import exits_cleanly, whole_number


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs")
    parser.add_argument("--references", type=Path, help="captions file in nocaps or COCO format")
    parser.add_argument("--classes", type=Path, help="classes.json, for the F1 of named objects")
    parser.add_argument("--base", default="vivo", help="the row that is VIVO itself (default: vivo)")
    parser.add_argument("--resamples", type=whole_number(1), default=1000, help="of the bootstrap (default: 1000)")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="instead of RUNS: the runs of a W&B project")
    parser.add_argument("--save-records", type=Path, metavar="FILE", help="with --wandb: keep what it told, as JSON")
    parser.add_argument("--records", type=Path, metavar="FILE", help="instead of RUNS: a file of --save-records")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if sum(map(bool, (arguments.runs, arguments.wandb, arguments.records))) != 1:
        raise UserError("give RUNS (folders), or --wandb ENTITY/PROJECT, or --records FILE, and one of them only")
    if arguments.save_records and not arguments.wandb:
        raise UserError("--save-records: goes with --wandb")
    if not arguments.runs and (arguments.references or arguments.classes):
        raise UserError("--references and --classes: go with RUNS; W&B knows scores and no captions")
    written = [path for path in (arguments.out, arguments.json, arguments.save_records) if path]
    for path in written:
        writable_folder(path.parent)
    found = of_folders(arguments) if arguments.runs else of_records(arguments)
    text = to_markdown(found)
    print(text)
    if arguments.out:
        atomic_write_text(arguments.out, text)
    if arguments.json:
        atomic_write_json(arguments.json, to_json(found))
    for path in written:
        print(f"written: {path}")


def of_folders(arguments: argparse.Namespace) -> Ablations:
    """From run folders: captions are scored here."""
    from vivo.experiment.run_folders import find_references, read_runs
    from vivo.metrics.nocaps import SplitScorer

    trained, left_out = read_runs(arguments.runs)
    references, classes = arguments.references, arguments.classes
    if references is None:
        there = find_references(arguments.runs)
        if there is None:
            raise UserError(
                "--references: is needed, no demo's world is among RUNS; give the captions to score against"
            )
        references, classes = there[0], classes or there[1]
    scorer = SplitScorer(read_nocaps(references), read_classes(classes) if classes else None)
    return make_ablations(trained, left_out, arguments.base, scorer, arguments.resamples)


def of_records(arguments: argparse.Namespace) -> Ablations:
    """From W&B, or a file of what it told."""
    from vivo.experiment.wandb_runs import check_project, fetch_records, read_wandb_records, runs_of_records

    if arguments.wandb:
        records = fetch_records(check_project(arguments.wandb))
        if arguments.save_records:
            atomic_write_json(arguments.save_records, records)
    else:
        records = read_wandb_records(arguments.records)
    return make_ablations(*runs_of_records(records), arguments.base)


if __name__ == "__main__":
    sys.exit(main())
