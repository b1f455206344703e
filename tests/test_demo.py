"""`vivo demo --size tiny` as a newcomer runs it, README's commands, and what bad input gets."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from vivo.calibration import FACTS, fit

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path = ROOT, status: int | None = 0) -> subprocess.CompletedProcess:
    """A real command; `status` None takes any."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert status is None or done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def vivo(*arguments: str, status: int = 0) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", "vivo.cli", *arguments, status=status)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = vivo("demo", "--out", str(out), "--size", "tiny")
    assert "OpenMoji nocaps" in done.stdout
    return out


@pytest.mark.slow
def test_results_have_the_documented_shape(demo: Path):
    results = json.loads((demo / "results.json").read_text())
    assert [(r["name"], r["seed"]) for r in results["rows"]] == [("none", 0), ("vivo", 0)]
    for row in results["rows"]:
        for part in ("in", "near", "out", "overall"):
            assert row[part]["CIDEr"] >= 0
        assert 0 <= row["out"]["F1"] <= 1 and 0 <= row["out"]["F1_unknown"] <= 1
        assert row["seconds"] > 0
    assert {c["claim"] for c in results["claims"]} and results["environment"]["torch"]


@pytest.mark.slow
def test_the_two_rows_differ_in_nothing_but_the_starting_checkpoint(demo: Path):
    from vivo.config import load_config

    configs = [load_config(demo / "rows" / row / "seed0" / "finetune" / "config.yaml") for row in ("none", "vivo")]
    for config in configs:
        config.out = ""
    assert configs[0].init == "minilm" and configs[1].init.endswith("pretrain/model")
    configs[0].init = configs[1].init = ""
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_a_second_call_does_nothing_again_and_a_lost_stage_is_made_again(demo: Path):
    weights = demo / "rows" / "vivo" / "seed0" / "pretrain" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    old = json.loads((demo / "results.json").read_text())["rows"]
    shutil.rmtree(demo / "rows" / "vivo" / "seed0" / "finetune")
    (demo / "rows" / "vivo" / "seed0" / "predictions.json").unlink()
    vivo("demo", "--out", str(demo), "--size", "tiny")
    assert weights.stat().st_mtime_ns == before
    new = json.loads((demo / "results.json").read_text())["rows"]
    for a, b in zip(old, new, strict=True):
        assert a["overall"] == pytest.approx(b["overall"], rel=1e-3, abs=1e-3)
    vivo("demo", "--out", str(demo), "--size", "demo", status=2)  # another size in the same folder


@pytest.mark.slow
def test_every_row_side_by_side(demo: Path, tmp_path: Path):
    """What `--size full` runs, tiny: the ablations' trainings, and every model's controls."""
    out = shutil.copytree(demo, tmp_path / "all")
    vivo("demo", "--out", str(out), "--size", "tiny", "--ablations", "--jobs", "2")
    results = json.loads((out / "results.json").read_text())
    models = ["none", "vivo", "none_unfrozen", "pairs", "pairs_and_tags", "one_mask", "no_hungarian", "vocab_boxed"]
    controls = [f"{model}, {control}" for model in models for control in ("no tags", "other picture")]
    recurrent = ["Show and Tell", "Show and Tell, frozen encoder"]
    assert [r["name"] for r in results["rows"]] == [*models[:2], *recurrent, *models[2:], "copy", *controls]
    assert len(results["claims"]) == 7 and results["jobs"] == "2" and results["stage_seconds"]["wall"] > 0
    tables = json.loads((out / "ablations.json").read_text())
    assert list(tables["rows"]) == sorted(models) and all(row["seeds"] == [0] for row in tables["rows"].values())
    arms = [arm["rows"] for table in tables["tables"].values() for arm in table.values()]
    assert arms == [["none"], ["pairs"], ["pairs_and_tags"], ["vivo"], ["none"], ["vocab_boxed"], ["vivo"],
                    ["one_mask"], ["no_hungarian"], ["vivo"]]  # fmt: skip
    # the same numbers as in the demo's own table, and the same tables from the folder alone
    for name, row in tables["rows"].items():
        assert row["scores"]["overall"]["CIDEr"] == results["summary"][name]["overall"]["CIDEr"]
    again = tmp_path / "again.md"
    run(sys.executable, "eval/ablation_table.py", str(out), "--out", str(again))
    assert again.read_text() == (out / "ablations.md").read_text()
    for folder in (out / "rows").glob("*/seed0/*/model"):
        notice = (folder / "ATTRIBUTION.txt").read_text()
        assert "OpenMoji" in notice and "Apache" in notice


