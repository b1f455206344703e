"""The claims about Show and Tell (announcement of 2016, paper of 2016) as tables, from captions that are there.

Photographs: scores of every variant, (a) fine-tuning after the decoder has learned, (b) from the start, (c) captions
that are not in the training set, (e) encoders of three strengths, (f) copied captions, width of the beam, ensembles.
What has not been captioned yet is left out of its table. The world's: recurrent_world_claims.py.

A value is the mean over seeds with a 95 % bootstrap interval over pictures; a difference is paired by picture, and
shown with an interval of pictures alone and one of pictures and seeds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivo.data.predictions import read_predictions
from vivo.data.regions import RegionStore
from vivo.experiment.recurrent_photographs import (
    BEAMS,
    BY_NAME,
    ENSEMBLES,
    VARIANTS,
    Photographs,
    captions_file,
    config_of,
)
from vivo.experiment.recurrent_tables import Table, shown_interval
from vivo.metrics.bootstrap import Interval, MeanScore, bootstrap
from vivo.metrics.comparison import Table as ComparisonTable
from vivo.metrics.comparison import compare_systems, compare_systems_and_seeds, system_intervals
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import Scores, SplitScorer
from vivo.metrics.novelty import caption_key, novel
from vivo.metrics.ratios import RatioScore
from vivo.metrics.tokenizer import ptb_tokenize_all

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "CIDEr")
WIDTHS = (*BEAMS, 10)
"""Of the beam, in tables."""
PARTS = 4
"""Groups of test pictures by how near their nearest training picture is."""
Texts = dict[str, str]


# ---- photographs -----------------------------------------------------------------------------


class PhotographScores:
    """Scores of the test captions of each variant, as far as they are there.

    Args:
        seeds: of all trainings. meteor: score METEOR too (Java).
    """

    def __init__(self, of: Photographs, seeds: Sequence[int], meteor: bool = True):
        self.of, self.seeds = of, list(seeds)
        examples = of.split("test")
        self._plain = SplitScorer(examples)
        self.scorer = SplitScorer(examples, meteor=Meteor()) if meteor else self._plain
        self._known: dict[Path, Scores] = {}

    def texts(self, name: str, seed: int) -> Texts:
        """Captions of one training's best model."""
        return read_predictions(captions_file(self.of, name, [seed]))

    def captioned(self, name: str, beam: int = 3) -> list[int]:
        """Seeds whose captions are there."""
        return [seed for seed in self.seeds if captions_file(self.of, name, [seed], beam).is_file()]

    def together(self, name: str) -> list[int]:
        """Seeds that captioned as an ensemble; [] where none did."""
        seeds = self.captioned(name)
        return seeds if len(seeds) > 1 and captions_file(self.of, name, seeds).is_file() else []

    def scores(self, name: str, beam: int = 3, ensemble: bool = False, of: Sequence[int] | None = None) -> list[Scores]:
        """One for each seed that captioned (of `of`), or one of all of them as an ensemble."""
        seeds = self.captioned(name, beam) if of is None else list(of)
        return [self._scored(name, group, beam) for group in ([seeds] if ensemble else [[seed] for seed in seeds])]

    def _scored(self, name: str, group: Sequence[int], beam: int) -> Scores:
        """METEOR, which takes its time, only of what `variants_table` shows."""
        file = captions_file(self.of, name, group, beam)
        if file not in self._known:
            scorer = self.scorer if beam == 3 and len(group) == 1 else self._plain
            self._known[file] = scorer.score(read_predictions(file))
        return self._known[file]

    def differences(self, one: str, two: str) -> list[str]:
        """`one` minus `two` over the seeds of both, BLEU-4 and CIDEr: intervals over pictures, then over pictures and
        seeds; [] where they have no seed in common."""
        common = [seed for seed in self.captioned(one) if seed in self.captioned(two)]
        if not common:
            return []
        both = self.scores(one, of=common), self.scores(two, of=common)
        cells = _gains(compare_systems(self.scorer, *both))
        return cells + (_gains(compare_systems_and_seeds(self.scorer, *both)) if len(common) > 1 else ["-", "-"])


