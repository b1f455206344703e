"""What eval/report.py costs with as many pictures as nocaps' validation has, and how its page answers.

    python tests/benchmarks/report_page.py [--pictures 4500] [--regions 50] [--keep FOLDER]

Pictures of 1024 x 768 pixels of noise and shapes, as large as photographs; ten references a picture, those of nocaps
where the sample data lie beside the checkout; no model (words are not explained). Prints processor seconds, sizes, and
what the page's own clock says in a headless Chromium.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browser import Browser
from evaluation_files import DOMAINS, Files, references_of

from eval.report import main as report
from vivo.data.predictions import write_predictions
from vivo.data.regions import RegionStoreWriter
from vivo.data.types import Regions

CLASSES = [
    {"name": name, "plural": f"{name}s", "forms": [name, f"{name}s"], "mid": name, "role": "novel", "detector": True,
     "parents": []}
    for name in ("dog", "car", "tree", "yak", "woman", "building", "bird")
]  # fmt: skip
NOCAPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "nocaps_val_captions.json"
CLOCK = """(() => {
  const search = document.getElementById("search"), list = document.getElementById("filter-object"), times = [];
  const took = (what, act) => {
    const begun = performance.now();
    act();
    document.body.offsetHeight; // laid out, too
    times.push([what, performance.now() - begun]);
  };
  const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
  took("first search", () => type("a man in front"));
  took("search", () => type("dog"));
  took("no search", () => type(""));
  took("next page", () => document.querySelector(".pager button:last-child").click());
  took("domain", () => document.querySelector("button[data-value=out]").click());
  took("object", () => { list.value = list.options[1].value; list.dispatchEvent(new Event("change")); });
  return times;
})()"""


def main() -> None:
    """Make the files, write the page, open it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4500)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--keep", type=Path, help="folder to leave everything in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "files"
        files = make(folder, arguments.pictures, arguments.regions)
        page = folder / "report.html"
        for name in ("with small copies of the pictures", "again"):
            began, used = time.monotonic(), processor()
            assert report([*files.arguments, "--out", str(page)]) == 0
            print(f"{name}: {processor() - used:.1f} s of processor time, {time.monotonic() - began:.1f} s")
        copies = sum(path.stat().st_size for path in (folder / "report.pictures").iterdir())
        print(f"page {page.stat().st_size / 1e6:.1f} MB, copies {copies / 1e6:.1f} MB")
        print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        with Browser(program, Path(temporary)) as browser:
            tab = browser.open(page.as_uri())
            loaded = tab.value("performance.getEntriesByType('navigation')[0].loadEventEnd")
            print(f"loaded after {loaded:.0f} ms, {tab.value('document.querySelectorAll(`*`).length')} elements")
            for what, milliseconds in tab.value(CLOCK):
                print(f"  {what}: {milliseconds:.0f} ms")
            assert browser.errors == []


def processor() -> float:
    """Processor seconds of this process so far."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def make(folder: Path, count: int, regions: int) -> Files:
    """The files of an evaluation; those that are there stay."""
    files = Files(folder)
    if files.classes.is_file():
        return files
    files.pictures.mkdir(parents=True)
    texts: dict[int, list[str]] = {n: references_of(n) * 3 + references_of(n)[:1] for n in range(count)}
    if NOCAPS.is_file():
        found: dict[int, list[str]] = {}
        for annotation in json.loads(NOCAPS.read_text())["annotations"]:
            found.setdefault(annotation["image_id"], []).append(annotation["caption"])
        texts |= {n: captions for n, captions in found.items() if n < count}
    generator = np.random.default_rng(0)
    names = [c["name"] for c in CLASSES]
    images, annotations = [], []
    with RegionStoreWriter(files.regions, {"name": "made up"}, 4) as writer:
        for n in range(count):
            images.append({"id": n, "file_name": f"{n}.jpg", "domain": DOMAINS[n % 3]})
            for text in texts[n]:
                annotations.append({"image_id": n, "id": len(annotations), "caption": text})
            corners = generator.uniform(0, 600, (regions, 2))
            boxes = np.concatenate([corners, corners + generator.uniform(30, 160, (regions, 2))], axis=1)
            labels = [names[k] for k in generator.integers(0, len(names), regions)]
            scores = np.sort(generator.random(regions))[::-1].astype(np.float32)
            features = np.zeros((regions, 4), np.float16)
            writer.write(str(n), Regions(boxes.astype(np.float32), features, labels, scores, 1024, 768))
            draw(files.pictures / f"{n}.jpg", boxes, generator)
    files.references.write_text(json.dumps({"images": images, "annotations": annotations}))
    records = [{"image_id": n, "caption": texts[(n + 1) % count][0]} for n in range(count)]
    write_predictions(files.predictions, records, {"decode": {"beam": 5}, "tags": "detector", "control": ""})
    files.classes.write_text(json.dumps(CLASSES))
    return files


def draw(path: Path, boxes: np.ndarray, generator: np.random.Generator) -> None:
    """About as many bytes as a photograph has."""
    grain = generator.integers(0, 255, (96, 128, 3), dtype=np.uint8)
    picture = Image.fromarray(grain).resize((1024, 768), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for box in boxes[:10]:
        pen.rectangle(box.tolist(), fill=tuple(generator.integers(0, 255, 3).tolist()))
    picture.save(path, "JPEG", quality=85)


if __name__ == "__main__":
    main()
