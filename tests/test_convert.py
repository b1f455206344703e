"""Oscar's features into a RegionStore: files that the tests write come back bit for bit, bad ones by row."""

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_files import (
    PICTURES,
    F,
    assert_same,
    base64_of,
    converted,
    feature_row,
    images_json,
    label_row,
    oscar_files,
    picture,
    replaced,
    with_positions,
    write_tsv,
)

from vivo.data.foreign.base import PictureList
from vivo.data.foreign.convert import convert
from vivo.data.foreign.oscar_tsv import OscarTsv
from vivo.data.regions import RegionStore
from vivo.data.types import Regions
from vivo.errors import UserError

# --- Oscar -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["json", "columns"])
@pytest.mark.parametrize("with_size", [True, False], ids=["sized", "size from the boxes"])
@pytest.mark.parametrize("lineidx", [True, False])
def test_oscar_round_trip(tmp_path: Path, layout: str, with_size: bool, lineidx: bool) -> None:
    features = oscar_files(tmp_path, layout, with_size, lineidx)
    for source in (features, tmp_path / "train.yaml"):
        store = converted(OscarTsv(source), tmp_path / source.suffix)
        assert list(store) == list(PICTURES) and store.feature_size == F
        for key, expected in PICTURES.items():
            assert_same(store[key], expected, named=True)


def test_oscar_features_alone_take_sizes_and_ids_from_nocaps(tmp_path: Path) -> None:
    rows = [feature_row(key, regions) for key, regions in PICTURES.items()]
    features = write_tsv(tmp_path / "feature.tsv", rows)
    with pytest.raises(UserError, match=r"feature.tsv, row 1: nothing says how large .* give --images"):
        converted(OscarTsv(features), tmp_path / "store")
    assert not (tmp_path / "store").exists()
    pictures = PictureList(images_json(tmp_path / "nocaps.json", "open_images_id"))
    store = converted(OscarTsv(features, pictures=pictures), tmp_path / "store")
    assert list(store) == [str(i) for i in range(len(PICTURES))]
    for found, expected in zip(store, PICTURES.values(), strict=True):
        assert_same(store[found], expected, named=False, exact_boxes=False)


def test_oscar_without_position_values(tmp_path: Path) -> None:
    rows = [feature_row(key, regions, positions=False) for key, regions in PICTURES.items()]
    features = write_tsv(tmp_path / "feature.tsv", rows)
    with pytest.raises(UserError, match="row 1: no boxes: neither six position values nor rectangles"):
        converted(OscarTsv(features, pictures=PictureList(images_json(tmp_path / "c.json"))), tmp_path / "store")
    write_tsv(tmp_path / "label.tsv", [label_row(key, regions) for key, regions in PICTURES.items()])
    store = converted(OscarTsv(features), tmp_path / "store")
    assert all(np.array_equal(store[key].boxes, regions.boxes) for key, regions in PICTURES.items())


def test_position_values_are_cut_off_only_where_they_are(tmp_path: Path) -> None:
    wide = picture(0, size=F + 6)  # random numbers where the six would be
    features = write_tsv(tmp_path / "feature.tsv", [feature_row("a", wide, positions=False)])
    write_tsv(tmp_path / "label.tsv", [label_row("a", wide)])
    with pytest.raises(UserError, match=rf"row 1: features of size {F + 6} should be {F} and x1/W, .*--feature-size"):
        converted(OscarTsv(features), tmp_path / "store")
    store = converted(OscarTsv(features, feature_size=F + 6), tmp_path / "store")
    assert np.array_equal(store["a"].features, wide.features)


def test_regions_are_sorted_by_score(tmp_path: Path) -> None:
    regions = PICTURES["100"]
    assert len(regions.labels) > 2
    turned = Regions(
        regions.boxes[::-1], regions.features[::-1], regions.labels[::-1], regions.scores[::-1],
        regions.width, regions.height,
    )  # fmt: skip
    features = write_tsv(tmp_path / "feature.tsv", [feature_row("100", turned)])
    write_tsv(tmp_path / "label.tsv", [label_row("100", turned)])
    assert_same(converted(OscarTsv(features), tmp_path / "store")["100"], regions, named=True)


