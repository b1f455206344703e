"""Bottom-up-attention's and the nocaps baseline's features into a RegionStore; the program; a kill in the middle."""

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_files import (
    PICTURES,
    F,
    Trap,
    assert_same,
    bottom_up_tsv,
    converted,
    feature_row,
    images_json,
    label_row,
    nocaps_h5,
    npz_folder,
    oscar_files,
    replaced,
    write_tsv,
)

from vivo.data.foreign.base import PictureList
from vivo.data.foreign.bottom_up import BottomUpNpz, BottomUpTsv
from vivo.data.foreign.nocaps_h5 import NocapsH5
from vivo.data.foreign.oscar_tsv import OscarTsv
from vivo.data.regions import RegionStore
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# --- bottom-up-attention ---------------------------------------------------------------------------------


def test_bottom_up_tsv_round_trip(tmp_path: Path) -> None:
    store = converted(BottomUpTsv(bottom_up_tsv(tmp_path / "x.tsv")), tmp_path / "store", name="butd")
    assert list(store) == list(PICTURES) and store.detector["name"] == "butd"
    for key, expected in PICTURES.items():
        assert_same(store[key], expected, named=False)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (3, "99", r"row 2: \d+ bytes of boxes for 99 regions, expected 99 x 4 x 4 = 1584"),
        (3, "many", r"row 2: num_boxes is 'many', expected a whole number"),
        (4, "AAA", r"row 2: the boxes are not whole base64"),
        (5, "AAAA", r"row 2: 3 bytes of features"),
        (1, "0", r"row 2: image_w is '0'"),
        (1, "10", r"row 2: .*picture '101': a box lies outside the 10 x"),
        (0, "100", r"row 2: .*picture '100': the store holds this picture already"),
    ],
)
def test_bad_bottom_up_rows(tmp_path: Path, column: int, value: str, message: str) -> None:
    file = bottom_up_tsv(tmp_path / "x.tsv")
    replaced(file, 2, lambda row: [*row[:column], value, *row[column + 1 :]], lineidx=False)
    with pytest.raises(UserError, match=message):
        converted(BottomUpTsv(file), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_truncated_bottom_up_tsv(tmp_path: Path) -> None:
    file = bottom_up_tsv(tmp_path / "x.tsv")
    content = file.read_bytes()
    last = content[:-2].rindex(b"\n") + 1
    for end, message in (
        (last + 5, "row 7: 2 columns, expected 6"),
        (len(content) - 20, "row 7: .*base64|bytes of feat"),
    ):
        file.write_bytes(content[:end])
        with pytest.raises(UserError, match=message):
            converted(BottomUpTsv(file), tmp_path / "store")
        assert not (tmp_path / "store").exists()
    file.write_bytes(b"\t".join([b"1"] * 10) + b"\n")
    with pytest.raises(UserError, match="row 1: 10 columns, .*LXMERT"):
        converted(BottomUpTsv(file), tmp_path / "store")


@pytest.mark.parametrize("turned", [False, True])
def test_npz_round_trip_never_unpickles(tmp_path: Path, turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = converted(
        BottomUpNpz(npz_folder(tmp_path / "npz", turned), lambda f: str(int(f.stem[-12:]))), tmp_path / "s"
    )
    assert not (tmp_path / "trapped").exists()
    assert list(store) == list(PICTURES)
    for key, expected in PICTURES.items():
        if expected.features.shape[0] != F:
            assert_same(store[key], expected, named=False)


def test_bad_npz(tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    source = lambda: BottomUpNpz(folder, lambda file: file.stem)  # noqa: E731
    with pytest.raises(UserError, match="npz: no .npz files in it"):
        source()
    good = {
        "x": np.ones((2, F), np.float32),
        "bbox": np.array([[0, 0, 9, 9]] * 2, np.float32),
        "image_h": 10,
        "image_w": 10,
    }
    bad = np.full((2, F), np.inf, np.float32)
    for arrays, message in (
        ({"features": good["x"]}, r"a.npz: no array 'x' \(it has: features\)"),
        (good | {"num_bbox": 3}, r"a.npz: 3 boxes by num_bbox, but bbox has shape \(2, 4\)"),
        ({"x": good["x"], "bbox": good["bbox"]}, "a.npz: no image_w and image_h .* give --images"),
        (good | {"x": bad}, "a.npz: NaN or infinity in the features of region 1"),
        (good | {"x": np.array([["a"] * F] * 2)}, "a.npz: the features are <U1, expected numbers"),
        (good | {"bbox": np.array(5)}, r"a.npz: 1 boxes by num_bbox, but bbox has shape \(1,\)"),
        (good | {"x": np.array([[Trap()] * F] * 2)}, "a.npz: cannot be read .*allow_pickle"),
    ):
        np.savez(folder / "a.npz", **arrays)
        with pytest.raises(UserError, match=message):
            converted(source(), tmp_path / "store")
        assert not (tmp_path / "store").exists()
    np.savez_compressed(folder / "a.npz", **good)
    (folder / "a.npz").write_bytes((folder / "a.npz").read_bytes()[:300])
    with pytest.raises(UserError, match="a.npz: cannot be read .* cut, damaged or not .npz"):
        converted(source(), tmp_path / "store")


# --- the nocaps baseline ---------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_h5_round_trip(tmp_path: Path, padded: bool) -> None:
    store = converted(NocapsH5(nocaps_h5(tmp_path / "x.h5", padded)), tmp_path / "store")
    assert list(store) == list(PICTURES)
    for key, expected in PICTURES.items():
        assert np.array_equal(store[key].scores, expected.scores) and store[key].labels == [""] * len(expected.labels)
        assert np.array_equal(store[key].features, expected.features)
        assert np.array_equal(store[key].boxes, expected.boxes)


@pytest.mark.parametrize("name", ["image_id", "boxes", "features", "width", "height"])
def test_h5_without_a_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"x.h5: no data set '{name}' \(it has: .*num_boxes.*\)"):
        NocapsH5(nocaps_h5(tmp_path / "x.h5", leave_out=name))


def test_h5_sizes_from_images(tmp_path: Path) -> None:
    pictures = PictureList(images_json(tmp_path / "c.json"))
    store = converted(NocapsH5(nocaps_h5(tmp_path / "x.h5", leave_out="width"), pictures), tmp_path / "store")
    assert all((store[key].width, store[key].height) == (r.width, r.height) for key, r in PICTURES.items())


def test_bad_h5(tmp_path: Path) -> None:
    import h5py

    file = nocaps_h5(tmp_path / "x.h5")
    content = file.read_bytes()

    def damaged(change: Callable) -> NocapsH5:
        file.write_bytes(content)
        with h5py.File(file, "r+") as opened:
            change(opened)
        return NocapsH5(file)

    def nan(opened) -> None:
        values = opened["features"][4]
        values[0] = np.nan
        opened["features"][4] = values

    def shorter(opened) -> None:
        opened["features"][4] = opened["features"][4][:-1]

    def unwritten(opened) -> None:
        opened["num_boxes"][4] = 0

    for change, message in (
        (nan, r"x.h5, row 5: NaN or infinity in the features"),
        (shorter, r"x.h5, row 5: \d+ boxes by num_boxes, but \d+ numbers in boxes and \d+ in features"),
        (unwritten, r"x.h5, row 5: the number of boxes is '0'"),
    ):
        with pytest.raises(UserError, match=message):
            converted(damaged(change), tmp_path / "store")
        assert not (tmp_path / "store").exists()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x.h5: cannot be read as HDF5 .*the file is cut"):
        NocapsH5(file)


def test_h5_with_other_kinds_of_data(tmp_path: Path) -> None:
    import h5py

    for name, value, message in (
        ("features", None, "'features' is no data set with a row a picture"),
        ("image_id", 5, "'image_id' is no data set with a row a picture"),
        ("features", np.array([b"a"] * len(PICTURES)), r"row 1: boxes of shape \(\d+,\) and features of shape \(\)"),
        ("scores", np.array([[b"a"] * 9] * len(PICTURES)), "row 1: (the scores are|9 scores for)"),
    ):
        file = nocaps_h5(tmp_path / "x.h5")
        with h5py.File(file, "r+") as opened:
            del opened[name]
            if value is None:
                opened.create_group(name)
            else:
                opened[name] = value
        with pytest.raises(UserError, match=rf"x.h5.*{message}"):
            converted(NocapsH5(file), tmp_path / "store")


def test_h5_with_broken_columns(tmp_path: Path) -> None:
    """A picture id that is no UTF-8, and compressed widths whose bytes were changed."""
    import h5py

    file = nocaps_h5(tmp_path / "x.h5")
    with h5py.File(file, "r+") as opened:
        count = len(opened["image_id"])
        del opened["image_id"]
        opened["image_id"] = np.array([b"a", b"\xff\xfe", *(b"p%d" % n for n in range(count - 2))])
    with pytest.raises(UserError, match=r"x.h5, row 2: not UTF-8 text"):
        list(NocapsH5(file))
    with h5py.File(file, "r+") as opened:
        widths = opened["width"][:]
        del opened["width"]
        opened.create_dataset("width", data=widths, chunks=(count,), compression="gzip")
        chunk = opened["width"].id.get_chunk_info(0)
    with file.open("r+b") as opened:
        opened.seek(chunk.byte_offset)
        opened.write(b"\xff" * chunk.size)
    with pytest.raises(UserError, match=rf"x.h5, rows 1 to {count}: .*width.* cannot be read"):
        list(NocapsH5(file))


def test_files_that_go_away_or_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file deleted before it is read, a path that opens and cannot be read (the memory of this process), a folder."""
    six, oscar = bottom_up_tsv(tmp_path / "six.tsv"), oscar_files(tmp_path)
    for source, file in ((BottomUpTsv(six), six), (OscarTsv(oscar), oscar.with_name("train.feature.tsv"))):
        file.unlink()
        with pytest.raises(UserError, match=f"{file.name}: cannot be read \\(No such file"):
            list(source)
        with pytest.raises(UserError, match=f"{file.name}: (cannot be read|no such file)"):
            type(source)(file)
    with pytest.raises(UserError, match="cannot be read as a folder"):
        BottomUpNpz(tmp_path / "none", str)
    unreadable = tmp_path / "disk.tsv"
    unreadable.symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"disk.tsv, row 1: cannot be read \(Input/output error\)"):
        list(BottomUpTsv(unreadable))
    (tmp_path / "folder.h5").mkdir()
    for arguments in ([str(unreadable)], [str(tmp_path / "folder.h5"), "--format", "nocaps-h5"]):
        assert program().main([arguments[0], str(tmp_path / "s"), *arguments[1:]]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and arguments[0] in error


# --- the program -----------------------------------------------------------------------------------------


def program():
    spec = importlib.util.spec_from_file_location("convert_features", ROOT / "pretrain" / "convert_features.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_program_sees_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oscar_files(tmp_path)
    sources = {
        "yaml": tmp_path / "train.yaml", "tsv": tmp_path / "train.feature.tsv",
        "six": bottom_up_tsv(tmp_path / "six.tsv"), "npz": npz_folder(tmp_path / "npz"),
    }  # fmt: skip
    if importlib.util.find_spec("h5py"):
        sources["h5"] = nocaps_h5(tmp_path / "x.h5")
    main = program().main
    for name, source in sources.items():
        assert main([str(source), str(tmp_path / "stores" / name), "--detector", "one"]) == 0
        assert "7 pictures written" in capsys.readouterr().out
        store = RegionStore(tmp_path / "stores" / name)
        assert list(store) == list(PICTURES) and store.verify() == []
        assert all(np.array_equal(store[key].features, r.features) for key, r in PICTURES.items())
    assert len({RegionStore(tmp_path / "stores" / name).fingerprint for name in sources}) == 1
    for arguments, message in (
        ([str(tmp_path / "none.tsv"), "s"], "none.tsv: no such file or folder"),
        ([str(sources["six"]), "s", "--labels", "none"], "--labels: bottom-up-tsv has no label file"),
        ([str(sources["six"]), "s", "--format", "bottom-up-npz"], "the format bottom-up-npz is a folder"),
        ([str(tmp_path / "train.feature.lineidx"), "s"], "1 columns in row 1; known are 2 or 3"),
        ([str(sources["six"]), str(tmp_path / "stores" / "six"), "--detector", "two"], "must not be mixed"),
        ([str(sources["six"]), str(tmp_path / "s"), "--feature-size", str(F + 6)], f"size {F}, expected {F + 6}; .*"),
    ):  # fmt: skip
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and re.search(message, error), error


DIES_AT = """
import os, signal, sys
from vivo.data.foreign.convert import convert
from vivo.data.foreign.oscar_tsv import OscarTsv

class Dying(OscarTsv):
    def __iter__(self):
        for number, picture in enumerate(super().__iter__()):
            if number == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield picture

print(*convert(Dying(sys.argv[1]), sys.argv[2], shard_pictures=10, progress=False))
"""


def test_killed_conversion_goes_on(tmp_path: Path) -> None:
    """kill -9 in the fourth shard, then the same again: the store equals that of an uninterrupted run."""
    rows = [feature_row(str(i), PICTURES[str(100 + i % 7)]) for i in range(60)]
    features = write_tsv(tmp_path / "feature.tsv", rows)
    write_tsv(tmp_path / "label.tsv", [label_row(str(i), PICTURES[str(100 + i % 7)]) for i in range(60)])

    def run(store: str, dies_at: int) -> tuple[int, list[str]]:
        command = [sys.executable, "-c", DIES_AT, str(features), str(tmp_path / store), str(dies_at)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=300)
        return done.returncode, done.stdout.split()

    assert run("killed", 37) == (-signal.SIGKILL, [])
    with pytest.raises(UserError, match="unfinished"):
        RegionStore(tmp_path / "killed")
    assert run("killed", -1) == (0, ["30", "30"]) and run("whole", -1) == (0, ["60", "0"])
    killed, whole = ({f.name: f.read_bytes() for f in (tmp_path / s).iterdir()} for s in ("killed", "whole"))
    assert killed == whole and RegionStore(tmp_path / "killed").verify() == []
