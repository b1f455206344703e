"""A run folder read back by a program that comes after the training: its configuration, its records, its W&B run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vivo.config import TrackingConfig
from vivo.errors import UserError
from vivo.training.tracking import read_records
from vivo.training.wandb_run import WandbRun, run_id_of, wandb_config


@dataclass(frozen=True)
class StoredRun:
    """What pretrain/train.py or finetune/train.py left in `folder`.

    Attributes:
        config: config.yaml as nested dictionaries, unchecked. records: of metrics.jsonl, at least one.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> "StoredRun":
        """Read it.

        Raises:
            UserError: no run there, or no record in it.
        """
        for name in ("config.yaml", "metrics.jsonl"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: no {name}; give the folder of a training run (`out` of its configuration)")
        config = read_config(folder / "config.yaml")
        if not isinstance(config.get("tracking", {}), dict):
            raise UserError(f"{folder}/config.yaml: tracking: is a group of fields, not {config['tracking']!r}")
        records = read_records(folder / "metrics.jsonl")
        if not records:
            raise UserError(f"{folder}/metrics.jsonl: no record to replay")
        return cls(folder, config, records)

    @property
    def wandb_mode(self) -> str:
        """How the run was tracked: "disabled", "offline" or "online"."""
        return self.config.get("tracking", {}).get("wandb") or TrackingConfig().wandb

    @property
    def project(self) -> str:
        """Of W&B."""
        return self.config.get("tracking", {}).get("project") or TrackingConfig().project

    def open_wandb(self, mode: str, project: str, again: str | None = "allow", strict: bool = False) -> WandbRun:
        """The run's W&B run under its stored id; arguments as of `WandbRun`."""
        return WandbRun(
            self.folder,
            mode,
            project,
            f"{self.config.get('objective', '')} {self.folder.resolve().name}".strip(),
            run_id_of(self.folder),
            wandb_config(self.config, self.folder),
            again,
            strict,
        )


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml as nested dicts, unchecked.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no run configuration")
    return found
