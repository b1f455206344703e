"""Which tags and which caption tokens are masked: pure functions of a generator.

The paper masks 15 % of the tag tokens in pre-training and of the caption tokens in fine-tuning. It
does not say whether a masked token is always [MASK] or sometimes kept or replaced (80/10/10): here
it is always [MASK], which is what the model meets at inference.
"""

from collections.abc import Sequence

import numpy as np


def masked_share(share_min: float, share_max: float, generator: np.random.Generator) -> float:
    """The share of tags to mask in one picture, uniform in [share_min, share_max].

    share_min = share_max = 0.15 is the paper. A wide range also trains the model to write tags
    from regions alone.
    """
    return float(generator.uniform(share_min, share_max)) if share_max > share_min else share_min


def mask_tags(tags: int, share: float, at_most: int, generator: np.random.Generator) -> np.ndarray:
    """Choose whole tags to mask.

    Args:
        tags: number of tags of the picture; 0 is valid and masks nothing.
        share: share of the tags to mask, rounded, at least one tag.
        at_most: upper bound on the number of masked tags, 0 for none (1 is the paper's Table 6, first row).

    Returns:
        bool [tags].
    """
    chosen = np.zeros(tags, dtype=bool)
    if tags == 0:
        return chosen
    count = max(1, round(share * tags))
    if at_most:
        count = min(count, at_most)
    chosen[generator.choice(tags, size=min(count, tags), replace=False)] = True
    return chosen


def next_pieces(
    chosen: np.ndarray, lengths: Sequence[int], probability: float, generator: np.random.Generator
) -> np.ndarray:
    """Which masked tags are asked for as a caption asks for words, and for which of their pieces.

    A caption is written piece by piece: "teddy", then "bear" after "teddy". A tag that is hidden whole
    shows how long it is and teaches no piece after the one before it, so a captioner trained that way
    writes hardly any word of several pieces. Asking for piece k after the true pieces before it, with the
    later ones left out of the input, is that step.

    Args:
        chosen: bool [tags], the masked ones. lengths: pieces of each tag.
        probability: that a masked tag of n >= 2 pieces is asked for this way, for a piece 0 .. n - 1
            drawn evenly; 0 is the paper.

    Returns:
        int64 [tags]: the piece asked for, -1 for tags that are hidden whole or not masked.
    """
    asked = np.full(len(lengths), -1, dtype=np.int64)
    if probability > 0:
        for tag in np.flatnonzero(chosen):
            if lengths[tag] > 1 and generator.random() < probability:
                asked[tag] = generator.integers(lengths[tag])
    return asked


def mask_caption(tokens: int, probability: float, generator: np.random.Generator, at_most: int = 0) -> np.ndarray:
    """Choose caption tokens to mask: `tokens` counts [CLS] w1 .. wn [SEP].

    [CLS] is never masked; [SEP] may be, which is how the end is learned (Oscar). At least one.

    Args:
        at_most: upper bound on the number of masked tokens, 0 for none (Oscar has 3).

    Returns:
        bool [tokens].
    """
    chosen = np.zeros(tokens, dtype=bool)
    count = min(max(1, round(probability * tokens)), tokens - 1)
    if at_most:
        count = min(count, at_most)
    chosen[1 + generator.choice(tokens - 1, size=count, replace=False)] = True
    return chosen
