"""A tagger: a linear multi-label classifier over region features, which gives the grid names for what it sees.

It is trained on image-tag pairs (`pretrain/train_tagger.py`). One weight matrix reads both the whole picture
and every cell: the whole picture's logit says whether a class is there, the best cell's that it is there but
small. How much each counts is learned, on pictures that the weights have not seen:

    probability of class c = sigmoid(whole_scale * logit_c(whole) + cell_scale * max over cells logit_c(cell) + shift)

A detector with a tagger (`TaggedDetector`) labels regions, so that all that reads a detector's tags works unchanged.

Notation: N pictures, R regions of one (the last is the whole picture), F feature size, C classes.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivo.data.region_format import check_features, fingerprint_of
from vivo.data.types import Regions
from vivo.detectors.base import CONFIG_FILE, Detector, load_detector
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder

TAGGER_CONFIG, TAGGER_WEIGHTS = "tagger.json", "tagger.safetensors"
LEARNED_FROM = "sha256 of the tag examples"
WRITTEN = "sha256 of tags.jsonl"
"""The note of a trained tagger that says which image-tag pairs it has seen."""


@dataclass(frozen=True)
class Tagger:
    """See the module.

    Attributes:
        class_names: C names. weight: [F, C]. bias: [C].
        mixing: [3] whole_scale, cell_scale, shift.
        fingerprint: of the detector whose features it reads. notes: what was measured.
        min_score, max_tags: which classes become tags.
    """

    class_names: list[str]
    weight: Tensor
    bias: Tensor
    mixing: Tensor
    fingerprint: str
    min_score: float = 0.15
    max_tags: int = 15
    notes: dict | None = None

    def evidence(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [R, F] -> logits of the whole picture [C] and of each class's best cell [C]."""
        logits = features.float() @ self.weight + self.bias
        return logits[-1], logits.amax(0)

    def probabilities(self, features: Tensor) -> Tensor:
        """Features [R, F] -> probability that each class is in the picture [C]."""
        whole, cell = self.evidence(features)
        return (self.mixing[0] * whole + self.mixing[1] * cell + self.mixing[2]).sigmoid()

    def tags(self, regions: Regions) -> list[tuple[str, float]]:
        """Names and probabilities of what is in the picture, the surest first."""
        scores = self.probabilities(torch.from_numpy(np.asarray(regions.features, np.float32)))
        order = scores.argsort(descending=True, stable=True)[: self.max_tags].tolist()
        return [(self.class_names[k], float(scores[k])) for k in order if scores[k] >= self.min_score]

    def label(self, regions: Regions) -> Regions:
        """The same regions with the tags as labels: each at the free region that shows it best."""
        features = torch.from_numpy(np.asarray(regions.features, np.float32))
        logits = features @ self.weight + self.bias  # [R, C]
        labels, scores = [""] * len(features), np.zeros(len(features), np.float32)
        for name, score in self.tags(regions)[: len(features)]:
            shown = logits[:, self.class_names.index(name)].clone()
            shown[[place for place, label in enumerate(labels) if label]] = -torch.inf
            # The whole picture is not where a thing is; its region gets a name when no cell is left.
            place = int(shown[:-1].argmax()) if len(shown) > 1 and shown[:-1].isfinite().any() else len(shown) - 1
            labels[place], scores[place] = name, score
        return replace(regions, labels=labels, scores=scores)

    def save(self, folder: str | Path) -> None:
        """Write `tagger.safetensors` and `tagger.json`."""
        folder = writable_folder(folder)
        temporary = folder / f".{TAGGER_WEIGHTS}.tmp-{os.getpid()}"
        try:
            tensors = {"weight": self.weight, "bias": self.bias, "mixing": self.mixing}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
            temporary.chmod(0o644)
            os.replace(temporary, folder / TAGGER_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write {folder / TAGGER_WEIGHTS} ({error}): choose another folder") from None
        finally:
            temporary.unlink(missing_ok=True)
        keys = ("class_names", "fingerprint", "min_score", "max_tags", "notes")
        atomic_write_json(folder / TAGGER_CONFIG, {key: getattr(self, key) for key in keys})

    @classmethod
    def load(cls, folder: str | Path) -> "Tagger":
        """From a folder that `save` or `pretrain/train_tagger.py` wrote."""
        folder = Path(folder)
        try:
            config = json.loads((folder / TAGGER_CONFIG).read_text(encoding="utf-8"))
            tagger = cls(**config, **load_file(folder / TAGGER_WEIGHTS))
        except FileNotFoundError as error:
            missing = error.filename or folder / TAGGER_WEIGHTS
            raise UserError(f"tagger file {missing} is missing; train one with pretrain/train_tagger.py") from None
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UserError(f"tagger in {folder} cannot be read ({error}): train it again") from None
        names = len(tagger.class_names)
        if tagger.weight.ndim != 2 or not tagger.weight.shape[1] == len(tagger.bias) == names:
            raise UserError(f"tagger in {folder}: names and weights do not fit each other: train it again")
        return tagger


class TaggedDetector:
    """A detector whose regions a tagger labels; features, boxes and fingerprint stay those of the detector.

    Raises:
        UserError: the tagger was trained on other features.
    """

    name = "tagged"

    def __init__(self, detector: Detector, tagger: Tagger) -> None:
        found = fingerprint_of(detector.fingerprint())
        expected = (tagger.fingerprint, tagger.weight.shape[0])
        check_features(*expected, found, detector.feature_size, f"tagger with detector {detector.name}")
        self.detector, self.tagger = detector, tagger
        self.feature_size, self.class_names = detector.feature_size, list(tagger.class_names)

    def fingerprint(self) -> dict[str, str | int | float]:
        """The detector's: a model that knows its features takes them with any tags."""
        return self.detector.fingerprint()

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """The detector's regions, labelled with the tagger's tags."""
        return [self.tagger.label(regions) for regions in self.detector.detect(pictures)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector/`, `tagger/` and `detector.json`."""
        folder = Path(folder)
        self.detector.save_pretrained(folder / "detector")
        self.tagger.save(folder / "tagger")
        atomic_write_json(folder / CONFIG_FILE, {"detector": self.name})

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TaggedDetector":
        """From a folder that `save_pretrained` wrote."""
        return cls(load_detector(folder / "detector"), Tagger.load(folder / "tagger"))


# -------------------------------------------------------------------- training


def fit_classes(
    wholes: Tensor, targets: Tensor, decay: float = 0.1, steps: int = 150, batch: int = 8192, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logistic regression of all classes at once, from zero weights and the classes' frequencies.

    Args:
        wholes: features of whole pictures [N, F]; standardised inside, which the result has undone.
        targets: bool [N, C].
        decay: weight of the squared weights beside the loss, which is summed over classes and averaged over pictures.
        batch: pictures a step; at most that many, all where there are no more.

    Returns:
        weight [F, C] and bias [C].
    """
    mean, spread = _mean_and_spread(wholes)
    frequency = targets.float().mean(0).clamp(1e-6, 1 - 1e-6)
    weight = torch.zeros(wholes.shape[1], targets.shape[1], requires_grad=True)
    bias = frequency.logit().requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=0.02)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        rows = slice(None) if len(wholes) <= batch else torch.randint(len(wholes), (batch,), generator=generator)
        logits = ((wholes[rows].float() - mean) / spread) @ weight + bias
        loss = F.binary_cross_entropy_with_logits(logits, targets[rows].float(), reduction="none").sum(1).mean()
        optimizer.zero_grad()
        (loss + decay * weight.square().sum()).backward()
        optimizer.step()
    weight = weight.detach() / spread[:, None]
    return weight, bias.detach() - mean @ weight


def fit_mixing(whole: Tensor, cell: Tensor, targets: Tensor) -> Tensor:
    """whole_scale, cell_scale, shift [3] by logistic regression on logits [N, C] of pictures unseen by the weights."""
    inputs = torch.stack([whole.flatten(), cell.flatten()], 1).double()
    wanted = targets.flatten().double()
    mixing = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([mixing], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(inputs @ mixing[:2] + mixing[2], wanted)
        value.backward()
        return value

    optimizer.step(loss)
    return mixing.detach().float()


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean over the classes that occur of the average precision; scores and bool targets are [N, C]."""
    order = scores.argsort(dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, dtype=torch.float64)[:, None]
    occur = hits.sum(0) > 0
    return float(((precision * hits).sum(0)[occur] / hits.sum(0)[occur]).mean()) if occur.any() else 0.0


def _mean_and_spread(wholes: Tensor, block: int = 65536) -> tuple[Tensor, Tensor]:
    """[F], [F] over all rows, in blocks: a float32 copy of the features need not fit into memory."""
    total = squares = torch.zeros(wholes.shape[1], dtype=torch.float64)
    for start in range(0, len(wholes), block):
        rows = wholes[start : start + block].double()
        total, squares = total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / len(wholes)
    return mean.float(), ((squares / len(wholes) - mean.square()).clamp(min=0).sqrt() + 1e-3).float()
