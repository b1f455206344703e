"""Are captions new, and do they differ? Show and Tell asked how many of its captions stand in its training set.

All by PTB tokens: case, punctuation and spacing make no caption new.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

Tokens = Sequence[str]
NGRAMS = (1, 2, 3, 4)


def caption_key(tokens: Tokens) -> str:
    """What two captions have in common that are the same for us."""
    return " ".join(tokens)


def novel(captions: Sequence[Tokens], known: Collection[str]) -> np.ndarray:
    """bool [N]: which captions are new.

    Args:
        known: a set of the `caption_key` of all training captions.
    """
    return np.array([caption_key(tokens) not in known for tokens in captions], dtype=bool)


def diversity(captions: Sequence[Tokens]) -> dict[str, Any]:
    """How different N captions are from one another, and how long.

    Returns:
        "captions": N. "distinct captions": share of different ones among them. "vocabulary": number of different
        tokens. "distinct-n" for n of 1 to 4: different n-grams / n-grams (Li et al. 2016; falls with N, so compare
        equal numbers of captions); None without any. "most repeated": how many captions are the most frequent one.
        "words": mean, min, 5 %, 50 %, 95 %, max. "lengths": {number of words: captions}.
    """
    if not captions:
        raise ValueError("no captions to measure")
    texts = Counter(caption_key(tokens) for tokens in captions)
    lengths = np.array([len(tokens) for tokens in captions])
    found: dict[str, Any] = {
        "captions": len(captions),
        "distinct captions": len(texts) / len(captions),
        "most repeated": max(texts.values()),
        "vocabulary": len({token for tokens in captions for token in tokens}),
    }
    for n in NGRAMS:
        grams = [tuple(tokens[i : i + n]) for tokens in captions for i in range(len(tokens) - n + 1)]
        found[f"distinct-{n}"] = len(set(grams)) / len(grams) if grams else None
    low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    found["words"] = {
        "mean": float(lengths.mean()),
        "min": int(lengths.min()),
        "5 %": low,
        "50 %": middle,
        "95 %": high,
        "max": int(lengths.max()),
    }
    found["lengths"] = {int(length): int(count) for length, count in sorted(Counter(lengths.tolist()).items())}
    return found
