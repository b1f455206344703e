"""Scores of a run's final model, kept with the run: a record of its own kind in metrics.jsonl, and W&B's summary.

    {"step": 150, "scored": {"weights_sha256", "decode", "tags", "references", "pictures", "domains"},
     "score/overall/CIDEr": ..., "score/in/CIDEr": ..., ...}

The record says whose scores these are: `step` is the run's last update, `weights_sha256` the model's. The last record
counts; a run that trains further keeps it as what it was, and `scored` in W&B's summary says at which update that was.
eval/ablation_table.py --wandb reads these keys (`vivo.experiment.wandb_runs`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.data.predictions import header_path, read_header
from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.training.stored_run import StoredRun
from vivo.training.tracking import append_record

Table = Mapping[str, Mapping[str, float]]


def check_scored(run: Path, predictions: Path) -> dict[str, Any]:
    """The header of `predictions`, which the final model of the run folder `run` has written as captions of its own.

    Raises:
        UserError: no finished run there, or captions of other weights, of nobody knows which, or of a control.
    """
    StoredRun.of(run)
    weights = run / "model" / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"--run {run}: has no model yet; let the training end, then caption the pictures and score")
    header = read_header(predictions)
    told = header.get("weights_sha256")
    if not told:
        raise UserError(
            f"--run {run}: {header_path(predictions)} does not say whose captions these are (no weights_sha256); "
            "caption the pictures with eval/predict.py"
        )
    if told != sha256_of(weights):
        raise UserError(f"--run {run}: {predictions} was written by other weights than {weights}; caption them again")
    if header.get("control"):
        raise UserError(
            f"--run {run}: {predictions} are those of a control ({header['control']}), no scores of the run"
        )
    return header


def record_scores(run: Path, header: Mapping[str, Any], references: str, table: Table, domains: str = "") -> str:
    """Keep `table` (part -> metric -> score) with the run in `run`; returns a line that says where.

    Args:
        header: of the captions, from `check_scored`. references: what they were compared with, for people.
        domains: what scores by domain do and do not compare with.
    """
    stored = StoredRun.of(run)
    scored = {name: header[name] for name in ("weights_sha256", "decode", "tags") if name in header}
    scored |= {"references": references, "pictures": table["overall"]["pictures"]}
    if domains:
        scored["domains"] = domains
    found = {
        f"score/{part}/{metric}": value
        for part, metrics in table.items()
        for metric, value in metrics.items()
        if metric != "pictures"
    }
    record = {"step": max(record["step"] for record in stored.records), "scored": scored, **found}
    path = run / "metrics.jsonl"
    if last_scores(stored.records) != record:
        append_record(path, record)
    mode, where = stored.wandb_mode, str(path)
    if mode != "disabled":
        tracked = stored.open_wandb(mode, stored.project)
        tracked.summarise(summary_of(record))
        if tracked.path:  # else it has said what went wrong
            where += f" and W&B ({mode})"
        tracked.finish()
    return f"kept with the run: {where}"


def last_scores(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last record of scores among those of a metrics.jsonl."""
    return next((record for record in reversed(records) if "scored" in record), None)


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B's summary has of a record of scores."""
    scores = {name: value for name, value in record.items() if name != "step"}
    return scores | {"scored": {**record["scored"], "step": record["step"]}}
