"""Trainings from W&B alone: what its public Api tells of a project's runs, through records of plain JSON.

A record is one W&B run: {"id", "name", "state", "config", "summary", "commit"}; `config` is the resolved configuration
that a run logs at its start, perhaps with its environment.json. A fine-tuning belongs to the pre-training whose `out`
its `init` lies in. W&B has no captions, so scores come from the summary: "score/<part>/<metric>", as in
"score/overall/CIDEr" (eval/score.py --run writes them, `vivo.training.scores`), else `validation_CIDEr`.

`fetch_records` has not been verified against the service; all that is made of its records is tested on files of them.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.data.coco import read_json
from vivo.errors import UserError
from vivo.experiment.run_folders import TEXT_WEIGHTS
from vivo.experiment.trained import LeftOut, Trained, row_of, settings_of

SCORE = re.compile(r"score/(\w+)/([\w-]+)")
Record = Mapping[str, Any]


def check_project(text: str) -> str:
    """ENTITY/PROJECT as it stands; `UserError` for anything else."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise UserError(f"--wandb {text}: must be ENTITY/PROJECT, as in the address of the project's page")
    return text


def fetch_records(project: str) -> list[dict[str, Any]]:
    """The records of all runs of a W&B project.

    Raises:
        UserError: no key, no network, no such project.
    """
    import wandb
    from wandb.errors import Error

    try:
        runs = wandb.Api(timeout=30).runs(check_project(project))
        return [
            {
                "id": run.id,
                "name": run.name,
                "state": run.state,
                "config": dict(run.config),
                "summary": dict(run.summary_metrics),
                "commit": (run.metadata or {}).get("git", {}).get("commit", ""),
            }
            for run in runs
        ]
    except (Error, ValueError, OSError) as error:  # ValueError: an unknown project
        raise UserError(f"W&B, {project}: {' '.join(str(error).split())}") from error


def read_wandb_records(path: Path) -> list[dict[str, Any]]:
    """The records in a JSON list, as --save-records writes it.

    Raises:
        UserError: it cannot be read, or is no list of records.
    """
    found = read_json(path)
    needed = {"id": str, "state": str, "config": dict, "summary": dict}
    if not isinstance(found, list):
        raise UserError(f"{path}: must be a list of W&B runs")
    for number, record in enumerate(found):
        for key, kind in needed.items():
            if not isinstance(record, dict) or not isinstance(record.get(key), kind):
                raise UserError(f'{path}, entry {number}: no "{key}"; is it a file of --save-records?')
    return found


def runs_of_records(records: Sequence[Record]) -> tuple[list[Trained], list[LeftOut]]:
    """Fine-tunings with the pre-training behind them, and what is not finished or has no score.

    Raises:
        UserError: two finished runs with one `out` folder, or no fine-tuning at all.
    """
    finished: dict[str, Record] = {}
    left_out = []
    for record in records:
        where = f"W&B run {record['id']}"
        if "objective" not in record["config"] or "out" not in record["config"]:
            left_out.append(LeftOut(where, "no training of this project (its config has no objective)"))
        elif record["state"] != "finished":
            left_out.append(LeftOut(where, f"unfinished: {record['state']}"))
        else:
            out = os.path.normpath(record["config"]["out"])
            if out in finished:
                raise UserError(
                    f"W&B runs {finished[out]['id']} and {record['id']} both finished in {out}; delete one of them"
                )
            finished[out] = record
    trained = []
    for out, record in finished.items():
        if record["config"]["objective"] == "captions":
            found = _joined(out, record, finished)
            (trained if isinstance(found, Trained) else left_out).append(found)
    if not trained and not left_out:
        raise UserError("W&B: the project has no fine-tuning run")
    return trained, left_out


def _joined(out: str, record: Record, finished: Mapping[str, Record]) -> Trained | LeftOut:
    config, where = record["config"], f"W&B run {record['id']}"
    before = finished.get(os.path.dirname(os.path.normpath(config.get("init", ""))))
    if before is None and config.get("init") not in TEXT_WEIGHTS:
        return LeftOut(where, f"the pre-training that it started from, {config.get('init')}, is no finished run there")
    table: dict[str, dict[str, float]] = {}
    for key, value in record["summary"].items():
        if (found := SCORE.fullmatch(key)) and isinstance(value, int | float):
            table.setdefault(found[1], {})[found[2]] = float(value)
    if not table and isinstance(record["summary"].get("validation_CIDEr"), int | float):
        table = {"validation": {"CIDEr": float(record["summary"]["validation_CIDEr"])}}
    scored = record["summary"].get("scored")
    if isinstance(scored, Mapping) and scored.get("step", math.inf) < record["summary"].get("_step", 0):
        trained = f"scored after {scored['step']} updates and trained to {record['summary']['_step']}"
        return LeftOut(where, f"{trained}; caption and score it again (eval/score.py --run)")
    if not table:
        return LeftOut(where, "finished, but its summary has no score/<part>/<metric> and no validation_CIDEr")
    stages = {"finetune": record} | ({"pretrain": before} if before else {})
    last = {
        stage: {"step": float(of["summary"]["_step"]), "loss": float(of["summary"]["loss"])}
        for stage, of in stages.items()
        if {"_step", "loss"} <= of["summary"].keys()
    }
    commits = dict.fromkeys(_commit(of) for of in stages.values())
    settings = settings_of(before["config"] if before else None, config)
    return Trained(row_of(out), int(config["seed"]), where, settings, tuple(c for c in commits if c), last, table=table)


def _commit(record: Record) -> str:
    """As the run's own environment.json has it, else the one that W&B saw."""
    own = record["config"].get("environment")
    return str(own["commit"]) if isinstance(own, dict) and own.get("commit") else str(record.get("commit") or "")[:7]
