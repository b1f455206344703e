"""Merging and cutting stores: bit for bit, whole or not at all, and nothing that does not belong together."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivo.cli import main
from vivo.data.region_tools import merge_stores, read_id_list, require_space, subset_store
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.types import Regions
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = {"name": "toy", "weights": "00ff"}


def picture(image_id: str) -> Regions:
    """Regions that only this id has."""
    rng = np.random.default_rng(list(image_id.encode()))
    count = int(rng.integers(1, 4))
    corner = rng.uniform(0, 90, (count, 2)).astype(np.float32)
    return Regions(
        boxes=np.concatenate([corner, corner + 10], axis=1),
        features=rng.standard_normal((count, 4)).astype(np.float16),
        labels=[f"{image_id} {i}" for i in range(count)],
        scores=rng.uniform(0, 1, count).astype(np.float32),
        width=100,
        height=100,
    )


def make(path: Path, ids: list[str], detector: dict = DETECTOR, shard_pictures: int = 3) -> Path:
    with RegionStoreWriter(path, detector, 4, shard_pictures) as writer:
        for image_id in ids:
            writer.write(image_id, picture(image_id))
    return path


def assert_holds(path: Path, ids: list[str]) -> None:
    """The store is clean and holds exactly `picture` of these ids, in this order, bit for bit."""
    store = RegionStore(path)
    assert store.verify() == [] and list(store) == ids and store.detector == DETECTOR
    for image_id in ids:
        found, expected = store[image_id], picture(image_id)
        assert found.features.tobytes() == expected.features.tobytes()
        assert found.boxes.tobytes() == expected.boxes.tobytes()
        assert found.scores.tobytes() == expected.scores.tobytes()
        assert (found.labels, found.width, found.height) == (expected.labels, 100, 100)


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=8), min_size=2, max_size=4))
def test_merge_is_the_union_in_order(groups: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores = [make(Path(folder) / str(i), [f"p{n}" for n in group]) for i, group in enumerate(groups)]
        union = list(dict.fromkeys(f"p{n}" for group in groups for n in group))
        twice = sum(map(len, groups)) - len(union)
        out = Path(folder) / "out"
        if twice:
            with pytest.raises(UserError, match=r"holds \d+ pictures that .* holds too"):
                merge_stores(stores, out, progress=False)
            assert not out.exists()
        assert merge_stores(stores, out, "first" if twice else "refuse", progress=False) == (len(union), len(union))
        assert_holds(out, union)


def test_first_store_wins(tmp_path: Path) -> None:
    """The same id with other numbers: the first store's stay."""
    make(tmp_path / "a", ["x", "y"])
    with RegionStoreWriter(tmp_path / "b", DETECTOR, 4) as writer:
        writer.write("y", picture("other"))
        writer.write("z", picture("z"))
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "first", progress=False)
    assert_holds(tmp_path / "out", ["x", "y", "z"])


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    a, other = make(tmp_path / "a", ["x"]), make(tmp_path / "b", ["y"], {"name": "other"})
    with pytest.raises(UserError, match=r"b: features of size 4 from detector \w+ \(other\), but .*a holds .* \(toy\)"):
        merge_stores([a, other], tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="1 store to merge"):
        merge_stores([a], tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="a: is one of the stores that are read"):
        merge_stores([a, make(tmp_path / "c", ["z"])], a, progress=False)
    make(tmp_path / "out", ["foreign"])
    with pytest.raises(UserError, match=r"out: holds other pictures already \(as 'foreign'\)"):
        merge_stores([a, tmp_path / "c"], tmp_path / "out", progress=False)
    assert_holds(tmp_path / "out", ["foreign"])
    assert_holds(a, ["x"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 11), unique=True, min_size=1))
def test_subset_follows_the_list(wanted: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "all", [f"p{n}" for n in range(12)])
        ids = [f"p{n}" for n in wanted]
        assert subset_store(Path(folder) / "all", Path(folder) / "out", ids, progress=False) == (len(ids), len(ids))
        assert_holds(Path(folder) / "out", ids)


def test_missing_pictures(tmp_path: Path) -> None:
    store = make(tmp_path / "all", ["p0", "p1"])
    with pytest.raises(UserError, match=r"all: lacks 2 of the 3 pictures: 'q', 'r'; .*ids look like \['p0', 'p1'\]"):
        subset_store(store, tmp_path / "out", ["q", "p1", "r"], progress=False)
    assert not (tmp_path / "out").exists()
    assert subset_store(store, tmp_path / "out", ["q", "p1", "r"], "skip", progress=False) == (1, 1)
    assert_holds(tmp_path / "out", ["p1"])
    with pytest.raises(UserError, match="holds none of the 1 pictures"):
        subset_store(store, tmp_path / "none", ["q"], "skip", progress=False)