def test_labels_of_another_detector(tmp_path: Path) -> None:
    """Two objects for three regions: refused by row, matched by overlap, or left out."""
    regions = Regions(
        np.array([[0, 0, 50, 50], [50, 50, 100, 100], [0, 50, 40, 100]], np.float32),
        picture(0).features[:1].repeat(3, axis=0), ["", "", ""], np.ones(3, np.float32), 100, 100,
    )  # fmt: skip
    features = write_tsv(tmp_path / "feature.tsv", [feature_row("7", regions)])
    objects = [
        {"class": "dog", "conf": 0.9, "rect": [52, 52, 99, 99]},
        {"class": "ball", "conf": 0.95, "rect": [55, 55, 95, 95]},  # surer, so it gets the region first
        {"class": "tree", "conf": 0.5, "rect": [0, 0, 20, 20]},  # covers too little of any
        {"class": "cat", "conf": 0.4, "rect": [0, 0, 50, 48]},
    ]
    label = {"objects": objects, "image_w": 100, "image_h": 100}
    write_tsv(tmp_path / "label.tsv", [["7", json.dumps(label)]])
    with pytest.raises(UserError, match=r"label.tsv, row 1: 4 objects for 3 regions; probable reason: .*another det"):
        converted(OscarTsv(features), tmp_path / "store")
    found = converted(OscarTsv(features, match="overlap"), tmp_path / "overlap")["7"]
    assert found.labels == ["cat", "ball", ""] and np.allclose(found.scores, [0.4, 0.95, 1])
    images = tmp_path / "c.json"
    images.write_text(json.dumps({"images": [{"id": 7, "width": 100, "height": 100}]}))
    found = converted(OscarTsv(features, labels="none", pictures=PictureList(images)), tmp_path / "none")["7"]
    assert found.labels == ["", "", ""]


def nan_in_features(row: list[str]) -> list[str]:
    values = with_positions(PICTURES[row[0]])
    values[0, 3] = np.nan
    return [row[0], json.dumps({"num_boxes": len(values), "features": base64_of(values)})]


def large_in_features(row: list[str]) -> list[str]:
    values = with_positions(PICTURES[row[0]])
    values[0, 3] = 1e5
    return [row[0], json.dumps({"num_boxes": len(values), "features": base64_of(values)})]


def half_of_the_floats(row: list[str]) -> list[str]:
    values = with_positions(PICTURES[row[0]])
    return [row[0], json.dumps({"num_boxes": len(values) + 97, "features": base64_of(values)})]


def other_size(row: list[str]) -> list[str]:
    return feature_row(row[0], picture(2, size=128))


