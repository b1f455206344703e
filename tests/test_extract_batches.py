"""Batches of extraction: whole, sorted by shape, and with the features of single pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_checks import Quadrants
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import pad

from vivo.data.regions import RegionStore
from vivo.data.types import Regions
from vivo.detectors.adapting import same_size_batches
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.extract import extract_regions, find_pictures
from vivo.detectors.picture_batches import like_shapes
from vivo.detectors.pictures import open_picture, picture_size

ROOT = Path(__file__).resolve().parents[1]


@given(st.lists(st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=40), st.integers(1, 9))
def test_batches_are_whole_and_sorted_by_shape(sizes: list[tuple[int, int] | None], batch_size: int) -> None:
    batches = like_shapes(sizes, batch_size)
    flat = [place for batch in batches for place in batch]
    assert sorted(flat) == list(range(len(sizes)))
    assert all(len(batch) == batch_size for batch in batches[:-1]) and all(batches)
    ratios = [sizes[place][0] / sizes[place][1] if sizes[place] else np.inf for place in flat]
    assert ratios == sorted(ratios)
    for size in set(sizes):  # pictures of one size stand side by side, in their order
        places = [place for place in range(len(sizes)) if sizes[place] == size]
        start = flat.index(places[0])
        assert flat[start : start + len(places)] == places


def test_header_and_decoded_picture_agree_on_the_size(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.jpg"
        Image.new("RGB", (30, 20)).save(path, exif=exif)
        assert picture_size(path) == open_picture(path).size == ((30, 20) if orientation < 5 else (20, 30))
    (tmp_path / "text.jpg").write_text("no picture")
    assert picture_size(tmp_path / "text.jpg") is None and picture_size(tmp_path / "absent.jpg") is None


class Padding(Quadrants):
    """A small network that pads a batch to one size and sees the padding at the edges, as detectors of scenes do."""

    name = "padding"
    feature_size = 8

    def __init__(self, splits: bool) -> None:
        super().__init__()
        self.splits = splits
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 5, padding=2)
        ).requires_grad_(False)
        self.network[0].bias.fill_(1.0)  # what the first layer makes of black padding is far from nothing

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        batches = same_size_batches(pictures, 99) if self.splits else [list(range(len(pictures)))]
        found: dict[int, Regions] = {}
        for places in batches:
            pixels = [torch.from_numpy(np.array(pictures[p])).permute(2, 0, 1) / 255 for p in places]
            height, width = (max(p.shape[side] for p in pixels) for side in (1, 2))
            padded = [pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pixels]
            for place, pixel, maps in zip(places, pixels, self.network(torch.stack(padded)), strict=True):
                high, wide = pixel.shape[1:]
                features = maps[None, :, :high, :wide].mean((2, 3)).numpy()
                box = np.array([[0, 0, wide, high]], np.float32)
                found[place] = Regions(box, features, [""], np.zeros(1, np.float32), wide, high)
        return [found[place] for place in range(len(pictures))]


def difference(detector_of: Callable[[], Detector], paths: list[Path], folder: Path) -> float:
    """Greatest difference of a feature between batches of 16 and single pictures; boxes within half a pixel."""
    for size in (16, 1):
        extract_regions(paths, folder / str(size), detector_of(), batch_size=size, progress=False)
    single, batched = RegionStore(folder / "1"), RegionStore(folder / "16")
    assert list(single) == list(batched)
    worst = 0.0
    for image_id in single:
        one, many = single[image_id], batched[image_id]
        assert one.labels == many.labels
        np.testing.assert_allclose(one.boxes, many.boxes, atol=0.5)
        worst = max(worst, float(np.abs(one.features.astype(np.float32) - many.features).max()))
    return worst


def test_batched_equals_single_where_shapes_differ(tmp_path: Path) -> None:
    """A detector that would let the padding in, and does not because like shapes meet and are split by size."""
    rng = np.random.default_rng(1)
    paths = []
    for number in range(48):
        size = ((30, 40), (40, 30), (30, 30), (28, 40))[rng.integers(4)]
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    assert difference(lambda: Padding(splits=True), paths, tmp_path / "split") < 1e-3
    assert difference(lambda: Padding(splits=False), paths, tmp_path / "padded") > 1e-2  # the test can fail


PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "coco_mini_159"


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no ../shared/data/coco_mini_159")
def test_batched_equals_single_on_photographs(tmp_path: Path) -> None:
    """The embedded detector on COCO photographs of many shapes: float16 steps apart at most."""
    paths = find_pictures(PHOTOGRAPHS)[:16]
    detector = load_detector("embedded")
    assert difference(lambda: detector, paths, tmp_path) < 0.05
