"""Train a tagger on image-tag pairs and write tags for every picture of the stores.

    python pretrain/train_tagger.py --regions STORE [STORE ...] --tags tags.jsonl --out TAGGER

Every store must hold the features of one detector whose last region is the whole picture (`grid`, as a rule). The
pictures of --tags are the training set; their tags come from a model that was trained without them (K folds by the hash
of the picture's content where pictures.jsonl gives it, else of its id), tags of all other pictures from the model
trained on all. What is written into TAGGER, all of it or nothing:

    tagger.safetensors, tagger.json   the full model, for `--detector grid,tagger=TAGGER` and captioning
    tags.jsonl                        {"image_id", "tags": [name, ...]} a picture, the surest first
    tag_scores.jsonl                  {"image_id", "tags": [{"name", "score"}, ...]}

Equal input and seed, equal output on one machine. The features of whole training pictures are kept in memory (2 F bytes
a picture: 4.4 GB for 1.7 million of 1,280 numbers), cells are read from the stores.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivo.data.examples import read_tag_examples
from vivo.data.novel_files import read_hashes
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore
from vivo.data.types import Regions
from vivo.detectors.tagger import (
    LEARNED_FROM,
    TAGGER_CONFIG,
    TAGGER_WEIGHTS,
    WRITTEN,
    Tagger,
    average_precision,
    fit_classes,
    fit_mixing,
)
from vivo.errors import UserError
from vivo.files import atomic_folder, refuse_loss
from vivo.program import exits_cleanly
from vivo.progress import progress_of

CALIBRATION_PICTURES = 20_000  # held-out pictures that the three mixing numbers and the measures are taken on


WHOLE_TOLERANCE = 1.0  # pixels by which the box of a whole picture may miss its border


def fold_of(key: str, folds: int, seed: int) -> int:
    """The fold of a picture: a function of its content hash (or id) alone, so that it never changes with the data."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") % folds


def whole_picture(store: RegionStore, image_id: str) -> Regions:
    """The regions of a picture, the last of which is the whole picture, as the tagger reads it.

    Raises:
        UserError: the last region is not the whole picture.
    """
    regions = store[image_id]
    corners = np.array([0, 0, regions.width, regions.height], np.float32)
    if np.abs(np.asarray(regions.boxes[-1]) - corners).max() > WHOLE_TOLERANCE:
        raise UserError(
            f"{store.path}, picture {image_id!r}: the last region is not the whole picture, which the tagger learns"
            " from; extract the regions with --detector grid"
        )
    return regions


def read_pairs(file: Path, stores: Sequence[RegionStore]) -> tuple[list[str], list[set[str]], list[RegionStore]]:
    """Ids, tags (lower-cased) and stores of the training pictures."""
    ids, tags, places = [], [], []
    for row, example in enumerate(read_tag_examples(file), 1):
        store = next((store for store in stores if example.image_id in store), None)
        if store is None:
            names = ", ".join(str(store.path) for store in stores)
            raise UserError(
                f"{file}, example {row}: no regions of picture {example.image_id!r} in {names}; extract them"
            )
        ids.append(example.image_id)
        tags.append({tag.lower() for tag in example.tags})
        places.append(store)
    return ids, tags, places


def content_hashes(tags: Path, pictures: Path | None) -> dict[str, str]:
    """Content hash of each picture, by id: of the file `pictures`, or of the one beside the tags; else empty."""
    if pictures is None:
        pictures = tags.with_name("pictures.jsonl")
        if not pictures.is_file():
            return {}
    return read_hashes(pictures)


def frequent_classes(tags: Sequence[set[str]], min_pictures: int, file: Path) -> list[str]:
    """Names that at least that many pictures have, the most frequent first."""
    counts = Counter(tag for of_one in tags for tag in of_one)
    names = sorted((name for name, count in counts.items() if count >= min_pictures), key=lambda n: (-counts[n], n))
    if not names:
        raise UserError(f"{file}: no tag is on {min_pictures} pictures or more; lower --min-pictures")
    return names