FEATURE_DAMAGE = {
    "nan": (nan_in_features, r"row 3: NaN or infinity in the features of region 1"),
    "overflow": (large_in_features, r"row 3: a feature is 1e\+05, float16 ends at 65504"),
    "base64 cut": (lambda row: [row[0], row[1].replace('"}', '')[:-9] + '"}'], r"row 3: .*(base64|bytes of features)"),
    "not base64": (lambda row: [row[0], '{"num_boxes": 2, "features": "a!b"}'], r"row 3: the features are not whole"),
    "null": (lambda row: [row[0], '{"num_boxes": 2, "features": null}'], r"row 3: the features are not whole base64"),
    "number of boxes": (half_of_the_floats, r"row 3: \d+ bytes of features for \d+ regions, expected a multiple of"),
    "no boxes": (lambda row: [row[0], '{"num_boxes": 0, "features": ""}'], r"row 3: num_boxes is '0', expected"),
    "no key in JSON": (lambda row: [row[0], '{"num_boxes": 2}'], r"row 3: not whole JSON with .* \('features'\)"),
    "other size": (other_size, r"row 3: features of size 128, expected 64; .*another detector"),
    "column missing": (lambda row: row[:1], r"row 3: expected `key TAB features`, found b'102'"),
    "not text": (lambda row: [row[0], "5", "é"], r"row 3: the features are not whole base64"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FEATURE_DAMAGE)
def test_bad_feature_rows(tmp_path: Path, damage: str) -> None:
    change, message = FEATURE_DAMAGE[damage]
    features = oscar_files(tmp_path)
    replaced(features, 3, change)
    with pytest.raises(UserError, match=rf"train.feature.tsv, {message}"):
        convert(OscarTsv(features), tmp_path / "store", shard_pictures=1, progress=False)
    assert not (tmp_path / "store" / "manifest.json").exists()  # two shards stay for the run after the repair
    with pytest.raises(UserError, match="unfinished"):
        RegionStore(tmp_path / "store")
    oscar_files(tmp_path)
    assert convert(OscarTsv(features), tmp_path / "store", shard_pictures=1, progress=False) == (5, 2)
    whole = converted(OscarTsv(features), tmp_path / "whole", shard_pictures=1)
    assert all(f.read_bytes() == (tmp_path / "store" / f.name).read_bytes() for f in whole.path.iterdir())


def test_truncated_feature_file(tmp_path: Path) -> None:
    features = oscar_files(tmp_path)
    content = features.read_bytes()
    features.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"train.lineidx|train.feature.lineidx, row \d: byte \d+ follows .* is cut"):
        OscarTsv(features)  # before anything is converted
    features.with_suffix(".lineidx").unlink()
    with pytest.raises(UserError, match=r"train.feature.tsv, row \d: not whole JSON .* the file is cut or damaged"):
        converted(OscarTsv(features), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_wrong_lineidx(tmp_path: Path) -> None:
    features = oscar_files(tmp_path)
    lineidx = features.with_suffix(".lineidx")
    good = lineidx.read_text().split()
    for bad, message in (
        (
            [*good[:2], str(int(good[2]) + 1), *good[3:]],
            r"lineidx, row 3: says byte \d+, but the row begins at byte \d+",
        ),
        (good[:-1], r"label.tsv, row 7: picture '106' has no features: .*ends after row 6"),
        ([*good, "7"], r"lineidx, row 8: byte 7 follows byte \d+"),
        ([*good[:2], "x", *good[3:]], r"lineidx, row 3: b'x.*' is no byte offset"),
    ):
        lineidx.write_text("\n".join(bad) + "\n")
        with pytest.raises(UserError, match=message):
            converted(OscarTsv(features), tmp_path / "store")
        assert not (tmp_path / "store").exists()


def test_lineidx_with_more_rows_than_the_features(tmp_path: Path) -> None:
    features = oscar_files(tmp_path)
    features.with_name("train.label.lineidx").unlink()  # nothing to compare the number of rows with before the work
    with features.with_suffix(".lineidx").open("a") as file:
        file.write(f"{features.stat().st_size - 1}\n")
    with pytest.raises(UserError, match=r"lineidx, row 8: says byte \d+, but train.feature.tsv has 7 rows"):
        converted(OscarTsv(features), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_confidence_that_is_no_number(tmp_path: Path) -> None:
    features = oscar_files(tmp_path)
    labels = features.with_name("train.label.tsv")
    labels.write_text(re.sub(r'"conf": [0-9.e-]+', '"conf": "high"', labels.read_text(), count=1))
    labels.with_suffix(".lineidx").unlink()
    for match in ("rows", "overlap"):
        with pytest.raises(UserError, match=r'label.tsv, row 1: .*a "conf" is not a number'):
            converted(OscarTsv(features, match=match), tmp_path / "store")


@pytest.mark.parametrize("lineidx", [True, False])
def test_labels_of_other_pictures(tmp_path: Path, lineidx: bool) -> None:
    oscar_files(tmp_path, lineidx=lineidx)
    labels = tmp_path / "train.label.tsv"
    rows = [label_row(key, regions) for key, regions in PICTURES.items()]
    extra = label_row("555", picture(9))
    for bad, message in (
        (
            [*rows[:2], extra, *rows[2:]],
            r"label.tsv, row 3: picture '555' is not in row 3 of .* goes on with '102' \(row 4",
        ),
        ([*rows, extra], r"label.tsv, row 8: picture '555' has no features: train.feature.tsv ends after row 7"),
        ([*rows[:2], *rows[3:]], r"feature.tsv, row 3: picture '102' is not in .*label.tsv"),
        ([*rows[:2], rows[3], rows[2], *rows[4:]], r"label.tsv, row 3: picture '103' is not in row 3 .*same order"),
        ([*rows[:2], ["102", "[{"], *rows[3:]], r"label.tsv, row 3: not whole JSON with a list of objects"),
        ([*rows[:2], ["102", '[{"rect": 1}]'], *rows[3:]], r"label.tsv, row 3: .*\('class'\)"),
    ):
        write_tsv(labels, bad, lineidx)
        with pytest.raises(UserError, match=message):
            converted(OscarTsv(tmp_path / "train.feature.tsv"), tmp_path / "store")
        assert not (tmp_path / "store").exists()


def test_sizes_that_cannot_be_told(tmp_path: Path) -> None:
    """Labels without sizes: the rectangles must belong to the position values, and say the size."""
    regions = picture(0)
    features = write_tsv(tmp_path / "feature.tsv", [feature_row("a", regions)])
    key, text = label_row("a", regions, with_size=False)

    def with_rects(change: Callable[[np.ndarray], np.ndarray]) -> OscarTsv:
        objects = json.loads(text)
        for item, rect in zip(objects, change(regions.boxes.astype(np.float64)).tolist(), strict=True):
            item["rect"] = rect
        write_tsv(tmp_path / "label.tsv", [[key, json.dumps(objects)]])
        return OscarTsv(features)

    for change, message in (
        (lambda boxes: boxes[::-1], "label.tsv, row 1: the rectangles do not belong to the position values"),
        (lambda boxes: boxes * 0.999, "label.tsv, row 1: the picture's size cannot be told from its rounded boxes"),
    ):
        with pytest.raises(UserError, match=message):
            converted(with_rects(change), tmp_path / "store")
    write_tsv(tmp_path / "label.tsv", [[key, json.dumps([{"class": "x", "rect": [1, 2, 3]}] * len(regions.boxes))]])
    with pytest.raises(UserError, match=r"label.tsv, row 1: \"rect\" must be x1, y1, x2, y2"):
        converted(OscarTsv(features), tmp_path / "store")


def test_yaml_that_names_nothing(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    for content, message in (
        ("- a\n", "train.yaml: cannot be read as `feature: FILE`"),
        ("label: b.tsv\n", 'train.yaml: names no "feature" file'),
        ("feature: a.tsv\n", "a.tsv: no such file; check the path"),
        ("feature: !!python/object/apply:os.getcwd []\n", "train.yaml: cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            OscarTsv(file)


def test_boxes_that_disagree(tmp_path: Path) -> None:
    features = oscar_files(tmp_path)

    def moved(row: list[str]) -> list[str]:
        label = json.loads(row[1])
        label["objects"][0]["rect"][2] += 20
        return [row[0], json.dumps(label)]

    replaced(tmp_path / "train.label.tsv", 2, moved)
    with pytest.raises(
        UserError, match=r"feature.tsv, row 2: region 1 lies at .* by its position values, at .* by label"
    ):
        converted(OscarTsv(features), tmp_path / "store")
    with pytest.raises(UserError, match="different sizes of the picture in the files"):
        sizes = json.loads(images_json(tmp_path / "c.json").read_text())
        sizes["images"][0]["width"] += 1
        (tmp_path / "c.json").write_text(json.dumps(sizes))
        converted(OscarTsv(features, pictures=PictureList(tmp_path / "c.json")), tmp_path / "store")


def test_picture_lists(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    for content, message in (
        ({"annotations": []}, 'no "images" in it'),
        ({"images": [{"id": 1, "width": 2}]}, r"images\[0\]: needs id, width and height \(KeyError\('height'\)\)"),
        ({"images": [{"id": 1, "width": w, "height": 2} for w in (2, 3)]}, r"images\[1\]: '1' names two"),
    ):  # fmt: skip
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            PictureList(file)
    features = oscar_files(tmp_path)
    file.write_text(json.dumps({"images": [{"id": 100, "width": 2, "height": 2}]}))
    with pytest.raises(UserError, match="row 2: picture '101' is not in .*images.json|different sizes"):
        converted(OscarTsv(features, pictures=PictureList(file)), tmp_path / "store")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The peak of five times the pictures is less than two rows higher, and far below the file's size."""
    regions = picture(0, size=4096)
    row, label = feature_row("", regions)[1], label_row("", regions)[1]

    def peak(count: int) -> int:
        features = write_tsv(tmp_path / f"{count}.feature.tsv", [[str(i), row] for i in range(count)])
        write_tsv(tmp_path / f"{count}.label.tsv", [[str(i), label] for i in range(count)])
        tracemalloc.start()
        convert(OscarTsv(features), tmp_path / f"store{count}", shard_pictures=8, progress=False)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(4)  # what the first run imports
    assert peak(100) < peak(20) + 2 * len(row) < 100 * len(row) / 4
