"""Two systems on one split: differences with paired-bootstrap intervals, per domain and metric."""

from collections.abc import Sequence

import numpy as np

from vivo.metrics.bootstrap import Interval, MacroF1, MeanScore, bootstrap, paired_bootstrap
from vivo.metrics.f1 import class_groups
from vivo.metrics.nocaps import F1_PLACES, PARTS, Scores, SplitScorer

Table = dict[str, dict[str, Interval]]


def compare_systems(
    scorer: SplitScorer, a: Sequence[Scores], b: Sequence[Scores], n: int = 1000, seed: int = 0
) -> Table:
    """A minus B: {"in" | "near" | "out" | "overall": {"CIDEr", "ROUGE_L", "F1", "F1_unknown": Interval}}.

    The scales are those of `Scores.table` (CIDEr and ROUGE-L times 100, F1 0..1). Domains without
    pictures, and F1 without classes or positives, are left out.

    Args:
        scorer: the split that all scores come from.
        a, b: one `Scores` for each seed of a system (not necessarily equally many).
        n, seed: resamples, and the seed of the resampling.
    """
    theirs = _statistics(scorer, b)
    return {
        part: {metric: paired_bootstrap(stat, theirs[part][metric], n, seed) for metric, stat in row.items()}
        for part, row in _statistics(scorer, a).items()
    }


def system_intervals(scorer: SplitScorer, scores: Sequence[Scores], n: int = 1000, seed: int = 0) -> Table:
    """The mean over seeds of each score with its bootstrap interval; keys and arguments as in `compare_systems`."""
    return {
        part: {metric: bootstrap(stat, n, seed) for metric, stat in row.items()}
        for part, row in _statistics(scorer, scores).items()
    }


def _statistics(scorer: SplitScorer, seeds: Sequence[Scores]) -> dict[str, dict[str, MeanScore | MacroF1]]:
    if not seeds:
        raise ValueError("a system needs the scores of one seed at least")
    rows: dict[str, dict[str, MeanScore | MacroF1]] = {}
    for part in PARTS:
        members = scorer.members(part)
        if len(members):
            rows[part] = {
                "CIDEr": MeanScore(np.array([s.cider[members] for s in seeds])),
                "ROUGE_L": MeanScore(np.array([s.rouge[members] for s in seeds])),
            }
    if scorer.classes is not None and scorer.truth is not None:
        named = [s.named for s in seeds if s.named is not None]
        for group, of_group in class_groups(scorer.classes).items():
            if scorer.truth[:, of_group].any():
                part, metric = F1_PLACES[group]
                rows.setdefault(part, {})[metric] = MacroF1(named, scorer.truth, of_group)
    return rows
