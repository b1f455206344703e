"""F1 of named objects (the paper's Table 2, by classes).

For each class, the pictures whose predicted caption names it are compared with the pictures where any
reference names it; F1 of a group of classes is the mean over its classes that occur in references.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder, NamedClass

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]


def class_counts(predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Counts:
    """True positives, predicted positives and positives of each class, float64 [C] or [R, C].

    Args:
        predicted, truth: bool [N, C], whether the prediction / any reference of a picture names a class.
        weights: [R, N], how often each picture counts, for R resamples; None: once.
    """

    def count(named: np.ndarray) -> np.ndarray:
        if weights is None:
            return named.sum(axis=0, dtype=np.float64)
        return weights.astype(np.float64) @ named.astype(np.float64)

    return count(predicted & truth), count(predicted), count(truth)


def f1_from_counts(counts: Counts) -> np.ndarray:
    """F1 of each class, 0..1; NaN for classes without positives. Shape of the counts."""
    correct, predicted, positives = counts
    return np.where(positives > 0, 2 * correct / np.maximum(predicted + positives, 1), np.nan)


def macro_f1(f1: np.ndarray) -> np.ndarray:
    """Mean over classes (the last axis) with positives; NaN where no class has any."""
    present = ~np.isnan(f1)
    count = present.sum(axis=-1)
    return np.where(count > 0, np.where(present, f1, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def micro_f1(counts: Counts) -> np.ndarray:
    """F1 of all pairs of picture and class together (the sums over the last axis), 0..1; NaN without any.

    Frequent classes decide it, where in `macro_f1` every class counts alike.
    """
    correct, predicted, positives = (count.sum(axis=-1) for count in counts)
    total = predicted + positives
    return np.where(total > 0, 2 * correct / np.maximum(total, 1), np.nan)


def class_groups(classes: Sequence[NamedClass]) -> dict[str, np.ndarray]:
    """bool [C] for each group: "in" base classes, "out" novel ones, "out_unknown" novel ones that the detector
    does not know, "overall" all."""
    novel = np.array([named.role == "novel" for named in classes], dtype=bool)
    unknown = np.array([not named.detector for named in classes], dtype=bool)
    return {"in": ~novel, "out": novel, "out_unknown": novel & unknown, "overall": np.ones(len(classes), dtype=bool)}


def f1_table(predicted: np.ndarray, truth: np.ndarray, classes: Sequence[NamedClass]) -> dict[str, Any]:
    """What `object_f1` returns, from the matrices bool [N, C]."""
    counts = class_counts(predicted, truth)
    f1 = f1_from_counts(counts)
    table: dict[str, Any] = {}
    for group, members in class_groups(classes).items():
        mean = float(macro_f1(f1[members]))
        table[group] = None if np.isnan(mean) else mean
    correct, said, positives = counts
    table["per_class"] = {
        named.name: {
            "role": named.role,
            "detector": named.detector,
            "positives": int(positives[c]),
            "predicted": int(said[c]),
            "precision": float(correct[c] / said[c]) if said[c] else 0.0,
            "recall": float(correct[c] / positives[c]) if positives[c] else None,
            "F1": float(f1[c]) if positives[c] else None,
        }
        for c, named in enumerate(classes)
    }
    return table


def object_f1(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], classes: Sequence[NamedClass]
) -> dict[str, Any]:
    """F1 of named objects over all pictures of `references`, by groups of classes.

    Returns:
        {"in": base classes, "out": novel ones, "out_unknown": novel ones unknown to the detector, "overall": all,
        each 0..1 or None without a positive; "per_class": {name: {"precision", "recall", "F1", "positives", ...}}}.
    """
    finder = ClassFinder(classes)
    truth = finder.mentions([ptb_tokenize_all(list(texts)) for texts in references.values()])
    predicted = finder.mentions([[tokens] for tokens in ptb_tokenize_all([predictions[i] for i in references])])
    return f1_table(predicted, truth, classes)
