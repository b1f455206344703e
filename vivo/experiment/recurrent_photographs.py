"""What is trained on photographs for the claims about Show and Tell: variants, their data, their captions.

    OUT/data/           train.jsonl, validation.json, test.json: by the "split" of each picture in the captions file
    OUT/outputs/        RegionStores of what the frozen encoders say
    OUT/VARIANT/seedK/  a training; best/ is what captions: predictions.json, predictions_beam5.json, ...

Every step is skipped where its result is there, and a training goes on from its checkpoint.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vivo.config import DecodeConfig, TrainConfig, configs_dir, load_config, load_eval_config
from vivo.data.coco import read_caption_file
from vivo.data.examples import write_caption_examples
from vivo.data.nocaps import read_nocaps
from vivo.data.predictions import read_predictions
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.experiment.benchmark import RECURRENT
from vivo.experiment.side_by_side import run_side_by_side
from vivo.files import atomic_write_json
from vivo.show_and_tell.tasks import make_outputs
from vivo.split_prediction import predict_split
from vivo.training.runs import show_and_tell

FROZEN, JOINT = "finetune/show_and_tell_flickr.yaml", "finetune/show_and_tell_flickr_joint.yaml"
SPLITS = {"train": "train", "validation": "val", "test": "test"}
BEAMS, OF_BEAMS = (1, 2, 3, 4, 5, 6, 7), "frozen"
"""Widths of the curve, and the variant whose it is; 3 is the published one."""
ENSEMBLES = ("frozen", "joint")
"""Variants whose seeds also caption together."""


@dataclass(frozen=True)
class Variant:
    """A training.

    Attributes:
        config: name of its configuration. start: the variant from whose best model it begins; "" = from nothing.
        overrides: of the configuration. outputs: name of the store of encoder outputs ("{seed}" is filled in).
        says: what it is, for the table.
    """

    name: str
    config: str
    says: str
    start: str = ""
    overrides: tuple[str, ...] = ()
    outputs: str = "lite0"


VARIANTS = (
    Variant("frozen", FROZEN, "frozen encoder (phase 1)"),
    Variant("joint", JOINT, "encoder fine-tuned after it (phase 2)", "frozen"),
    Variant(
        "longer",
        FROZEN,
        "control: phase 1 again for as long as phase 2, encoder frozen",
        "frozen",
        ("optim.lr=2e-4", "optim.duration=5 epochs", "tracking.validate_start=true"),
    ),
    Variant(
        "from_start",
        JOINT,
        "encoder fine-tuned from the start",
        "",
        ("init=random", "optim.lr=1e-3", "optim.duration=12 epochs", "tracking.validate_start=false"),
    ),
    Variant(
        "gently_from_start",
        JOINT,
        "encoder fine-tuned from the start at phase 2's rate",
        "",
        (
            "init=random",
            "optim.lr=1e-3",
            "optim.encoder_rate=0.1",
            "optim.duration=12 epochs",
            "tracking.validate_start=false",
        ),
    ),
    Variant(
        "joint_fast",
        JOINT,
        "phase 2 at the rates of the training from the start",
        "frozen",
        ("optim.lr=1e-3",),
    ),
    Variant(
        "random_encoder",
        FROZEN,
        "frozen random encoder",
        overrides=("show_and_tell.weights=random",),
        outputs="random{seed}",
    ),
    Variant(
        "half_encoder",
        FROZEN,
        "frozen encoder cut after 8 of its 16 blocks",
        overrides=("show_and_tell.encoder=tf_efficientnet_lite0/4",),
        outputs="half",
    ),
    Variant(
        "scheduled", FROZEN, "phase 1 with scheduled sampling", overrides=("show_and_tell.scheduled_sampling=0.25",)
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


@dataclass(frozen=True)
class Photographs:
    """Where everything lies.

    Attributes:
        source: folder with captions.json (COCO's layout, each picture with its "split") and images/.
        out: see the module's docstring. quick: updates of each training, for a test of the whole; 0: as configured.
    """

    source: Path
    out: Path
    quick: int = 0

    @property
    def pictures(self) -> Path:
        """Folder of the picture files."""
        return self.source / "images"

    def references(self, split: str) -> Path:
        """Captions of "validation" or "test"."""
        return self.out / "data" / f"{split}.json"

    def split(self, split: str) -> list[CaptionExample]:
        """The pictures of "validation" or "test" with their captions."""
        return read_nocaps(self.references(split))

    def training_captions(self) -> list[str]:
        """Of all training pictures."""
        lines = (self.out / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        return [caption for line in lines for caption in json.loads(line)["captions"]]

    def run(self, name: str, seed: int) -> Path:
        """Folder of a training."""
        return self.out / name / f"seed{seed}"

    def outputs(self, name: str, seed: int = 0) -> Path:
        """RegionStore of what the frozen encoder of a variant says."""
        return self.out / "outputs" / BY_NAME[name].outputs.format(seed=seed)

    def is_trained(self, name: str, seed: int) -> bool:
        """Whether a training is over."""
        return (self.run(name, seed) / "model").is_dir()

    def model(self, name: str, seed: int) -> Path:
        """The best model of a training."""
        return self.run(name, seed) / "best"


def prepare(of: Photographs) -> None:
    """OUT/data; skipped where it is there.

    Raises:
        UserError: no captions there, or pictures without a split.
    """
    if of.references("test").is_file():
        return
    found = read_caption_file(of.source / "captions.json")
    parts: dict[str, list[tuple[str, dict, list[str]]]] = {name: [] for name in SPLITS}
    names = {theirs: ours for ours, theirs in SPLITS.items()}
    for picture in found:
        split = picture[1].get("split")
        if split not in names:
            raise UserError(
                f"{of.source / 'captions.json'}: picture {picture[0]} is of split {split!r}, not train, val, test"
            )
        parts[names[split]].append(picture)
    folder = of.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    write_caption_examples(
        [CaptionExample(i, image["file_name"], captions) for i, image, captions in parts["train"]],
        folder / "train.jsonl",
    )
    for name in ("validation", "test"):
        images = [{"id": i, "file_name": image["file_name"]} for i, image, _ in parts[name]]
        texts = [{"image_id": i, "caption": caption} for i, _, captions in parts[name] for caption in captions]
        annotations = [{"id": number, **text} for number, text in enumerate(texts)]
        atomic_write_json(of.references(name), {"images": images, "annotations": annotations})


def config_of(of: Photographs, variant: Variant, seed: int) -> TrainConfig:
    """The configuration of one training."""
    start = [f"init={of.model(variant.start, seed)}"] if variant.start else []
    outputs = of.outputs(variant.name, seed)
    config = load_config(
        configs_dir() / variant.config,
        [
            f"out={of.run(variant.name, seed)}",
            f"seed={seed}",
            f"data.pictures={of.pictures}",
            f"data.examples={of.out / 'data' / 'train.jsonl'}",
            f"data.regions={outputs}",
            f"data.validation_references={of.references('validation')}",
            f"data.validation_regions={outputs}",
            *start,
            *variant.overrides,
        ],
    )
    if of.quick:
        config.optim.duration, config.optim.batch_size = f"{of.quick} steps", 8
        config.tracking.validate_every, config.tracking.save_every = f"{of.quick} steps", ""
    return config


def train(of: Photographs, name: str, seed: int) -> None:
    """One training; skipped where its model is there."""
    if not of.is_trained(name, seed):
        show_and_tell(config_of(of, BY_NAME[name], seed))


def train_all(of: Photographs, names: Sequence[str], seeds: Sequence[int], jobs: int = 1) -> None:
    """All these trainings and their captions; what is there is not made again.

    Args:
        jobs: trainings at a time, each in a process of its own. One that begins with another's model waits for it.
    """
    todo = [(name, seed) for seed in seeds for name in names if not of.is_trained(name, seed)]
    making = {of.outputs(name, seed): (of, name, seed) for name, seed in todo}
    outputs = [(f"outputs {path.name}", make_outputs_of, given) for path, given in making.items()]
    firsts = [name for name in names if BY_NAME[name].start not in names]
    trainings = [
        (f"{name}/{seed}", train_chain, (of, (name, *(n for n in names if BY_NAME[n].start == name)), seed))
        for name in sorted(firsts, key=lambda name: "from_start" not in name)  # the longest first
        for seed in seeds
    ]
    for tasks in (outputs, trainings):
        if jobs > 1:
            run_side_by_side(tasks, jobs, lambda name, took: print(f"{name}: {took:.0f} s", file=sys.stderr))
        else:
            for _, work, given in tasks:
                work(*given)
    for name in ENSEMBLES:
        if name in names and len(seeds) > 1:
            captions(of, name, seeds)


def make_outputs_of(of: Photographs, name: str, seed: int) -> None:
    """What the frozen encoder of a variant says of all pictures."""
    config = config_of(of, BY_NAME[name], seed)
    if config.show_and_tell.freeze_encoder:
        config.init = "random"  # the encoder is what it is, also of a variant whose start is not trained yet
        make_outputs(config)


def train_chain(of: Photographs, names: Sequence[str], seed: int) -> None:
    """Trainings one after the other, and the captions of each."""
    for name in names:
        train(of, name, seed)
        for beam in BEAMS if name == OF_BEAMS else (3,):
            captions(of, name, [seed], beam)


def captions(of: Photographs, name: str, seeds: Sequence[int], beam: int = 3) -> dict[str, str]:
    """Captions of the test pictures, written once, then read.

    Args:
        seeds: one; or several, whose models caption as an ensemble.
    """
    first, *others = [of.run(name, seed) / "best" for seed in seeds]
    path = captions_file(of, name, seeds, beam)
    if path.is_file():
        return read_predictions(path)
    decode = load_eval_config(configs_dir() / RECURRENT[2]).decode
    decode = DecodeConfig(**vars(decode) | {"beam": beam})
    files = {e.image_id: of.pictures / e.file_name for e in of.split("test")}
    return predict_split(first, files, list(files), "none", decode, path, ensemble=others)


def captions_file(of: Photographs, name: str, seeds: Sequence[int], beam: int = 3) -> Path:
    """Where `captions` writes."""
    several = "_ensemble" + "-".join(map(str, seeds)) if len(seeds) > 1 else ""
    return of.run(name, seeds[0]) / f"predictions{'' if beam == 3 else f'_beam{beam}'}{several}.json"
