"""The paper's Tables 4 to 6 from trainings: which row stands where is read from its configuration, not from its name.

A row is placed by the fields in which it differs from the base row (VIVO itself): matching off alone is "w/o Hungarian"
of Table 6; matching off and another learning rate is no row of the paper and stands below, its differences named.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from vivo.errors import UserError
from vivo.experiment.trained import LeftOut, Trained, differences
from vivo.metrics.bootstrap import Interval
from vivo.metrics.comparison import Table, compare_systems, system_intervals
from vivo.metrics.nocaps import Scores, SplitScorer

PRETRAINED = "pretrain"
# Beside the objective, what a row of Table 4 may have of its own: how its captions are read, and for how long.
_OF_PAIRS = frozenset(
    f"pretrain.{name}"
    for name in (
        *("data.pairs", "data.pairs_regions", "data.pairs_tags", "data.pairs_share", "data.tag_dropout"),
        *("data.captions_per_picture", "data.named_tags_only", "masking.caption", "masking.caption_probability"),
        "optim.duration",
    )
)


@dataclass(frozen=True)
class Arm:
    """A row of one of the paper's tables.

    Attributes:
        label: its name there. paper: CIDEr there; None: it is no row of the paper.
        differs: the fields in which it differs from VIVO, each with a test of its value; {} for VIVO itself.
        may: other fields that may differ too.
    """

    label: str
    paper: float | None
    differs: Mapping[str, Callable[[Any], bool]]
    may: frozenset[str] = frozenset()

    def is_of(self, settings: Mapping[str, Any], different: Mapping[str, Any]) -> bool:
        """Whether a row with these settings, and these differences from the base, is this one."""
        return different.keys() - self.may == self.differs.keys() and all(
            right(settings[key]) for key, right in self.differs.items()
        )


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: title, what its CIDEr was measured on, rows in order."""

    title: str
    setting: str
    arms: tuple[Arm, ...]


def _equals(wanted: object) -> Callable[[Any], bool]:
    return lambda value: value == wanted


_NONE = {PRETRAINED: lambda start: start != "yes"}
_OI10 = "a tenth of Open Images, nocaps validation, overall"
TABLES = (
    PaperTable(
        "Table 4: image-sentence pairs in pre-training",
        "COCO Karpathy test, cross-entropy",
        (
            Arm("none", 114.7, _NONE),
            Arm("pairs (OSCAR)", 118.2, {"pretrain.objective": _equals("pairs")}, _OF_PAIRS),
            Arm("pairs + tags (OSCAR + VIVO)", 119.8, {"pretrain.objective": _equals("both")}, _OF_PAIRS),
            Arm("tags alone (VIVO)", None, {}),
        ),
    ),
    PaperTable(
        "Table 5: vocabulary of pre-training",
        _OI10,
        (
            Arm("none (w/o VIVO)", 69.6, _NONE),
            Arm("classes with boxes", 76.5, {"pretrain.data.vocabulary": bool}),
            Arm("all tags", 77.8, {}),
        ),
    ),
    PaperTable(
        "Table 6: loss of pre-training",
        _OI10,
        (
            Arm("one masked tag", 74.9, {"pretrain.masking.at_most": _equals(1)}),
            Arm("w/o Hungarian matching", 75.8, {"pretrain.loss.hungarian": _equals(False)}),
            Arm("w/ Hungarian matching", 77.8, {}),
        ),
    ),
)


@dataclass
class Result:
    """What the trainings of one row came to.

    Attributes:
        row: its name. seeds: those it has. lacks: those that another row has and it does not.
        scores: mean over seeds with 95 % interval. minus_base: this row minus the base, over the seeds of both; None
            for the base, and where no captions are known.
        different: field -> (value of the base, value here). commits: of the code. last: last losses, by seed and stage.
    """

    row: str
    seeds: list[int]
    lacks: list[int]
    scores: Table
    minus_base: Table | None
    settings: Mapping[str, Any]
    different: dict[str, tuple[Any, Any]]
    commits: list[str]
    last: dict[int, Mapping[str, Mapping[str, float]]]


