"""`vivo sync`: a run folder written to W&B as one run, from its first record to its last.

Runs that were interrupted, or that trained where W&B was out of reach, leave W&B with pieces: an offline folder for
each stretch, records that a resumed run wrote twice, or nothing. The run folder has all of it once, so the whole curve
is replayed under the run's stored id: config.yaml, environment.json and inputs.json as its configuration,
metrics.jsonl, and the tables of its validations.
"""

from pathlib import Path

from omegaconf import OmegaConf

from vivo.config import TrackingConfig
from vivo.errors import UserError
from vivo.training.tables import list_tables
from vivo.training.tracking import read_records
from vivo.training.wandb_run import WandbRun, run_id_of, wandb_config


def sync_run(folder: Path, offline: bool = False, project: str = "") -> str:
    """Replay the run in `folder`; returns a line that says what was written.

    Args:
        folder: of a run of pretrain/train.py or finetune/train.py.
        offline: write a W&B folder below `folder`/wandb instead of asking the server.
        project: of W&B; "" = the one in config.yaml.

    Raises:
        UserError: no run there, no record in it, or W&B refuses or cannot be reached.
    """
    for name in ("config.yaml", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; give the folder of a training run (`out` of its configuration)")
    resolved = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    records = read_records(folder / "metrics.jsonl")
    if not isinstance(resolved, dict) or not records:
        what = "metrics.jsonl: no record to replay" if isinstance(resolved, dict) else "config.yaml: holds no fields"
        raise UserError(f"{folder}/{what}")
    tracking = resolved.get("tracking", {})
    project = project or tracking.get("project") or TrackingConfig().project
    run_id = run_id_of(folder)
    # not "allow": what W&B may have of the run is replaced, as it drops records of steps that it has passed
    run = WandbRun(
        folder,
        "offline" if offline else "online",
        project,
        f"{resolved.get('objective', '')} {folder.resolve().name}".strip(),
        run_id,
        wandb_config(resolved, folder),
        again=None,
        strict=True,
    )
    tables = dict(list_tables(folder))
    steps = sorted({record["step"] for record in records} | set(tables))
    by_step: dict[int, list] = {step: [] for step in steps}
    for record in records:
        by_step[record["step"]].append(record)
    for step in steps:
        for record in by_step[step]:
            run.log(step, {name: value for name, value in record.items() if name != "step"})
        if step in tables:
            run.log_table(step, tables[step])
    path = run.path
    run.finish()
    where = f"{path}; upload it with: wandb sync {path}" if offline else f"project {project}"
    return f"{folder}: {len(records)} records, {len(tables)} tables -> W&B run {run_id}, {where}"