def variants_table(found: PhotographScores) -> Table:
    """All variants, all metrics."""
    rows = []
    for variant in VARIANTS:
        scores = found.scores(variant.name)
        if scores:
            table = system_intervals(found.scorer, scores)["overall"]
            cells = [shown_interval(table[m]) if m in table else "-" for m in METRICS]
            of_seed = [len(set(found.texts(variant.name, seed).values())) for seed in found.captioned(variant.name)]
            rows.append((variant.says, str(len(scores)), *cells, f"{np.mean(of_seed):.0f}"))
    pictures = len(found.scorer.image_ids)
    head = ("training", "seeds", *METRICS, "different captions")
    return Table(f"Photographs: {pictures} test pictures, beam 3", head, tuple(rows))


def differences_table(found: PhotographScores) -> Table:
    """(a), (b), scheduled sampling, ensembles."""
    asked = [
        ("(a) phase 2 minus phase 1 (paper: about +1 BLEU-4)", "joint", "frozen"),
        ("(a) the control of equal length minus phase 1", "longer", "frozen"),
        ("(a) phase 2 minus the control", "joint", "longer"),
        ("(b) from the start minus phase 1 then 2 (announcement: hurts)", "from_start", "joint"),
        ("(b) from the start minus phase 1", "from_start", "frozen"),
        ("(b) from the start at phase 2's rate minus phase 1", "gently_from_start", "frozen"),
        ("(b) phase 2 at the rates from the start minus phase 1", "joint_fast", "frozen"),
        ("scheduled sampling minus without (paper: up to +1.5 BLEU-4)", "scheduled", "frozen"),
    ]
    rows = []
    for says, one, two in asked:
        if cells := found.differences(one, two):
            rows.append((says, *cells))
    for name in ENSEMBLES:
        if seeds := found.together(name):
            together, alone = found.scores(name, ensemble=True, of=seeds), found.scores(name)
            says = f"ensemble of {len(alone)} minus one, {BY_NAME[name].says} (paper: +1.5 BLEU-4)"
            rows.append((says, *_gains(compare_systems(found.scorer, together, alone)), "-", "-"))
    head = ("", "BLEU-4", "CIDEr", "BLEU-4, seeds resampled too", "CIDEr, seeds resampled too")
    return Table("Differences", head, tuple(rows))


def _gains(table: ComparisonTable) -> list[str]:
    return [shown_interval(table["overall"][metric], plus=True) for metric in ("BLEU-4", "CIDEr")]


def strength_table(found: PhotographScores) -> Table:
    """(e): encoders of three strengths."""
    values = {
        name: _bleu_and_cider(found, scores)
        for name in ("random_encoder", "half_encoder", "frozen")
        if (scores := found.scores(name))
    }
    if len(values) < 2:
        return Table("", (), ())
    return Table(
        "(e) A better encoder makes a better captioner (announcement: +2 BLEU-4 for each step)",
        ("encoder", "BLEU-4", "CIDEr"),
        tuple((BY_NAME[name].says, *map(shown_interval, value)) for name, value in values.items()),
        values=tuple(values.values()),
        labels=tuple(name.removesuffix("_encoder").replace("frozen", "whole") for name in values),
        axis="strength of the frozen encoder",
    )


def _bleu_and_cider(found: PhotographScores, scores: Sequence[Scores]) -> tuple[Interval, ...]:
    table = system_intervals(found.scorer, scores)["overall"]
    return table["BLEU-4"], table["CIDEr"]


def beams_table(found: PhotographScores, name: str) -> Table:
    """Width of the beam against BLEU-4 and CIDEr, of the seeds that have captions of the most widths."""
    widths = {seed: [b for b in WIDTHS if seed in found.captioned(name, b)] for seed in found.captioned(name)}
    beams = max(widths.values(), key=len, default=[])
    seeds = [seed for seed, of_seed in widths.items() if of_seed == beams]
    if len(beams) < 2:
        return Table("", (), ())
    values = [_bleu_and_cider(found, found.scores(name, beam, of=seeds)) for beam in beams]
    return Table(
        f"Width of the beam, {BY_NAME[name].says}, seeds {', '.join(map(str, seeds))}",
        ("beam", "BLEU-4", "CIDEr"),
        tuple((str(beam), *map(shown_interval, value)) for beam, value in zip(beams, values, strict=True)),
        values=tuple(values),
        axis=f"width of the beam, {name}",
    )


