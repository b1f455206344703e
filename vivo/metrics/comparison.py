"""Two systems on one split: differences with paired-bootstrap intervals, per domain and metric."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from vivo.metrics.bleu import bleu_of_sums
from vivo.metrics.bootstrap import (
    Interval,
    MacroF1,
    MeanScore,
    Statistic,
    SumScore,
    bootstrap,
    paired_bootstrap,
    paired_bootstrap_of_seeds,
)
from vivo.metrics.f1 import class_groups
from vivo.metrics.meteor import score_sums
from vivo.metrics.ngrams import ORDERS
from vivo.metrics.nocaps import F1_PLACES, PARTS, Scores, SplitScorer

Table = dict[str, dict[str, Interval]]


def compare_systems(
    scorer: SplitScorer, a: Sequence[Scores], b: Sequence[Scores], n: int = 1000, seed: int = 0
) -> Table:
    """A minus B: {"in" | "near" | "out" | "overall": {"CIDEr", "ROUGE_L", "BLEU-1".., "F1", ...: Interval}}.

    Metrics and scales are those of `Scores.table` (F1 0..1, all others times 100). Domains without pictures, F1 without
    classes or positives, and METEOR and SPICE that one of the scores has not, are left out.

    Args:
        scorer: the split that all scores come from.
        a, b: one `Scores` for each seed of a system (not necessarily equally many).
        n, seed: resamples, and the seed of the resampling.
    """
    theirs = _statistics(scorer, b)
    return {
        part: {
            metric: paired_bootstrap(stat, theirs[part][metric], n, seed)
            for metric, stat in row.items()
            if metric in theirs[part]
        }
        for part, row in _statistics(scorer, a).items()
    }


def compare_systems_and_seeds(
    scorer: SplitScorer, a: Sequence[Scores], b: Sequence[Scores], n: int = 1000, seed: int = 0
) -> Table:
    """As `compare_systems`, with intervals that also speak of how seeds differ: two seeds at least of each system."""
    of_a, of_b = ([_statistics(scorer, [one]) for one in seeds] for seeds in (a, b))
    everywhere = (*of_a, *of_b)
    return {
        part: {
            metric: paired_bootstrap_of_seeds(
                [one[part][metric] for one in of_a], [one[part][metric] for one in of_b], n, seed
            )
            for metric in row
            if all(metric in one[part] for one in everywhere)
        }
        for part, row in of_a[0].items()
    }


def mean_table(seeds: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """part -> metric -> mean over seeds, of the metrics that all have."""
    return {
        part: {
            metric: float(np.mean([s.table[part][metric] for s in seeds]))
            for metric in row
            if all(metric in s.table[part] for s in seeds)
        }
        for part, row in seeds[0].table.items()
    }


def system_intervals(scorer: SplitScorer, scores: Sequence[Scores], n: int = 1000, seed: int = 0) -> Table:
    """The mean over seeds of each score with its bootstrap interval; keys and arguments as in `compare_systems`."""
    return {
        part: {metric: bootstrap(stat, n, seed) for metric, stat in row.items()}
        for part, row in _statistics(scorer, scores).items()
    }


def _statistics(scorer: SplitScorer, seeds: Sequence[Scores]) -> dict[str, dict[str, Statistic]]:
    if not seeds:
        raise ValueError("a system needs the scores of one seed at least")
    rows: dict[str, dict[str, Statistic]] = {}
    for part in PARTS:
        members = scorer.members(part)
        if len(members):
            rows[part] = _of_part(seeds, members)
    if scorer.classes is not None and scorer.truth is not None:
        named = [s.named for s in seeds if s.named is not None]
        for group, of_group in class_groups(scorer.classes).items():
            if scorer.truth[:, of_group].any():
                part, metric = F1_PLACES[group]
                rows.setdefault(part, {})[metric] = MacroF1(named, scorer.truth, of_group)
    return rows


def _of_part(seeds: Sequence[Scores], members: np.ndarray) -> dict[str, Statistic]:
    """All but F1, of the pictures `members`; what not all seeds have is left out."""

    def rows_of(values: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        found = [rows[members] for rows in values if rows is not None]
        return found if len(found) == len(seeds) else []

    row: dict[str, Statistic] = {"CIDEr": MeanScore(rows_of([s.cider for s in seeds]))}
    if spice := rows_of([s.spice for s in seeds]):
        row["SPICE"] = MeanScore(spice)
    if meteor := rows_of([s.meteor_statistics for s in seeds]):
        row["METEOR"] = SumScore(meteor, lambda sums: 100 * score_sums(sums))
    row["ROUGE_L"] = MeanScore(rows_of([s.rouge for s in seeds]))
    if counts := rows_of([s.bleu_counts for s in seeds]):
        row |= {f"BLEU-{n}": SumScore(counts, partial(_bleu, n=n)) for n in range(1, ORDERS + 1)}
    return row


def _bleu(sums: np.ndarray, n: int) -> np.ndarray:
    """BLEU-n times 100."""
    return 100 * bleu_of_sums(sums)[..., n - 1]
