"""`vivo sync`: a run folder written to W&B as one run, from its first record to its last.

Runs that were interrupted, or that trained where W&B was out of reach, leave W&B with pieces: an offline folder for
each stretch, records that a resumed run wrote twice, or nothing. The run folder has all of it once, so the whole curve
is replayed under the run's stored id: config.yaml, environment.json and inputs.json as its configuration,
metrics.jsonl, the tables of its validations, the scores of its model (`vivo.training.scores`) and the pictures of its
evaluation (`vivo.training.evaluation_table`).
"""

from pathlib import Path

from vivo.training.evaluation_table import evaluation_path
from vivo.training.scores import summary_of
from vivo.training.stored_run import StoredRun
from vivo.training.tables import list_tables
from vivo.training.wandb_run import run_id_of


def sync_run(folder: Path, offline: bool = False, project: str = "") -> str:
    """Replay the run in `folder`; returns a line that says what was written.

    Args:
        folder: of a run of pretrain/train.py or finetune/train.py.
        offline: write a W&B folder below `folder`/wandb instead of asking the server.
        project: of W&B; "" = the one in config.yaml.

    Raises:
        UserError: no run there, no record in it, or W&B refuses or cannot be reached.
    """
    stored = StoredRun.of(folder)
    project = project or stored.project
    # not "allow": what W&B may have of the run is replaced, as it drops records of steps that it has passed
    run = stored.open_wandb("offline" if offline else "online", project, again=None, strict=True)
    tables = dict(list_tables(folder))
    steps = sorted({record["step"] for record in stored.records} | set(tables))
    by_step: dict[int, list] = {step: [] for step in steps}
    for record in stored.records:
        by_step[record["step"]].append(record)
    for step in steps:
        for record in by_step[step]:
            if "scored" in record:
                run.summarise(summary_of(record))
            else:
                run.log(step, {name: value for name, value in record.items() if name != "step"})
        if step in tables:
            run.log_table(step, tables[step])
    if evaluation_path(folder).is_file():
        run.log_evaluation(evaluation_path(folder), stored.records)
    path = run.path
    run.finish()
    where = f"{path}; upload it with: wandb sync {path}" if offline else f"project {project}"
    return f"{folder}: {len(stored.records)} records, {len(tables)} tables -> W&B run {run_id_of(folder)}, {where}"
