"""RegionStore: bit-exact round trips, kills at every step, damage found, foreign features refused."""

import os
import pickle
import re
import signal
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vivo.data import region_writer, regions
from vivo.data.regions import MissingPicture, RegionStore, RegionStoreWriter, check_features, fingerprint_of
from vivo.data.types import Regions
from vivo.errors import UserError

DETECTOR = {"name": "toy", "weights": "00ff", "threshold": 0.25}


def picture(seed: int, count: int = 3, size: int = 4) -> Regions:
    """Random but valid regions in a 640 x 480 picture."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 480, (count, 2, 2)).astype(np.float32), axis=1)
    return Regions(
        boxes=corners.reshape(count, 4),
        features=rng.standard_normal((count, size)).astype(np.float16),
        labels=["", "dog", "traffic light"][:count] + ["x"] * (count - 3),
        scores=np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        width=640,
        height=480,
    )


def write(path: Path, ids: list[str], shard_pictures: int = 4) -> None:
    """A store of `picture(i)` for each id; ids that are there already are skipped."""
    with RegionStoreWriter(path, DETECTOR, 4, shard_pictures) as writer:
        done = writer.done_ids()
        for seed, image_id in enumerate(ids):
            if image_id not in done:
                writer.write(image_id, picture(seed))


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def same(a: Regions, b: Regions) -> bool:
    arrays = ((a.boxes, b.boxes), (a.features, b.features), (a.scores, b.scores))
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in arrays) and (
        (a.labels, a.width, a.height) == (b.labels, b.width, b.height)
    )


@pytest.fixture
def store(tmp_path: Path) -> RegionStore:
    write(tmp_path / "store", [f"id{i}" for i in range(10)])
    return RegionStore(tmp_path / "store")


def test_layout_and_counts(store: RegionStore) -> None:
    assert sorted(files_of(store.path)) == [
        "index.arrow", "manifest.json", "shard-00000.arrow", "shard-00001.arrow", "shard-00002.arrow",
    ]  # fmt: skip
    assert len(store) == 10 and list(store) == list(store.image_ids) == [f"id{i}" for i in range(10)]
    assert store.image_ids[-1] == "id9" and store.image_ids[2:4] == ["id2", "id3"]
    assert "id3" in store and "id10" not in store and 3 not in store
    assert [shard["pictures"] for shard in store.manifest["shards"]] == [4, 4, 2]
    assert store.manifest["regions"] == 30 and store.manifest["dtype"] == "float16" and store.feature_size == 4
    assert store.detector == DETECTOR and store.fingerprint == fingerprint_of(DETECTOR)
    assert all(same(store[f"id{i}"], picture(i)) for i in range(10))
    assert store.verify() == []


def test_fingerprint_depends_on_content_not_on_order() -> None:
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1}) != fingerprint_of({"a": 1})
    assert re.fullmatch("[0-9a-f]{16}", fingerprint_of(DETECTOR))


finite16 = st.floats(width=16, allow_nan=False, allow_infinity=False)
pictures_strategy = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.dictionaries(
            st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable() or "\n" in text),
            st.integers(1, 7).flatmap(
                lambda count: st.tuples(
                    hnp.arrays(np.float16, (count, size), elements=finite16),
                    st.lists(st.text(max_size=5), min_size=count, max_size=count),
                    hnp.arrays(np.float32, (count,), elements=st.floats(0, 1, width=32)),
                    hnp.arrays(np.float32, (count, 2), elements=st.floats(0, 100, width=32)),
                )
            ),
            max_size=9,
        ),
        st.integers(1, 4),
    )
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(pictures_strategy)
def test_round_trip_is_bit_exact(drawn: tuple) -> None:
    size, pictures, shard_pictures = drawn
    with tempfile.TemporaryDirectory() as folder:
        written = {}
        with RegionStoreWriter(folder, DETECTOR, size, shard_pictures) as writer:
            for image_id, (features, labels, scores, corner) in pictures.items():
                boxes = np.concatenate([corner, corner + 7], axis=1)
                written[image_id] = Regions(boxes, features, labels, scores, 107, 200)
                writer.write(image_id, written[image_id])
        store = RegionStore(folder)
        assert list(store) == list(written) and store.verify() == []
        assert all(same(store[image_id], expected) for image_id, expected in written.items())


def test_equal_hashes_are_told_apart_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (regions, region_writer):
        monkeypatch.setattr(module, "hash_of", lambda image_id: 2**64 - 1 - int(image_id[-1]) % 2)
    write(tmp_path, [f"id{i}" for i in range(9)])
    store = RegionStore(tmp_path)
    assert all(same(store[f"id{i}"], picture(i)) for i in range(9)) and store.verify() == []
    assert "other1" not in store and "other2" not in store


def mapped_range(file: Path) -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if line.endswith(str(file))]
    return [(int(low, 16), int(high, 16)) for low, high in ranges]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the process's memory map")
def test_index_and_regions_are_views_into_mapped_files(store: RegionStore) -> None:
    """Opening loads nothing that grows with the number of pictures: ids, hashes, positions lie in the file."""
    ids, hashes, positions, starts = store._index
    addresses = [
        hashes.ctypes.data,
        positions.ctypes.data,
        ids._ids.buffers()[1].address,
        ids._ids.buffers()[2].address,
    ]
    in_index = mapped_range(store.path / "index.arrow")
    assert all(any(low <= address < high for low, high in in_index) for address in addresses)
    assert hashes.dtype == np.uint64 and len(hashes) == len(store) and len(starts) == 1 + len(store.manifest["shards"])
    found = store["id5"]
    in_shard = mapped_range(store.path / "shard-00001.arrow")
    for array in (found.features, found.boxes, found.scores):
        assert any(low <= array.ctypes.data < high for low, high in in_shard) and not array.flags.writeable


def test_pickle_is_small_and_reopens(store: RegionStore) -> None:
    data = pickle.dumps(store)
    assert len(data) < 300
    assert same(pickle.loads(data)["id7"], picture(7))


def test_open_files_are_bounded_and_views_outlive_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "_OPEN_SHARDS", 2)
    write(tmp_path, [f"id{i}" for i in range(12)], shard_pictures=1)
    store = RegionStore(tmp_path)
    found = [store[f"id{i}"] for i in range(12)]
    assert store._shard.cache_info().currsize == 2
    assert all(same(kept, picture(i)) for i, kept in enumerate(found))


def test_features_of_a_sample_of_pictures(store: RegionStore) -> None:
    kept = [store[f"id{i}"].features for i in (1, 5, 9)]  # every fourth of these nine
    assert np.array_equal(store.sample_features([f"id{i}" for i in range(1, 10)], 2), np.concatenate(kept))
    assert len(store.sample_features(store.image_ids)) == 30


def test_missing_picture_is_a_key_error_that_reads_well(store: RegionStore) -> None:
    with pytest.raises(KeyError) as caught:
        store["nowhere"]
    assert isinstance(caught.value, UserError) and isinstance(caught.value, MissingPicture)
    assert "no regions of picture 'nowhere'" in str(caught.value) and "['id0', 'id1', 'id2']" in str(caught.value)


# --- kills -----------------------------------------------------------------------------------------------


def killed_at(step: int, path: Path, ids: list[str]) -> bool:
    """Write a store in a child process that is killed (SIGKILL) before its step-th change of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside Arrow's idle threads: the child uses none
        child = os.fork()
    if child == 0:
        try:
            left = step

            def counting(function):
                def call(*arguments, **named):
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*arguments, **named)

                return call

            os.replace, os.fsync, Path.unlink = counting(os.replace), counting(os.fsync), counting(Path.unlink)
            region_writer.ShardFile.write = counting(region_writer.ShardFile.write)
            write(path, ids)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("appended", [0, 5], ids=["new", "appended"])