@dataclass
class Ablations:
    """All of it: results by row, the base's name, what is in no table, and what the intervals are."""

    base: str
    results: dict[str, Result]
    intervals: str
    left_out: Sequence[LeftOut] = field(default_factory=list)

    def of(self, arm: Arm) -> list[Result]:
        """The rows that are this one of the paper's."""
        return [r for r in self.results.values() if arm.is_of(r.settings, r.different)]

    @property
    def others(self) -> list[Result]:
        """The rows that are in none of the paper's tables."""
        placed = {r.row for table in TABLES for arm in table.arms for r in self.of(arm)}
        return [r for r in self.results.values() if r.row not in placed]


def make_ablations(
    trained: Sequence[Trained],
    left_out: Sequence[LeftOut],
    base: str,
    scorer: SplitScorer | None = None,
    resamples: int = 1000,
) -> Ablations:
    """Results of all rows.

    Args:
        trained: all with captions, or all with scores alone. base: name of the row that is VIVO itself.
        scorer: of the evaluation pictures, for captions. resamples: of the bootstrap.

    Raises:
        UserError: no row of that name, a row whose trainings do not belong together, captions of other pictures.
    """
    rows = _rows(trained)
    if base not in rows:
        why = f"there are {', '.join(rows)}" if rows else "no training is finished"
        raise UserError(f"--base {base}: no such row ({why}); name the row that is VIVO itself")
    seeds = {run.seed for runs in rows.values() for run in runs}
    scored = {run.where: _score(scorer, run) for run in trained} if scorer else {}
    results = {}
    for name, runs in rows.items():
        of_base = {run.seed: run for run in rows[base]}
        common = [run for run in runs if run.seed in of_base]
        minus = None
        if scorer and name != base and common:
            ours, theirs = [scored[r.where] for r in common], [scored[of_base[r.seed].where] for r in common]
            minus = compare_systems(scorer, ours, theirs, resamples)
        different = differences(rows[base][0].settings, runs[0].settings)
        results[name] = Result(
            name,
            [run.seed for run in runs],
            sorted(seeds - {run.seed for run in runs}),
            system_intervals(scorer, [scored[r.where] for r in runs], resamples) if scorer else _over_seeds(runs),
            minus,
            runs[0].settings,
            different,
            list(dict.fromkeys(commit for run in runs for commit in run.commits)),
            {run.seed: run.last for run in runs},
        )
    kind = (
        "95 % basic bootstrap intervals over pictures (seeds are not resampled)"
        if scorer
        else "95 % intervals of Student's t over seeds"
    )
    return Ablations(base, results, kind, left_out)


def _rows(trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Trainings by row, by seed; `UserError` where those of a row do not belong together."""
    rows: dict[str, list[Trained]] = {}
    for run in trained:
        rows.setdefault(run.row, []).append(run)
    for name, runs in rows.items():
        runs.sort(key=lambda run: run.seed)
        for before, run in zip(runs, runs[1:], strict=False):
            unlike = differences(before.settings, run.settings)
            who = f"{before.where} (seed {before.seed}) and {run.where} (seed {run.seed})"
            if unlike:
                key, (one, other) = next(iter(unlike.items()))
                raise UserError(
                    f"{who} are both of row {name}, but {key} is {one} and {other}; give the runs of one experiment, "
                    "or call one row's folder another name"
                )
            if before.seed == run.seed:
                raise UserError(f"{who} are both of row {name}, with equal settings; leave one of them out")
    return rows


def _score(scorer: SplitScorer, run: Trained) -> Scores:
    assert run.captions is not None, "trainings with captions and with scores alone do not mix"
    try:
        return scorer.score(run.captions)
    except UserError as error:
        raise UserError(f"{run.where}: {error}") from error


def _over_seeds(runs: Sequence[Trained]) -> Table:
    """Mean over seeds of the scores that all seeds have; one seed has no interval (NaN)."""
    tables = [run.table or {} for run in runs]
    found: Table = {}
    for part, metrics in tables[0].items():
        for metric in metrics:
            values = [table[part][metric] for table in tables if metric in table.get(part, {})]
            if len(values) == len(tables):
                found.setdefault(part, {})[metric] = _student(values)
    return found


def _student(values: Sequence[float]) -> Interval:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)
