"""What a validation saw, picture by picture, as files in the run folder: the truth behind the W&B table.

    validation/step_00000075.jsonl   one picture a line: {"image_id", "picture", "width", "height", "boxes", "tags",
                                     "predicted_tags", "caption", "references"}
    validation/pictures/*.jpg        the pictures with their boxes drawn, written once; only where
                                     `data.validation_pictures` names the folder of the picture files

`boxes` are {"box": [x1, y1, x2, y2] in pixels of the original picture, "label": "" without a name, "score"}, all that
the store has. `tags` are what the model was shown, `predicted_tags` what a tag model read from the regions alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vivo.data.regions import RegionStore
from vivo.data.types import Regions
from vivo.detectors.pictures import open_picture, picture_file, safe_name
from vivo.errors import UserError
from vivo.files import atomic_write_text, writable_folder

FOLDER = "validation"
SHOWN = 32
"""Pictures of one table, the first ones of the validation set."""
DRAWN = 12
"""Boxes drawn on a picture, the surest ones; more would hide it."""
LONGEST = 480
"""Longest side of a drawn picture, pixels."""
OPTION = "data.validation_pictures"
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")
_NAME = re.compile(r"step_(\d+)\.jsonl")


def table_path(run: Path, step: int) -> Path:
    """Where the table after `step` updates lies in the run folder `run`."""
    return run / FOLDER / f"step_{step:08d}.jsonl"


def list_tables(run: Path) -> list[tuple[int, Path]]:
    """(step, path) of all tables of a run, in their order."""
    found = [(_NAME.fullmatch(path.name), path) for path in (run / FOLDER).glob("step_*.jsonl")]
    return sorted((int(name[1]), path) for name, path in found if name)


def cut_tables(run: Path, start: int) -> None:
    """Remove the tables after the checkpoint (`start` updates) that a run resumes from."""
    for step, path in list_tables(run):
        if step > start:
            path.unlink()


def read_table(path: Path) -> tuple[list[dict[str, Any]], Path]:
    """The rows of a table, and the folder that their pictures lie in."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file], path.parent / "pictures"


class TableWriter:
    """Writes one table at each validation.

    Args:
        run: the run folder. store: regions of the validation pictures.
        files: image id -> file name, relative to `pictures`. pictures: folder of the picture files; "" = no pixels.

    Raises:
        UserError: `pictures` is given and one of the pictures to show is not there.
    """

    def __init__(self, run: Path, store: RegionStore, files: Mapping[str, str], pictures: str = ""):
        self.run, self.store, self.files = run, store, files
        self.pictures = Path(pictures) if pictures else None
        if self.pictures:
            for image_id in list(files)[:SHOWN]:
                picture_file(self.pictures, image_id, files[image_id], OPTION)

    def write(
        self,
        step: int,
        image_ids: Sequence[str],
        tags: Mapping[str, Sequence[str]],
        captions: Mapping[str, str] | None = None,
        references: Mapping[str, Sequence[str]] | None = None,
        predicted_tags: Mapping[str, Sequence[str]] | None = None,
    ) -> Path:
        """Write the table of the first `SHOWN` of `image_ids`; returns its path. All mappings are by image id.

        A table that cannot be written, as on a full disk, is a warning: it ends no training.
        """
        path = table_path(self.run, step)
        try:
            self._write(path, image_ids, tags, captions or {}, references or {}, predicted_tags or {})
        except (OSError, UserError) as error:
            print(f"WARNING: validation table after {step} updates not written: {error}; training goes on", flush=True)
        return path

    def _write(
        self,
        path: Path,
        image_ids: Sequence[str],
        tags: Mapping[str, Sequence[str]],
        captions: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        predicted_tags: Mapping[str, Sequence[str]],
    ) -> None:
        lines = []
        for image_id in image_ids[:SHOWN]:
            regions = self.store[image_id]
            row = {
                "image_id": image_id,
                "picture": self._draw(image_id, regions),
                "width": regions.width,
                "height": regions.height,
                "boxes": [
                    {"box": [round(float(x), 1) for x in box], "label": label, "score": round(float(score), 4)}
                    for box, label, score in zip(regions.boxes, regions.labels, regions.scores, strict=True)
                ],
                "tags": list(tags[image_id]),
                "predicted_tags": list(predicted_tags.get(image_id, [])),
                "caption": captions.get(image_id, ""),
                "references": list(references.get(image_id, [])),
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        writable_folder(path.parent)
        atomic_write_text(path, "".join(lines))

    def _draw(self, image_id: str, regions: Regions) -> str:
        """File name of the picture with its boxes, drawn at the first call; "" without picture files."""
        if self.pictures is None:
            return ""
        folder = writable_folder(self.run / FOLDER / "pictures")
        target = folder / f"{safe_name(image_id)}.jpg"
        if not target.is_file():
            picture = open_picture(picture_file(self.pictures, image_id, self.files.get(image_id, ""), OPTION))
            temporary = target.with_suffix(".tmp")
            draw_boxes(picture, regions).save(temporary, "JPEG", quality=85)
            temporary.rename(target)
        return target.name


def draw_boxes(picture: Image.Image, regions: Regions) -> Image.Image:
    """A copy, no side longer than `LONGEST`, with the `DRAWN` surest boxes and their names."""
    small = picture.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    scale_x, scale_y = small.width / regions.width, small.height / regions.height
    draw = ImageDraw.Draw(small)
    surest = sorted(range(len(regions.labels)), key=lambda i: -float(regions.scores[i]))[:DRAWN]
    colours: dict[str, str] = {}
    names: list[tuple[float, float, str, str]] = []
    for place in reversed(surest):  # the surest on top
        x1, y1, x2, y2 = (float(v) for v in regions.boxes[place])
        box = [x1 * scale_x, y1 * scale_y, max(x2 * scale_x - 1, x1 * scale_x), max(y2 * scale_y - 1, y1 * scale_y)]
        label = regions.labels[place]
        if label:
            colour = colours.setdefault(label, _COLOURS[len(colours) % len(_COLOURS)])
            draw.rectangle(box, outline=colour, width=2)
            names.append((box[0], box[1], colour, f"{label} {regions.scores[place]:.2f}"))
        else:
            draw.rectangle(box, outline="#808080", width=1)
    for x, y, colour, text in names:  # no box across a name
        left, top, right, bottom = draw.textbbox((0, 0), text)
        wide, high = right - left + 4, bottom - top + 4
        x = max(0.0, min(x, small.width - wide))
        y = y - high if y >= high else y
        draw.rectangle([x, y, x + wide, y + high], fill=colour)
        draw.text((x + 2 - left, y + 2 - top), text, fill="white")
    return small
