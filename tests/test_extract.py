"""Extraction of regions, with a detector that reads pixels: order, ids, broken pictures, kills, foreign detectors.

Kills of real processes: tests/test_extract_distributed.py.
"""

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from extraction_checks import Quadrants, files_of, make_pictures
from PIL import Image

from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.types import Regions
from vivo.detectors.extract import Extraction, extract_regions, find_pictures, image_id_of
from vivo.detectors.extraction_report import stored_bytes
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("000000000139.jpg", "139"),
        ("a/b/COCO_val2014_000000391895.jpg", "391895"),
        ("7.png", "7"),
        ("000.png", "0"),
        ("0123456789012345.jpg", "0123456789012345"),  # an Open Images id without a letter
        ("00a1.b2.jpeg", "00a1.b2"),
        ("COCO_dog_12.jpg", "COCO_dog_12"),
        ("図書館.jpg", "図書館"),
    ],
)
def test_image_id_of(name: str, image_id: str) -> None:
    assert image_id_of(name) == image_id == image_id_of(Path(name))


def test_every_picture_once_in_order_with_its_own_features(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 11)
    detector = Quadrants()
    result = extract_regions(paths, tmp_path / "store", detector, batch_size=4, workers=3, progress=False)
    store = RegionStore(tmp_path / "store")
    assert (result.written, result.skipped, result.broken) == (11, 0, [])
    assert detector.batches == [1, 4, 4, 3]  # first one of the eleven, to tell the size
    assert list(store) == [str(i) for i in range(1, 12)] and store.verify() == []
    assert [store[str(i)].width for i in range(1, 12)] == list(range(20, 31))
    batch = [Image.open(path).convert("RGB") for path in paths[4:8]]
    for path, expected in zip(paths[4:8], Quadrants().detect(batch), strict=True):
        np.testing.assert_array_equal(store[image_id_of(path)].features, expected.features)
    again = extract_regions(paths, tmp_path / "store", Quadrants(dies_after=0), progress=False)
    assert (again.written, again.skipped) == (0, 11)


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("dies_after", range(6))
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, dies_after: int) -> None:
    """Bytes are equal although the detector's numbers depend on the batch, and broken pictures are about."""
    paths = make_pictures(tmp_path / "pictures", 16)
    for broken in (0, 5, 8, 9, 10, 11, 15):  # of the third shard all
        spoil(paths[broken])
    options = {"batch_size": 2, "shard_pictures": 3, "progress": False}  # 3 becomes 4: whole batches
    whole = extract_regions(paths, tmp_path / "whole", Quadrants(), **options)
    assert (whole.written, whole.skipped, len(whole.broken)) == (9, 0, 7)
    with pytest.raises(KeyboardInterrupt):
        extract_regions(paths, tmp_path / "resumed", Quadrants(dies_after), **options)
    with pytest.raises(UserError, match="not a region store|unfinished; run the extraction again"):
        RegionStore(tmp_path / "resumed")
    result = extract_regions(paths, tmp_path / "resumed", Quadrants(), **options)
    assert result.skipped == {4: 3, 5: 6}.get(dies_after, 3 if dies_after == 3 else 0)
    assert (result.written, result.broken) == (9 - result.skipped, whole.broken)
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")
    names = [f"shard-0000{i}.arrow" for i in (0, 1, 3)]
    assert sorted(files_of(tmp_path / "whole")) == ["broken.txt", "index.arrow", "manifest.json", *names]


def test_another_list_goes_on_without_loss_or_duplicates(tmp_path: Path) -> None:
    """Killed after two shards, then asked for another list in another order, in other batches."""
    paths = make_pictures(tmp_path / "pictures", 14)
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        extract_regions(paths[:12], store, Quadrants(5), batch_size=2, shard_pictures=4, progress=False)
    assert len(list(store.glob("shard-*.json"))) == 2
    result = extract_regions(paths[::-1], store, Quadrants(), batch_size=3, shard_pictures=3, progress=False)
    assert (result.written, result.skipped) == (6, 8)
    found = RegionStore(store)
    assert found.verify() == [] and list(found) == [*map(str, range(1, 9)), *map(str, range(14, 8, -1))]
    assert {file.suffix for file in store.iterdir()} == {".arrow", ".json"} and not (store / "plan.jsonl").exists()


def test_numbers_of_shards_never_come_twice(tmp_path: Path) -> None:
    """A gap (a shard without a readable picture) is not filled by the next writer over a shard that is there."""
    paths = make_pictures(tmp_path / "pictures", 6)
    spoil(paths[0])
    spoil(paths[1])
    store = tmp_path / "store"
    extract_regions(paths[:4], store, Quadrants(), batch_size=2, shard_pictures=2, progress=False)
    detector = Quadrants()
    with RegionStoreWriter(store, detector.fingerprint(), detector.feature_size) as writer:
        writer.write("by hand", detector.detect([Image.new("RGB", (9, 9))])[0])
    extract_regions(paths, store, Quadrants(), batch_size=2, shard_pictures=2, progress=False)
    found = RegionStore(store)
    assert found.verify() == [] and list(found) == ["3", "4", "by hand", "5", "6"]
    assert [shard["name"][6:11] for shard in found.manifest["shards"]] == ["00001", "00002", "00004"]


