"""What a caption's confidence means: the probability that every object it names is in the picture.

    calibration = Calibration.from_folder("runs/demo/vivo")       # None: the folder was never calibrated
    calibration.confidences(captions)                             # of one picture's vivo.captioner.Caption, best first

A product of token probabilities is no such thing: it falls with every word, right or wrong. Here a logistic regression
over a few facts of the caption (`facts`) and their products is fitted on pictures whose objects are known
(`eval/calibrate.py`), and how well its probabilities come true is measured on other pictures and kept beside it.

The order of captions stays that of the search: the surest caption of a beam is often the one that says least
(docs/service.md has the figures).

N captions, F facts, G = F + F (F + 1) / 2 terms: facts, and products of two
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from vivo.errors import UserError
from vivo.files import atomic_write_json

if TYPE_CHECKING:
    from vivo.captioner import Caption

FILE = "calibration.json"
"""In a captioner folder."""
FACTS = (
    "mean log-probability", "least log-probability", "sum of log-probabilities", "word pieces", "tags", "tags said",
    "least score of a tag said", "greatest score of a tag not said", "named regions", "unnamed regions",
)  # fmt: skip
PENALTY = 1e-3  # on squared weights, beside the mean loss; enough that facts which say the same do not fight


def facts(caption: "Caption") -> list[float]:
    """The F numbers that a confidence is made of (`FACTS`), all known when the caption is written."""
    log_p = np.array(caption.token_log_probabilities or [caption.score])
    surest = _tag_scores(caption)
    said = [score for tag, score in surest.items() if _says(caption.text, tag)]
    others = [score for tag, score in surest.items() if not _says(caption.text, tag)]
    named = sum(1 for label in caption.regions.labels if label)
    return [
        float(log_p.mean()), float(log_p.min()), float(log_p.sum()), float(len(log_p)), float(len(surest)),
        float(len(said)), min(said, default=0.0), max(others, default=0.0), float(named),
        float(len(caption.regions.labels) - named),
    ]  # fmt: skip


def _tag_scores(caption: "Caption") -> dict[str, float]:
    """Score of each tag that the model was shown: of its surest region; 1 for a tag that no region has."""
    regions = caption.regions
    scores: dict[str, float] = {}
    for label, score in zip(regions.labels, regions.scores, strict=True):
        scores[label.lower()] = max(float(score), scores.get(label.lower(), 0.0))
    return {tag.lower(): scores.get(tag.lower(), 1.0) for tag in caption.tags}


def _says(text: str, tag: str) -> bool:
    """Whether the tag or its regular plural stands in the text."""
    return re.search(rf"\b{re.escape(tag)}(?:e?s)?\b", text.lower()) is not None


@dataclass
class Calibration:
    """A fitted confidence.

    Attributes:
        mean, scale: float [F] each, of the facts of the fitted captions.
        weights, bias: float [G], float, see `_terms`.
        threshold: confidence below which a service gives no caption.
        notes: what it was fitted and checked on, and what came out.
    """

    mean: list[float]
    scale: list[float]
    weights: list[float]
    bias: float
    threshold: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """float [N, F] -> float [N] in 0..1."""
        terms = _terms(np.asarray(rows, dtype=np.float64), np.array(self.mean), np.array(self.scale))
        return 1.0 / (1.0 + np.exp(-np.clip(terms @ np.array(self.weights) + self.bias, -30.0, 30.0)))

    def confidences(self, captions: Sequence["Caption"]) -> list[float]:
        """P(every object that a caption names is there), of the captions of one picture, best first; no other is given
        more than the best."""
        if not captions:
            return []
        return at_most_the_first(self.probabilities(np.array([facts(caption) for caption in captions]))).tolist()

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Calibration | None":
        """The one of a captioner folder, None where there is none.

        Raises:
            UserError: a file that is damaged, or of another version with other facts.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            names = saved.pop("facts")
            found = cls(**saved)
            sizes = {len(names), len(found.mean), len(found.scale)}
            terms = len(FACTS) + len(FACTS) * (len(FACTS) + 1) // 2
            if (
                tuple(names) != FACTS
                or sizes != {len(FACTS)}
                or len(found.weights) != terms
                or not 0 <= found.threshold <= 1
            ):
                raise ValueError("its facts are not those of this version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no readable calibration ({error}); make it with eval/calibrate.py") from None
        return found

    def save(self, folder: str | Path) -> None:
        """Write it into a captioner folder."""
        atomic_write_json(Path(folder) / FILE, {"facts": FACTS, **asdict(self)})


def _terms(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float [N, F] -> float [N, G]: facts less their mean and divided by their scale, and the products of two."""
    standard = np.clip((rows - mean) / scale, -5.0, 5.0)
    first, second = np.triu_indices(standard.shape[1])
    return np.concatenate([standard, standard[:, first] * standard[:, second]], axis=1)


def at_most_the_first(probabilities: np.ndarray) -> np.ndarray:
    """Of one picture's captions, best first: those after the first are given no more than it."""
    return np.minimum(probabilities, probabilities[0])


def fit(rows: np.ndarray, right: np.ndarray) -> Calibration:
    """Maximum likelihood with a small penalty.

    Args:
        rows: float [N, F]. right: bool [N], whether every object named is there.

    Raises:
        UserError: captions that are all right or all wrong teach nothing.
    """
    if right.all() or not right.any():
        which = "right" if right.all() else "wrong"
        raise UserError(f"calibration: all {len(right)} captions are {which}; give others")
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    terms = _terms(rows, mean, scale)
    sign = np.where(right, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = terms @ parameters[:-1] + parameters[-1]
        slope = -sign / (1.0 + np.exp(sign * logits)) / len(right)
        gradient = np.append(terms.T @ slope + 2 * PENALTY * parameters[:-1], slope.sum())
        value = np.logaddexp(0.0, -sign * logits).mean() + PENALTY * float(parameters[:-1] @ parameters[:-1])
        return value, gradient

    found = minimize(loss, np.zeros(terms.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return Calibration(mean.tolist(), scale.tolist(), found[:-1].tolist(), float(found[-1]))


@dataclass(frozen=True)
class Bin:
    """Captions of like confidence: how many, their mean confidence, and the share of them that is right."""

    count: int
    confidence: float
    right: float


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> list[Bin]:
    """Bins of equal width over 0..1; those that hold no caption are left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and share of right ones, each bin by its captions (Naeini et al. 2015)."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.confidence - one.right) for one in bins) / total


def best_threshold(confidence: np.ndarray, right: np.ndarray, wanted: float) -> float:
    """The least threshold at which captions that are withheld are right in at most `wanted` of cases."""
    order = np.argsort(confidence, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    below = np.flatnonzero(share <= wanted)
    return float(confidence[order][below[-1]]) if len(below) else 0.0
