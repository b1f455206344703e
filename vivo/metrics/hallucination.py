"""Objects that captions name and pictures do not show: CHAIR (Rohrbach et al. 2018).

    CHAIRi   mentions of objects that are not there / mentions of objects
    CHAIRs   captions with such a mention / captions

A mention is a word form of a class, the longest match first (`vivo.metrics.word_forms`); each counts, also the second
"dog" of a caption, as in the authors' program. Synonyms are the class's forms: their list of the 80 COCO categories
became our lists of forms. A form of two classes ("bat") is a mistake only where neither is there, and a general word
("animal") none where something finer is.

The paper's truth is what is annotated *or* what a reference names (`vivo.metrics.object_truth.either`).
"""

from collections.abc import Sequence

import numpy as np

from vivo.metrics.object_truth import Truth

Mentions = Sequence[tuple[int, ...]]
"""The classes that each mention of a caption may mean, as `ClassFinder.find_mentions` gives them."""


def count_mentions(
    mentions: Sequence[Mentions], truth: Truth, members: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(mentions of objects that are not there, mentions that the truth can judge) of each caption, int64 [N] each.

    Args:
        mentions: of N captions.
        truth: of their pictures.
        members: bool [C], count mentions of these classes only; None: all.
    """
    wrong, judged = np.zeros(len(mentions), dtype=np.int64), np.zeros(len(mentions), dtype=np.int64)
    for row, of_caption in enumerate(mentions):
        for classes in of_caption:
            if members is None or members[list(classes)].any():
                there = _is_there(classes, truth, row)
                judged[row] += there is not None
                wrong[row] += there is False
    return wrong, judged


def hallucinated_classes(mentions: Mentions, truth: Truth, row: int) -> list[int]:
    """The classes of one caption's mentions that are not there, each once."""
    wrong = [classes for classes in mentions if _is_there(classes, truth, row) is False]
    return sorted({c for classes in wrong for c in classes})


def _is_there(classes: tuple[int, ...], truth: Truth, row: int) -> bool | None:
    """Whether any class that a mention may mean is in the picture; None: the truth does not say of all of them."""
    if any(truth.implied[row, c] for c in classes):
        return True
    return False if all(truth.judged[row, c] for c in classes) else None
