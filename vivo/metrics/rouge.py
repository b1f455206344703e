"""ROUGE-L (Lin 2004) per picture, by pycocoevalcap's own scorer (F with beta 1.2, best reference)."""

from collections.abc import Sequence

import numpy as np
from pycocoevalcap.rouge.rouge import Rouge


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [pictures], 0..1.

    Args:
        captions: tokens joined by spaces, one caption a picture.
        references: [picture][reference]: tokens joined by spaces.
    """
    scorer = Rouge()
    return np.array(
        [scorer.calc_score([caption], list(texts)) for caption, texts in zip(captions, references, strict=True)]
    )