@pytest.mark.slow
def test_own_picture_by_command_and_by_code(demo: Path, tmp_path: Path):
    picture = next((demo / "world" / "nocaps" / "images").glob("*.jpg"))
    printed = vivo("caption", str(picture), "--checkpoint", str(demo / "vivo")).stdout
    assert re.search(r"score -?\d+\.\d+   tags: ", printed)
    as_json = json.loads(vivo("caption", str(picture), "--checkpoint", str(demo / "vivo"), "--json").stdout)
    from vivo.captioner import Captioner

    captions = Captioner.from_pretrained(demo / "vivo")(picture)
    assert [c.text for c in captions] == [entry["caption"] for entry in as_json]
    assert (demo / "vivo" / "ATTRIBUTION.txt").read_text().strip()


@pytest.mark.slow
def test_bad_input_is_one_clear_line(demo: Path, tmp_path: Path):
    checkpoint = str(demo / "vivo")
    picture = next((demo / "world" / "nocaps" / "images").glob("*.jpg"))
    broken = tmp_path / "half.jpg"
    broken.write_bytes(picture.read_bytes()[:2000])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    stores = demo / "regions"
    train = [sys.executable, "finetune/train.py", "configs/finetune/world.yaml", f"out={tmp_path / 'run'}"]
    cases = {
        "missing.png": vivo("caption", "missing.png", "--checkpoint", checkpoint, status=2),
        "half.jpg": vivo("caption", str(broken), "--checkpoint", checkpoint, status=2),
        "empty.jsonl": run(
            *train, "init=minilm", f"data.regions={stores / 'coco'}", f"data.examples={empty}", status=2
        ),
        "optim.lr": run(*train, "optim.lrr=1e-4", status=2),
        "objective": run(sys.executable, "pretrain/train.py", "configs/finetune/world.yaml", status=2),
        "learned to caption": run(
            sys.executable, "eval/predict.py", "configs/eval/world.yaml", f"out={tmp_path / 'eval'}",
            f"checkpoint={demo / 'rows/vivo/seed0/pretrain/model'}", f"regions={stores / 'nocaps'}",
            f"references={demo / 'world/nocaps/nocaps_val_captions.json'}", status=2,
        ),
    }  # fmt: skip
    for expected, done in cases.items():
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0], (expected, done.stderr)
    assert not (tmp_path / "eval").exists() and not (tmp_path / "run" / "model").exists()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.slow
def test_every_readme_command_runs(demo: Path, tmp_path: Path):
    """`make demo` at its tiny size (the fixture); the others on what it left, in a copy of the folder layout."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(demo)
    for name in ("pretrain", "finetune", "eval", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    picture = next((demo / "world" / "nocaps" / "images").glob("*.jpg"))
    shutil.copy(picture, tmp_path / "picture.png")
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert commands[0] == "make demo"
    assert "vivo demo --out runs/demo" in run("make", "--dry-run", "demo").stdout
    tiny = {"train.py": " optim.duration=2steps optim.warmup=1step optim.batch_size=4"}
    assert "make serve" in commands  # it runs until it is stopped: the next test
    for command in commands[1:]:
        if command == "make serve":
            continue
        command = command.replace(".venv/bin/python", sys.executable).replace(
            ".venv/bin/vivo", f"{sys.executable} -m vivo.cli"
        )
        for program, extra in tiny.items():
            command += extra if program in command else ""
        run("bash", "-c", command, cwd=tmp_path)
    assert json.loads((tmp_path / "runs/world/eval/scores.json").read_text())["overall"]
    for code in blocks("python"):
        run(sys.executable, "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_make_serve(demo: Path, tmp_path: Path):
    """It calibrates once and serves; calibrating itself is tests/test_calibration.py's, so here it is done already."""
    captioner, ready = tmp_path / "captioner", f"{sys.prefix}/setup.done"
    shutil.copytree(demo / "vivo", captioner)
    make = ["make", "-o", ready, f"VENV={sys.prefix}", f"CAPTIONER={captioner}", f"CALIBRATION={tmp_path / 'world'}"]
    lines = run(*make, "--dry-run", "serve").stdout
    assert f"eval/calibrate.py --checkpoint {captioner} --captions {tmp_path}/world/nocaps/nocaps_val" in lines
    random = np.random.default_rng(0)
    fit(random.normal(size=(60, len(FACTS))), random.random(60) < 0.5).save(captioner)
    process = subprocess.Popen(
        [*make, "serve", "SERVE=--no-key --port 0"], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        address = next((line for line in process.stdout if line.startswith("vivo serve: http://")), "nothing").split()[
            -1
        ]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/api/service") as answer:
            assert json.load(answer)["model"]["calibrated"] is True
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    missing = run(*make[:-2], f"CAPTIONER={tmp_path / 'none'}", "serve", status=2)
    assert f"error: {tmp_path / 'none'} is not there: make demo first" in missing.stderr
