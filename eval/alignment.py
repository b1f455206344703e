"""Which region goes with which tag, as a model sees it (the paper's Figure 3), as numbers and as pictures.

    python eval/alignment.py --model vivo=A/seed0/model --model vivo=A/seed1/model --model none=B/seed0/model \
        --regions STORE --references nocaps_val_captions.json --boxes validation-annotations-bbox.csv \
        --labels validation-annotations-human-imagelabels.csv --descriptions class-descriptions.csv \
        --classes classes.json --out alignment.json --figures FOLDER --pictures nocaps/images

Models of one NAME are seeds: values are means over them. The first name is compared with every other one, picture by
picture. Tags are what people say the picture shows (--labels), or what the detector says (--tags detector). Measures:

    cosine      of the last layer's outputs at tag and region, read together, as in the figure (--layer: of another)
    reading     log-probability of the tag in masked slots where the model sees that region alone

and over tags whose object is boxed:

    grounded    the best region of the tag lies on its object (IoU >= 0.5)
    chance      a region drawn at random does; possible: any region does; whole: the best region is the whole picture
    margin      mean measure of the regions on the object, less that of all others

Intervals are 95 % bootstrap intervals over pictures. --parts leaves regions out that are the whole picture. --figures
draws the first pictures that have three boxed tags or more (--show N of them), one SVG each; nothing is chosen by how
well it looks. What the measures mean: docs/measures.md.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vivo.data.class_lists import read_class_list
from vivo.data.nocaps import read_pictures
from vivo.data.open_images import read_class_descriptions
from vivo.data.picture_labels import names_of_pictures, read_picture_boxes, read_picture_labels
from vivo.data.regions import RegionStore
from vivo.data.tag_rules import detector_tags, tag_name
from vivo.errors import UserError
from vivo.files import atomic_write_json, atomic_write_text, writable_folder
from vivo.metrics.f1 import class_groups
from vivo.metrics.grounding import TagSums
from vivo.metrics.measures import Intervals, Statistics, intervals
from vivo.program import exits_cleanly, whole_number
from vivo.report.alignment_figure import Panel, alignment_svg
from vivo.report.measure_tables import as_json, cell

if TYPE_CHECKING:
    from vivo.alignment import Alignment, ObjectBoxes

COLUMNS = ("grounded", "chance", "possible", "whole", "margin")
MEASURES = ("cosine", "reading")
COMPARED = ("grounded", "margin")
GROUPS = {"overall": "all classes", "in": "base", "out": "novel", "out_unknown": "unknown to the detector"}
LEAST_SHOWN = 3  # boxed tags that a drawn picture has

Objects = dict[str, dict[str, "ObjectBoxes"]]
"""Picture id -> tag -> its boxes."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, align with each model, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER", help="may be repeated")
    parser.add_argument("--regions", type=Path, required=True, help="RegionStore of the pictures")
    parser.add_argument("--references", required=True, help="captions file (nocaps, COCO): its pictures, no captions")
    parser.add_argument("--boxes", required=True, help="boxes of the pictures (Open Images' CSV)")
    parser.add_argument("--descriptions", required=True, help="names of the classes of labels and boxes (CSV)")
    parser.add_argument("--labels", help="image-level labels of the pictures (Open Images' CSV)")
    parser.add_argument("--tags", choices=("labels", "detector"), default="labels", help="which tags the models read")
    parser.add_argument("--classes", help="classes.json: figures of base and of novel classes as well")
    parser.add_argument("--layer", type=whole_number(0), help="of the cosines (default: the last; 0: embeddings)")
    parser.add_argument("--parts", action="store_true", help="leave out regions that are the whole picture")
    parser.add_argument("--resamples", type=whole_number(1), default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw pictures into it")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of the photographs, for --figures")
    parser.add_argument("--show", type=whole_number(1), default=3, metavar="N", help="how many to draw")
    arguments = parser.parse_args(argv)
    if arguments.figures and not arguments.pictures:
        raise UserError("--figures needs --pictures, the folder of the photographs")
    if arguments.tags == "labels" and not arguments.labels:
        raise UserError("--tags labels needs --labels, or take --tags detector")
    for folder in (arguments.out.parent, arguments.figures or arguments.out.parent):
        writable_folder(folder)
    models = models_by_name(arguments.model)
    store = RegionStore(arguments.regions)
    examples = {example.image_id: example for example in read_pictures(arguments.references)}
    objects, tags = read_objects_and_tags(arguments, store, list(examples))
    many = (i for i in examples if sum(tag in objects[i] for tag in tags[i]) >= LEAST_SHOWN)
    shown = list(itertools.islice(many, arguments.show)) if arguments.figures else []
    groups = tag_groups(arguments.classes)

    from vivo.alignment import Aligner, grounding, sums_of

    statistics: Statistics = {}
    panels: dict[str, list[Panel]] = {image_id: [] for image_id in shown}
    pictures: dict[str, dict[str, Any]] = {}
    for name, folders in models.items():
        sums: dict[tuple[str, str], list[list[TagSums]]] = {
            (m, g): [[] for _ in folders] for m in MEASURES for g in groups
        }
        for number, folder in enumerate(folders):
            for found in Aligner(folder, arguments.layer)(store, [(i, tags[i]) for i in examples]):
                boxed = objects[found.image_id]
                for measure, group in sums:
                    members, fit = groups[group], getattr(found, measure)
                    of_group = {t: b for t, b in boxed.items() if members is None or t in members}
                    sums[measure, group][number].append(sums_of(found, fit, of_group, arguments.parts))
                if number == 0:
                    pictures.setdefault(found.image_id, {})[name] = best_regions(found, boxed)
                    if found.image_id in panels:
                        panels[found.image_id] += [panel(name, measure, found, boxed) for measure in MEASURES]
        for measure in MEASURES:
            statistics[f"{name}, {measure}"] = {
                group: grounding(sums[measure, group])
                for group in groups
                if any(of_picture.tags for of_picture in sums[measure, group][0])
            }

    counts = {group: int(sum(of_picture.tags for of_picture in sums[MEASURES[0], group][0])) for group in groups}
    results = compare(statistics, list(models), arguments.resamples, arguments.seed)
    print_table(results, counts)
    facts = {"models": models, "layer": "last" if arguments.layer is None else arguments.layer, "tags": arguments.tags}
    facts |= {"parts": arguments.parts, "pictures": len(examples), "boxed tags": counts}
    atomic_write_json(arguments.out.with_name(f"{arguments.out.stem}.pictures.json"), pictures)
    atomic_write_json(arguments.out, {"facts": facts, "statistics": as_json(results)})
    print(f"written: {arguments.out}")
    for image_id, of_picture in panels.items():
        drawing = alignment_svg(arguments.pictures / examples[image_id].file_name, store[image_id], of_picture)
        path = arguments.figures / f"alignment_{image_id}.svg"
        atomic_write_text(path, drawing)
        print(f"written: {path}")


