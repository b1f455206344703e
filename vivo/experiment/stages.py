"""The stages of a comparison. Each is skipped when its result is there, so that a stopped run goes on."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from vivo.captioners import captioner_class
from vivo.config import TrainConfig, configs_dir, load_config, load_eval_config
from vivo.data.predictions import write_predictions
from vivo.data.regions import RegionStore
from vivo.durations import parse_duration
from vivo.experiment.benchmark import RECURRENT, Benchmark
from vivo.experiment.plan import VIVO, ModelPlan, Row
from vivo.files import atomic_write_json, atomic_write_text
from vivo.randomness import epoch_permutation
from vivo.self_tagging import open_tag_source
from vivo.show_and_tell.tasks import make_outputs
from vivo.split_prediction import predict_split
from vivo.training.runs import finetune, pretrain, show_and_tell

console = Console(stderr=True)
NOTICE = "ATTRIBUTION.txt"


class Clock:
    """Seconds that each stage took, and the whole ("wall"), kept in a file so that a resumed run adds up."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
        self._lap = time.monotonic()

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Run `work`, add its time to stage `name`, and say so."""
        began = time.monotonic()
        try:
            work()
        except BaseException:
            self._keep(name, time.monotonic() - began)
            raise
        self.add(name, time.monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        """A stage has ended: keep its time and say so."""
        self._keep(name, seconds)
        console.print(f"[bold]{name}[/bold] {self.seconds[name]:.0f} s", highlight=False)

    def lap(self) -> None:
        """Add what has passed since the last lap to "wall"; stages that run side by side add up to more."""
        now = time.monotonic()
        self._keep("wall", now - self._lap)
        self._lap = now

    def _keep(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        atomic_write_json(self.path, self.seconds)


def pretrain_model(out: Path, bench: Benchmark, plan: ModelPlan, seed: int) -> str:
    """Pre-train, or take what the plan starts from without; returns the checkpoint that fine-tuning starts from."""
    if plan.pretrain is None:
        return "minilm"
    run = out / "rows" / plan.name / f"seed{seed}" / "pretrain"
    if not (run / "model").is_dir():
        pretrain(pretrain_config(bench, plan, run, seed))
    _leave_notice(run / "model", bench.notice)
    return str(run / "model")


def self_tagger(out: Path, bench: Benchmark, seed: int) -> str:
    """With tags "self", the pre-trained model that writes the tags of every row of a seed; "" with other tags."""
    return str(out / "rows" / VIVO.name / f"seed{seed}" / "pretrain" / "model") if bench.tags == "self" else ""


def train_model(out: Path, bench: Benchmark, plan: ModelPlan, seed: int) -> Path:
    """Pre-train (or not) and fine-tune; returns the folder of the captioning model.

    With tags "self", VIVO's `pretrain_model` of the same seed comes first, whatever the plan is.
    """
    start = pretrain_model(out, bench, plan, seed)
    run = out / "rows" / plan.name / f"seed{seed}" / "finetune"
    model = run / "model"
    if not model.is_dir():
        finetune(finetune_config(bench, plan, run, start, seed, self_tagger(out, bench, seed)))
    _leave_notice(model, bench.notice)
    return model


def train_recurrent(out: Path, bench: Benchmark, name: str, seed: int) -> Path:
    """Train Show and Tell with a frozen encoder, then all of it; returns the folder of the captioning model."""
    start, model = "random", Path()
    for number, stage in enumerate(("frozen", "finetune")):
        run = out / "rows" / name / f"seed{seed}" / stage
        model = run / "model"
        if not model.is_dir():
            show_and_tell(recurrent_config(bench, number, run, start, seed))
        _leave_notice(model, bench.notice)
        start = str(model)
    return model


def make_encoder_outputs(bench: Benchmark, out: Path) -> None:
    """OUT/encoder_outputs: what the frozen encoder of Show and Tell says of the captioned pictures."""
    config = recurrent_config(bench, 0, out / "rows" / "any" / "seed0" / "frozen", "random", 0)
    make_outputs(config)


def recurrent_config(bench: Benchmark, stage: int, run: Path, start: str, seed: int) -> TrainConfig:
    """The configuration of one training of Show and Tell (0: frozen encoder, 1: joint), from `start`.

    The outputs of the frozen encoder are one store for all seeds, beside the rows.
    """
    outputs = run.parents[3] / "encoder_outputs"
    validation = ["data.validation_regions=", "data.validation_references=", "tracking.validate_every="]
    if bench.validation_references.is_file():
        validation = [f"data.validation_references={bench.validation_references}", f"data.validation_regions={outputs}"]
    return _config(
        RECURRENT[stage],
        f"out={run}",
        f"init={start}",
        f"seed={seed}",
        f"data.pictures={bench.caption_pictures}",
        f"data.regions={outputs}",
        f"data.examples={bench.caption_examples}",
        *validation,
        *bench.recurrent[stage],
    )


def _leave_notice(model: Path, notice: str) -> None:
    """What has to stand beside weights, wherever they are copied from here."""
    if notice and not (model / NOTICE).is_file():
        atomic_write_text(model / NOTICE, notice)


def pretrain_config(bench: Benchmark, plan: ModelPlan, run: Path, seed: int) -> TrainConfig:
    """The benchmark's configuration of pre-training, for this run."""
    places = {
        "examples": bench.pair_examples.parent,
        "captions": bench.caption_examples,
        "caption_regions": bench.caption_regions,
    }
    config = _config(
        bench.configs[0],
        f"out={run}",
        "init=minilm",
        f"seed={seed}",
        f"data.regions={bench.pair_regions}",
        f"data.examples={bench.pair_examples}",
        *bench.pretrain,
        *(override.format(**places) for override in plan.pretrain or ()),
    )
    config.optim.duration = str(parse_duration(config.optim.duration).times(plan.length))
    return config


