"""The ablation table: rows placed by their configurations, numbers by hand, nothing dropped in silence."""

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from eval.ablation_table import main
from vivo.config import configs_dir, load_config
from vivo.data.predictions import write_predictions
from vivo.demo.pipeline import world_benchmark
from vivo.demo.sizes import SIZES
from vivo.errors import UserError
from vivo.experiment import stages
from vivo.experiment.ablations import TABLES, make_ablations
from vivo.experiment.plan import world_plan
from vivo.experiment.run_folders import read_runs
from vivo.experiment.trained import Trained, settings_of
from vivo.experiment.wandb_runs import runs_of_records

IDS = [str(n) for n in range(6)]
REFERENCES = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "domain": "in-domain" if n < 3 else "out-domain"} for n in range(6)],
    "annotations": [
        {"id": 10 * n + k, "image_id": n, "caption": f"{word} {thing} {n}"}
        for n in range(6)
        for k, word in enumerate(("a", "one"))
        for thing in (["bear" if n < 3 else "mouse"])
    ],
}
CLASSES = [
    {"name": "bear", "plural": "bears", "forms": ["bear", "bears"], "mid": "/m/1", "role": "base", "detector": True,
     "parents": []},
    {"name": "mouse", "plural": "mice", "forms": ["mouse", "mice"], "mid": "/m/2", "role": "novel", "detector": False,
     "parents": []},
]  # fmt: skip
PRETRAIN = {
    "objective": "tags", "init": "minilm", "seed": 0, "out": "x", "optim": {"lr": 1e-3, "duration": "800 steps"},
    "loss": {"hungarian": True}, "masking": {"at_most": 0, "caption": "masked"},
    "data": {"vocabulary": "", "pairs": "", "regions": "there/open_images"}, "tracking": {"wandb": "disabled"},
}  # fmt: skip
FINETUNE = {**deepcopy(PRETRAIN), "objective": "captions", "init": "there/pretrain/model"}
CHANGES = {
    "vivo": {}, "no_hungarian": {"loss": {"hungarian": False}}, "one_mask": {"masking": {"at_most": 1}},
    "vocab_boxed": {"data": {"vocabulary": "boxed.json"}},
    "pairs": {"objective": "pairs", "data": {"pairs": "captions.jsonl"}, "optim": {"duration": "200 steps"}},
    "pairs_and_tags": {"objective": "both", "data": {"pairs": "captions.jsonl"}},
    "slow": {"loss": {"hungarian": False}, "optim": {"lr": 1e-4}},
}  # fmt: skip


def overlaid(config: dict, changes: dict) -> dict:
    """A configuration with some fields changed."""
    config = deepcopy(config)
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    return config


def make_run(folder: Path, seed: int, right: int, changes: dict | None, commit: str = "abc1234", **tuned) -> Path:
    """A finished run that captions its first `right` pictures right; `changes` None: no pre-training."""
    for stage, config in (("pretrain", PRETRAIN), ("finetune", FINETUNE)):
        if stage == "pretrain" and changes is None:
            continue
        of_stage = overlaid(config, (changes or {}) if stage == "pretrain" else tuned) | {"seed": seed}
        if stage == "finetune" and changes is None:
            of_stage["init"] = "minilm"
        (folder / stage).mkdir(parents=True)
        (folder / stage / "config.yaml").write_text(yaml.safe_dump(of_stage))
        (folder / stage / "environment.json").write_text(json.dumps({"commit": commit}))
        (folder / stage / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5}\n{"step": 8, "validation_CIDEr": 3}\n')
    said = {i: f"a {'bear' if int(i) < 3 else 'mouse'} {i}" if int(i) < right else "nothing" for i in IDS}
    write_predictions(folder / "predictions.json", [{"image_id": i, "caption": c} for i, c in said.items()], {})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """All rows, seeds 0 and 1; row no_hungarian lacks seed 1; a run that was stopped, and a control."""
    root = tmp_path / "runs"
    for number, (row, changes) in enumerate(CHANGES.items()):
        for seed in (0,) if row == "no_hungarian" else (0, 1):
            make_run(root / "rows" / row / f"seed{seed}", seed, 6 - number % 4 - seed, changes)
    for seed in (0, 1):
        make_run(root / "rows" / "none" / f"seed{seed}", seed, 3, None)
        make_run(root / "rows" / "unfrozen" / f"seed{seed}", seed, 3, None, masking={"at_most": 5})
    stopped = make_run(root / "rows" / "stopped" / "seed0", 0, 6, {})
    (stopped / "predictions.json").unlink()
    control = root / "rows" / "vivo-no_tags" / "seed0"
    control.mkdir(parents=True)
    shutil.copy(root / "rows" / "vivo" / "seed0" / "predictions.json", control)
    (root / "world" / "nocaps").mkdir(parents=True)
    (root / "world" / "nocaps" / "nocaps_val_captions.json").write_text(json.dumps(REFERENCES))
    (root / "world" / "classes.json").write_text(json.dumps(CLASSES))
    return root


