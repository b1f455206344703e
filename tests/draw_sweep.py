"""Run by .venv-sweeps/bin/python: `draw_sweep.py FILE N` checks a sweep and draws N runs of it with W&B's own `sweeps`.

Prints {"violations": [...], "drawn": [{parameter: value}, ...]}. Finished runs get a made-up metric between draws,
since a Bayesian search fits one.
"""

import json
import sys
from pathlib import Path

import sweeps
import yaml


def main(path: str, count: int) -> None:
    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    runs: list = []
    drawn = []
    violations = list(sweeps.schema_violations_from_proposed_config(config))
    while not violations and len(drawn) < count and (run := sweeps.next_run(config, runs)) is not None:
        values = {name: item["value"] for name, item in run.config.items()}
        drawn.append({name: v.item() if hasattr(v, "item") else v for name, v in values.items()})
        run.state = sweeps.RunState.finished
        metric = {config["metric"]["name"]: 1.0 / (1 + len(runs))}
        run.summary_metrics, run.history = metric, [metric]
        runs.append(run)
    print(json.dumps({"violations": violations, "drawn": drawn}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