def targets_of(tags: Sequence[set[str]], class_names: Sequence[str]) -> Tensor:
    """bool [N, C]."""
    column = {name: k for k, name in enumerate(class_names)}
    targets = torch.zeros(len(tags), len(class_names), dtype=torch.bool)
    for row, of_one in enumerate(tags):
        targets[row, [column[tag] for tag in of_one if tag in column]] = True
    return targets


def train(
    wholes: Tensor, targets: Tensor, folds: Tensor, base: Tagger, decay: float, seed: int
) -> tuple[list[Tagger], Tagger]:
    """A tagger for each fold, trained without it, and the one trained on all; mixing still to be fitted."""
    models = []
    with progress_of("training", int(folds.max()) + 2, "models") as update:
        for fold in [*range(int(folds.max()) + 1), None]:
            rows = folds != fold if fold is not None else torch.ones(len(folds), dtype=torch.bool)
            weight, bias = fit_classes(wholes[rows], targets[rows], decay, seed=seed)
            models.append(replace(base, weight=weight, bias=bias))
            update(len(models), len(models))
    return models[:-1], models[-1]


def calibrate(
    held_out: list[Tagger], full: Tagger, features: Iterator[Tensor], folds: Tensor, targets: Tensor
) -> tuple[list[Tagger], Tagger, dict]:
    """Fit the mixing: of each fold on the other folds' held-out logits, of the full model on all of them.

    Args:
        features: [R, F] of pictures; folds [n] and targets [n, C] of the same.
    """
    evidence = [held_out[int(fold)].evidence(one) for fold, one in zip(folds, features, strict=True)]
    whole, cell = (torch.stack(part) for part in zip(*evidence, strict=True))
    scores = torch.zeros_like(whole)
    for fold, model in enumerate(held_out):
        others = folds != fold
        mixing = fit_mixing(whole[others], cell[others], targets[others])
        held_out[fold] = replace(model, mixing=mixing)
        scores[~others] = (mixing[0] * whole[~others] + mixing[1] * cell[~others] + mixing[2]).sigmoid()
    full = replace(full, mixing=fit_mixing(whole, cell, targets))
    told = scores >= torch.maximum(
        scores.topk(min(full.max_tags, scores.shape[1])).values[:, -1:], torch.tensor(full.min_score)
    )
    hits = float((told & targets).sum())
    notes = {
        "held-out mean average precision": round(average_precision(scores, targets), 4),
        "held-out mean average precision, whole picture alone": round(average_precision(whole, targets), 4),
        "precision of tags": round(hits / max(float(told.sum()), 1), 4),
        "recall of tags": round(hits / max(float(targets.sum()), 1), 4),
        "tags a picture": round(float(told.sum()) / len(told), 2),
        "whole_scale, cell_scale, shift": [round(float(x), 4) for x in full.mixing],
        "pictures measured": len(told),
    }
    return held_out, full, notes


