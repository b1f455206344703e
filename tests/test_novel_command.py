"""docs/photographs.md, command by command, on a few pictures of the embedded world."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vivo.config import load_config

ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[list[str]]:
    """The commands of the page's code block."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "photographs.md").read_text(), re.DOTALL)
    assert block
    return [shlex.split(line) for line in block[1].splitlines()]


def run(command: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.mark.slow
def test_every_command_of_the_page(tiny_world: Path, tmp_path: Path):
    source, pictures = tiny_world / "world" / "coco" / "captions_train.json", tiny_world / "world" / "coco" / "images"
    benchmark, results = tmp_path / "benchmark", tmp_path / "results"
    places = {
        "captions.json": str(source),
        "PHOTOGRAPHS": str(pictures),
        "runs/flickr/results": str(results),
        ".venv/bin/python": sys.executable,
    }
    # few pictures: every minimum at its least, three updates
    more = {
        "prepare_novel_split.py": ["--min-pairs", "1", "--evaluation", "4", "--min-evaluation-each", "1",
                                   "--in-domain", "4"],
        "train_tagger.py": ["--min-pictures", "2", "--folds", "2"],
        "novel": ["--seeds", "1", "--set", "optim.duration=3 steps", "--set", "optim.warmup=1 steps",
                  "--set", "optim.batch_size=8"],
    }  # fmt: skip
    for command in commands():
        words = [places.get(word, word).replace("runs/flickr/benchmark", str(benchmark)) for word in command]
        if "--held-out" in words:  # takes all words behind it
            at = words.index("--held-out")
            words = [*words[:at], *more["prepare_novel_split.py"], "--held-out", "dog", "cat"]
            words[words.index("--validation") + 1] = "3"
        if words[0].endswith("vivo"):
            words = [sys.executable, "-m", "vivo.cli", *words[1:]]
        for program, options in more.items():
            if program != "prepare_novel_split.py" and any(word.endswith(program) for word in words[1:4]):
                words += options
        run(words)
    table = json.loads((results / "results.json").read_text())
    names = [row["name"] for row in table["rows"]]
    assert names[:3] == ["none", "vivo", "none_unfrozen"] and "vivo, other picture" in names
    assert table["tags"] == "file" and 0 <= table["rows"][0]["out"]["F1"] <= 1
    page = (results / "report.html").read_text()
    assert len(page) > 10_000 and "OpenMoji" not in page  # somebody else's pictures
    trained = load_config(results / "rows" / "vivo" / "seed0" / "pretrain" / "config.yaml")
    assert trained.model.vocabulary == str(benchmark / "vocabulary.txt")

    (benchmark / "tagger" / "tags.jsonl").unlink()
    novel = [sys.executable, "-m", "vivo.cli", "novel", str(benchmark), "--out", str(tmp_path / "again"),
             "--pictures", str(pictures)]  # fmt: skip
    refused = run(novel, status=2).stderr
    assert "tagger/tags.jsonl: is missing; make it by pretrain/train_tagger.py" in refused and refused.count("\n") == 1
