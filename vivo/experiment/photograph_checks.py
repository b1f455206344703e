"""What must hold before anything is trained on a novel-object benchmark of photographs: each refusal is one line.

`vivo.data.novel_files.check_novel_benchmark` checks the files that prepare_novel_split.py wrote; here it is the stores,
the tagger and the choice of tags, which other programs made of them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from vivo.data.coco import read_captions
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.nocaps import read_pictures
from vivo.data.novel_files import read_hashes
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore
from vivo.data.tag_source import read_tag_file
from vivo.detectors.tagger import LEARNED_FROM, WRITTEN
from vivo.errors import UserError
from vivo.experiment.benchmark import Benchmark


def check_photographs(bench: Benchmark, folder: Path) -> None:
    """All checks of this module on the benchmark in `folder`.

    Raises:
        UserError: what each check raises.
    """
    if bench.tags == "self":
        check_pairs_apart(folder)
    check_stores_apart(bench, read_hashes(folder / "pictures.jsonl"))
    if bench.tags == "file":
        check_tagger(folder / "tagger", bench.pair_examples)
    check_covered(bench)


def check_pairs_apart(folder: Path) -> None:
    """`UserError` where the pre-trained model would tag fine-tuning pictures whose tags it was trained on."""
    path = folder / "split.json"
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["options"]["pairs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); make the split again") from error
    if pairs != "apart":
        raise UserError(
            f"--tags self: the image-tag pairs of {folder} include the fine-tuning pictures (--pairs {pairs}), so the"
            " pre-trained model would repeat tags that it has learned; make the split with --pairs apart"
        )


def check_stores_apart(bench: Benchmark, hashes: Mapping[str, str]) -> None:
    """`UserError` where a training store holds an evaluation picture, by id or content, or is of another detector.

    Args:
        hashes: content hash of each picture of the benchmark, by id.
    """
    evaluation = RegionStore(bench.evaluation_regions)
    contents = {hashes[i]: i for i in (*evaluation, *bench.evaluation_ids()) if i in hashes}
    seen = {_regions_hash(evaluation, i): i for i in evaluation}
    for path in {bench.pair_regions, bench.caption_regions}:
        training = RegionStore(path)
        evaluation.check_compatible(training.fingerprint, training.feature_size)
        shared = list(training.common_ids(evaluation))
        fix = "extract the pictures of training_pictures.tsv and evaluation_pictures.tsv into a store each"
        if shared:
            raise UserError(f"{path}: holds {len(shared)} evaluation pictures (first: {shared[0]}); {fix}")
        twins = [(i, contents[hashes[i]]) for i in training if hashes.get(i) in contents]
        if twins:
            raise UserError(
                f"{path}: {len(twins)} pictures have the content of an evaluation picture (first: {twins[0][0]}, equal"
                f" to {twins[0][1]}); {fix}"
            )
        # whatever the files say: what the model would see
        copies = [(i, seen[found]) for i in training if (found := _regions_hash(training, i)) in seen]
        if copies:
            raise UserError(
                f"{path}: {len(copies)} pictures have the regions of an evaluation picture (first: {copies[0][0]},"
                f" equal to {copies[0][1]}); {fix}"
            )


def _regions_hash(store: RegionStore, image_id: str) -> str:
    """Of boxes and features, by which a picture is known whose id and file say something else."""
    regions = store[image_id]
    return hashlib.sha256(regions.boxes.tobytes() + regions.features.tobytes()).hexdigest()


def check_tagger(tagger: Path, pairs: Path) -> None:
    """`UserError` unless the tagger was trained on these image-tag pairs, and the tags are its own."""
    path = tagger / "tagger.json"
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))["notes"] or {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error!r}); train the tagger again") from error
    if LEARNED_FROM not in notes or WRITTEN not in notes:
        raise UserError(f"{path}: does not say which image-tag pairs it has learned, or what it wrote; train it again")
    if notes[LEARNED_FROM] != sha256_of(pairs):
        raise UserError(f"{tagger}: was trained on other image-tag pairs than {pairs}; train the tagger again")
    if notes[WRITTEN] != sha256_of(tagger / "tags.jsonl"):
        raise UserError(f"{tagger}/tags.jsonl: is not what this tagger wrote; train the tagger again")


def check_pictures(bench: Benchmark) -> None:
    """`UserError` where the folder of photographs lacks an evaluation picture: the page is made after all trainings."""
    pictures = read_pictures(bench.evaluation_references)
    missing = [picture.file_name for picture in pictures if not (bench.pictures / picture.file_name).is_file()]
    if missing:
        raise UserError(
            f"{bench.pictures}: lacks {len(missing)} of {len(pictures)} evaluation pictures (first: {missing[0]}); give"
            " the folder that the benchmark was made of with --pictures"
        )


def check_covered(bench: Benchmark) -> None:
    """`UserError` where a store lacks a picture that is trained on, validated or evaluated on, or the tag file does."""
    pairs = [example.image_id for example in read_tag_examples(bench.pair_examples)]
    captioned = [example.image_id for example in read_caption_examples(bench.caption_examples)]
    validation = bench.validation_references
    if validation.is_file():
        captioned += [example.image_id for example in read_captions(validation)]
    evaluation = bench.evaluation_ids()
    for path, image_ids, source in (
        (bench.pair_regions, pairs, bench.pair_examples),
        (bench.caption_regions, captioned, bench.caption_examples),
        (bench.evaluation_regions, evaluation, bench.evaluation_references),
    ):
        _refuse_missing(image_ids, RegionStore(path), f"{path}: no regions", source, "extract the list again")
    if bench.tags == "file":
        given = read_tag_file(bench.tag_file).given
        needed = [*pairs, *captioned, *evaluation]
        _refuse_missing(needed, given, f"{bench.tag_file}: no tags", bench.caption_examples, "train the tagger again")


def _refuse_missing(image_ids: Iterable[str], there: object, what: str, source: Path, fix: str) -> None:
    missing = [i for i in dict.fromkeys(image_ids) if i not in there]  # type: ignore[operator]
    if missing:
        raise UserError(f"{what} of {len(missing)} pictures of {source.parent} (first: {missing[0]}); {fix}")