def table(runs: Path, *arguments: str) -> dict:
    out = runs.parent / "table.json"
    assert main([str(runs), "--json", str(out), "--resamples", "50", *arguments]) == 0
    return json.loads(out.read_text())


def test_rows_stand_where_the_paper_has_them_by_their_configurations(runs: Path) -> None:
    found = table(runs)
    placed = {title: {arm: row["rows"] for arm, row in arms.items()} for title, arms in found["tables"].items()}
    assert list(placed.values()) == [
        {"none": ["none"], "pairs (OSCAR)": ["pairs"], "pairs + tags (OSCAR + VIVO)": ["pairs_and_tags"],
         "tags alone (VIVO)": ["vivo"]},
        {"none (w/o VIVO)": ["none"], "classes with boxes": ["vocab_boxed"], "all tags": ["vivo"]},
        {"one masked tag": ["one_mask"], "w/o Hungarian matching": ["no_hungarian"],
         "w/ Hungarian matching": ["vivo"]},
    ]  # fmt: skip
    rows = found["rows"]
    assert rows["vivo"]["differences"] == {}
    assert rows["no_hungarian"]["differences"] == {"pretrain.loss.hungarian": [True, False]}
    assert rows["slow"]["differences"] == {"pretrain.loss.hungarian": [True, False], "pretrain.optim.lr": [1e-3, 1e-4]}
    assert rows["none"]["differences"] == {"pretrain": ["yes", "none: from minilm"]}
    assert rows["unfrozen"]["differences"].keys() == {"pretrain", "finetune.masking.at_most"}


def test_numbers_by_hand(runs: Path) -> None:
    """VIVO names 3 and 2 of the 3 mice: recall 1 and 2/3, precision 1, so F1 1 and .8."""
    rows = table(runs)["rows"]
    assert rows["vivo"]["seeds"] == [0, 1] and rows["vivo"]["scores"]["out"]["F1"][0] == pytest.approx(0.9)
    assert rows["none"]["scores"]["out"]["F1"] == [0, 0, 0] and rows["none"]["scores"]["in"]["F1"] == [1, 1, 1]
    # the row that lacks a seed is set against VIVO's same seed: 5 against 6 pictures right
    one = rows["no_hungarian"]
    assert (one["seeds"], one["lacks"]) == ([0], [1])
    assert one["minus_base"]["out"]["F1"][0] == pytest.approx(0.8 - 1.0)
    value, low, high = rows["vivo"]["scores"]["overall"]["CIDEr"]
    assert low < value < high
    assert rows["vivo"]["commits"] == ["abc1234"]
    assert rows["vivo"]["last"]["1"] == {stage: {"step": 7, "loss": 0.5} for stage in ("pretrain", "finetune")}


