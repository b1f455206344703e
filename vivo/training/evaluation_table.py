"""The pictures of an evaluation as a table of the run that wrote their captions: in its folder, and in W&B.

    R/evaluation/pictures.jsonl    one picture a line: {"image_id", "picture", "domain", "width", "height", "boxes",
                                   "tags", "caption", "scores", "references", "novel", "named", "constraints"}
    R/evaluation/pictures/*.jpg    small copies of the pictures

`boxes` are {"box": pixels of the original picture, "label", "score", "explains": [[word, probability, probability
without the region], ...]}; `constraints` is the trace of a constrained search or null. The page of eval/report.py shows
the same. The last evaluation counts; `vivo sync` sends it again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.files import atomic_write_text, writable_folder
from vivo.report.images import SIZES, write_thumbnails
from vivo.report.records import EvaluatedPicture
from vivo.training.stored_run import StoredRun

FOLDER = "evaluation"
LEAST_FALL = 0.1
"""Of a word's log-probability; what changes it less explains nothing (as in picture_view.js)."""


def evaluation_path(run: Path) -> Path:
    """Where the table of the run folder `run` lies."""
    return run / FOLDER / "pictures.jsonl"


def keep_evaluation(run: Path, pictures: Sequence[EvaluatedPicture], files: Mapping[str, Path], row: str) -> str:
    """Write the table of a run and show it in the run's W&B run; returns a line that says where.

    Args:
        files: image id -> picture file. row: whose captions count, of those that the pictures have.
    """
    stored = StoredRun.of(run)
    path = write_evaluation_table(run, pictures, files, row)
    mode, where = stored.wandb_mode, str(path)
    if mode != "disabled":
        tracked = stored.open_wandb(mode, stored.project)
        tracked.log_evaluation(path, stored.records)
        if tracked.path:  # else it has said what went wrong
            where += f" and W&B ({mode})"
        tracked.finish()
    return f"kept with the run: {where}"


def write_evaluation_table(
    run: Path, pictures: Sequence[EvaluatedPicture], files: Mapping[str, Path], row: str
) -> Path:
    """The files of the table; returns the path of its lines."""
    path = evaluation_path(run)
    names = write_thumbnails(files, writable_folder(path.parent) / "pictures", *SIZES[0])
    lines = [
        json.dumps(table_row(p, row) | {"picture": names.get(p.image_id, "")}, ensure_ascii=False) + "\n"
        for p in pictures
    ]
    atomic_write_text(path, "".join(lines))
    return path


def table_row(picture: EvaluatedPicture, row: str) -> dict[str, Any]:
    """One line, without the name of the picture's file."""
    return {
        "image_id": picture.image_id,
        "domain": picture.domain,
        "width": picture.width,
        "height": picture.height,
        "boxes": [
            {
                "box": [round(float(x), 1) for x in box],
                "label": label,
                "score": round(float(score), 4),
                "explains": explained(picture, row, number),
            }
            for number, (box, label, score) in enumerate(
                zip(picture.boxes, picture.labels, picture.scores, strict=True)
            )
        ],
        "tags": list(picture.tags or []),
        "caption": picture.captions[row],
        "scores": picture.metrics.get(row, {}),
        "references": list(picture.references),
        "novel": list(picture.novel_objects),
        "named": list(picture.named.get(row, [])),
        "constraints": picture.traces.get(row),
    }


def explained(picture: EvaluatedPicture, row: str, region: int) -> list[list[Any]]:
    """[word, its probability, its probability without the region], what changes most first."""
    found = []
    for word in picture.evidence.get(row, []):
        fall = word.regions[region] if region < len(word.regions) else 0.0
        if fall >= LEAST_FALL:
            with_it, without = math.exp(word.log_probability), math.exp(word.log_probability - fall)
            found.append((fall, [picture.captions[row][word.start : word.end], round(with_it, 4), round(without, 4)]))
    return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]
