"""What a demo trains on: the world, its examples and its region stores. Each is skipped where it is there."""

import dataclasses
import json
from pathlib import Path

from vivo.data.coco import read_captions
from vivo.data.examples import read_tag_examples, write_caption_examples, write_tag_examples
from vivo.data.nocaps import read_classes, read_pictures
from vivo.data.open_images import read_class_descriptions, tag_examples, tag_name
from vivo.data.text import load_tokenizer
from vivo.data.vocabulary import choose_pieces, write_pieces
from vivo.demo.sizes import Size
from vivo.detectors.base import load_detector
from vivo.detectors.extract import extract_regions
from vivo.errors import UserError
from vivo.files import atomic_write_json
from vivo.weights import bert_folder
from vivo.world.write import WorldConfig, write_world

VOCABULARY = 8192
"""Word pieces of the demo's models; the text model has 30,522."""
SETS = ("open_images", "coco", "nocaps")


def make_world(out: Path, size: Size, held_out: tuple[tuple[str, ...], ...] = ()) -> None:
    """Pictures, labels, captions, in the formats of the real data."""
    write_world(
        out / "world",
        WorldConfig(
            seed=0,
            open_images=size.open_images,
            coco=size.coco,
            coco_val=size.coco_val,
            nocaps=size.nocaps,
            held_out_pairs=held_out,
        ),
    )


def make_examples(out: Path) -> None:
    """What pretrain/prepare_open_images.py and finetune/prepare_coco.py make of the annotation files."""
    world, examples = out / "world", out / "examples"
    examples.mkdir(exist_ok=True)
    if (examples / "vocabulary.txt").is_file() and (examples / "captions.jsonl").is_file():
        return
    source = world / "open_images"
    labels, names = source / "train-annotations-human-imagelabels.csv", source / "class-descriptions.csv"
    write_tag_examples(tag_examples(labels, names), examples / "tags.jsonl")
    # the "500 classes" of Table 5: every tag but those of classes that the detector does not know
    unknown = {c.name for c in read_classes(world / "classes.json") if not c.detector}
    known = sorted({tag_name(name) for name in read_class_descriptions(names).values()} - unknown)
    atomic_write_json(examples / "boxed_classes.json", known)
    write_vocabulary(examples, world / "coco" / "captions_train.json")
    make_caption_examples(out)


def make_caption_examples(out: Path) -> None:
    """The captioned pictures alone, which need no text model."""
    (out / "examples").mkdir(exist_ok=True)
    path = out / "examples" / "captions.jsonl"
    if not path.is_file():
        write_caption_examples(read_captions(out / "world" / "coco" / "captions_train.json"), path)


def write_vocabulary(examples: Path, captions: Path) -> None:
    """The word pieces of the demo's models: those of training tags and captions, and the most frequent others."""
    tags = {tag for example in read_tag_examples(examples / "tags.jsonl") for tag in example.tags}
    sentences = [caption for example in read_captions(captions) for caption in example.captions]
    tokenizer = load_tokenizer(bert_folder("minilm"))
    write_pieces(choose_pieces(tokenizer, [*sorted(tags), *sentences], VOCABULARY), examples / "vocabulary.txt")


def make_regions(out: Path) -> None:
    """A RegionStore for each of the three data sets."""
    detector = None
    for name in SETS:
        store = out / "regions" / name
        if (store / "manifest.json").is_file():
            continue
        detector = detector or load_detector("embedded")
        folder = out / "world" / name / "images"
        if name == "nocaps":  # numbered in the annotations, named after Open Images ids on disk
            examples = read_pictures(out / "world" / "nocaps" / "nocaps_val_captions.json")
            ids, pictures = [e.image_id for e in examples], [folder / e.file_name for e in examples]
        else:
            pictures = sorted(folder.glob("*.jpg"))
            ids = None
        extract_regions(pictures, store, detector, image_ids=ids)


def check_same_world(out: Path, size: Size, held_out: tuple[tuple[str, ...], ...] = ()) -> None:
    """Refuse to go on in a folder that another size, or other held-out combinations, began."""
    path = out / "plan.json"
    free = ("seeds", "all_rows", "recurrent_steps")
    wanted = {k: v for k, v in dataclasses.asdict(size).items() if k not in free}
    if held_out:
        wanted["held_out"] = [list(pair) for pair in held_out]
    if path.is_file() and json.loads(path.read_text()) != wanted:
        raise UserError(
            f"{out}: holds a demo of another size or with other held-out combinations; choose another --out or "
            "remove that folder"
        )
    atomic_write_json(path, wanted)
