"""Which captions a model has learned from, in all trainings up to it: told by what their folders say of themselves.

A training leaves config.yaml and inputs.json (vivo/training/inputs.py), and its `init` names the model that it began
with, so trainings can be followed back. Where only a model folder is left, its card says the same of the last one.

    stages = stages_of(Path("runs/vivo/scst"))
    for line in other_captions(stages): ...        # what nocaps' rule does not allow, or nobody can tell
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vivo.data.coco_2014 import coco_captions, strange_captions
from vivo.data.examples import read_caption_examples
from vivo.data.region_format import sha256_of
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.model_card import FILE as CARD
from vivo.model_config import VivoConfig
from vivo.training import inputs

# objective -> the field of the configuration that names captions to learn from
CAPTIONS = {"captions": "examples", "scst": "examples", "pairs": "pairs", "both": "pairs"}
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        folder: that tells of it. objective: "" where nothing says.
        captions: path and "sha256" of the captions that it learned from, as inputs.json has them; {}: from none.
        unknown: what of it is not known, as a sentence; "" where all is.
    """

    folder: Path
    objective: str
    captions: Mapping[str, Any] = field(default_factory=dict)
    unknown: str = ""


def stages_of(folder: Path) -> list[Stage]:
    """The trainings that have led to `folder`, the last one first.

    Args:
        folder: of a run, or of a model.

    Raises:
        UserError: it is neither.
    """
    if not (folder / "config.yaml").is_file() and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: neither the folder of a training (config.yaml) nor of a model (config.json)")
    found: list[Stage] = []
    seen: set[Path] = set()
    here: Path | None = folder
    while here is not None and here.resolve() not in seen:
        seen.add(here.resolve())
        stage, here = _stage(here)
        found.append(stage)
    return found


def weights_of(folder: Path) -> list[Path]:
    """The weight files that the folder of a run or of a model holds: its last model, its best one."""
    return [
        path for path in (folder / "model" / _WEIGHTS, folder / "best" / _WEIGHTS, folder / _WEIGHTS) if path.is_file()
    ]


def other_captions(stages: Sequence[Stage]) -> list[str]:
    """A sentence for each training that learned from captions that are not COCO's, or of which nobody can tell."""
    files = {
        stage.captions["path"]: read_caption_examples(stage.captions["path"]) for stage in stages if _at_hand(stage)
    }
    known = coco_captions(example.image_id for examples in files.values() for example in examples) if files else {}
    judged = {path: _judged(examples, known) for path, examples in files.items()}
    found = []
    for stage in stages:
        if stage.unknown:
            found.append(stage.unknown)
        if not stage.captions:
            continue
        told, path = stage.captions.get("sha256", "not known"), stage.captions["path"]
        verdict = f" (SHA-256 {told[:16]}), which are not at hand: whether they are COCO's is not known"
        if _at_hand(stage):
            verdict = judged[path]
        if verdict:
            found.append(f"{stage.folder}: learned from the captions of {Path(path).name}{verdict}")
    return found


def _at_hand(stage: Stage) -> bool:
    """Whether the file of its captions is there, and the same as it was."""
    path = Path(stage.captions.get("path", ""))
    return path.is_file() and sha256_of(path) == stage.captions.get("sha256")


def _judged(examples: Iterable[CaptionExample], known: Mapping[str, set[str]] | None) -> str:
    """What is wrong with captions, as the end of a sentence; "" where nothing is."""
    if known is None:
        return "; whether they are COCO's is not known, for pycocoevalcap's copy of those cannot be read"
    strange = strange_captions(examples, known)
    if not strange:
        return ""
    image_id, caption = strange[0]
    shown = caption if len(caption) <= 60 else f"{caption[:57]}..."
    return f": {len(strange):,} of them are none of COCO's (picture {image_id}: {shown!r})"


def _stage(folder: Path) -> tuple[Stage, Path | None]:
    """The training that a folder tells of, and the folder that tells of what it began with."""
    run = _run_of(folder)
    if run is not None:
        settings = _read(run / "config.yaml", yaml.safe_load)
        known = _read(run / inputs.FILE, json.loads)
        return _told(run, settings, known)
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    settings = (
        yaml.safe_load(found[1]) if (found := re.search(r"## Configuration\n\n```yaml\n(.*?)```", text, re.S)) else {}
    )
    if settings:
        return _told(folder, settings, _inputs_of_card(text))
    origin = "it was imported, and " if "Imported from" in text else ""
    return Stage(folder, "", unknown=f"{folder}: {origin}nothing says which captions it has learned from"), None


def _told(folder: Path, settings: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Stage, Path | None]:
    objective, init = settings.get("objective", ""), str(settings.get("init", ""))
    captions: Mapping[str, Any] = {}
    unknown = ""
    if name := CAPTIONS.get(objective):
        captions = known.get(name) or {"path": (settings.get("data") or {}).get(name, "")}
    elif objective != "tags":
        unknown = f"{folder}: its objective, {objective or 'not named'}, is not known here"
    start = Path(init)
    if not (start / "config.json").is_file():
        if init not in ("minilm", "random", ""):
            unknown = (
                unknown or f"{folder}: began with {init}, which is not at hand: what that has learned is not known"
            )
        return Stage(folder, objective, captions, unknown), None
    ours = _read(start / "config.json", json.loads).get("model_type") == VivoConfig.model_type
    return Stage(folder, objective, captions, unknown), start if ours else None


def _run_of(folder: Path) -> Path | None:
    """The run folder that `folder` is, or lies in (model/, best/, checkpoints/step_7/)."""
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / "config.yaml").is_file() and (place / inputs.FILE).is_file():
            return place
    return None


def _inputs_of_card(text: str) -> dict[str, dict[str, str]]:
    """What the table of a card says of each input: | examples | path `captions.jsonl`, sha256 `ab12` |."""
    rows = re.findall(r"^\| (\w+) \| (.*`.*`) \|$", text, re.M)
    return {name: dict(re.findall(r"(\w+) `([^`]*)`", facts)) for name, facts in rows}


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is of the training that is asked about") from error
