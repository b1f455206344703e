"""Writers of other projects' feature formats, from arrays that the tests know (used by test_convert*.py)."""

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vivo.data.foreign.convert import convert
from vivo.data.regions import RegionStore
from vivo.data.types import Regions

F = 64


def picture(seed: int, size: int = F) -> Regions:
    """Valid regions whose numbers all survive float16 and whose boxes survive division by the picture's size."""
    rng = np.random.default_rng(seed)
    count, width, height = int(rng.integers(1, 6)), int(rng.integers(50, 700)), int(rng.integers(50, 700))
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    return Regions(
        boxes=corners.reshape(count, 4).astype(np.float32),
        features=np.maximum(rng.standard_normal((count, size)), 0).astype(np.float16),
        labels=[f"thing {i}" for i in range(count)],
        scores=np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        width=width,
        height=height,
    )


PICTURES = {str(100 + seed): picture(seed) for seed in range(7)}


def base64_of(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def with_positions(regions: Regions) -> np.ndarray:
    """float32 [R, F + 6] as Oscar has them."""
    x1, y1, x2, y2 = regions.boxes.T
    w, h = regions.width, regions.height
    positions = np.stack([x1 / w, y1 / h, x2 / w, y2 / h, (x2 - x1) / w, (y2 - y1) / h], axis=1)
    return np.concatenate([regions.features.astype(np.float32), positions.astype(np.float32)], axis=1)


def write_tsv(path: Path, rows: list[list[str]], lineidx: bool = True) -> Path:
    """A TSV and its .lineidx, as Oscar's tsv_writer and generate_lineidx_file leave them."""
    offsets, start = [], 0
    with path.open("wb") as file:
        for row in rows:
            offsets.append(start)
            start += file.write(("\t".join(row) + "\n").encode())
    if lineidx:
        path.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
    return path


def feature_row(key: str, regions: Regions, layout: str = "json", positions: bool = True) -> list[str]:
    values = with_positions(regions) if positions else regions.features.astype(np.float32)
    if layout == "json":
        return [key, json.dumps({"num_boxes": len(values), "features": base64_of(values)})]
    return [key, str(len(values)), base64_of(values)]


def label_row(key: str, regions: Regions, with_size: bool = True) -> list[str]:
    objects = [
        {"class": label, "conf": float(score), "rect": box.tolist()}
        for label, score, box in zip(regions.labels, regions.scores, regions.boxes, strict=True)
    ]
    sized = {"objects": objects, "image_w": regions.width, "image_h": regions.height}
    return [key, json.dumps(sized if with_size else objects)]


def oscar_files(folder: Path, layout: str = "json", with_size: bool = True, lineidx: bool = True) -> Path:
    """train.feature.tsv, train.label.tsv and train.yaml of PICTURES; returns the feature file."""
    rows = [feature_row(key, regions, layout) for key, regions in PICTURES.items()]
    features = write_tsv(folder / "train.feature.tsv", rows, lineidx)
    labels = [label_row(key, regions, with_size) for key, regions in PICTURES.items()]
    write_tsv(folder / "train.label.tsv", labels, lineidx)
    (folder / "train.yaml").write_text("feature: train.feature.tsv\nlabel: train.label.tsv\ncaption: none.json\n")
    return features


def images_json(path: Path, key: str = "id") -> Path:
    """A COCO or nocaps JSON file of PICTURES; `key` "open_images_id": their keys are those, ids count from 0."""
    images = [
        {
            "id": int(name) if key == "id" else place,
            key: name,
            "width": r.width,
            "height": r.height,
            "file_name": "x.jpg",
        }
        for place, (name, r) in enumerate(PICTURES.items())
    ]
    for place, image in enumerate(images):
        image["file_name"] = f"{image.get('open_images_id', f'COCO_{place}')}.jpg"
        image["id"] = int(image["id"])
    path.write_text(json.dumps({"images": images}))
    return path


def assert_same(found: Regions, expected: Regions, named: bool, exact_boxes: bool = True) -> None:
    assert found.features.dtype == np.float16 and np.array_equal(found.features, expected.features)
    if exact_boxes:
        assert np.array_equal(found.boxes, expected.boxes)
    else:  # went through a division by the picture's size in float32
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4, rtol=1e-6)
    assert (found.width, found.height) == (expected.width, expected.height)
    if named:
        assert found.labels == expected.labels and np.array_equal(found.scores, expected.scores)
    else:
        assert found.labels == [""] * len(expected.labels) and (found.scores == 1).all()


def converted(source, store: Path, **options) -> RegionStore:
    convert(source, store, progress=False, **options)
    result = RegionStore(store)
    assert result.verify() == []
    return result


def replaced(path: Path, row: int, change: Callable[[list[str]], list[str]], lineidx: bool = True) -> None:
    """Change one row (from 1) of a TSV."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows[row - 1] = change(rows[row - 1])
    write_tsv(path, rows, lineidx)


def bottom_up_tsv(path: Path) -> Path:
    """Written as its generate_tsv.py does: csv.DictWriter, so the line end is CR LF."""
    names = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=names)
        for key, regions in PICTURES.items():
            numbers = [key, regions.width, regions.height, len(regions.boxes)]
            texts = [base64_of(regions.boxes), base64_of(regions.features)]
            writer.writerow(dict(zip(names, numbers + texts, strict=True)))
    return path


class Trap:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def npz_folder(folder: Path, turned: bool = False) -> Path:
    folder.mkdir()
    for key, regions in PICTURES.items():
        features = regions.features.astype(np.float32)
        np.savez_compressed(
            folder / f"COCO_val2014_{int(key):012d}", x=features.T if turned else features, bbox=regions.boxes,
            num_bbox=len(regions.boxes), image_h=regions.height, image_w=regions.width, info={"objects_id": Trap()},
        )  # fmt: skip
    return folder


def nocaps_h5(path: Path, padded: bool = False, leave_out: str = "") -> Path:
    """As extract_features_vg.py writes it; `padded`: three-dimensional, as the baseline's reader documents it."""
    import h5py

    count = len(PICTURES)
    with h5py.File(path, "w") as file:
        columns = {
            "image_id": np.array([int(key) for key in PICTURES]),
            "width": np.array([r.width for r in PICTURES.values()], np.float32),
            "height": np.array([r.height for r in PICTURES.values()], np.float32),
            "num_boxes": np.array([len(r.boxes) for r in PICTURES.values()]),
        }
        for name, values in columns.items():
            if name != leave_out:
                file.create_dataset(name, data=values)
        for name in {"boxes", "features", "scores"} - {leave_out}:
            arrays = [np.asarray(getattr(r, name), np.float32) for r in PICTURES.values()]
            if padded:
                most = max(map(len, arrays))
                data = np.stack([np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays])
                file.create_dataset(name, data=data)
                continue
            dataset = file.create_dataset(name, (count,), h5py.special_dtype(vlen=np.float32))
            for i, array in enumerate(arrays):
                dataset[i] = array.reshape(-1)
    return path