def test_killed_at_any_step_and_resumed_equals_uninterrupted(tmp_path: Path, appended: int) -> None:
    """Also when a finished store is appended to: a reader then finds the old one, the new one, or a refusal."""
    ids = [f"id{i}" for i in range(10)]
    before = ids[: len(ids) - appended] if appended else []

    def begin(path: Path) -> Path:
        if before:
            write(path, before)
        return path

    expected = begin(tmp_path / "whole")
    write(expected, ids)
    assert RegionStore(expected).verify() == [] and len(RegionStore(expected)) == 10
    step = 0
    while True:
        step += 1
        path = begin(tmp_path / f"killed{step}")
        killed = killed_at(step, path, ids)
        try:
            assert list(RegionStore(path)) in (before, ids)
        except UserError as error:
            assert killed and re.search("unfinished" if before else "unfinished|not a region store", str(error))
        write(path, ids)
        assert files_of(path) == files_of(expected), f"killed at step {step}"
        if not killed:
            break
    assert step > 15


def test_exception_keeps_finished_shards_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RegionStoreWriter(tmp_path, DETECTOR, 4, 4) as writer:
        for i in range(6):
            writer.write(f"id{i}", picture(i))
        assert len(writer.done_ids()) == 6
        raise RuntimeError("detector failed")
    assert sorted(files_of(tmp_path)) == ["progress.jsonl", "shard-00000.arrow"]
    with pytest.raises(UserError, match="unfinished; run the extraction again"):
        RegionStore(tmp_path)
    with RegionStoreWriter(tmp_path, DETECTOR, 4, 4) as writer:
        assert writer.done_ids() == {"id0", "id1", "id2", "id3"}


def test_shard_that_is_not_whole_is_written_again(tmp_path: Path) -> None:
    ids = [f"id{i}" for i in range(10)]
    write(tmp_path / "whole", ids)
    with pytest.raises(RuntimeError), RegionStoreWriter(tmp_path / "cut", DETECTOR, 4, 4) as writer:
        for i in range(9):
            writer.write(f"id{i}", picture(i))
        raise RuntimeError
    with (tmp_path / "cut" / "shard-00001.arrow").open("r+b") as file:
        file.truncate(100)
    write(tmp_path / "cut", ids)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_second_run_changes_nothing(store: RegionStore) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in store.path.iterdir()}
    write(store.path, [f"id{i}" for i in range(10)])
    assert {file.name: file.stat().st_mtime_ns for file in store.path.iterdir()} == before


