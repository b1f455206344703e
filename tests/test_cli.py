"""The `vivo` command as a shell runs it: output, exit status, one-line errors."""

import json
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vivo.cli import main
from vivo.config import configs_dir
from vivo.data.types import Regions


def vivo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "vivo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(*arguments: str | Path) -> str:
    """The one line with which the command refuses `arguments`."""
    done = vivo(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def test_help_is_there_at_once() -> None:
    seconds = []
    for _ in range(3):  # the best of three: this machine may be busy
        start = time.perf_counter()
        done = vivo("--help")
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    for verb in ("demo", "world", "caption", "features", "config"):
        assert f"    {verb} " in done.stdout
    assert min(seconds) < 1.0
    code = "import sys, vivo.cli; print(sorted({'torch', 'numpy', 'omegaconf', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["caption"], ["demo"], ["features"], ["demo", "--out", "x", "--seeds", "0"]]
)
def test_wrong_usage_says_so(arguments: list[str]) -> None:
    done = vivo(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("usage: vivo")


def test_config_prints_every_field() -> None:
    done = vivo("config", configs_dir() / "ablations" / "table6_one_mask.yaml", "optim.lr=0.00017")
    assert done.returncode == 0, done.stderr
    for line in ("init: minilm", "  at_most: 1", "  lr: 0.00017", "  vocabulary: ''", "  wandb: disabled"):
        assert f"\n{line}\n" in done.stdout
    done = vivo("config", "--eval", configs_dir() / "eval" / "world.yaml", "decode.beam=3")
    assert done.returncode == 0 and "  beam: 3\n" in done.stdout


def test_config_errors_are_one_line() -> None:
    world = configs_dir() / "world.yaml"
    assert refused("config", world, "optim.lrr=1") == (
        "error: command line: unknown key optim.lrr; the nearest valid key is optim.lr"
    )
    assert refused("config", "nowhere.yaml") == "error: nowhere.yaml: no such configuration file"


def test_demo_refuses_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused("demo", "--out", tmp_path / "file" / "demo", "--size", "tiny")
    assert line == f"error: cannot write into {tmp_path}/file/demo: Not a directory; choose another place"


def test_caption_refuses_what_is_not_there(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    assert refused("caption", picture, "--checkpoint", tmp_path) == f"error: {picture}: no such picture"
    picture.touch()
    line = refused("caption", picture, "--checkpoint", tmp_path / "model")
    assert line == f"error: {tmp_path}/model: no such folder"


@dataclass
class Caption:
    text: str
    score: float
    tags: list[str] = field(default_factory=list)
    trace: None = None
    pieces: list[str] = field(default_factory=lambda: ["a", "red", "car", "[SEP]"])
    token_log_probabilities: list[float] = field(default_factory=lambda: [-1.0, -2.0, -2.5, -0.5])


def test_caption_prints_caption_score_and_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printing alone, with a captioner that is none; tests of the demo run the whole command."""

    class Captioner:
        @classmethod
        def from_pretrained(cls, folder: Path) -> "Captioner":
            assert folder == tmp_path
            return cls()

        def caption_files(self, paths: list[Path], beam: int, constraints: None) -> Iterator[types.SimpleNamespace]:
            assert beam == 4
            for path in paths:
                one = Caption("a red car", np.float32(-1.5), ["car", "red"] if path.name == "a.png" else [])
                broken = path.name == "c.png"
                yield types.SimpleNamespace(
                    path=path, captions=[] if broken else [one], problem=f"{path} is broken" if broken else ""
                )

    module = types.ModuleType("vivo.captioner")
    module.Captioner = Captioner
    monkeypatch.setitem(sys.modules, "vivo.captioner", module)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture in pictures:
        picture.touch()
    arguments = ["caption", *map(str, pictures), "--checkpoint", str(tmp_path), "--beam", "4"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == (
        f"{pictures[0]}: a red car\n    score -1.500   tags: car, red\n"
        f"{pictures[1]}: a red car\n    score -1.500   tags: (none)\n"
    )
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {
        "picture": str(pictures[0]),
        "caption": "a red car",
        "score": -1.5,
        "tags": ["car", "red"],
        "log_probability": -6.0,
        "pieces": ["a", "red", "car", "[SEP]"],
        "token_log_probabilities": [-1.0, -2.0, -2.5, -0.5],
    }
    (tmp_path / "c.png").touch()  # a folder, one of whose pictures is broken: the others come, and the status tells
    assert main(["caption", str(tmp_path), "--checkpoint", str(tmp_path), "--beam", "4"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("a red car") == 2 and printed.err == f"left out: {tmp_path / 'c.png'} is broken\n"
    assert main(["caption", str(tmp_path / "c.png"), "--checkpoint", str(tmp_path), "--beam", "4"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'c.png'} is broken\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A region store of three pictures with 1, 2 and 3 regions."""
    from vivo.data.regions import RegionStoreWriter

    path = tmp_path / "store"
    with RegionStoreWriter(path, {"name": "toy", "threshold": 0.5}, feature_size=4) as writer:
        for count in (1, 2, 3):
            boxes = np.tile(np.array([0, 0, 8, 8], np.float32), (count, 1))
            features = np.full((count, 4), count, np.float16)
            writer.write(f"p{count}", Regions(boxes, features, ["dog"] * count, np.ones(count, np.float32), 8, 8))
    return path


def test_world_of_any_size_with_combinations_held_out(tmp_path: Path) -> None:
    pair = ("a photo", "dog")
    assert refused("world", "--out", tmp_path / "w", "--hold-out", ",".join(pair)).startswith(
        "error: held-out combination ('a photo', 'dog'): 'a photo' is no colour of the world"
    )
    assert not (tmp_path / "w").exists()
    sizes = ("--open-images", 2, "--coco", 3, "--coco-val", 1, "--nocaps", 4)
    done = vivo("world", "--out", tmp_path / "w", *sizes, "--hold-out", "red,dog", "--hold-out", "dog,left of,cat")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "w" / "world.json").read_text())
    assert written["held_out_pairs"] == [["red", "dog"], ["dog", "left of", "cat"]]
    pictures = {name: len(list((tmp_path / "w" / name / "images").iterdir())) for name in ("coco", "nocaps")}
    assert pictures == {"coco": 4, "nocaps": 4}


def test_features_inspect(store: Path) -> None:
    done = vivo("features", "inspect", store)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["pictures      3", "regions       6 (2.0 a picture)", "feature size  4"]
    assert lines[4:] == ["detector", "    name: toy", "    threshold: 0.5"]


def test_features_verify(store: Path, tmp_path: Path) -> None:
    done = vivo("features", "verify", store)
    assert (done.returncode, done.stdout) == (0, f"{store}: 3 pictures, no problem found\n"), done.stderr
    shard = next(store.glob("shard-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = vivo("features", "verify", store)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{store}: {shard.name}: SHA-256 differs" in done.stderr
    assert refused("features", "inspect", tmp_path).startswith(f"error: {tmp_path}: not a region store")