def test_nothing_is_dropped_in_silence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(runs / "rows" / "vivo" / "seed2", 2, 6, {}, commit="def5678")
    shutil.rmtree(runs / "rows" / "one_mask")
    text_file = runs.parent / "table.md"
    table(runs, "--out", str(text_file))
    text = text_file.read_text()
    assert text.strip() in capsys.readouterr().out
    lines = text.splitlines()
    assert "| one masked tag | no runs |" in text
    assert "- no_hungarian lacks seeds 1, 2" in lines and "- none lacks seed 2" in lines
    left_out = {line.partition(": ")[0]: line for line in lines if line.startswith("- ")}
    assert (
        left_out["- unfinished"].endswith("stopped (seed0)")
        and "(no model yet, 7 updates of" in left_out["- unfinished"]
    )
    assert left_out["- captions without a training of their own (a control)"].endswith("vivo-no_tags (seed0)")
    assert "- trainings of 2 commits: abc1234, def5678" in lines
    row = next(line for line in lines if line.startswith("| w/o Hungarian matching | no_hungarian | 1 (0) |"))
    assert "| 75.8 | pretrain.loss.hungarian: true -> false | abc1234 |" in row
    heads = [line for line in lines if line.startswith("|  | row | seeds")]
    assert len(heads) == 4 and len({line.count("|") for line in heads[:3]}) == 1
    of_paper = text[: text.index("## Rows that")]
    assert {line.count("|") for line in of_paper.splitlines() if line.startswith("|")} == {heads[0].count("|")}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda runs: make_run(runs.parent / "more" / "rows" / "vivo" / "seed1", 1, 6, {"optim": {"lr": 5e-4}}),
            r"vivo/seed1 \(seed 1\) are both of row vivo, but pretrain.optim.lr is 0.001 and 0.0005",
        ),
        (
            lambda runs: make_run(runs.parent / "more" / "rows" / "vivo" / "seed2", 2, 6, {}, optim={"lr": 5e-4}),
            r"both of row vivo, but finetune.optim.lr is",
        ),
        (
            lambda runs: make_run(runs.parent / "more" / "rows" / "vivo" / "seed1", 1, 6, {}),
            r"are both of row vivo, with equal settings; leave one of them out",
        ),
        (
            lambda runs: write_predictions(
                make_run(runs.parent / "more" / "a", 0, 6, {}) / "predictions.json",
                [{"image_id": "1", "caption": "a"}], {},
            ),
            r"more/a: 5 of 6 pictures have no prediction",
        ),
        (
            lambda runs: (make_run(runs.parent / "more" / "a", 0, 6, {}) / "finetune" / "config.yaml").write_text(
                yaml.safe_dump(FINETUNE | {"init": "gone/pretrain/model"})
            ) and shutil.rmtree(runs.parent / "more" / "a" / "pretrain"),
            r"started from gone/pretrain/model, but neither",
        ),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(runs)
    assert main([str(runs), str(runs.parent / "more")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give RUNS"),
        (["RUNS", "--wandb", "a/b"], "give RUNS"),
        (["--wandb", "nobody"], "--wandb nobody: must be ENTITY/PROJECT"),
        (["--records", "gone.json"], "gone.json: cannot be read"),
        (["RUNS", "--save-records", "x.json"], "--save-records: goes with --wandb"),
        (["--records", "gone.json", "--classes", "c.json"], "--references and --classes: go with RUNS"),
        (["RUNS", "--base", "main"], "--base main: no such row (there are"),
        (["nowhere"], "nowhere: no such folder"),
        (["RUNS/world"], "no run there"),
        (["RUNS/rows"], "--references: is needed"),
        (["RUNS", "RUNS"], "no run there that is not given already"),
    ],
)
def test_arguments_are_checked(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([a.replace("RUNS", str(runs)) for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_captions_of_other_weights_are_refused(runs: Path) -> None:
    run = runs / "rows" / "vivo" / "seed0"
    (run / "finetune" / "model").mkdir()
    (run / "finetune" / "model" / "model.safetensors").write_bytes(b"weights")
    write_predictions(run / "predictions.json", [{"image_id": "0", "caption": "a"}], {"weights_sha256": "0" * 64})
    with pytest.raises(UserError, match="was written by other weights"):
        read_runs([runs])


def test_rows_of_readmes_layout(tmp_path: Path) -> None:
    """R/eval/predictions.json, and the row is the name of R."""
    run = make_run(tmp_path / "runs" / "table6_one_mask", 3, 6, CHANGES["one_mask"])
    (run / "eval").mkdir()
    (run / "predictions.json").rename(run / "eval" / "predictions.json")
    (found,), left_out = read_runs([tmp_path / "runs"])
    assert (found.row, found.seed, len(found.captions), left_out) == ("table6_one_mask", 3, 6, [])


def test_files_of_one_name_and_other_content_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(name).mkdir()
        Path(name, "tags.json").write_text('["x"]' if name == "c" else "[]")
        make_run(Path("runs") / name, 0, 6, {"data": {"vocabulary": f"{name}/tags.json"}})
    found = {run.row: run.settings["pretrain.data.vocabulary"] for run in read_runs([Path("runs")])[0]}
    assert found["a"] == found["b"] != found["c"] and found["c"].startswith("tags.json [")


# ---- W&B ---------------------------------------------------------------------------------------


def records_of(root: Path, scores: dict[str, list[float]]) -> list[dict]:
    """What W&B would tell of the runs of some rows: one overall CIDEr for each seed."""
    found = []
    for row, values in scores.items():
        for seed, value in enumerate(values):
            run = root / "rows" / row / f"seed{seed}"
            for stage in ("pretrain", "finetune"):
                if (run / stage).is_dir():
                    config = yaml.safe_load((run / stage / "config.yaml").read_text())
                    config["out"] = f"runs/full/rows/{row}/seed{seed}/{stage}"
                    config["init"] = "minilm" if config["init"] == "minilm" else f"{config['out'][:-9]}/pretrain/model"
                    found.append({
                        "id": f"{row}{seed}{stage}", "name": "x", "state": "finished", "config": config,
                        "summary": {"_step": 8, "loss": 0.5},
                    })  # fmt: skip
            found[-1]["summary"]["score/overall/CIDEr"] = value
    return found


def test_the_same_rows_from_the_records_of_wandb(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and t-interval by hand: 10 and 12 have mean 11, deviation sqrt 2, t(1) 12.7062."""
    records = records_of(runs, {"vivo": [10.0, 12.0], "none": [4.0, 5.0], "no_hungarian": [9.0], "pairs": [7.0, 7.0]})
    records.append(records[0] | {"id": "crashed", "state": "crashed"})
    for record in records:  # as the tracker logs them: the same commit, and what is no setting
        record["config"] |= {"environment": {"commit": "abc1234"}, "inputs": {"seen": record["id"]}}
        record["commit"] = ""
    records[1] |= {"commit": "abc1234" + "0" * 33, "config": {**records[1]["config"], "environment": {}}}
    path = runs.parent / "records.json"
    path.write_text(json.dumps(records))
    out = runs.parent / "table.json"
    assert main(["--records", str(path), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["rows"]["vivo"]["scores"]["overall"]["CIDEr"] == pytest.approx(
        [11, 11 - 12.7062, 11 + 12.7062], abs=1e-3
    )
    assert found["rows"]["no_hungarian"]["scores"]["overall"]["CIDEr"] == [9.0, None, None]
    assert found["rows"]["no_hungarian"]["lacks"] == [1] and found["rows"]["vivo"]["commits"] == ["abc1234"]
    assert found["rows"]["vivo"]["last"]["0"]["pretrain"] == {"step": 8, "loss": 0.5}
    placed = {arm: row["rows"] for arms in found["tables"].values() for arm, row in arms.items()}
    of_folders = table(runs)["tables"]
    for arms in of_folders.values():
        for arm, row in arms.items():
            assert placed[arm] == [name for name in row["rows"] if name in found["rows"]]
    assert {"where": "W&B run crashed", "why": "unfinished: crashed"} in found["left_out"]
    assert "Student's t over seeds" in capsys.readouterr().out


def test_records_that_cannot_be_joined(runs: Path) -> None:
    records = records_of(runs, {"vivo": [1.0]})
    lonely = runs_of_records(records[1:])[1]
    assert "is no finished run there" in lonely[0].why
    del records[1]["summary"]["score/overall/CIDEr"]
    assert "no score/" in runs_of_records(records)[1][0].why
    records[1]["summary"]["validation_CIDEr"] = 3
    assert runs_of_records(records)[0][0].table == {"validation": {"CIDEr": 3.0}}
    with pytest.raises(UserError, match="both finished in runs/full/rows/vivo/seed0/finetune"):
        runs_of_records([*records, records[1] | {"id": "again"}])
    with pytest.raises(UserError, match="no fine-tuning run"):
        runs_of_records([])


# ---- real runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_of_the_plan_fill_the_tables(tiny_world: Path, tmp_path: Path) -> None:
    """Two real trainings, captions and scores; and the configurations of all planned rows and files fall into place."""
    bench = world_benchmark(tiny_world, SIZES["tiny"])
    plan = world_plan(True)
    for model in plan.models[:2]:
        stages.train_model(tmp_path, bench, model, 0)
    for row in plan.rows[:2]:
        stages.caption_row(tmp_path, bench, row, 0)
    out = tmp_path / "table.json"
    references = tiny_world / "world" / "nocaps" / "nocaps_val_captions.json"
    arguments = ["--references", str(references), "--classes", str(tiny_world / "world" / "classes.json")]
    assert main([str(tmp_path), *arguments, "--json", str(out), "--resamples", "20"]) == 0
    found = json.loads(out.read_text())
    assert found["rows"].keys() == {"none", "vivo"} and not found["left_out"]
    assert found["rows"]["none"]["differences"] == {"pretrain": ["yes", "none: from minilm"]}
    assert found["rows"]["vivo"]["last"]["0"]["pretrain"]["step"] == SIZES["tiny"].pretrain_steps

    trained, _ = read_runs([tmp_path])
    vivo = next(run for run in trained if run.row == "vivo")
    tuned = asdict(stages.finetune_config(bench, plan.models[1], tmp_path, "x/model", 0))
    rows = [vivo]
    for model in plan.models:
        if model.name not in ("vivo", "none_unfrozen"):
            before = model.pretrain is not None and asdict(stages.pretrain_config(bench, model, tmp_path, 0))
            start = "x/model" if before else "minilm"
            rows.append(replace(vivo, row=model.name, where=model.name,
                                settings=settings_of(before or None, tuned | {"init": start})))  # fmt: skip
    results = make_ablations([replace(r, captions=None, table={"overall": {"CIDEr": 1.0}}) for r in rows], [], "vivo")
    assert all(len(results.of(arm)) == 1 for of_paper in TABLES for arm in of_paper.arms) and not results.others


def test_configuration_files_stand_in_the_table_of_their_name() -> None:
    folder = configs_dir() / "ablations"
    tuned = asdict(load_config(configs_dir() / "finetune" / "world.yaml"))
    rows = []
    for path in sorted(folder.glob("table*.yaml")):
        config = asdict(load_config(path))
        before = None if config["objective"] == "captions" else config
        settings = settings_of(before, tuned | ({"init": "minilm"} if before is None else {}))
        rows.append(Trained(path.stem, 0, path.stem, settings, table={"overall": {"CIDEr": 1.0}}))
    found = make_ablations(rows, [], "table6_hungarian")
    assert not found.others
    for of_paper in TABLES:
        number = of_paper.title[6]
        for arm in of_paper.arms:
            placed = [r.row for r in found.of(arm) if r.row.startswith(f"table{number}")]
            assert len(placed) == 1 or arm.paper is None, (arm.label, placed)