def finetune_config(
    bench: Benchmark, plan: ModelPlan, run: Path, start: str, seed: int, tagger: str = ""
) -> TrainConfig:
    """The benchmark's configuration of fine-tuning, for this run, from the checkpoint `start`.

    Args:
        tagger: see `self_tagger`.
    """
    validation = ["data.validation_regions=", "data.validation_references=", "tracking.validate_every="]
    if bench.validation_references.is_file():
        references = f"data.validation_references={bench.validation_references}"
        validation = [f"data.validation_regions={bench.caption_regions}", references]
    return _config(
        bench.configs[1],
        f"out={run}",
        f"init={start}",
        f"seed={seed}",
        f"data.regions={bench.caption_regions}",
        f"data.examples={bench.caption_examples}",
        *validation,
        f"data.tags={bench.tags}",
        f"data.tag_file={bench.tag_file}",
        f"data.tagger={tagger}",
        *bench.finetune,
        *plan.finetune,
    )


def _config(file: str, *overrides: str) -> TrainConfig:
    """The repository's configuration with checkpoints at each quarter of the run."""
    config = load_config(configs_dir() / file, overrides)
    config.tracking.save_every = "25 percent"
    return config


def row_folder(out: Path, row: Row) -> Path:
    """Where a row's captions are, seed by seed."""
    return out / "rows" / row.name.replace(", ", "-").replace(" ", "_")


def caption_row(out: Path, bench: Benchmark, row: Row, seed: int) -> dict[str, str]:
    """Captions of the evaluation pictures for one row and seed; written once, then read."""
    path = row_folder(out, row) / f"seed{seed}" / "predictions.json"
    if path.is_file():
        return {r["image_id"]: r["caption"] for r in json.loads(path.read_text())}
    image_ids = bench.evaluation_ids()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not row.model:
        return _template_captions(bench, image_ids, path, self_tagger(out, bench, seed))
    shown = _derangement(image_ids, seed) if row.shuffled else None
    model = out / "rows" / row.model / f"seed{seed}" / row.stage / "model"
    if captioner_class(model).reads_pixels:
        decode = load_eval_config(configs_dir() / RECURRENT[2]).decode
        return predict_split(model, bench.evaluation_files(), image_ids, "none", decode, path, shown)
    decode = load_eval_config(configs_dir() / bench.configs[2]).decode
    tags = row.tags or bench.tags
    return predict_split(model, bench.evaluation_regions, image_ids, tags, decode, path, shown, bench.tag_file)


def _derangement(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Each picture's partner: the next one in a random cycle, so never itself."""
    order = epoch_permutation(seed, 0, len(image_ids))
    return {image_ids[a]: image_ids[b] for a, b in zip(order, [*order[1:], order[0]], strict=True)}


def _template_captions(bench: Benchmark, image_ids: Sequence[str], path: Path, tagger: str) -> dict[str, str]:
    """The untrained control: "a photo of" the tags that the models see."""
    store = RegionStore(bench.evaluation_regions)
    source = open_tag_source(bench.tags, store, image_ids, bench.tag_file, tagger)
    captions = {}
    for image_id in image_ids:
        tags = [f"{'an' if tag[0] in 'aeiou' else 'a'} {tag}" for tag in source(image_id, [], store[image_id])]
        captions[image_id] = "a photo of " + " and ".join(tags or ["something"])
    write_predictions(
        path,
        [{"image_id": i, "caption": c, "score": 0.0} for i, c in captions.items()],
        {"control": "template filled from tags", "pictures": len(captions)},
    )
    return captions