def write_tags(
    folder: Path,
    stores: Sequence[RegionStore],
    held_out: Sequence[Tagger],
    full: Tagger,
    fold_by_key: Mapping[str, int],
    key_of: Callable[[str], str],
) -> int:
    """Both tag files; training pictures (by `key_of` their id) are tagged by the model that has not seen them."""
    total, done, seen = sum(len(store) for store in stores), 0, set()
    with (
        (folder / "tags.jsonl").open("w", encoding="utf-8", newline="\n") as names,
        (folder / "tag_scores.jsonl").open("w", encoding="utf-8", newline="\n") as scores,
        progress_of("tagging", total) as update,
    ):
        for store in stores:
            for image_id in store:
                done += 1
                if image_id in seen:
                    continue
                seen.add(image_id)
                fold = fold_by_key.get(key_of(image_id))
                tags = (full if fold is None else held_out[fold]).tags(whole_picture(store, image_id))
                row = {"image_id": image_id, "tags": [name for name, _ in tags]}
                names.write(json.dumps(row, ensure_ascii=False) + "\n")
                row["tags"] = [{"name": name, "score": round(score, 4)} for name, score in tags]
                scores.write(json.dumps(row, ensure_ascii=False) + "\n")
                update(done, done)
    return len(seen)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=Path, nargs="+", required=True, help="RegionStores of one detector")
    parser.add_argument("--tags", type=Path, required=True, help="tag examples to learn from (.jsonl or .parquet)")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="JSONL",
        help="content hash of each picture, as prepare_novel_split.py writes it: equal pictures get one fold; default:"
        " pictures.jsonl beside --tags, if there",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced if it holds nothing else")
    parser.add_argument("--folds", type=int, default=5, help="folds of the training pictures (default: 5)")
    parser.add_argument("--min-pictures", type=int, default=20, help="rarer tags are left out (default: 20)")
    parser.add_argument("--min-score", type=float, default=0.15, help="surest tags only (default: 0.15)")
    parser.add_argument("--max-tags", type=int, default=15, help="tags a picture at most (default: 15)")
    parser.add_argument("--decay", type=float, default=0.1, help="weight of the squared weights (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.folds < 2 or arguments.max_tags < 1 or arguments.min_pictures < 1:
        raise UserError("--folds must be at least 2, --max-tags and --min-pictures at least 1")

    read = [arguments.tags, *arguments.regions, *([arguments.pictures] if arguments.pictures else [])]
    refuse_loss(arguments.out, (TAGGER_CONFIG, TAGGER_WEIGHTS, "tags.jsonl", "tag_scores.jsonl"), read)
    stores = [RegionStore(path) for path in arguments.regions]
    for store in stores[1:]:
        store.check_compatible(stores[0].fingerprint, stores[0].feature_size)
    ids, tags, places = read_pairs(arguments.tags, stores)
    class_names = frequent_classes(tags, arguments.min_pictures, arguments.tags)
    targets = targets_of(tags, class_names)
    hashes = content_hashes(arguments.tags, arguments.pictures)

    def key_of(image_id: str) -> str:
        return hashes.get(image_id, image_id)

    fold_by_key = {key_of(i): fold_of(key_of(i), arguments.folds, arguments.seed) for i in ids}
    folds = torch.tensor([fold_by_key[key_of(i)] for i in ids])
    if len(set(folds.tolist())) < arguments.folds:
        raise UserError(f"{arguments.tags}: {len(ids)} pictures are too few for {arguments.folds} folds")
    wholes = torch.from_numpy(
        np.stack([whole_picture(store, image_id).features[-1] for store, image_id in zip(places, ids, strict=True)])
    )
    base = Tagger(
        class_names, torch.empty(0), torch.empty(0), torch.tensor([1.0, 0.0, 0.0]), stores[0].fingerprint,
        arguments.min_score, arguments.max_tags,
    )  # fmt: skip
    with atomic_folder(arguments.out) as folder:
        held_out, full = train(wholes, targets, folds, base, arguments.decay, arguments.seed)
        sample = range(min(len(ids), CALIBRATION_PICTURES))
        features = (torch.from_numpy(np.asarray(places[i][ids[i]].features, np.float32)) for i in sample)
        held_out, full, notes = calibrate(held_out, full, features, folds[: len(sample)], targets[: len(sample)])
        notes |= {
            "training pictures": len(ids),
            "folds": arguments.folds,
            "folds by": "content" if hashes else "id",
            "seed": arguments.seed,
            LEARNED_FROM: sha256_of(arguments.tags),
            "stores": [f"{len(store)} pictures of detector {store.fingerprint}" for store in stores],
        }
        count = write_tags(folder, stores, held_out, full, fold_by_key, key_of)
        notes[WRITTEN] = sha256_of(folder / "tags.jsonl")
        replace(full, notes=notes).save(folder)
    for name, value in notes.items():
        print(f"{name}: {value}")
    print(f"{arguments.out}: {len(class_names)} classes, tags of {count} pictures")


if __name__ == "__main__":
    sys.exit(main())
