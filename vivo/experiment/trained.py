"""One training of a comparison as a record: what was set, by which code, and what came of it.

Run folders (`run_folders.py`) and W&B runs (`wandb_runs.py`) both become `Trained`; `ablations.py` makes the tables.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from vivo.data.region_format import sha256_of

# Fields of a configuration that hold a path: told by its name and, where it is there, its content.
PATHS = {
    "data.regions", "data.examples", "data.pairs", "data.pairs_regions", "data.tag_file", "data.vocabulary",
    "model.vocabulary",
}  # fmt: skip
# What changes nothing that is learned, or is told in another way: the seed, the start of fine-tuning. Groups, too;
# configurations in W&B may also hold what was written beside config.yaml.
_FREE = {
    "seed", "out", "init", "tracking", "engine", "environment", "inputs", "data.workers", "data.tagger",
    "data.validation_regions", "data.validation_references", "data.validation_pictures",
}  # fmt: skip
_SEED_FOLDER = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Trained:
    """A model that was pre-trained (or not) and fine-tuned.

    Attributes:
        row: the row of the table that it belongs to. seed: of fine-tuning. where: its folder or W&B run, for messages.
        settings: "pretrain" ("yes", or the text weights that fine-tuning started from) and all fields of both
            configurations, "pretrain.optim.lr"; without what cannot differ between seeds of a row.
        commits: of the code, each once. last: "pretrain" and "finetune" -> last record of the loss.
        captions: of the evaluation pictures, by id. table: part -> metric -> score, where only scores are known.
    """

    row: str
    seed: int
    where: str
    settings: Mapping[str, Any]
    commits: tuple[str, ...] = ()
    last: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    captions: Mapping[str, str] | None = None
    table: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no table, and why."""

    where: str
    why: str


def row_of(folder: str | Path) -> str:
    """The row that a run folder belongs to: .../vivo/seed0/finetune and .../vivo/finetune are of row "vivo"."""
    of_run = PurePath(folder).parent
    return of_run.parent.name if _SEED_FOLDER.fullmatch(of_run.name) else of_run.name


def settings_of(pretrain: Mapping[str, Any] | None, finetune: Mapping[str, Any]) -> dict[str, Any]:
    """The `settings` of `Trained` from two configurations as nested dicts; None: without pre-training."""
    start = "yes" if pretrain is not None else f"none: from {PurePath(str(finetune.get('init', ''))).name}"
    found = {"pretrain": start} | _leaves(finetune, "finetune.", "")
    return found | (_leaves(pretrain, "pretrain.", "") if pretrain is not None else {})


def differences(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field -> (value in `base`, value in `other`); a field that one does not have (other code wrote it) is none."""
    return {key: (base[key], other[key]) for key in base if key in other and base[key] != other[key]}


def _leaves(tree: Mapping[str, Any], stage: str, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in _FREE:
            continue
        if isinstance(value, Mapping):
            found |= _leaves(value, stage, f"{key}.")
        else:
            found[stage + key] = _named(value) if key in PATHS and isinstance(value, str) else value
    return found


@lru_cache(maxsize=256)
def _named(path: str) -> str:
    """A path's last part, with the beginning of a hash of what is there."""
    if not path:
        return ""
    there = Path(path)
    content = there / "manifest.json" if there.is_dir() else there
    return f"{there.name} [{sha256_of(content)[:8]}]" if content.is_file() else there.name
