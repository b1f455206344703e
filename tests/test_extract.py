"""Extraction of regions, with a detector that reads pixels: order, ids, broken pictures, kills, foreign detectors."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from vivo.data.regions import RegionStore
from vivo.data.types import Regions
from vivo.detectors.extract import Extraction, extract_regions, find_pictures, image_id_of
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


class Quadrants:
    """A region for the whole picture and each quarter; features are mean and spread of the colours there.

    Like a real network on a padded batch, it lets the neighbours in the batch leak into the last bits.
    """

    name = "quadrants"
    feature_size = 6
    class_names = ["reddish"]

    def __init__(self, dies_after: int | None = None, version: int = 1) -> None:
        self.dies_after = dies_after
        self.version = version
        self.batches: list[int] = []

    def fingerprint(self) -> dict[str, str | int | float]:
        return {"name": self.name, "version": self.version}

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        if self.dies_after is not None and len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(len(pictures))
        leak = np.mean([np.asarray(picture).mean() for picture in pictures]) / 1000
        return [self._regions(np.asarray(picture, dtype=np.float32) / 255, leak) for picture in pictures]

    def _regions(self, pixels: np.ndarray, leak: float) -> Regions:
        height, width, _ = pixels.shape
        x, y = width // 2, height // 2
        boxes = [(0, 0, width, height), (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = [pixels[y1:y2, x1:x2].reshape(-1, 3) for x1, y1, x2, y2 in boxes]
        return Regions(
            boxes=np.array(boxes, np.float32),
            features=np.array([np.concatenate([part.mean(0), part.std(0)]) + leak for part in parts], np.float16),
            labels=["reddish" if part.mean(0).argmax() == 0 else "" for part in parts],
            scores=np.linspace(0.9, 0.1, 5, dtype=np.float32),
            width=width,
            height=height,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        raise AssertionError("extraction has no business saving its detector")


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Noise pictures of growing width, named as COCO does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 256, (20, 20 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i + 1:012d}.png")
    return find_pictures(folder)


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


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
    assert (result.written, result.skipped, result.broken) == (11, 0, []) and detector.batches == [4, 4, 3]
    assert list(store) == [str(i) for i in range(1, 12)] and store.verify() == []
    assert [store[str(i)].width for i in range(1, 12)] == list(range(20, 31))
    batch = [Image.open(path).convert("RGB") for path in paths[4:8]]
    for path, expected in zip(paths[4:8], Quadrants().detect(batch), strict=True):
        np.testing.assert_array_equal(store[image_id_of(path)].features, expected.features)
    again = extract_regions(paths, tmp_path / "store", Quadrants(dies_after=0), progress=False)
    assert (again.written, again.skipped) == (0, 11)


@pytest.mark.parametrize("dies_after", range(6))
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, dies_after: int) -> None:
    """Bytes are equal although the detector's numbers depend on the batch, and broken pictures are about."""
    paths = make_pictures(tmp_path / "pictures", 13)
    for broken in (0, 5, 6, 12):
        paths[broken].write_bytes(paths[broken].read_bytes()[:200])
    options = {"batch_size": 2, "shard_pictures": 3, "progress": False}  # 3 becomes 4: whole batches
    extract_regions(paths, tmp_path / "whole", Quadrants(), **options)
    with pytest.raises(KeyboardInterrupt):
        extract_regions(paths, tmp_path / "resumed", Quadrants(min(dies_after, 4)), **options)
    result = extract_regions(paths, tmp_path / "resumed", Quadrants(), **options)
    assert result.written + result.skipped == 9 and result.skipped % 4 == 0
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")


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
    assert f"0 pictures written in 0.0 s, 3 were there already, 1 broken, see {store}/broken.txt" in (
        capsys.readouterr().out
    )
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
