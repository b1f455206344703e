"""A small novel-object benchmark for tests: pictures of four pixels by four, its split, made-up stores, a tagger."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from vivo.data.regions import RegionStoreWriter
from vivo.data.types import Regions

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = {"name": "grid", "made": "for tests"}
FEATURES, REGIONS = 6, 5


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def coco_file(folder: Path, images: list[dict], captions: list[tuple[object, str]]) -> Path:
    annotations = [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(captions)]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def captioned_pictures(folder: Path) -> Path:
    """60 pictures: dogs, cats and hot dogs; picture 60 is picture 0, as BMP, under another id and without a dog."""
    pictures = folder / "images"
    pictures.mkdir()
    images, captions = [], []
    for n in range(60):
        Image.new("RGB", (4, 4), (n, n // 3, 7)).save(pictures / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png"})
        text = ["a dog on grass", "a cat and a dog", "a cat on grass", "a cat with a hot dog"][n % 4]
        captions += [(n, text), (n, text)]
    Image.open(pictures / "0.png").save(pictures / "60.bmp")
    images.append({"id": 60, "file_name": "60.bmp"})
    captions += [(60, "a cat on grass"), (60, "a cat")]
    (folder / "objects.txt").write_text("dog\ncat\nhot dog\ngrass\n")
    return coco_file(folder, images, captions)


def small_split(source: Path, out: Path, *options: str) -> int:
    """finetune/prepare_novel_split.py on `captioned_pictures`, with dogs held out; returns its exit status."""
    sizes = ["--evaluation", "10", "--min-evaluation-each", "5", "--min-pairs", "10", "--in-domain", "4"]
    objects = ["--objects", str(source.with_name("objects.txt")), "--held-out", "dog"]
    arguments = [str(source), str(out), "--pictures", str(source.with_name("images")), *objects, *sizes, *options]
    return load_script("finetune/prepare_novel_split.py").main(arguments)


def made_regions(image_id: str, shown: Iterable[int] = ()) -> Regions:
    """Regions of a picture, from its id: four quarters and the whole; feature k is large where class k is shown."""
    random = np.random.default_rng(list(image_id.encode()))
    features = random.normal(0, 0.3, (REGIONS, FEATURES))
    features[:, list(shown)] += 3
    boxes = np.array([[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4], [0, 0, 4, 4]], np.float32)
    return Regions(boxes, features.astype(np.float16), [""] * REGIONS, np.zeros(REGIONS, np.float32), 4, 4)


def made_store(path: Path, image_ids: Iterable[str], detector: dict = DETECTOR) -> Path:
    """A RegionStore of made-up features: of the pictures of `captioned_pictures` they say what the captions name."""
    shows = {0: (0,), 1: (0, 1), 2: (1,), 3: (1, 2)}
    with RegionStoreWriter(path, detector, FEATURES, 64) as writer:
        for image_id in image_ids:
            writer.write(image_id, made_regions(image_id, shows[int(image_id) % 4] if image_id.isdigit() else ()))
    return path


def listed(path: Path) -> list[str]:
    """The picture ids of an `--list` file."""
    return [line.split("\t")[0] for line in path.read_text().splitlines()]


def add_stores_and_tagger(folder: Path) -> None:
    """What pretrain/extract_regions.py and pretrain/train_tagger.py add to a split."""
    for name in ("training", "evaluation"):
        made_store(folder / "regions" / name, listed(folder / f"{name}_pictures.tsv"))
    stores = [str(folder / "regions" / name) for name in ("training", "evaluation")]
    arguments = ["--tags", str(folder / "tags.jsonl"), "--out", str(folder / "tagger"), "--folds", "2"]
    assert load_script("pretrain/train_tagger.py").main(["--regions", *stores, *arguments, "--min-pictures", "2"]) == 0