def models_by_name(given: Sequence[str]) -> dict[str, list[str]]:
    """NAME=FOLDER, each -> folders by name."""
    models: dict[str, list[str]] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise UserError(f"--model {text}: must be NAME=FOLDER, such as vivo=runs/demo/vivo")
        models.setdefault(name, []).append(folder)
    return models


def read_objects_and_tags(
    arguments: argparse.Namespace, store: RegionStore, image_ids: Sequence[str]
) -> tuple[Objects, dict[str, list[str]]]:
    """The boxes of each picture by the tag that names them, and the tags that the models are to read.

    Raises:
        UserError: what the readers raise; a picture without regions, a class without a name.
    """
    from vivo.alignment import ObjectBoxes

    missing = [image_id for image_id in image_ids if image_id not in store]
    if missing:
        raise UserError(f"{store.path}: no regions of {len(missing):,} pictures (first: {missing[0]}); extract them")
    pictures = names_of_pictures(arguments.references)
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(arguments.descriptions).items()}
    found = read_picture_boxes(arguments.boxes, pictures)
    labels = read_picture_labels(arguments.labels, pictures) if arguments.tags == "labels" else None
    unnamed = (found.known | (labels.known if labels else set())) - names.keys()
    if unnamed:
        raise UserError(f"{arguments.descriptions}: does not name class {min(unnamed)}; give that of the same version")
    objects: Objects = {}
    for image_id in image_ids:
        regions = store[image_id]
        by_tag: dict[str, list] = {}
        for box in found.boxes.get(image_id, []):
            by_tag.setdefault(names[box.mid], []).append(box)
        objects[image_id] = {tag: ObjectBoxes.of(of, regions.width, regions.height) for tag, of in by_tag.items()}
    if labels is None:
        return objects, {image_id: detector_tags(store[image_id]) for image_id in image_ids}
    return objects, {i: list(dict.fromkeys(names[mid] for mid in labels.present.get(i, []))) for i in image_ids}


