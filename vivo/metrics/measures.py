"""All that is measured of captions beside their scores: named objects, mistakes, novelty, rare classes.

    split = CaptionSplit(examples, classes, {"labels": ..., "boxes": ...}, TrainingCounts(...))
    measured = split.measure([captions of seed 0, captions of seed 1])
    intervals(measured.statistics), measured.numbers, measured.pictures

A statistic (`vivo.metrics.bootstrap`) has a value and an interval, and two systems' statistics a paired difference. A
vocabulary has neither: it says something of so many captions, and a resample holds other ones twice.

    statistics[section][row][column]
        "objects by TRUTH"              in, out, out_unknown, overall    F1 (macro), micro F1, precision, recall
        "hallucination"                 TRUTH                            CHAIRi, CHAIRi in, CHAIRi out, CHAIRs
        "novelty"                       in, near, out, overall           new, words
        "recall by AXIS and TRUTH"      bins of AXIS                     recall, F1
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vivo.data.types import CaptionExample
from vivo.metrics.bootstrap import Interval, MacroF1, MeanScore, Statistic, bootstrap, paired_bootstrap
from vivo.metrics.f1 import class_groups, f1_table
from vivo.metrics.hallucination import Mentions, count_mentions, hallucinated_classes
from vivo.metrics.long_tail import EDGES, bins_of, shares_up_to
from vivo.metrics.nocaps import PARTS, check_same_pictures
from vivo.metrics.novelty import caption_key, diversity, novel
from vivo.metrics.object_truth import Truth, ancestors_matrix, either, truth_of_captions
from vivo.metrics.ratios import RatioScore
from vivo.metrics.tokenizer import ptb_tokenize, ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder, NamedClass

Statistics = dict[str, dict[str, dict[str, Statistic]]]
Intervals = dict[str, dict[str, dict[str, Interval]]]
REFERENCES, LABELS, VERIFIED, BOXES = "references", "labels", "labels, verified", "boxes"
ANY_SOURCE = "any source"
"""Truth of CHAIR as published: labels, boxes or references say that it is there."""


@dataclass(frozen=True)
class TrainingCounts:
    """What is known of training; each None where it is not.

    Attributes:
        captions: `caption_key` of all of them.
        caption_mentions: int [C], mentions of each class in them.
        tagged_pictures: int [C], pictures that are tagged with each class.
    """

    captions: frozenset[str] | None = None
    caption_mentions: np.ndarray | None = None
    tagged_pictures: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        classes: Sequence[NamedClass],
        captions: Iterable[str] | None = None,
        tags: Iterable[Sequence[str]] | None = None,
    ) -> "TrainingCounts":
        """Count, in one pass each.

        Args:
            captions: all training captions.
            tags: those of each picture of pre-training; a class counts where its name is a tag.
        """
        known = mentions = tagged = None
        if captions is not None:
            finder, keys = ClassFinder(classes), set()
            mentions = np.zeros(len(classes), dtype=np.int64)
            for caption in captions:
                tokens = ptb_tokenize(caption)
                keys.add(caption_key(tokens))
                _count_mentions(finder, tokens, mentions)
            known = frozenset(keys)
        if tags is not None:
            pictures = Counter(tag for of_picture in tags for tag in set(of_picture))
            tagged = np.array([pictures[" ".join(named.name.lower().split())] for named in classes], dtype=np.int64)
        return cls(known, mentions, tagged)


@dataclass
class Measured:
    """What is measured of a system.

    Attributes:
        statistics: see the module's text.
        numbers: {"diversity": one `diversity` a seed, "per_class": {truth: one `f1_table`'s "per_class" a seed}}.
        pictures: a seed {picture id: {"caption", "words", "new", "named", "hallucinated": {truth: classes},
            "missed": {truth: classes}}}; "new" only where training captions are known.
    """

    statistics: Statistics
    numbers: dict[str, Any]
    pictures: list[dict[str, dict[str, Any]]]


class CaptionSplit:
    """The pictures of an evaluation, prepared once for many sets of captions.

    Args:
        examples: pictures with references and, where there are any, domains.
        classes: C classes, as `vivo.data.nocaps.WorldClass`; class groups are those of `class_groups`.
        annotations: truths beside the references, by LABELS, VERIFIED, BOXES.
        training: what was trained on.
        edges: of the bins of rare and frequent classes.

    Attributes:
        truths: by name, what F1 is measured against. mistakes: what CHAIR is measured against; ANY_SOURCE as well.
        annotations, training, edges: as given.
    """

    def __init__(
        self,
        examples: Sequence[CaptionExample],
        classes: Sequence[Any],
        annotations: Mapping[str, Truth] | None = None,
        training: TrainingCounts | None = None,
        edges: Sequence[int] = EDGES,
    ) -> None:
        self.image_ids = [example.image_id for example in examples]
        self.domains = [example.domain for example in examples]
        self.classes, self.annotations, self.edges = classes, dict(annotations or {}), edges
        self.training = training or TrainingCounts()
        self.groups = class_groups(classes)
        self._finder = ClassFinder(classes)
        flat = iter(ptb_tokenize_all([caption for example in examples for caption in example.captions]))
        tokens = [[next(flat) for _ in example.captions] for example in examples]
        self.reference_mentions = np.zeros(len(classes), dtype=np.int64)
        for caption in (caption for of_picture in tokens for caption in of_picture):
            _count_mentions(self._finder, caption, self.reference_mentions)
        references = truth_of_captions(self._finder.mentions(tokens), ancestors_matrix(classes))
        self.truths = {REFERENCES: references, **self.annotations}
        self.mistakes = dict(self.truths)
        said = references
        for name in (LABELS, BOXES):
            said = either(said, self.truths[name]) if name in self.truths else said
        if said is not references:
            self.mistakes[ANY_SOURCE] = said

    def members(self, part: str) -> np.ndarray:
        """Indices of the pictures of "in", "near", "out" or "overall"."""
        return np.array([n for n, of in enumerate(self.domains) if PARTS[part] in (None, of)], dtype=np.int64)

    def measure(self, seeds: Sequence[Mapping[str, str]]) -> Measured:
        """Measure a system by its captions, one set for each seed.

        Raises:
            UserError: a set without a caption for each picture, or with captions of others.
        """
        for captions in seeds:
            check_same_pictures(captions, self.image_ids)
        tokens = [ptb_tokenize_all([captions[i] for i in self.image_ids]) for captions in seeds]
        mentions = [[self._finder.find_mentions(caption) for caption in of_seed] for of_seed in tokens]
        named = [_named(of_seed, len(self.classes)) for of_seed in mentions]
        statistics: Statistics = {}
        for name, truth in self.truths.items():
            statistics[f"objects by {name}"] = {
                group: naming(named, truth, members)
                for group, members in self.groups.items()
                if truth.present[:, members].any()
            }
        statistics["hallucination"] = {name: self._chair(mentions, truth) for name, truth in self.mistakes.items()}
        statistics["novelty"] = self._novelty(tokens)
        for axis, counts in self._axes().items():
            for name, truth in self.truths.items():
                statistics[f"recall by {axis} and {name}"] = {
                    bin_name: {key: naming(named, truth, members)[key] for key in ("recall", "F1")}
                    for bin_name, members in bins_of(counts, self.edges).items()
                    if truth.present[:, members].any()
                }
        numbers = {
            "diversity": [diversity(of_seed) for of_seed in tokens],
            "per_class": {
                name: [f1_table(of_seed & truth.judged, truth.present, self.classes)["per_class"] for of_seed in named]
                for name, truth in self.truths.items()
            },
        }
        pictures = [self._pictures(*each) for each in zip(seeds, tokens, mentions, named, strict=True)]
        return Measured(statistics, numbers, pictures)

    def facts(self) -> dict[str, Any]:
        """What the split and the training are, apart from any captions.

        Returns:
            {"pictures", "classes": {truth: {group: classes with a positive}}, "table3": rows of `shares_up_to` where
            training captions are known, "bins": {axis: {bin: classes}}}.
        """
        facts: dict[str, Any] = {
            "pictures": len(self.image_ids),
            "classes": {
                name: {group: int(truth.present[:, of].any(axis=0).sum()) for group, of in self.groups.items()}
                for name, truth in self.truths.items()
            },
            "bins": {
                axis: {name: int(members.sum()) for name, members in bins_of(counts, self.edges).items()}
                for axis, counts in self._axes().items()
            },
        }
        if self.training.caption_mentions is not None:
            facts["table3"] = shares_up_to(self.training.caption_mentions, self.reference_mentions, self.edges)
        return facts

    def _axes(self) -> dict[str, np.ndarray]:
        axes = {"training tags": self.training.tagged_pictures, "training captions": self.training.caption_mentions}
        return {axis: counts for axis, counts in axes.items() if counts is not None}

    def _chair(self, seeds: Sequence[Sequence[Mentions]], truth: Truth) -> dict[str, Statistic]:
        row: dict[str, Statistic] = {}
        for column, members in (("", None), (" in", self.groups["in"]), (" out", self.groups["out"])):
            wrong, judged = zip(*(count_mentions(of_seed, truth, members) for of_seed in seeds), strict=True)
            row[f"CHAIRi{column}"] = RatioScore(wrong, judged)
            if members is None:
                row["CHAIRs"] = MeanScore(np.array(wrong) > 0)
        return row

    def _novelty(self, seeds: Sequence[Sequence[Sequence[str]]]) -> dict[str, dict[str, Statistic]]:
        words = np.array([[len(caption) for caption in of_seed] for of_seed in seeds])
        known = self.training.captions
        new = None if known is None else np.array([novel(of_seed, known) for of_seed in seeds])
        rows: dict[str, dict[str, Statistic]] = {}
        for part in PARTS:
            members = self.members(part)
            if len(members):
                rows[part] = {} if new is None else {"new": MeanScore(new[:, members])}
                rows[part]["words"] = MeanScore(words[:, members])
        return rows

    def _pictures(
        self,
        captions: Mapping[str, str],
        tokens: Sequence[Sequence[str]],
        mentions: Sequence[Mentions],
        named: np.ndarray,
    ) -> dict[str, dict[str, Any]]:
        names = [of.name for of in self.classes]
        known = self.training.captions
        new = None if known is None else novel(tokens, known)
        rows: dict[str, dict[str, Any]] = {}
        for n, image_id in enumerate(self.image_ids):
            row: dict[str, Any] = {"caption": captions[image_id], "words": len(tokens[n])}
            row |= {} if new is None else {"new": bool(new[n])}
            row["named"] = [names[c] for c in np.flatnonzero(named[n])]
            row["hallucinated"] = {
                name: [names[c] for c in hallucinated_classes(mentions[n], truth, n)]
                for name, truth in self.mistakes.items()
            }
            row["missed"] = {
                name: [names[c] for c in np.flatnonzero(truth.present[n] & ~named[n])]
                for name, truth in self.truths.items()
            }
            rows[image_id] = row
        return rows


def naming(seeds: Sequence[np.ndarray], truth: Truth, members: np.ndarray) -> dict[str, Statistic]:
    """F1 of the classes `members` (bool [C]): macro as `vivo.metrics.f1.object_f1`, and of all judged pairs.

    Args:
        seeds: bool [N, C] each, which classes the captions name.
    """
    of = truth.members(members)
    said = [named[:, members] & of.judged for named in seeds]
    correct = np.array([(one & of.present).sum(axis=1) for one in said])
    predicted = np.array([one.sum(axis=1) for one in said])
    positives = np.array([of.present.sum(axis=1)] * len(said))
    return {
        "F1": MacroF1(said, of.present),
        "micro F1": RatioScore(2 * correct, predicted + positives),
        "precision": RatioScore(correct, predicted),
        "recall": RatioScore(correct, positives),
    }


def intervals(statistics: Statistics, n: int = 1000, seed: int = 0, against: Statistics | None = None) -> Intervals:
    """Each statistic with its 95 % interval, or the difference to that of another system on the same pictures.

    Args:
        n: resamples; 0: values alone, with NaN for the ends. seed: of the resampling.
        against: what to subtract.
    """
    return {
        section: {
            row: {
                column: _interval(stat, None if against is None else against[section][row][column], n, seed)
                for column, stat in columns.items()
            }
            for row, columns in rows.items()
        }
        for section, rows in statistics.items()
    }


def _interval(stat: Statistic, other: Statistic | None, n: int, seed: int) -> Interval:
    if n:
        return bootstrap(stat, n, seed) if other is None else paired_bootstrap(stat, other, n, seed)
    once = np.ones((1, stat.pictures), dtype=np.int64)
    value = float(stat(once)[0]) - (0.0 if other is None else float(other(once)[0]))
    return Interval(value, float("nan"), float("nan"))


def _count_mentions(finder: ClassFinder, tokens: Sequence[str], counts: np.ndarray) -> None:
    """Add a caption's mentions to the `counts` (int [C], in place)."""
    for classes in finder.find_mentions(tokens):
        counts[list(classes)] += 1


def _named(mentions: Sequence[Mentions], size: int) -> np.ndarray:
    """bool [N, C]: which classes each of N captions names."""
    named = np.zeros((len(mentions), size), dtype=bool)
    for row, of_caption in enumerate(mentions):
        for classes in of_caption:
            named[row, list(classes)] = True
    return named