def novelty_table(found: PhotographScores) -> Table:
    """(c): how many captions are not in the training set, and how good these are; CIDEr of the same picture's copies
    is not known, so the two columns are of different pictures."""
    known = {caption_key(tokens) for tokens in ptb_tokenize_all(found.of.training_captions())}
    rows = []
    for name in ("frozen", "joint"):
        new, good, of_new, of_old = [], [], [], []
        for seed, scores in zip(found.captioned(name), found.scores(name), strict=True):
            texts = found.texts(name, seed)
            fresh = novel(ptb_tokenize_all([texts[i] for i in found.scorer.image_ids]), known)
            new.append(fresh.astype(float))
            good.append(scores.cider)
            of_new.append(np.where(fresh, scores.cider, 0.0))
            of_old.append(np.where(fresh, 0.0, scores.cider))
        if new:
            old = [1.0 - one for one in new]
            rows.append(
                (
                    BY_NAME[name].says,
                    shown_interval(bootstrap(MeanScore(np.array([100 * n for n in new])))),
                    shown_interval(bootstrap(RatioScore(of_new, new))),
                    shown_interval(bootstrap(RatioScore(of_old, old))),
                )
            )
    return Table(
        "(c) Captions that are not in the training set, word for word",
        ("training", "new, %", "CIDEr of the new ones", "CIDEr of the copied ones"),
        tuple(rows),
    )


def nearest_table(found: PhotographScores, name: str = "joint") -> Table:
    """(f), last part: copied captions against how near the nearest training picture is (cosine of the frozen encoder's
    outputs, less their mean over training pictures)."""
    if not found.captioned(name):
        return Table("", (), ())
    near = nearest(found.of, found.scorer.image_ids)
    known = {caption_key(tokens) for tokens in ptb_tokenize_all(found.of.training_captions())}
    copied = []
    for seed in found.captioned(name):
        texts = found.texts(name, seed)
        copied.append(~novel(ptb_tokenize_all([texts[i] for i in found.scorer.image_ids]), known))
    cider = np.mean([scores.cider for scores in found.scores(name)], axis=0)
    order = np.argsort(near, kind="stable")
    rows, values = [], []
    for number, part in enumerate(np.array_split(order, PARTS), 1):
        inside = np.isin(np.arange(len(near)), part)
        share = RatioScore([100.0 * c * inside for c in copied], [inside.astype(float)] * len(copied))
        values.append((bootstrap(share), bootstrap(RatioScore(cider * inside, inside.astype(float)))))
        between = f"{near[part].min():.2f} to {near[part].max():.2f}"
        rows.append((f"{number} of {PARTS} ({between})", *map(shown_interval, values[-1])))
    return Table(
        f"(f) Copied captions against the nearest training picture, {BY_NAME[name].says}",
        ("similarity", "copied, %", "CIDEr"),
        tuple(rows),
        values=tuple(values),
        labels=tuple(row[0].partition("(")[2].rstrip(")") for row in rows),
        axis="similarity of the nearest training picture",
    )


def nearest(of: Photographs, image_ids: Sequence[str]) -> np.ndarray:
    """float64 [N]: cosine of each test picture with the nearest training picture."""
    from vivo.show_and_tell.tasks import encoder_outputs, make_outputs, starting_model, training_examples

    config = config_of(of, BY_NAME["frozen"], 0)
    make_outputs(config)  # they may have been left where the models were trained
    training, examples = RegionStore(of.outputs("frozen")), training_examples(config)
    trained = [e.image_id for e in examples]
    _, model = starting_model(config, of.training_captions())
    test = encoder_outputs(model, of.out / "outputs" / "test_lite0", of.split("test"), str(of.pictures))
    known, asked = (
        np.stack([store[i].features[0].astype(np.float64) for i in ids])
        for store, ids in ((training, trained), (test, image_ids))
    )
    middle = known.mean(axis=0)
    known, asked = ((x - middle) / np.linalg.norm(x - middle, axis=1, keepdims=True) for x in (known, asked))
    return (asked @ known.T).max(axis=1)


def photograph_tables(of: Photographs, seeds: Sequence[int], meteor: bool = True) -> list[Table]:
    """All tables of photographs that have a row."""
    found = PhotographScores(of, seeds, meteor)
    tables = [
        variants_table(found),
        differences_table(found),
        novelty_table(found),
        strength_table(found),
        nearest_table(found),
        *(beams_table(found, name) for name in BY_NAME),
    ]
    return [table for table in tables if table.rows]
