"""Trainings from run folders alone: configurations, commits, last losses, predicted captions.

    R/finetune/{config.yaml, environment.json, metrics.jsonl, model/}      finetune/train.py
    R/pretrain/{...}                                                       pretrain/train.py, unless there was none
    R/predictions.json or R/eval/predictions.json                          eval/predict.py

as `vivo demo` and `vivo novel` leave them (R is rows/<row>/seed<k>) and README's commands do (R is runs/world).
Configurations are read as they stand: those of older code, with other fields, too.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivo.data.coco import read_json
from vivo.data.predictions import read_header, read_predictions
from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.experiment.trained import LeftOut, Trained, row_of, settings_of
from vivo.training.stored_run import read_config
from vivo.training.tracking import read_records

TEXT_WEIGHTS = ("minilm", "random")
EVALUATED = ("world/nocaps/nocaps_val_captions.json", "world/classes.json")
"""References and classes of the embedded world, in a demo's folder."""


def read_runs(roots: Sequence[Path]) -> tuple[list[Trained], list[LeftOut]]:
    """All trainings under `roots`, each once, in the order of their folders; and what is no finished one.

    Raises:
        UserError: a root that is no folder or has no run, a file that cannot be read, captions of other weights.
    """
    trained: list[Trained] = []
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give folders that hold training runs")
        runs = [run for run in _runs(root) if run.resolve() not in seen]
        if not runs:
            raise UserError(f"{root}: no run there that is not given already (a folder with finetune/config.yaml)")
        seen |= {run.resolve() for run in runs}
        for run in runs:
            found = _read(run)
            (trained if isinstance(found, Trained) else left_out).append(found)
    return trained, left_out


def find_references(roots: Sequence[Path]) -> tuple[Path, Path] | None:
    """References and classes of the first root that is a demo's folder."""
    for root in roots:
        references, classes = (root / name for name in EVALUATED)
        if references.is_file() and classes.is_file():
            return references, classes
    return None


def _runs(root: Path) -> list[Path]:
    """Folders under `root` that hold a stage of a training, or captions."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in ("model", "checkpoints", "wandb"))
        inside = Path(folder)
        stages = [stage for stage in ("pretrain", "finetune") if (inside / stage / "config.yaml").is_file()]
        if stages or "predictions.json" in files:
            found.append(inside)
            below[:] = [name for name in below if name not in ("pretrain", "finetune", "eval")]
    return found


def _read(run: Path) -> Trained | LeftOut:
    tuned = run / "finetune"
    predictions = next((p for p in (run / "predictions.json", run / "eval" / "predictions.json") if p.is_file()), None)
    if not (tuned / "config.yaml").is_file():
        has = "captions without a training of their own (a control)" if predictions else "pre-training alone"
        return LeftOut(str(run), has)
    finetune = read_config(tuned / "config.yaml")
    if finetune.get("objective") == "show_and_tell":
        return LeftOut(str(run), "Show and Tell, no row of the paper's tables")
    stages = {"finetune": tuned}
    pretrain = None
    if finetune.get("init") not in TEXT_WEIGHTS:
        stages["pretrain"] = _pretrained(run, Path(str(finetune.get("init"))))
        pretrain = read_config(stages["pretrain"] / "config.yaml")
    last = {stage: _last(folder) for stage, folder in stages.items()}
    if predictions is None:
        done = f"{last['finetune'].get('step', 0):.0f} updates of fine-tuning recorded"
        weights = "model there" if (tuned / "model").is_dir() else "no model yet"
        return LeftOut(str(run), f"unfinished: no predictions.json ({weights}, {done})")
    _check_weights(predictions, tuned / "model" / "model.safetensors")
    commits = [_commit(folder / "environment.json") for folder in stages.values()]
    return Trained(
        row_of(tuned.absolute()),
        _seed(finetune, tuned / "config.yaml"),
        str(run),
        settings_of(pretrain, finetune),
        tuple(dict.fromkeys(commit for commit in commits if commit)),
        last,
        read_predictions(predictions),
    )


def _pretrained(run: Path, init: Path) -> Path:
    """The folder of the pre-training behind a fine-tuning that started from `init`."""
    for folder in (run / "pretrain", init.parent):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(
        f"{run}/finetune: started from {init}, but neither {run}/pretrain nor {init.parent} holds that pre-training's "
        "config.yaml; put its folder there"
    )


def _check_weights(predictions: Path, weights: Path) -> None:
    """Captions must be those of the weights beside them, where both are known."""
    told = read_header(predictions).get("weights_sha256")
    if told and weights.is_file() and sha256_of(weights) != told:
        raise UserError(f"{predictions}: was written by other weights than {weights}; caption the pictures again")


def _seed(config: dict[str, Any], path: Path) -> int:
    seed = config.get("seed", 0)
    if type(seed) is not int:
        raise UserError(f"{path}: seed: must be a whole number, not {seed!r}")
    return seed


def _last(folder: Path) -> dict[str, float]:
    """Step and loss of the last record of the loss."""
    losses = [r for r in read_records(folder / "metrics.jsonl") if type(r.get("loss")) in (int, float)]
    return {key: losses[-1][key] for key in ("step", "loss")} if losses else {}


def _commit(path: Path) -> str:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a JSON object with the run's commit, not {found!r:.40}")
    return str(found.get("commit", ""))
