"""All that is said to Weights & Biases, in one place, so that none of it can end or hold up a run.

W&B is a copy: the truth is metrics.jsonl and the other files of the run folder (`vivo.training.tracking`), and
`vivo sync` can make the copy again. A call that fails is reported in one line and W&B is left alone from there on.

Times: `INIT_SECONDS` and `FINISH_SECONDS` bound what an unreachable server can cost; a run asks nothing of the server
in between (records go to W&B's own process, which keeps them on disk). Measured figures: docs/tracking.md.
"""

import json
import os
import secrets
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vivo.errors import UserError
from vivo.files import atomic_write_text
from vivo.training.tables import read_table

RUN_ID_FILE = "wandb_run_id.txt"
INIT_SECONDS = 10.0
"""W&B's own `WANDB_INIT_TIMEOUT`; it was seen to take another 11 s to give up."""
FINISH_SECONDS = 60.0
"""W&B's own `WANDB_FINISH_TIMEOUT`: how long the end of a run waits for what has not been uploaded."""
STEP_METRIC = "pictures"
"""Training pictures seen: the axis on which runs of unlike batch sizes can be compared."""


def run_id_of(folder: Path, given: str = "") -> str:
    """The W&B id of the run in `folder`, known from here on by its file.

    In this order: `given` (a checkpoint's), the folder's file, what a sweep's agent demands, a new one.
    """
    path = folder / RUN_ID_FILE
    stored = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    run_id = given or stored or os.environ.get("WANDB_RUN_ID", "")
    if not run_id:
        run_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))  # as W&B's own
    if run_id != stored:
        atomic_write_text(path, run_id + "\n")
    return run_id


