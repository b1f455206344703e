"""What the adapters of other libraries' detectors share: specifications, settings, equal-sized batches, `Regions`.

A specification is one line of text, `KIND[:SOURCE][,option=value]...`, so that it fits a command line and a
run's record:

    grid:tf_efficientnet_lite0,scales=448x7+224x3
    transformers:models/rtdetr,threshold=0.2

Notation: N detections, R regions, F feature size.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS_FILE = "detector.safetensors"

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class DetectionSettings:
    """Which detections become regions; each is an option of a specification.

    Attributes:
        threshold: detections of at most this score are dropped.
        label_threshold: regions below this score keep their box and features but get the label "": many regions
            make good features, only sure ones good tags.
        max_regions: the best so many are kept; the paper's number is 50.
        whole_picture: the whole picture follows as a last region, unnamed, score 0. Without a single
            detection it is there in any case.
        dtype: float32, or bfloat16 or float16 by autocast: weights stay float32, and what needs float32 is done so.
        device: "cpu", "cuda:1", ...; empty: this process's GPU where there is one.
    """

    threshold: float = 0.1
    label_threshold: float = 0.3
    max_regions: int = 50
    whole_picture: bool = False
    dtype: str = "float32"
    device: str = ""


def parse_specification(text: str) -> tuple[str, str, dict[str, str]]:
    """`KIND[:SOURCE][,option=value]...` -> (kind, source or "", options).

    The first part after the colon is the source unless it is an option itself (`grid:scales=448x7`).
    """
    kind, _, rest = re.split("([:,])", text, maxsplit=1) if re.search("[:,]", text) else (text, "", "")
    first, *parts = rest.split(",")
    source = "" if re.match(r"[a-z0-9_]+=", first) else first
    options: dict[str, str] = {}
    for part in parts if source or not first else [first, *parts]:
        key, sign, value = part.partition("=")
        if not sign or not key or key in options:
            raise UserError(
                f"detector {text!r}: {part!r} is not an option=value that is said once; write"
                " KIND:SOURCE,option=value,... (docs/detectors.md)"
            )
        options[key] = value
    return kind, source, options


def settings_of(cls: type[Settings], options: Mapping[str, str], kind: str, **fixed: Any) -> Settings:
    """The dataclass `cls` filled from text options by the types of its fields; `fixed` are no options."""
    known = {f.name: f.type for f in fields(cls) if f.name not in fixed}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            guess = f" (is {near[0]} meant?)" if near else ""
            raise UserError(f"detector {kind} has no option {key!r}{guess}; its options are {', '.join(known)}")
        try:
            values[key] = _flag(text) if known[key] is bool else known[key](text)
        except ValueError:
            kinds = {bool: "yes or no", int: "a whole number", float: "a number"}
            raise UserError(f"detector {kind}: {key}={text} must be {kinds.get(known[key], 'text')}") from None
    settings = cls(**values, **fixed)
    if (dtype := getattr(settings, "dtype", "float32")) not in DTYPES:
        raise UserError(f"detector {kind}: dtype={dtype} must be one of {', '.join(DTYPES)}")
    if getattr(settings, "max_regions", 1) < 1:
        raise UserError(f"detector {kind}: max_regions={settings.max_regions} must be at least 1")
    return settings


def _flag(text: str) -> bool:
    if text.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("yes", "true", "1")


def settings_fingerprint(settings: Any) -> dict[str, str | int | float]:
    """The settings for a fingerprint: all but the device, which decides nothing."""
    values = {key: value for key, value in asdict(settings).items() if key != "device"}
    return {key: int(value) if isinstance(value, bool) else value for key, value in values.items()}


def device_of(wanted: str) -> torch.device:
    """The wanted device, or without a wish the GPU of this process (LOCAL_RANK of `accelerate launch`), or the CPU."""
    if not wanted:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local % torch.cuda.device_count()) if torch.cuda.is_available() else _CPU
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={wanted} cannot be used ({reason}); leave it out or write device=cpu") from None
    return device


_CPU = torch.device("cpu")


def computing_in(dtype: str, device: torch.device) -> torch.autocast:
    """Autocast to that dtype; nothing at all for float32."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def same_size_batches(pictures: Sequence[Image.Image], batch_size: int) -> Iterator[list[int]]:
    """Places of pictures that share width and height, at most `batch_size` at a time.

    Padding a batch of mixed sizes changes the features near a picture's edge, so that they would depend on its
    neighbours; pictures of one size need none, and batched equals single.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.size, []).append(place)
    for places in groups.values():
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]


def choose(boxes: Tensor, scores: Tensor, settings: DetectionSettings) -> Tensor:
    """Places of the detections that become regions, by falling score.

    Args:
        boxes: [N, 4] in pixels of the picture, already clipped to it; those without area are left out.
        scores: [N].
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    good = ((scores > settings.threshold) & (sides.amin(1) > 0)).nonzero()[:, 0]
    order = scores[good].argsort(descending=True, stable=True)
    return good[order][: settings.max_regions]


def regions_from(
    picture: Image.Image,
    boxes: Tensor,
    features: Tensor,
    names: Sequence[str],
    scores: Tensor,
    label_threshold: float,
) -> Regions:
    """Chosen detections (boxes [N, 4], names, scores [N]) as `Regions`.

    `features` has N rows, or N + 1: the last then belongs to the whole picture, which follows unnamed.
    """
    boxes, scores = boxes.float().cpu().numpy(), scores.float().cpu().numpy()
    labels = [name if score >= label_threshold else "" for name, score in zip(names, scores, strict=True)]
    if len(features) == len(boxes) + 1:
        whole = np.array([[0, 0, picture.width, picture.height]], np.float32)
        boxes, scores, labels = np.concatenate([boxes, whole]), np.append(scores, np.float32(0)), [*labels, ""]
    return Regions(
        boxes=boxes.astype(np.float32),
        features=features.half().cpu().numpy(),
        labels=labels,
        scores=scores.astype(np.float32),
        width=picture.width,
        height=picture.height,
    )


def clip_to(boxes: Tensor, picture: Image.Image) -> Tensor:
    """Boxes [N, 4] cut at the edges of the picture."""
    limit = boxes.new_tensor([picture.width, picture.height] * 2)
    return torch.minimum(boxes.clamp(min=0), limit)


def read_class_names(path: str | Path) -> list[str]:
    """Names of one class a line, in the order of the network's outputs; of "stop sign,stopsign" the first counts."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: class names cannot be read ({error}); give a text file, one name a line") from None
    names = [line.split(",")[0].strip() for line in lines]
    if not names or not all(names):
        row = names.index("") + 1 if names else 1
        raise UserError(f"{path}, row {row}: no class name; write one name a line, without empty lines")
    return names


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, whatever file or dtype the weights came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_detector(folder: str | Path, config_name: str, config: dict, tensors: Mapping[str, Tensor] | None) -> None:
    """Write `detector.safetensors` (unless None), then `detector.json`; each whole or not at all."""
    folder = writable_folder(folder)
    if tensors is not None:
        temporary = folder / f".{WEIGHTS_FILE}.tmp-{os.getpid()}"
        try:
            # clone: tied tensors are refused by safetensors, and views would be written with all of their storage
            save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, temporary)
            temporary.chmod(0o644)
            os.replace(temporary, folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write {folder / WEIGHTS_FILE} ({error}): choose another folder") from None
        finally:
            temporary.unlink(missing_ok=True)
    atomic_write_json(folder / config_name, config)