def test_a_finished_store_is_not_touched_by_another_try(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 5)
    spoil(paths[3])
    for _ in range(2):
        extract_regions(paths, tmp_path / "store", Quadrants(), progress=False)
        files = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.arrow")}
    first = files_of(tmp_path / "store")
    manifest = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    extract_regions(paths, tmp_path / "store", Quadrants(), progress=False)
    assert files_of(tmp_path / "store") == first
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.arrow")} == files
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == manifest


def test_a_forgotten_process_keeps_its_hands_off(tmp_path: Path) -> None:
    """Its plan was replaced (or finished) while it worked: it stops, and leaves nothing behind."""
    paths = make_pictures(tmp_path / "pictures", 4)
    store = tmp_path / "store"

    class Overtaken(Quadrants):
        def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
            if self.batches:
                (store / "plan.jsonl").write_text('{"asked": "something else", "threads": 1}\n')
            return super().detect(pictures)

    with pytest.raises(UserError, match="another command has taken the store over"):
        extract_regions(paths, store, Overtaken(), progress=False)
    assert not list(store.glob("shard-*")) and not list(store.glob("*.tmp"))


def test_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 4)
    store = tmp_path / "store"

    class Impatient(Quadrants):
        def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
            with pytest.raises(UserError, match="another process is writing this store"):
                extract_regions(paths, store, Quadrants(), progress=False)
            return super().detect(pictures)

    extract_regions(paths[:2], store, Impatient(), progress=False)
    extract_regions(paths, store, Impatient(), progress=False)  # a finished store that is added to
    assert list(RegionStore(store)) == ["1", "2", "3", "4"]


# --- space -------------------------------------------------------------------------------------------------


def test_expected_size_is_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_pictures(tmp_path / "pictures", 40)
    detector = Quadrants()
    extract_regions(paths, tmp_path / "store", detector, shard_pictures=512)
    expected = sum(stored_bytes(regions, 6) for regions in detector.detect([open_picture(path) for path in paths]))
    files = sum(len(content) for content in files_of(tmp_path / "store").values())
    assert files == pytest.approx(expected, rel=0.1)
    first = capsys.readouterr().err.splitlines()[0]
    assert re.search(r"40 pictures to do, about 5.0 regions of 6 numbers each: about \d\d\.\d kB \(.*B free\)", first)


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path) -> None:
    class Huge(Quadrants):
        feature_size = 5_000_000

        def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
            self.batches.append(len(pictures))
            features = np.zeros((1, self.feature_size), np.float16)
            return [
                Regions(np.array([[0, 0, 1, 1]], np.float32), features, [""], np.zeros(1, np.float32), *picture.size)
                for picture in pictures
            ]

    picture = make_pictures(tmp_path / "pictures", 1)[0]
    count = shutil.disk_usage(tmp_path).free // 10**7 * 5 // 4
    ids = [str(number) for number in range(count)]
    detector = Huge()
    with pytest.raises(UserError, match=rf"{count} pictures to do, .* need about \d.*B, but only \d.*B are free there"):
        extract_regions([picture] * count, tmp_path / "store", detector, image_ids=ids, progress=False)
    assert detector.batches == [8] and not list((tmp_path / "store").glob("shard-*"))


def test_broken_pictures_are_listed_and_tried_again(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 5)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:150])
    paths[4].write_text("not a picture")
    result = extract_regions([*paths, tmp_path / "absent.png"], tmp_path / "store", Quadrants(), progress=False)
    assert result.written == 3 and [image_id for image_id, _, _ in result.broken] == ["3", "5", "absent"]
    lines = (tmp_path / "store" / "broken.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["3", str(paths[2])], ["5", str(paths[4])], ["absent", str(tmp_path / "absent.png")],
    ]  # fmt: skip
    assert "truncated" in lines[0] and "not a picture" in lines[1] and "does not exist" in lines[2]
    assert str(result).endswith("0 were there already, 3 broken")
    paths[2].write_bytes(whole)
    paths[4].unlink()
    again = extract_regions(paths[:4], tmp_path / "store", Quadrants(), progress=False)
    assert (again.written, again.skipped, again.broken) == (1, 3, [])
    assert not (tmp_path / "store" / "broken.txt").exists()
    assert list(RegionStore(tmp_path / "store")) == ["1", "2", "4", "3"]


