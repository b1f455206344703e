"""A small evaluation as files: pictures, references with domains, classes, regions, predictions, a constraint trace."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vivo.data.predictions import constraints_path, write_predictions
from vivo.data.regions import RegionStoreWriter
from vivo.data.types import Regions

DOMAINS = ("in-domain", "near-domain", "out-domain")
OBJECTS = ("dog", "yak", "fox")
"""Of the picture n the object n % 3, in the domain n % 3: dog is a base class, yak and fox are novel; no detector knows
the fox."""
CLASSES = [
    {"name": name, "plural": f"{name}s", "forms": [name, f"{name}s"], "mid": f"/m/{name}", "role": role,
     "detector": known, "parents": []}
    for name, role, known in (("dog", "base", True), ("yak", "novel", True), ("fox", "novel", False),
                              ("sofa", "base", True))
]  # fmt: skip
PLACES = ("grass", "snow", "sand", "a road")


@dataclass
class Files:
    """Where everything lies."""

    folder: Path

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.json"

    @property
    def references(self) -> Path:
        return self.folder / "references.json"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.json"

    @property
    def regions(self) -> Path:
        return self.folder / "regions"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def arguments(self) -> list[str]:
        """Of eval/report.py, but --out."""
        return [
            "--predictions", str(self.predictions), "--references", str(self.references), "--classes",
            str(self.classes), "--regions", str(self.regions), "--pictures", str(self.pictures),
        ]  # fmt: skip


def caption_of(n: int) -> str:
    """Right in every second picture; the others have a sofa that nobody sees. The longer n, the more is said."""
    extra = " and a dog" * (n % 5 == 4)
    return f"a {OBJECTS[n % 3]} on {PLACES[n % 4]}{extra}." if n % 2 == 0 else f"a sofa on {PLACES[n % 4]}{extra}."


def references_of(n: int) -> list[str]:
    """Three sentences of people."""
    thing, place = OBJECTS[n % 3], PLACES[n % 4]
    return [f"a {thing} stands on {place}.", f"there is a {thing} on {place}", f"one {thing} in the picture {n % 7}"]


def make_files(
    folder: Path, count: int, captions: Sequence[str] | None = None, traces: bool = False, pixels: bool = True
) -> Files:
    """Write an evaluation of `count` pictures.

    Args:
        captions: instead of `caption_of`. traces: as of a constrained search. pixels: write picture files.
    """
    files = Files(folder)
    files.pictures.mkdir(parents=True)
    said = list(captions) if captions is not None else [caption_of(n) for n in range(count)]
    images, annotations = [], []
    with RegionStoreWriter(files.regions, {"name": "drawn"}, 4) as writer:
        for n in range(count):
            images.append({"id": n, "file_name": f"{n}.png", "width": 200, "height": 100, "domain": DOMAINS[n % 3]})
            for text in references_of(n):
                annotations.append({"image_id": n, "id": len(annotations), "caption": text})
            writer.write(str(n), regions_of(n))
            if pixels:
                draw(files.pictures / f"{n}.png", n)
    files.references.write_text(json.dumps({"images": images, "annotations": annotations}))
    files.classes.write_text(json.dumps(CLASSES))
    header = {"decode": {"beam": 1}, "tags": "detector", "checkpoint": "model", "control": ""}
    records = [{"image_id": n, "caption": text} for n, text in enumerate(said)]
    write_predictions(files.predictions, records, header)
    if traces:
        lines = [json.dumps(trace_of(n, text)) + "\n" for n, text in enumerate(said)]
        constraints_path(files.predictions).write_text("".join(lines))
    return files


def regions_of(n: int) -> Regions:
    """The object on the left (the fox without a name), a thing without a name, and the whole picture."""
    thing = OBJECTS[n % 3]
    return Regions(
        np.array([[20, 10, 80, 90], [120, 20, 180, 80], [0, 0, 200, 100]], np.float32),
        np.full((3, 4), n % 5, np.float16),
        ["" if thing == "fox" else thing, "", ""],
        np.array([0.9, 0.4, 0.0], np.float32),
        200,
        100,
    )


def trace_of(n: int, caption: str) -> dict:
    """One constraint where the detector knows the object, satisfied where the caption names it."""
    thing = OBJECTS[n % 3]
    named = thing in caption
    constraint = {
        "name": thing, "detected": thing, "score": 0.9, "box": [20.0, 10.0, 80.0, 90.0], "satisfied": named,
        "written": thing if named else "", "tokens": [1, 2] if named else [],
    }  # fmt: skip
    some = [] if thing == "fox" else [constraint]
    return {
        "image_id": str(n), "caption": caption, "needed": len(some), "satisfied": sum(c["satisfied"] for c in some),
        "fell_back": bool(some) and not named, "constraints": some,
        "left_out": [{"name": "cloud", "score": 0.3, "reason": "not among the 3 surest"}],
    }  # fmt: skip


def draw(path: Path, n: int) -> None:
    """A disc at the first box, a square at the second."""
    picture = Image.new("RGB", (200, 100), "ivory")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((20, 10, 80, 90), fill=("peru", "dimgray", "tomato")[n % 3])
    pen.rectangle((120, 20, 180, 80), fill="steelblue")
    picture.save(path)
