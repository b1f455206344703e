"""Measures of a detector against known truth: recall, average precision, wrong labels, what features know.

Boxes are x1 y1 x2 y2 in pixels of the picture. Everything here is plain arithmetic on small arrays, so that
tests can check it by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivo.data.types import Regions


@dataclass
class Truth:
    """What a picture shows: boxes float32 [G, 4] and G class names ("" for objects without a name)."""

    boxes: np.ndarray
    names: list[str]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [A, 4] and [B, 4] -> [A, B]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas_a, areas_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    return shared / np.maximum(areas_a[:, None] + areas_b[None] - shared, 1e-9)


def matches(found: Regions, truth: Truth, minimum: float = 0.5) -> list[int]:
    """For each true object the index of its region, or -1: one to one, best overlap first."""
    pairs = overlaps(truth.boxes, found.boxes)
    chosen = [-1] * len(truth.boxes)
    for flat in np.argsort(-pairs, axis=None, kind="stable"):
        g, r = divmod(int(flat), pairs.shape[1])
        if pairs[g, r] < minimum:
            break
        if chosen[g] < 0 and r not in chosen:
            chosen[g] = r
    return chosen


def recall(found: Sequence[Regions], truths: Sequence[Truth], names: set[str] | None = None) -> float:
    """Share of true objects (of these names, default all) that have a region of IoU >= 0.5, whatever its label."""
    hits = [
        m >= 0
        for regions, truth in zip(found, truths, strict=True)
        for m, name in zip(matches(regions, truth), truth.names, strict=True)
        if names is None or name in names
    ]
    return float(np.mean(hits))


def labelled(found: Sequence[Regions], truths: Sequence[Truth], names: set[str]) -> dict[str, float]:
    """Of the found objects of these names: share with the right label, with a wrong one, with none."""
    said = [
        (regions.labels[m], name)
        for regions, truth in zip(found, truths, strict=True)
        for m, name in zip(matches(regions, truth), truth.names, strict=True)
        if m >= 0 and name in names
    ]
    count = max(len(said), 1)
    right = sum(label == name for label, name in said) / count
    none = sum(label == "" for label, _ in said) / count
    return {"right": right, "wrong": 1 - right - none, "none": none}


def mean_average_precision(found: Sequence[Regions], truths: Sequence[Truth], class_names: Sequence[str]) -> float:
    """mAP at IoU 0.5: area under the precision-recall curve (all points, precision made monotone), mean of classes.

    Only regions that bear a label take part, so a class never reaches more than the recall at the
    detector's label threshold: the figure describes the tags as a captioner sees them.
    """
    values = []
    for name in class_names:
        positives = sum(truth.names.count(name) for truth in truths)
        if not positives:
            continue
        scored: list[tuple[float, bool]] = []
        for regions, truth in zip(found, truths, strict=True):
            mine = np.asarray([label == name for label in regions.labels])
            theirs = np.asarray([n == name for n in truth.names], dtype=bool)
            order = np.flatnonzero(mine)[np.argsort(-regions.scores[mine], kind="stable")]
            pairs = overlaps(regions.boxes[order], truth.boxes[theirs])
            free = np.ones(pairs.shape[1], dtype=bool)
            for row, region in zip(pairs, order, strict=True):
                candidates = np.where(free, row, 0.0)
                hit = bool(len(candidates)) and candidates.max() >= 0.5
                if hit:
                    free[candidates.argmax()] = False
                scored.append((float(regions.scores[region]), hit))
        values.append(_average_precision(scored, positives))
    return float(np.mean(values))


def _average_precision(scored: list[tuple[float, bool]], positives: int) -> float:
    hits = np.asarray([hit for _, hit in sorted(scored, key=lambda pair: -pair[0])], dtype=np.float64)
    if not len(hits):
        return 0.0
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_from_here * hits).sum() / positives)


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], decay: float = 1e-3) -> Tensor:
    """Logistic regression on standardised features: correctness (bool [n]) on the test part.

    Args:
        train, test: (features float32 [n, F], classes int64 [n]).
        decay: weight of the squared norm of the weights.
    """
    (x, y), (x_test, y_test) = train, test
    mean, std = x.mean(0), x.std(0).clamp(min=1e-3)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    classes = int(max(y.max(), y_test.max())) + 1
    weight = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=60, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weight[:-1] + weight[-1], y) + decay * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return ((x_test @ weight[:-1] + weight[-1]).argmax(1) == y_test).detach()


def nearest_mean(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Nearest class mean by cosine on standardised features: correctness (bool [n]) on the test part."""
    (x, y), (x_test, y_test) = train, test
    mean, std = x.mean(0), x.std(0).clamp(min=1e-3)
    x, x_test = F.normalize((x - mean) / std), F.normalize((x_test - mean) / std)
    means = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    return (x_test @ F.normalize(means).T).argmax(1) == y_test
