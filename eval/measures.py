"""What captions name, what they make up, and how new they are: all that is measured beside the scores.

    python eval/measures.py --predictions P.json --references nocaps_val_captions.json --classes classes.json \\
        --labels validation-annotations-human-imagelabels.csv --boxes validation-annotations-bbox.csv \\
        --training-captions captions_train2017.json --training-tags tags.jsonl --out measures.json

- F1 of named objects, laid out as the paper's Table 2: mean over classes and micro, against references, image-level
  labels and boxes;
- CHAIRi and CHAIRs (Rohrbach et al. 2018): objects that are named and not there;
- captions that no training picture has, different captions, words and n-grams, lengths;
- recall of objects by how often training tags and training captions have them (bins of the paper's Table 3).

Several files of predictions are seeds of one system: values are means over them. --against compares with another
system, picture by picture. People are measured, too: the first reference of each picture against the others. Intervals
are 95 % bootstrap intervals over pictures. --labels and --boxes are files of Open Images; pictures are found in them by
the references' open_images_id. Values of each picture are written beside --out (measures.pictures.json).
docs/measures.md says what each number means.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vivo.data.class_lists import read_class_list, with_roles
from vivo.data.coco import read_captions
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.nocaps import WorldClass, read_nocaps
from vivo.data.partition import with_partition
from vivo.data.picture_labels import names_of_pictures, read_picture_boxes, read_picture_labels
from vivo.data.predictions import read_predictions
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.metrics.long_tail import EDGES
from vivo.metrics.measures import BOXES, LABELS, VERIFIED, CaptionSplit, Measured, TrainingCounts, intervals
from vivo.metrics.nocaps import PARTITION_NOTE, PUBLIC_SIZES
from vivo.metrics.object_truth import Truth, truth_of_annotations
from vivo.program import exits_cleanly, whole_number
from vivo.report.measure_tables import as_json, measure_tables


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", nargs="+", required=True, metavar="P.json", help="one file a seed")
    parser.add_argument("--against", nargs="+", metavar="B.json", help="another system, one file a seed")
    parser.add_argument("--references", required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--classes", required=True, help="classes.json, or Open Images' class descriptions (CSV)")
    parser.add_argument("--hierarchy", help="of the class descriptions (JSON): a dog is an animal")
    parser.add_argument("--partition", metavar="FILE", help="domains from here (vivo/data/partition.py)")
    parser.add_argument("--labels", help="image-level labels of the pictures (Open Images' CSV)")
    parser.add_argument("--boxes", help="boxes of the pictures (Open Images' CSV)")
    parser.add_argument("--training-captions", help="COCO captions file, or examples (.jsonl, .parquet)")
    parser.add_argument("--training-tags", help="tag examples of pre-training (.jsonl, .parquet)")
    parser.add_argument(
        "--base-from",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="with class descriptions: mentions in training captions that make a class in-domain (default 1)",
    )
    parser.add_argument("--bins", type=whole_number(0), nargs="+", default=list(EDGES), metavar="N")
    parser.add_argument("--resamples", type=whole_number(0), default=1000, help="0: no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if sorted(set(arguments.bins)) != arguments.bins:
        raise UserError(f"--bins {' '.join(map(str, arguments.bins))}: must rise")
    writable_folder(arguments.out.parent)
    examples, split = read_split(arguments)
    systems: dict[str, Measured] = {}
    for name, files in (("captions", arguments.predictions), ("against", arguments.against)):
        if files:
            systems[name] = split.measure([read_predictions(path) for path in files])
    results = {name: intervals(of.statistics, arguments.resamples, arguments.seed) for name, of in systems.items()}
    if arguments.against:
        ours, theirs = (systems[name].statistics for name in ("captions", "against"))
        results["difference"] = intervals(ours, arguments.resamples, arguments.seed, theirs)
    if all(len(example.captions) > 1 for example in examples):
        others = [replace(example, captions=example.captions[1:]) for example in examples]
        people = CaptionSplit(others, split.classes, split.annotations, split.training, split.edges)
        systems["people"] = people.measure([{example.image_id: example.captions[0] for example in examples}])
        results["people"] = intervals(systems["people"].statistics, arguments.resamples, arguments.seed)

    console = Console()
    console = console if console.is_terminal else Console(width=200)
    for table in measure_tables(results, {name: of.numbers for name, of in systems.items()}, split.facts()):
        console.print(table)
    if not arguments.partition and all(len(split.members(part)) == size for part, size in PUBLIC_SIZES.items()):
        console.print(PARTITION_NOTE)
    files = {"captions": arguments.predictions, "against": arguments.against or []}
    written: dict[str, Any] = {"files": files, "facts": split.facts()}
    for name, found in results.items():
        written[name] = {"statistics": as_json(found), **(systems[name].numbers if name in systems else {})}
    for number, rows in enumerate(systems["captions"].pictures):
        kind = "pictures" if len(arguments.predictions) == 1 else f"pictures{number}"
        atomic_write_json(arguments.out.with_name(f"{arguments.out.stem}.{kind}.json"), rows)
    atomic_write_json(arguments.out, written)
    print(f"written: {arguments.out}")


def read_split(arguments: argparse.Namespace) -> tuple[list[CaptionExample], CaptionSplit]:
    """The pictures with their references, and all that captions are measured against.

    Raises:
        UserError: what the readers raise; class descriptions without training captions, which give the roles.
    """
    examples = read_nocaps(arguments.references)
    if arguments.partition:
        examples = with_partition(examples, arguments.partition)
    classes = read_class_list(arguments.classes, arguments.hierarchy)
    described = not arguments.classes.lower().endswith(".json")
    if described and not arguments.training_captions:
        raise UserError(
            f"{arguments.classes}: does not say which classes are in-domain; give --training-captions, which name them"
        )
    annotations = read_annotations(arguments, [example.image_id for example in examples], classes)
    captions, tags = arguments.training_captions, arguments.training_tags
    training = TrainingCounts.of(
        classes,
        training_captions(captions) if captions else None,
        (example.tags for example in read_tag_examples(tags)) if tags else None,
    )
    if described:
        classes = with_roles(classes, training.caption_mentions, arguments.base_from)
    return examples, CaptionSplit(examples, classes, annotations, training, arguments.bins)


def read_annotations(
    arguments: argparse.Namespace, image_ids: Sequence[str], classes: Sequence[WorldClass]
) -> dict[str, Truth]:
    """The truths that the label and box files give."""
    truths: dict[str, Truth] = {}
    pictures = names_of_pictures(arguments.references) if arguments.labels or arguments.boxes else {}
    if arguments.labels:
        labels = read_picture_labels(arguments.labels, pictures)
        for name in (LABELS, VERIFIED):
            said = (labels.present, labels.absent, labels.known)
            truths[name] = truth_of_annotations(*said, image_ids, classes, verified=name == VERIFIED)
    if arguments.boxes:
        boxes = read_picture_boxes(arguments.boxes, pictures)
        present = {image_id: {box.mid for box in of_picture} for image_id, of_picture in boxes.boxes.items()}
        truths[BOXES] = truth_of_annotations(present, {}, boxes.known, image_ids, classes)
    for name, truth in truths.items():
        if not truth.present.any():
            source = arguments.boxes if name == BOXES else arguments.labels
            raise UserError(f"{source}: none of the classes of {arguments.classes} is there; do their ids (mid) match?")
    return truths


def training_captions(path: str) -> Iterator[str]:
    """The captions of a COCO file or of examples, one by one."""
    examples = read_captions(path) if path.lower().endswith(".json") else read_caption_examples(path)
    for example in examples:
        yield from example.captions


if __name__ == "__main__":
    sys.exit(main())
