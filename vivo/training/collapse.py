"""Signs that a captioner has collapsed, of captions alone; each with the bound beyond which it is an alarm.

The usual failures: one caption for all pictures, words repeated without end, captions that never end or end at once,
captions that follow the language and not the picture.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

# One caption for more than half of the pictures, or fewer than one distinct caption in ten; shorter than three words;
# more than half unfinished; more than a quarter of the word pairs said before; with another picture's regions and
# tags more than half of the CIDEr is left.
MOST_ALIKE, LEAST_DISTINCT, LEAST_WORDS, LEAST_ENDED, MOST_REPEATED, MOST_SHUFFLED = 0.5, 0.1, 3.0, 0.5, 0.25, 0.5


def signs(captions: Sequence[str], ended: Sequence[bool]) -> dict[str, float]:
    """Of all captions of a validation.

    Args:
        captions: texts. ended: whether each ended by itself, and not at the longest length.

    Returns:
        "distinct": share of distinct captions. "commonest": share of the most frequent one. "words": mean length in
        words. "ended": share. "repetition": mean over captions of the share of word pairs that the caption has
        said before.
    """
    return {
        "distinct": len(set(captions)) / len(captions),
        "commonest": max(Counter(captions).values()) / len(captions),
        "words": sum(len(c.split()) for c in captions) / len(captions),
        "ended": sum(ended) / len(ended),
        "repetition": sum(repetition(c) for c in captions) / len(captions),
    }


def repetition(caption: str) -> float:
    """Share of the pairs of neighbouring words that stood earlier in the caption; "a a a a" has 2 of 3."""
    words = caption.split()
    pairs = list(zip(words, words[1:], strict=False))
    return 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0


def alarms(found: Mapping[str, float], pictures: int) -> list[str]:
    """In words, what of `signs` (and of "CIDEr" and "CIDEr_shuffled", where they are there) is beyond its bound.

    Args:
        pictures: how many captions the signs are of.
    """
    texts = []
    if pictures > 1 and found["commonest"] > MOST_ALIKE:
        texts.append(f"one caption for {round(found['commonest'] * pictures)} of {pictures} pictures")
    elif found["distinct"] < LEAST_DISTINCT:
        texts.append(f"few distinct captions ({found['distinct']:.2f})")
    if found["words"] < LEAST_WORDS:
        texts.append(f"short captions ({found['words']:.1f} words)")
    if found["ended"] < LEAST_ENDED:
        texts.append(f"captions that do not end ({1 - found['ended']:.2f})")
    if found["repetition"] > MOST_REPEATED:
        texts.append(f"repetition ({found['repetition']:.2f})")
    shuffled = found.get("CIDEr_shuffled")
    if shuffled is not None and shuffled > MOST_SHUFFLED * max(found["CIDEr"], 1.0):
        texts.append(f"the picture is not used (CIDEr {found['CIDEr']:.1f}, with other pictures {shuffled:.1f})")
    return texts