# --- damage and bad input --------------------------------------------------------------------------------


def test_verify_finds_any_flipped_byte(store: RegionStore) -> None:
    rng = np.random.default_rng(0)
    for name in ("shard-00001.arrow", "index.arrow"):
        file = store.path / name
        whole = file.read_bytes()
        for place in rng.integers(0, len(whole), 40):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            try:
                problems = RegionStore(store.path).verify()
            except UserError as error:  # damage that already keeps the index from being opened
                problems = [str(error)]
            assert any(name in problem for problem in problems), place
        file.write_bytes(whole)
    assert RegionStore(store.path).verify() == []


def test_damaged_store_gives_one_line(store: RegionStore) -> None:
    shard, index, manifest = (store.path / n for n in ("shard-00002.arrow", "index.arrow", "manifest.json"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"shard-00002.arrow: \d+ bytes, the manifest says \d+; the file is truncated"):
        RegionStore(store.path)["id9"]
    assert any("shard-00002" in problem for problem in RegionStore(store.path).verify())
    shard.unlink()
    assert "shard-00002.arrow: missing" in RegionStore(store.path).verify()
    index.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"index.arrow: 7 bytes"):
        RegionStore(store.path)
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: damaged"):
        RegionStore(store.path)
    manifest.unlink()
    with pytest.raises(UserError, match=r"not a region store \(no manifest.json\)"):
        RegionStore(store.path)


def changed(**values: object) -> Regions:
    regions = picture(0)
    for name, value in values.items():
        setattr(regions, name, value)
    return regions


@pytest.mark.parametrize(
    ("image_id", "bad", "message"),
    [
        ("p", changed(features=np.full((3, 4), np.nan)), "picture 'p': NaN or infinity in the features"),
        ("p", changed(features=np.full((3, 4), 70000.0, np.float32)), "picture 'p': NaN or infinity in the features"),
        ("p", picture(0, size=5), "picture 'p': feature size 5, the store has 4"),
        ("p", changed(features=np.zeros((0, 4))), r"expected \[R, 4\] with R >= 1"),
        ("p", changed(labels=["a"]), r"3 regions, but boxes \(3, 4\), scores \(3,\) and 1 labels"),
        ("p", changed(labels=["a", "b", None]), "label is not text"),
        ("p", changed(scores=np.full(3, np.inf)), "infinity in the boxes or scores"),
        ("p", changed(scores=np.full(3, 55.0)), "score is not in 0..1"),
        ("p", changed(width=100), "outside the 100 x 480 picture"),
        ("p", changed(boxes=picture(0).boxes[:, [2, 1, 0, 3]]), "not x1 <= x2"),
        ("p", changed(height=0), "picture size 640 x 0"),
        ("", picture(0), "id is empty"),
        ("a\udcff", picture(0), "not valid Unicode"),
        ("first", picture(0), "holds this picture already"),
    ],
)
def test_bad_regions_are_refused_by_name(tmp_path: Path, image_id: str, bad: Regions, message: str) -> None:
    with RegionStoreWriter(tmp_path, DETECTOR, 4) as writer:
        writer.write("first", picture(1))
        with pytest.raises(UserError, match=message):
            writer.write(image_id, bad)
        writer.write("last", picture(2))
    assert list(RegionStore(tmp_path)) == ["first", "last"] and RegionStore(tmp_path).verify() == []


def test_foreign_detector_is_refused(store: RegionStore) -> None:
    store.check_compatible(store.fingerprint, 4)
    with pytest.raises(UserError, match="expects features of size 2048 from .* found size 4 .* another of its layers"):
        store.check_compatible(store.fingerprint, 2048)
    with pytest.raises(
        UserError, match=r"detector toy\): .*from detector 1234, .* same size, but other detector weights"
    ):
        store.check_compatible("1234", 4)
    with pytest.raises(UserError, match="the picture's detector: the model expects features of size 3 from detector a"):
        check_features("a", 3, "b", 4, "the picture's detector")
    with pytest.raises(UserError, match="must not be mixed: choose another folder"):
        RegionStoreWriter(store.path, {**DETECTOR, "threshold": 0.3}, 4)
    with pytest.raises(UserError, match="holds features of size 4 .* would add size 5"):
        RegionStoreWriter(store.path, DETECTOR, 5)
    assert store.verify() == []


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with RegionStoreWriter(tmp_path, DETECTOR, 4), pytest.raises(UserError, match="another process is writing"):
        RegionStoreWriter(tmp_path, DETECTOR, 4)
    assert len(RegionStore(tmp_path)) == 0


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot write the store .* choose a folder that can be written"):
        RegionStoreWriter(tmp_path / "file", DETECTOR, 4)