def test_clear_errors(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 3)
    store = tmp_path / "store"
    with pytest.raises(UserError, match="no such folder; give the folder of the pictures"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no pictures in it"):
        find_pictures(tmp_path / "empty")
    twin = tmp_path / "pictures" / "1.jpg"
    with pytest.raises(UserError, match=r"1.jpg: has the same picture id '1' as .*000000000001.png"):
        extract_regions([*paths, twin], store, Quadrants(), progress=False)
    with pytest.raises(UserError, match="2 ids for 3 pictures"):
        extract_regions(paths, store, Quadrants(), image_ids=["a", "b"], progress=False)
    with pytest.raises(UserError, match="threads 0: each at least 1"):
        extract_regions(paths, store, Quadrants(), threads=0, progress=False)
    with pytest.raises(UserError, match="batch size 0"):
        extract_regions(paths, store, Quadrants(), batch_size=0, progress=False)
    assert not store.exists()
    for path in paths:
        path.write_text("")
    with pytest.raises(UserError, match="none of the 3 pictures could be read; the first: "):
        extract_regions(paths, store, Quadrants(), progress=False)
    assert [file.name for file in store.iterdir()] == ["broken.txt"]


def test_features_that_are_not_numbers_stop_the_run_by_name(tmp_path: Path) -> None:
    class Diverged(Quadrants):
        def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
            found = super().detect(pictures)
            found[-1].features[0, 0] = np.nan
            return found

    with pytest.raises(UserError, match="picture '3': NaN or infinity in the features"):
        extract_regions(make_pictures(tmp_path / "pictures", 3), tmp_path / "store", Diverged(), progress=False)


def test_another_detector_is_refused(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path / "pictures", 3)
    extract_regions(paths[:2], tmp_path / "store", Quadrants(), progress=False)
    with pytest.raises(UserError, match="must not be mixed"):
        extract_regions(paths, tmp_path / "store", Quadrants(version=2), progress=False)
    assert len(RegionStore(tmp_path / "store")) == 2
    with pytest.raises(KeyboardInterrupt):
        extract_regions(paths, tmp_path / "begun", Quadrants(2), batch_size=1, shard_pictures=1, progress=False)
    with pytest.raises(UserError, match="must not be mixed"):
        extract_regions(paths, tmp_path / "begun", Quadrants(version=2), progress=False)


# --- pretrain/extract_regions.py -------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("extract_regions_script", ROOT / "pretrain" / "extract_regions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_detector", lambda name: {"quadrants": Quadrants()}[name])
    return module


def test_command(tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    make_pictures(pictures, 3)
    command = [str(pictures), str(store), "--detector", "quadrants", "--batch-size", "2"]
    assert script.main(command) == 0
    assert "3 pictures written in" in capsys.readouterr().out
    (pictures / "broken.png").write_text("")
    assert script.main(command) == 0
    found = re.search(r"0 pictures written in \d+\.\d s, (.*)", capsys.readouterr().out)
    assert found and found[1] == f"3 were there already, 1 broken, see {store}/broken.txt"
    assert script.main([*command, "--fail-on-broken"]) == 1 and "1 broken" in capsys.readouterr().out
    assert list(RegionStore(store)) == ["1", "2", "3"]
    assert script.main([str(tmp_path / "nowhere"), str(store), "--detector", "quadrants"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/nowhere: no such folder")


def test_command_with_ids_from_a_list_or_annotations(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    make_pictures(pictures, 2)
    first, second = "000000000001.png", "000000000002.png"
    (tmp_path / "list.txt").write_text(f"{second}\n\nmine\t{first}\n")
    command = [str(pictures), str(tmp_path / "a"), "--detector", "quadrants"]
    assert script.main([*command, "--list", str(tmp_path / "list.txt")]) == 0
    assert list(RegionStore(tmp_path / "a")) == ["2", "mine"]
    command[1] = str(tmp_path / "b")
    (tmp_path / "info.json").write_text(f'{{"images": [{{"id": 70, "file_name": "{first}", "domain": "in-domain"}}]}}')
    assert script.main([*command, "--ids-from", str(tmp_path / "info.json")]) == 0
    assert list(RegionStore(tmp_path / "b")) == ["70"]
    (tmp_path / "bare.json").write_text('{"images": [{"id": 70}]}')
    (tmp_path / "list.txt").write_text("\n")
    capsys.readouterr()
    assert script.main([*command, "--ids-from", str(tmp_path / "bare.json")]) == 2
    assert script.main([*command, "--list", str(tmp_path / "list.txt")]) == 2
    assert script.main([*command, "--list", str(tmp_path / "absent.txt")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "picture 70 has no file_name" in errors[0] and "list is empty" in errors[1]


def test_summary_names_the_rate() -> None:
    assert (
        str(Extraction(30, 2, [], 1.5))
        == "30 pictures written in 1.5 s at 20.0 pictures/s, 2 were there already, 0 broken"
    )