def wandb_config(resolved: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What W&B shows as the run's configuration: all fields, and what was written once beside config.yaml."""
    found = dict(resolved)
    for name in ("environment", "inputs"):
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                found[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path}: is damaged ({error}); remove it to go on without") from error
    return found


class WandbRun:
    """A W&B run that may fail at any call without a consequence for its caller.

    Args:
        folder: the run folder; W&B writes into `folder`/wandb.
        mode: "offline" or "online". project, name, run_id: as W&B shows them.
        config: nested dictionary of plain values.
        again: the stored run goes on ("allow"), or is written anew from its first record (None).
        strict: raise `UserError` instead of going on without W&B; for a command that does nothing else.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        project: str,
        name: str,
        run_id: str,
        config: dict[str, Any],
        again: str | None = "allow",
        strict: bool = False,
    ):
        self.folder, self.strict = folder, strict
        self._run: Any = None
        self._run = self._try(lambda: self._init(mode, project, name, run_id, config, again))

    @property
    def path(self) -> Path | None:
        """The folder that W&B writes of this run; None where it gave up."""
        return Path(self._run.dir).parent if self._run else None

    def log(self, step: int, record: dict[str, Any]) -> None:
        """A record; what is logged at the same step becomes one row."""
        if self._run:
            self._try(lambda: self._run.log(record, step=step))

    def log_table(self, step: int, path: Path) -> None:
        """The table of a validation (`vivo.training.tables`), with its pictures."""
        if self._run:
            self._try(lambda: self._run.log({"validation_table": _table(path)}, step=step))

    def log_evaluation(self, path: Path, records: Sequence[dict[str, Any]]) -> None:
        """The table of an evaluation (`vivo.training.evaluation_table`), behind the run's records."""
        if self._run:
            place = next(({STEP_METRIC: r[STEP_METRIC]} for r in reversed(records) if STEP_METRIC in r), {})
            # Without a step: W&B drops what comes for one that it has passed.
            self._try(lambda: self._run.log({"evaluation": _evaluation_table(path)} | place))

    def summarise(self, values: dict[str, Any]) -> None:
        """Set values of the run's summary, which no step has; those of the same name are replaced."""
        if self._run:
            self._try(lambda: self._run.summary.update(values))

    def finish(self, exit_code: int = 0) -> None:
        """Wait for what is left to upload, `FINISH_SECONDS` at most unless WANDB_FINISH_TIMEOUT says otherwise."""
        if self._run:
            self._try(lambda: self._run.finish(exit_code=exit_code))
            self._run = None

    def _init(self, mode: str, project: str, name: str, run_id: str, config: dict[str, Any], again: str | None) -> Any:
        import wandb

        limits: dict[str, Any] = {"init_timeout": INIT_SECONDS}
        if mode == "online":
            limits |= {"finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
        free = {key: value for key, value in limits.items() if f"WANDB_{key.upper()}" not in os.environ}
        run = wandb.init(
            project=project,
            mode=mode,
            dir=str(self.folder),
            config=config,
            name=name,
            id=run_id,
            resume=again,
            settings=wandb.Settings(**free),
        )
        run.define_metric(STEP_METRIC)
        run.define_metric("*", step_metric=STEP_METRIC)
        return run

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # W&B raises many kinds; none may cost a run
            self._run = None
            message = f"W&B: {type(error).__name__}: {' '.join(str(error).split())}"
            if self.strict:
                raise UserError(message) from error
            print(f"{message}; going on without it, later: vivo sync {self.folder}", file=sys.stderr)
            return None


def _table(path: Path) -> Any:
    """A validation's table as W&B shows it."""
    import wandb

    rows, pictures = read_table(path)
    table = wandb.Table(columns=["image_id", "picture", "caption", "references", "tags", "predicted_tags", "boxes"])
    for row in rows:
        picture = pictures / row["picture"] if row["picture"] else None
        table.add_data(
            row["image_id"],
            wandb.Image(str(picture)) if picture and picture.is_file() else None,
            row["caption"],
            "\n".join(row["references"]),
            ", ".join(row["tags"]),
            ", ".join(row["predicted_tags"]),
            "\n".join(f"{b['label'] or '(no name)'} {b['score']:.2f} {b['box']}" for b in row["boxes"]),
        )
    return table


def _evaluation_table(path: Path) -> Any:
    """The pictures of an evaluation as W&B shows them: boxes can be switched, their captions say what they explain."""
    import wandb

    rows, pictures = read_table(path)
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["scores"]))
    columns = ["image_id", "picture", "domain", "caption", *metrics, "novel objects", "named", "references", "tags"]
    table = wandb.Table(columns=[*columns, "constraints"])
    # One mapping for all pictures: a table refuses a column of pictures that differ in it.
    labels = {name: n for n, name in enumerate(dict.fromkeys(b["label"] for row in rows for b in row["boxes"]))}
    classes = {n: name or "(no name)" for name, n in labels.items()}
    for row in rows:
        picture = pictures / row["picture"] if row["picture"] else None
        table.add_data(
            row["image_id"],
            wandb.Image(str(picture), boxes={"regions": {"box_data": _boxes(row, labels), "class_labels": classes}})
            if picture and picture.is_file()
            else None,
            row["domain"],
            row["caption"],
            *(row["scores"].get(metric) for metric in metrics),
            ", ".join(row["novel"]),
            ", ".join(row["named"]),
            "\n".join(row["references"]),
            ", ".join(row["tags"]),
            _constraints(row["constraints"]),
        )
    return table


def _boxes(row: dict[str, Any], labels: dict[str, int]) -> list[dict[str, Any]]:
    """The boxes of one picture in the form of W&B, places as shares of the picture."""
    found = []
    for box in row["boxes"]:
        x1, y1, x2, y2 = box["box"]
        explains = "; ".join(f'"{word}" {with_it:.2f} -> {without:.2f}' for word, with_it, without in box["explains"])
        found.append(
            {
                "position": {
                    "minX": x1 / row["width"],
                    "maxX": x2 / row["width"],
                    "minY": y1 / row["height"],
                    "maxY": y2 / row["height"],
                },
                "class_id": labels[box["label"]],
                "box_caption": f"{box['label'] or '(no name)'}: {explains}" if explains else box["label"],
                "scores": {"score": box["score"]},
            }
        )
    return found


def _constraints(trace: dict[str, Any] | None) -> str:
    """A trace in words."""
    if trace is None:
        return ""
    lines = [f"{c['name']}: {c['written'] if c['satisfied'] else 'not satisfied'}" for c in trace["constraints"]]
    return "\n".join([*lines, "fell back"] if trace["fell_back"] else lines)
