"""From all that is known of a picture to its tags: merging, thinning and the cut to the tags that fit.

The paper names the ingredients (labels and detections, 15 tag tokens) and no rule, and the question was never
answered in public; so every step is a choice with a default, made in this order:

    1. the classes that people verified as present, in the order of the files
    2. with `detector`: its tags after them, best first, but none that people verified as absent
    3. with `allowed`: only these tags (the paper's Table 5: 500 classes against 6.4K)
    4. with `min_count`: only tags that enough pictures are labelled with
    5. with `above`: no "animal" where there is a "dog"
    6. with `max_tokens`: what fits, whole tags only, in the order so far or the rarest first
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vivo.data.types import Regions


def tag_name(display_name: str) -> str:
    """A class name as a tag: lower case, single spaces; captions and detectors here write them so too."""
    return " ".join(display_name.lower().split())


def detector_tags(regions: Regions, least_score: float = 0.0) -> list[str]:
    """The names that a detector gave to a picture's regions, each once, the surest first.

    Args:
        regions: of one picture.
        least_score: confidence that the best region of a name must have.
    """
    best: dict[str, float] = {}
    for label, score in zip(regions.labels, regions.scores.tolist(), strict=True):
        if label and score >= least_score:
            tag = tag_name(label)
            best[tag] = max(score, best.get(tag, score))
    return sorted(best, key=lambda tag: -best[tag])


@dataclass(frozen=True)
class TagRules:
    """How `choose` makes a picture's tags; the defaults keep every verified label and nothing else.

    Attributes:
        detector: picture id -> tags, best first; None for a picture without detections, which is then left
            out as a whole (it has no features to learn from). None: labels alone.
        allowed: the only tags that may come out; None: any.
        min_count: labelled pictures that a tag needs; 1 keeps all. Detections do not count.
        above: tag -> more general tags, dropped beside it; empty: keep them.
        tokens: tag -> word pieces; needed for `max_tokens`.
        max_tokens: word pieces of a picture's tags together; 0: no limit (collation then draws a set that fits,
            another one in each epoch).
        first: which tags are to fit first: as "listed" by steps 1 and 2, or the "rare" ones.
    """

    detector: Callable[[str], list[str] | None] | None = None
    allowed: Collection[str] | None = None
    min_count: int = 1
    above: Mapping[str, Collection[str]] = field(default_factory=dict)
    tokens: Callable[[str], int] | None = None
    max_tokens: int = 0
    first: Literal["listed", "rare"] = "listed"


class TagChooser:
    """Applies `TagRules` picture by picture.

    Args:
        rules: the choices.
        counts: how many pictures are labelled with each tag.

    Attributes:
        report: what was done so far, by reason.
    """

    def __init__(self, rules: TagRules, counts: Mapping[str, int]) -> None:
        if rules.max_tokens and rules.tokens is None:
            raise ValueError("max_tokens needs tokens, to count them")
        self.rules, self._counts = rules, counts
        self.report: Counter[str] = Counter()

    def choose(self, image_id: str, present: list[str], absent: Collection[str] = ()) -> list[str] | None:
        """The tags of a picture, each once; None if it is to be left out (no detections).

        Args:
            image_id: the picture.
            present: tags that people verified, each once.
            absent: tags that people said are not there; a tag that is also in `present` stays.
        """
        rules = self.rules
        tags = list(present)
        if rules.detector is not None:
            detected = rules.detector(image_id)
            if detected is None:
                self.report["pictures without regions"] += 1
                return None
            known, denied = set(present), set(absent)
            new = [tag for tag in detected if tag not in known]
            tags += [tag for tag in new if tag not in denied]
            self.report["detections that people had denied"] += len(present) + len(new) - len(tags)
        if rules.allowed is not None:
            tags = self._kept("tags outside the vocabulary", tags, lambda tag: tag in rules.allowed)
        if rules.min_count > 1:
            tags = self._kept("rare tags", tags, lambda tag: self._counts.get(tag, 0) >= rules.min_count)
        if rules.above:
            general = {above for tag in tags for above in rules.above.get(tag, ())}
            tags = self._kept("tags with a finer tag beside them", tags, lambda tag: tag not in general)
        if rules.max_tokens:
            tags = self._cut(tags)
        return tags

    def _kept(self, reason: str, tags: list[str], keep: Callable[[str], bool]) -> list[str]:
        kept = [tag for tag in tags if keep(tag)]
        self.report[reason] += len(tags) - len(kept)
        return kept

    def _cut(self, tags: list[str]) -> list[str]:
        """Tags that fit, tried one after the other, as `vivo.data.text.TagPieces.cut` does."""
        assert self.rules.tokens is not None
        order = tags
        if self.rules.first == "rare":  # a stable sort; what only the detector names counts as rarest
            order = sorted(tags, key=lambda tag: self._counts.get(tag, 0))
        fitting, used = set(), 0
        for tag in order:
            length = self.rules.tokens(tag)
            if length and used + length <= self.rules.max_tokens:
                fitting.add(tag)
                used += length
        return self._kept("tags that did not fit", tags, lambda tag: tag in fitting)
