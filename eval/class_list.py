"""Make a classes.json of Open Images' files: what `--classes` of eval/score.py, compare.py and report.py reads.

    python eval/class_list.py class-descriptions-boxable.csv --hierarchy bbox_labels_600_hierarchy.json \\
        --training-captions captions_train2017.json --base-from 100 --out classes.json

A class that training captions name at least --base-from times is "base", any other "novel": the table's F1 in and out.
The paper has 105 in-domain classes and does not say which they are. Word forms come from the names
(`vivo.data.class_forms`), more general classes from the hierarchy. --detector FILE lists the classes that the detector
names, one a line, for the F1 of those unknown to it; without it all count as known. The file can be edited by hand.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vivo.data.class_lists import read_class_list, with_roles
from vivo.data.coco import read_captions
from vivo.data.examples import read_caption_examples
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.measures import TrainingCounts
from vivo.program import exits_cleanly, whole_number


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("descriptions", type=Path, metavar="CSV", help="Open Images' class descriptions")
    parser.add_argument("--hierarchy", help="of these classes (JSON): a dog is an animal")
    parser.add_argument("--training-captions", required=True, help="COCO captions file, or examples (.jsonl, .parquet)")
    parser.add_argument("--base-from", type=whole_number(1), default=1, metavar="N", help="mentions (default 1)")
    parser.add_argument("--detector", type=Path, metavar="FILE", help="names of the classes that the detector knows")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if arguments.descriptions.suffix.lower() == ".json":
        raise UserError(f"{arguments.descriptions}: a classes.json is what this program makes; give class descriptions")
    writable_folder(arguments.out.parent)
    classes = read_class_list(arguments.descriptions, arguments.hierarchy)
    if arguments.detector:
        known = detector_names(arguments.detector, {named.name for named in classes})
        classes = [replace(named, detector=named.name in known) for named in classes]
    captions = arguments.training_captions
    read = read_captions if captions.lower().endswith(".json") else read_caption_examples
    counted = TrainingCounts.of(classes, (caption for example in read(captions) for caption in example.captions))
    classes = with_roles(classes, counted.caption_mentions, arguments.base_from)
    atomic_write_json(arguments.out, [asdict(named) for named in classes])
    base = sum(named.role == "base" for named in classes)
    print(f"written: {arguments.out} ({len(classes)} classes, {base} base, {len(classes) - base} novel)")


def detector_names(path: Path, classes: set[str]) -> set[str]:
    """The names in a list of one a line, in lower case; at least one must be of `classes`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file with a class name a line") from error
    names = {" ".join(line.lower().split()) for line in lines} - {""}
    if not names & classes:
        raise UserError(f"{path}: names none of the {len(classes)} classes; give a name a line, as in the descriptions")
    return names


if __name__ == "__main__":
    sys.exit(main())