def test_damage_is_not_copied(tmp_path: Path) -> None:
    """A flipped byte in a shard stops the copy of that shard's pictures, and only of those."""
    store = make(tmp_path / "all", [f"p{n}" for n in range(6)])
    shard = store / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    place = content.index(picture("p4").features.tobytes())
    content[place] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"all: shard-00001.arrow: SHA-256 differs .*vivo features verify"):
        subset_store(store, tmp_path / "out", ["p4"], progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"shard-00001.arrow: SHA-256 differs"):
        merge_stores([store, make(tmp_path / "b", ["x"])], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    subset_store(store, tmp_path / "out", ["p1"], progress=False)
    assert_holds(tmp_path / "out", ["p1"])


KILLED_AT = """
import os, signal, sys
from vivo.data import region_tools
from vivo.data.regions import RegionStore, RegionStoreWriter

class Writer(RegionStoreWriter):
    left = int(sys.argv[2])
    def __init__(self, path, detector, size):
        super().__init__(path, detector, size, shard_pictures=4)
    def write(self, *arguments):
        Writer.left -= 1
        if Writer.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(*arguments)

region_tools.RegionStoreWriter = Writer
print(*region_tools.merge_stores(sys.argv[3:], sys.argv[1], progress=False))
"""


def test_killed_merge_goes_on(tmp_path: Path) -> None:
    stores = [str(make(tmp_path / name, [f"{name}{n}" for n in range(7)])) for name in "ab"]

    def run(out: str, killed_at: int) -> tuple[int, list[str]]:
        command = [sys.executable, "-c", KILLED_AT, str(tmp_path / out), str(killed_at), *stores]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=300)
        return done.returncode, done.stdout.split()

    assert run("killed", 10) == (-signal.SIGKILL, [])
    with pytest.raises(UserError, match="unfinished"):
        RegionStore(tmp_path / "killed")
    assert run("killed", 0) == (0, ["14", "6"]) and run("whole", 0) == (0, ["14", "14"])
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert_holds(tmp_path / "killed", [f"{name}{n}" for name in "ab" for n in range(7)])
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "whole").iterdir()}
    assert run("whole", 0) == (0, ["14", "0"])  # a third run finds all done and changes nothing
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "whole").iterdir()} == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the process's file descriptors")
def test_open_shards_hold_no_descriptor(tmp_path: Path) -> None:
    """A store of 1.7 million pictures has more shards than a process may have open files."""
    ids = [f"p{n}" for n in range(40)]
    store = RegionStore(make(tmp_path / "all", ids, shard_pictures=1))
    before = len(os.listdir("/proc/self/fd"))
    kept = [store[image_id] for image_id in ids]
    assert store._shard.cache_info().currsize == 40 and len(os.listdir("/proc/self/fd")) == before
    assert all(np.array_equal(found.features, picture(i).features) for found, i in zip(kept, ids, strict=True))


def test_id_lists(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("a\n\n 12 \r\nb c\n")
    assert read_id_list(file) == ["a", "12", "b c"]
    file.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="ids.txt, line 3: 'a' stands in line 1 already"):
        read_id_list(file)
    file.write_text("\n")
    with pytest.raises(UserError, match="ids.txt: no ids in it"):
        read_id_list(file)
    with pytest.raises(UserError, match="none.txt: the list of ids cannot be read"):
        read_id_list(tmp_path / "none.txt")


def test_disk_that_is_too_small(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    require_space(tmp_path / "not" / "yet" / "there", free // 2)
    with pytest.raises(UserError, match=r"there: needs about \S+ [kMGTPE]?B, the disk has \S+ [kMGTPE]?B free"):
        require_space(tmp_path / "not" / "yet" / "there", free * 2 + 10**12)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, ids = make(tmp_path / "a", ["x", "y"]), make(tmp_path / "b", ["y", "z"]), tmp_path / "ids.txt"
    assert main(["features", "merge", str(a), str(b), "--out", str(tmp_path / "ab")]) == 2
    assert "holds 1 pictures that" in capsys.readouterr().err and not (tmp_path / "ab").exists()
    assert main(["features", "merge", str(a), str(b), "--out", str(tmp_path / "ab"), "--duplicates", "first"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ab'}: 3 pictures, 3 of them copied now\n"
    ids.write_text("z\nnowhere\nx\n")
    subset = ["features", "subset", str(tmp_path / "ab"), "--ids", str(ids), "--out", str(tmp_path / "cut")]
    assert main(subset) == 2
    assert "lacks 1 of the 3 pictures: 'nowhere'" in capsys.readouterr().err
    assert main([*subset, "--missing", "skip"]) == 0
    assert capsys.readouterr().out.endswith(f"2 of them copied now, 1 are not in {tmp_path / 'ab'}\n")
    assert_holds(tmp_path / "cut", ["z", "x"])
    assert main(["features", "verify", str(tmp_path / "cut")]) == 0
    assert main(["features", "inspect", str(tmp_path / "cut")]) == 0
    output = capsys.readouterr().out
    assert "pictures      2" in output and json.loads((tmp_path / "cut" / "manifest.json").read_text())["pictures"] == 2