def tag_groups(classes: str | None) -> dict[str, set[str] | None]:
    """Group -> its tags; None for all."""
    groups: dict[str, set[str] | None] = {"overall": None}
    if classes:
        listed = read_class_list(classes)
        for group, members in class_groups(listed).items():
            if group != "overall":
                groups[group] = {tag_name(listed[c].name) for c in np.flatnonzero(members)}
    return groups


def best_regions(found: "Alignment", objects: Mapping[str, "ObjectBoxes"]) -> list[dict[str, Any]]:
    """For each tag and measure its best region, and whether that lies on the tag's object (None: not boxed)."""
    hits = hits_of_tags(found, objects)
    rows = []
    for number, tag in enumerate(found.tags):
        row: dict[str, Any] = {"tag": tag}
        for measure in MEASURES:
            fit = getattr(found, measure)[number]
            region = int(np.argmax(fit))
            on = bool(hits[number, region]) if tag in objects else None
            row[measure] = {"region": region, "value": round(float(fit[region]), 4), "grounded": on}
        rows.append(row)
    return rows


def panel(name: str, measure: str, found: "Alignment", objects: Mapping[str, "ObjectBoxes"]) -> Panel:
    """A model's part of a figure: cosines, or shares of a tag's probabilities."""
    values = getattr(found, measure)
    if measure == "reading":
        values = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
        values = values / values.sum(axis=1, keepdims=True)
    return Panel(name, measure, found.tags, values, hits_of_tags(found, objects))


def hits_of_tags(found: "Alignment", objects: Mapping[str, "ObjectBoxes"]) -> np.ndarray:
    """bool [T, R]: which regions lie on an object of the tag; no one where it is not boxed."""
    from vivo.alignment import hits_of

    hits = np.zeros(found.cosine.shape, dtype=bool)
    for row, tag in enumerate(found.tags):
        if tag in objects:
            hits[row] = hits_of(found.regions, objects[tag])
    return hits


def compare(statistics: Statistics, names: Sequence[str], resamples: int, seed: int) -> Intervals:
    """Every model's values by measure, and the first model's less every other one's."""
    results = intervals(statistics, resamples, seed)
    first, *others = names
    for measure in MEASURES:
        for other in others:
            title = f"{first} - {other}, {measure}"
            ours, theirs = (
                {title: {g: {c: of[c] for c in COMPARED} for g, of in statistics[f"{name}, {measure}"].items()}}
                for name in (first, other)
            )
            results |= intervals(ours, resamples, seed, theirs)
    return results


def print_table(results: Intervals, counts: Mapping[str, int]) -> None:
    """Models and differences as rows, group by group."""
    view = Table(
        "tags of", "models", title="tags and regions: shares in %, margins in cosine and in nats", title_justify="left"
    )
    for column in COLUMNS:
        view.add_column(column, justify="right")
    for group, name_of_group in GROUPS.items():
        for number, (name, of_groups) in enumerate(
            sorted(results.items(), key=lambda item: item[0].rsplit(", ", 1)[1])
        ):
            if group in of_groups:
                cells = []
                for column in COLUMNS:
                    scale, digits = (1, 3) if column == "margin" else (100, 1)
                    cells.append(cell(of_groups[group].get(column), scale, digits))
                view.add_row("" if number else f"{name_of_group} ({counts[group]:,})", name, *cells)
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(view)


if __name__ == "__main__":
    sys.exit(main())
