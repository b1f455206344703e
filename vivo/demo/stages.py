"""The stages of a demo run. Each is skipped when its result is there, so that a stopped run goes on."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from vivo.config import DecodeConfig, TrainConfig, configs_dir, load_config, load_eval_config
from vivo.data.coco import read_captions
from vivo.data.collate import detected_tags
from vivo.data.examples import write_caption_examples, write_tag_examples
from vivo.data.nocaps import WorldClass, read_classes, read_nocaps
from vivo.data.open_images import read_class_descriptions, tag_examples, tag_name
from vivo.data.predictions import write_predictions
from vivo.data.regions import RegionStore
from vivo.data.types import CaptionExample
from vivo.demo.plan import ModelPlan, Row, Size
from vivo.detectors.base import load_detector
from vivo.detectors.extract import extract_regions
from vivo.errors import UserError
from vivo.files import atomic_write_json
from vivo.prediction import predict_split
from vivo.randomness import epoch_permutation
from vivo.training.runs import finetune, pretrain
from vivo.world.write import WorldConfig, write_world

console = Console(stderr=True)
SETS = ("open_images", "coco", "nocaps")


class Clock:
    """Seconds that each stage took, kept in a file so that a resumed run adds up."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Run `work`, add its time to stage `name`, and say so."""
        began = time.monotonic()
        try:
            work()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            atomic_write_json(self.path, self.seconds)
        console.print(f"[bold]{name}[/bold] {self.seconds[name]:.0f} s", highlight=False)


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
    if (examples / "captions.jsonl").is_file():
        return
    source = world / "open_images"
    labels, names = source / "train-annotations-human-imagelabels.csv", source / "class-descriptions.csv"
    write_tag_examples(tag_examples(labels, names), examples / "tags.jsonl")
    # the "500 classes" of Table 5: every tag but those of classes that the detector does not know
    unknown = {c.name for c in read_classes(world / "classes.json") if not c.detector}
    known = sorted({tag_name(name) for name in read_class_descriptions(names).values()} - unknown)
    atomic_write_json(examples / "boxed_classes.json", known)
    write_caption_examples(read_captions(world / "coco" / "captions_train.json"), examples / "captions.jsonl")


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
            examples = read_nocaps(out / "world" / "nocaps" / "nocaps_val_captions.json")
            ids, pictures = [e.image_id for e in examples], [folder / e.file_name for e in examples]
        else:
            pictures = sorted(folder.glob("*.jpg"))
            ids = None
        extract_regions(pictures, store, detector, image_ids=ids)


def train_model(out: Path, plan: ModelPlan, size: Size, seed: int) -> Path:
    """Pre-train (or not) and fine-tune; returns the folder of the captioning model."""
    run = out / "rows" / plan.name / f"seed{seed}"
    start = "minilm"
    if plan.pretrain is not None:
        start = str(run / "pretrain" / "model")
        if not Path(start).is_dir():
            pretrain(
                _config(
                    out,
                    "world.yaml",
                    run / "pretrain",
                    "open_images",
                    "tags.jsonl",
                    "minilm",
                    seed,
                    size.pretrain_steps,
                    size,
                    plan.pretrain,
                )
            )
    model = run / "finetune" / "model"
    if not model.is_dir():
        finetune(
            _config(
                out,
                "finetune/world.yaml",
                run / "finetune",
                "coco",
                "captions.jsonl",
                start,
                seed,
                size.finetune_steps,
                size,
                plan.finetune,
            )
        )
    return model


def _config(
    out: Path,
    file: str,
    run: Path,
    regions: str,
    examples: str,
    init: str,
    seed: int,
    steps: int,
    size: Size,
    overrides: Sequence[str],
) -> TrainConfig:
    """The repository's configuration with this run's paths, seed and length."""
    warmup = max(1, steps // 20)
    return load_config(
        configs_dir() / file,
        [
            f"out={run}",
            f"init={init}",
            f"seed={seed}",
            f"data.regions={out / 'regions' / regions}",
            f"data.examples={out / 'examples' / examples}",
            *(
                [
                    f"data.validation_regions={out / 'regions' / 'coco'}",
                    f"data.validation_references={out / 'world' / 'coco' / 'captions_val.json'}",
                ]
                if regions == "coco"
                else []
            ),
            f"optim.steps={steps}",
            f"optim.warmup_steps={warmup}",
            f"tracking.save_every={max(1, steps // 4)}",
            *([f"optim.batch_size={size.batch_size}"] if size.batch_size else []),
            *(override.format(examples=out / "examples") for override in overrides),
        ],
    )


def evaluation_set(out: Path) -> tuple[list[CaptionExample], list[WorldClass]]:
    """The nocaps pictures with references and domains, and the classes."""
    world = out / "world"
    return read_nocaps(world / "nocaps" / "nocaps_val_captions.json"), read_classes(world / "classes.json")


def caption_row(out: Path, row: Row, seed: int) -> dict[str, str]:
    """Captions of the evaluation pictures for one row and seed; written once, then read."""
    path = out / "rows" / row.name.replace(", ", "-").replace(" ", "_") / f"seed{seed}" / "predictions.json"
    if path.is_file():
        return {r["image_id"]: r["caption"] for r in json.loads(path.read_text())}
    examples = read_nocaps(out / "world" / "nocaps" / "nocaps_val_captions.json")
    image_ids = [e.image_id for e in examples]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not row.model:
        return _template_captions(out, image_ids, path)
    shown = _derangement(image_ids, seed) if row.shuffled else None
    model = out / "rows" / row.model / f"seed{seed}" / "finetune" / "model"
    return predict_split(model, out / "regions" / "nocaps", image_ids, row.tags, decode_settings(), path, shown)


def decode_settings() -> DecodeConfig:
    """Those of configs/eval/world.yaml."""
    return load_eval_config(configs_dir() / "eval" / "world.yaml").decode


def _derangement(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Each picture's partner: the next one in a random cycle, so never itself."""
    order = epoch_permutation(seed, 0, len(image_ids))
    return {image_ids[a]: image_ids[b] for a, b in zip(order, [*order[1:], order[0]], strict=True)}


def _template_captions(out: Path, image_ids: Sequence[str], path: Path) -> dict[str, str]:
    """The untrained control: "a photo of" the detector's tags."""
    store = RegionStore(out / "regions" / "nocaps")
    captions = {}
    for image_id in image_ids:
        tags = [f"{'an' if tag[0] in 'aeiou' else 'a'} {tag}" for tag in detected_tags(store[image_id])]
        captions[image_id] = "a photo of " + " and ".join(tags or ["something"])
    write_predictions(
        path,
        [{"image_id": i, "caption": c, "score": 0.0} for i, c in captions.items()],
        {"control": "template filled from detector tags", "pictures": len(captions)},
    )
    return captions


def check_same_world(out: Path, size: Size, held_out: tuple[tuple[str, ...], ...] = ()) -> None:
    """Refuse to go on in a folder that another size, or other held-out combinations, began."""
    path = out / "plan.json"
    wanted = {k: v for k, v in dataclasses.asdict(size).items() if k not in ("seeds", "all_rows")}
    if held_out:
        wanted["held_out"] = [list(pair) for pair in held_out]
    if path.is_file() and json.loads(path.read_text()) != wanted:
        raise UserError(
            f"{out}: holds a demo of another size or with other held-out combinations; choose another --out or "
            "remove that folder"
        )
    atomic_write_json(path, wanted)
