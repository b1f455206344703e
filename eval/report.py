"""One HTML page for an evaluation: scores by domain, plots, and every picture with its boxes and captions.

    python eval/report.py --predictions P.json --references nocaps_val_captions.json --regions STORE --pictures FOLDER \
        --classes classes.json --scores scores.json --checkpoint MODEL --out runs/eval/report.html

Scores are made here unless --scores names a file of eval/score.py. Only predictions and references are needed: boxes
want --regions, pixels --pictures. With --checkpoint, the model that wrote the
captions, the page says which word each region explains: how likely the word is with and without the region. Beside the
page lies the folder report.pictures with small copies of the pictures; move or pack both together. --one-file puts
them into the page, --link takes the pictures where they are. With --run R/finetune the same pictures become a table
of that run, in its folder and in W&B (docs/reports.md).
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.errors import UserError
from vivo.files import writable_folder
from vivo.program import exits_cleanly, whole_number
from vivo.report.evaluation import Evaluation, read_evaluation, worst_first
from vivo.report.evaluation_page import ROW, write_evaluation
from vivo.report.evidence import check_checkpoint, evidence_of
from vivo.report.pictures import (
    ShownRow,
    find_files,
    images_beside,
    images_inside,
    images_linked,
    make_pictures,
)
from vivo.report.records import EvaluatedPicture
from vivo.training.evaluation_table import keep_evaluation
from vivo.training.scores import check_scored

EXPLAINED = 200


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, read, score, explain, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, required=True, help="JSON list of {image_id, caption}")
    parser.add_argument("--references", type=Path, required=True, help="captions file in nocaps or COCO format")
    parser.add_argument("--regions", type=Path, help="RegionStore that the captions were written from, for boxes")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of the picture files; without it no pixels")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--classes", type=Path, help="classes.json: objects, novel ones among them")
    parser.add_argument("--scores", type=Path, help="what eval/score.py --out has written of these captions")
    parser.add_argument("--partition", type=Path, metavar="FILE", help="domains from here (vivo/data/partition.py)")
    parser.add_argument("--no-human", action="store_true", help="without the scores of the reference captions")
    parser.add_argument("--checkpoint", type=Path, help="model folder that wrote the captions, to explain their words")
    parser.add_argument(
        "--explain",
        type=whole_number(1),
        default=EXPLAINED,
        metavar="N",
        help=f"pictures whose words are explained, the worst and the best ones (default {EXPLAINED})",
    )
    parser.add_argument("--tag-file", type=Path, help="tags that the model was shown, where the header says file")
    parser.add_argument("--title", help="headline of the page")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of the training whose model wrote the captions")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--one-file", action="store_true", help="pictures inside the page, to mail it")
    where.add_argument("--link", action="store_true", help="no copies of the pictures")
    arguments = parser.parse_args(argv)
    for option in ("checkpoint", "tag_file"):
        if getattr(arguments, option) and not arguments.regions:
            raise UserError(f"--{option.replace('_', '-')}: needs the regions that the model was shown; give --regions")
    for option in ("one_file", "link", "run"):
        if getattr(arguments, option) and not arguments.pictures:
            raise UserError(f"--{option.replace('_', '-')}: needs the picture files; give --pictures")
    if arguments.run:
        check_scored(arguments.run, arguments.predictions)
    writable_folder(arguments.out.parent)
    store = RegionStore(arguments.regions) if arguments.regions else None
    evaluation = read_evaluation(
        arguments.predictions,
        arguments.references,
        arguments.classes,
        arguments.scores,
        arguments.partition,
        human=not arguments.no_human,
    )
    if arguments.checkpoint:
        check_checkpoint(arguments.checkpoint, evaluation.header, arguments.predictions)
    files = find_files(evaluation.examples, arguments.pictures, "--pictures") if arguments.pictures else {}
    if arguments.pictures and len(files) < len(evaluation.examples):
        print(f"{len(evaluation.examples) - len(files):,} pictures are not in {arguments.pictures}: shown without")
    tags = None if store is None else shown_tags(arguments, evaluation, store)
    row = ShownRow(evaluation.captions, evaluation.per_picture, evaluation.named, evaluation.traces)
    pictures = make_pictures(evaluation.examples, {ROW: row}, files, evaluation.classes, evaluation.truth, store, tags)
    if arguments.checkpoint and store is not None and tags is not None:
        explain(arguments, evaluation, pictures, store, tags)
    if arguments.one_file:
        images = images_inside(files)
    else:
        images = images_linked(files, arguments.out) if arguments.link else images_beside(files, arguments.out)
    title = arguments.title or "Evaluation of " + "/".join(arguments.predictions.resolve().parts[-3:-1])
    write_evaluation(arguments.out, evaluation, pictures, images, title, provenance(arguments, evaluation, store))
    print(f"written: {arguments.out} ({len(pictures):,} pictures)")
    if arguments.run:
        print(keep_evaluation(arguments.run, pictures, files, ROW))


def shown_tags(arguments: argparse.Namespace, evaluation: Evaluation, store: RegionStore) -> TagSource | None:
    """What the model was shown, as the header of its captions says; None where nobody knows."""
    from vivo.self_tagging import open_tag_source

    kind = evaluation.header.get("tags")
    ids = [e.image_id for e in evaluation.examples]
    if arguments.tag_file:
        return open_tag_source("file", store, ids, str(arguments.tag_file))
    if kind == "file" and arguments.checkpoint:
        raise UserError(
            f"--checkpoint: {arguments.predictions} were written with tags from a file; give it as --tag-file"
        )
    if kind == "self" and arguments.checkpoint:
        return open_tag_source("self", store, ids, tagger=arguments.checkpoint / "tagger")
    if kind in ("detector", "none"):
        return open_tag_source(kind, store, ids)
    if kind is None and arguments.checkpoint:
        print("nothing says which tags the model was shown: taken from the detector", file=sys.stderr)
        return open_tag_source("detector", store, ids)
    return None


def explain(
    arguments: argparse.Namespace,
    evaluation: Evaluation,
    pictures: Sequence[EvaluatedPicture],
    store: RegionStore,
    tags: TagSource,
) -> None:
    """Put into the pictures what their words hang on: half of the worst ones, half of the best ones."""
    order = worst_first(evaluation)
    most = min(arguments.explain, len(order))
    chosen = order if most == len(order) else order[: most - most // 2] + order[::-1][: most // 2]
    by_id = {picture.image_id: picture for picture in pictures}
    began = last = time.monotonic()
    found = evidence_of(arguments.checkpoint, store, tags, evaluation.captions, chosen)
    for number, (image_id, words) in enumerate(found, 1):
        by_id[image_id].evidence[ROW] = words
        if time.monotonic() - last > 10:
            last = time.monotonic()
            left = (last - began) / number * (len(chosen) - number)
            print(f"explained {number:,} of {len(chosen):,} pictures, {left:.0f} s left", flush=True)
    if most < len(order):
        print(f"explained: the {most:,} worst and best of {len(order):,} pictures (--explain {len(order)} for all)")


def provenance(arguments: argparse.Namespace, evaluation: Evaluation, store: RegionStore | None) -> Mapping[str, str]:
    """The page's footer."""
    from vivo.training.runtime import environment

    header = evaluation.header
    decode = {name: value for name, value in (header.get("decode") or {}).items() if value not in ("", None)}
    regions = "not given"
    if store is not None:
        regions = f"{arguments.regions} ({store.detector.get('name', 'detector without name')}, {store.fingerprint})"
    facts = {
        "predictions": str(arguments.predictions),
        "references": str(arguments.references),
        "regions": regions,
        "scores": str(arguments.scores or "made for this page"),
        "checkpoint": f"{header.get('checkpoint', 'not said')} {header.get('weights_sha256', '')[:12]}".strip(),
        "tags shown to the model": str(header.get("tags", "not said")),
        "decoding": ", ".join(f"{name} {value}" for name, value in decode.items()) or "not said",
    }
    return {**facts, **environment()}


if __name__ == "__main__":
    sys.exit(main())
