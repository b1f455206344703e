"""The claims about Show and Tell (announcement of 2016, paper of 2016) as tables, from captions that are there.

Photographs: scores of every variant, (a) fine-tuning after the decoder has learned, (b) from the start, (c) captions
that are not in the training set, (e) encoders of three strengths, width of the beam, ensembles. World: (d) colours, (f)
combinations that no training caption says. What has not been trained yet is left out of its table.

A value is the mean over seeds with a 95 % bootstrap interval over pictures; a difference is paired by picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivo.data.regions import RegionStore
from vivo.experiment.recurrent_photographs import (
    BEAMS,
    BY_NAME,
    ENSEMBLES,
    OF_BEAMS,
    VARIANTS,
    Photographs,
    captions,
    config_of,
)
from vivo.metrics.bootstrap import Interval, MeanScore, Statistic, bootstrap, paired_bootstrap
from vivo.metrics.comparison import compare_systems, system_intervals
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import Scores, SplitScorer
from vivo.metrics.novelty import caption_key, novel
from vivo.metrics.ratios import RatioScore
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.world.facts import Said, judged, shown, shown_in
from vivo.world.scenes import Scene

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "CIDEr")
PARTS = 4
"""Groups of test pictures by how near their nearest training picture is."""
Texts = dict[str, str]


@dataclass(frozen=True)
class Table:
    """One table of the page: title, head, rows, and what to read out of it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """As it stands in docs/show_and_tell.md."""
        lines = [f"### {self.title}", "", f"| {' | '.join(self.head)} |", f"|{'---|' * len(self.head)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)]) + "\n"


def shown_interval(found: Interval, digits: int = 1, plus: bool = False) -> str:
    """ "12.3 [11.0, 13.6]"; a difference has its sign."""
    sign = "+" if plus else ""
    return f"{found.value:{sign}.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


# ---- photographs -----------------------------------------------------------------------------


class PhotographScores:
    """Scores of the test captions of each variant, as far as they are there.

    Args:
        seeds: of all trainings. meteor: score METEOR too (Java).
    """

    def __init__(self, of: Photographs, seeds: Sequence[int], meteor: bool = True):
        self.of, self.seeds = of, list(seeds)
        self.scorer = SplitScorer(of.split("test"), meteor=Meteor() if meteor else None)
        self._known: dict[tuple, list[Scores]] = {}

    def texts(self, name: str, seed: int) -> Texts:
        """Captions of one training's best model."""
        return captions(self.of, name, [seed])

    def trained(self, name: str) -> list[int]:
        """Seeds whose training is over."""
        return [seed for seed in self.seeds if self.of.is_trained(name, seed)]

    def scores(self, name: str, beam: int = 3, ensemble: bool = False, of: Sequence[int] | None = None) -> list[Scores]:
        """One for each seed that is trained (of `of`), or one of all of them as an ensemble."""
        seeds = [seed for seed in self.trained(name) if of is None or seed in of]
        key = (name, beam, ensemble, tuple(seeds))
        if key not in self._known:
            groups = [seeds] if ensemble else [[seed] for seed in seeds]
            self._known[key] = [self.scorer.score(captions(self.of, name, group, beam)) for group in groups if group]
        return self._known[key]

    def difference(self, one: str, two: str, metric: str) -> Interval | None:
        """`one` minus `two`, over the seeds of both."""
        common = [seed for seed in self.trained(one) if seed in self.trained(two)]
        if not common:
            return None
        table = compare_systems(self.scorer, self.scores(one, of=common), self.scores(two, of=common))
        return table["overall"][metric]


def variants_table(found: PhotographScores) -> Table:
    """All variants, all metrics."""
    rows = []
    for variant in VARIANTS:
        scores = found.scores(variant.name)
        if scores:
            table = system_intervals(found.scorer, scores)["overall"]
            cells = [shown_interval(table[m]) if m in table else "-" for m in METRICS]
            rows.append((variant.says, str(len(scores)), *cells))
    pictures = len(found.scorer.image_ids)
    return Table(f"Photographs: {pictures} test pictures, beam 3", ("training", "seeds", *METRICS), tuple(rows))


def differences_table(found: PhotographScores) -> Table:
    """(a), (b), scheduled sampling, ensembles."""
    asked = [
        ("(a) phase 2 minus phase 1 (paper: about +1 BLEU-4)", "joint", "frozen"),
        ("(a) phase 2 minus the control of equal length", "joint", "longer"),
        ("(b) from the start minus phase 1 then 2 (announcement: hurts)", "from_start", "joint"),
        ("(b) from the start minus phase 1", "from_start", "frozen"),
        ("scheduled sampling minus without (paper: up to +1.5 BLEU-4)", "scheduled", "frozen"),
    ]
    rows = []
    for says, one, two in asked:
        cells = [found.difference(one, two, metric) for metric in ("BLEU-4", "CIDEr")]
        if all(cells):
            rows.append((says, *(shown_interval(cell, plus=True) for cell in cells)))
    for name in ENSEMBLES:
        if len(found.trained(name)) > 1:
            together, alone = found.scores(name, ensemble=True), found.scores(name)
            table = compare_systems(found.scorer, together, alone)["overall"]
            cells = [shown_interval(table[m], plus=True) for m in ("BLEU-4", "CIDEr")]
            says = f"ensemble of {len(alone)} minus one, {BY_NAME[name].says} (paper: +1.5 BLEU-4)"
            rows.append((says, *cells))
    return Table("Differences", ("", "BLEU-4", "CIDEr"), tuple(rows))


def strength_table(found: PhotographScores) -> Table:
    """(e): encoders of three strengths."""
    rows = []
    for name in ("random_encoder", "half_encoder", "frozen"):
        scores = found.scores(name)
        if scores:
            table = system_intervals(found.scorer, scores)["overall"]
            rows.append((BY_NAME[name].says, *(shown_interval(table[m]) for m in ("BLEU-4", "CIDEr"))))
    return Table(
        "(e) A better encoder makes a better captioner (announcement: +2 BLEU-4 for each step)",
        ("encoder", "BLEU-4", "CIDEr"),
        tuple(rows),
    )


def beams_table(found: PhotographScores, name: str = OF_BEAMS) -> Table:
    """Width of the beam against BLEU-4 and CIDEr."""
    rows = []
    for beam in BEAMS if found.trained(name) else ():
        table = system_intervals(found.scorer, found.scores(name, beam))["overall"]
        rows.append((str(beam), *(shown_interval(table[m]) for m in ("BLEU-4", "CIDEr"))))
    return Table(f"Width of the beam, {BY_NAME[name].says}", ("beam", "BLEU-4", "CIDEr"), tuple(rows))


def novelty_table(found: PhotographScores) -> Table:
    """(c): how many captions are not in the training set, and how good these are; CIDEr of the same picture's copies
    is not known, so the two columns are of different pictures."""
    known = {caption_key(tokens) for tokens in ptb_tokenize_all(found.of.training_captions())}
    rows = []
    for name in ("frozen", "joint"):
        new, good, of_new, of_old = [], [], [], []
        for seed, scores in zip(found.trained(name), found.scores(name), strict=True):
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
    if not found.trained(name):
        return Table("", (), ())
    near = nearest(found.of, found.scorer.image_ids)
    known = {caption_key(tokens) for tokens in ptb_tokenize_all(found.of.training_captions())}
    copied = []
    for seed in found.trained(name):
        texts = found.texts(name, seed)
        copied.append(~novel(ptb_tokenize_all([texts[i] for i in found.scorer.image_ids]), known))
    cider = np.mean([scores.cider for scores in found.scores(name)], axis=0)
    order = np.argsort(near, kind="stable")
    rows = []
    for number, part in enumerate(np.array_split(order, PARTS), 1):
        inside = np.isin(np.arange(len(near)), part)
        share = RatioScore([100.0 * c * inside for c in copied], [inside.astype(float)] * len(copied))
        rows.append(
            (
                f"{number} of {PARTS} ({near[part].min():.2f} to {near[part].max():.2f})",
                shown_interval(bootstrap(share)),
                shown_interval(bootstrap(RatioScore(cider * inside, inside.astype(float)))),
            )
        )
    return Table(
        f"(f) Copied captions against the nearest training picture, {BY_NAME[name].says}",
        ("similarity", "copied, %", "CIDEr"),
        tuple(rows),
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
        beams_table(found),
    ]
    return [table for table in tables if table.rows]


# ---- the world -------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorldCaptions:
    """Captions of the world's evaluation pictures, and what these show.

    Attributes:
        rows: name -> captions by picture id, one for each seed. scenes: of the evaluation pictures. seen: all facts
            that training scenes show (`vivo.world.facts`). base: classes of the training captions.
    """

    rows: Mapping[str, Sequence[Texts]]
    scenes: Mapping[str, Scene]
    seen: frozenset[tuple[str, ...]]
    base: frozenset[str]

    def said(self, row: str) -> list[list[list[Said]]]:
        """[seed][picture]: what the captions say of classes that are there."""
        return [[judged(texts[i], scene) for i, scene in self.scenes.items()] for texts in self.rows[row]]


def ratio(counts: Sequence[Sequence[tuple[float, float]]]) -> RatioScore:
    """[seed][picture](right, said) -> right / said in percent."""
    table = np.array(counts, dtype=np.float64)
    return RatioScore(100 * table[..., 0], table[..., 1])


def colours_right(found: WorldCaptions, row: str) -> Statistic:
    """(d): of the colours that captions say of objects that are there, the share that is right, in percent."""
    return ratio([[_count(one for one in said if len(one.fact) == 2) for said in seed] for seed in found.said(row)])


def colours_told(found: WorldCaptions, row: str) -> Statistic:
    """Of the tinted objects in the pictures, the share whose colour captions say rightly, in percent."""
    told = []
    for texts in found.rows[row]:
        of_seed = []
        for image_id, scene in found.scenes.items():
            true = {fact for fact in shown(scene) if len(fact) == 2}
            right = {one.fact for one in judged(texts[image_id], scene) if len(one.fact) == 2 and one.right}
            of_seed.append((len(right & true), len(true)))
        told.append(of_seed)
    return ratio(told)


def combinations_right(found: WorldCaptions, row: str, colours: bool, seen: bool) -> Statistic:
    """(f): of what captions say of colours (or relations) of base classes, the share that is right, in percent, where
    the true combination was in training pictures (or not).

    Of an object in its natural colours there is no combination, and it is left out.
    """
    counts = []
    for seed in found.said(row):
        of_seed = []
        for said in seed:
            kept = [
                one
                for one in said
                if (len(one.fact) == 2) == colours
                and set(one.fact[1:] if colours else one.fact[::2]) <= found.base
                and one.truth
                and (not colours or one.truth[0][0])
                and any(fact in found.seen for fact in one.truth) == seen
            ]
            of_seed.append(_count(kept))
        counts.append(of_seed)
    return ratio(counts)


def _count(said) -> tuple[int, int]:
    kept = list(said)
    return sum(one.right for one in kept), len(kept)


def colours_table(found: WorldCaptions) -> Table:
    """(d)."""
    rows = [
        (row, shown_interval(bootstrap(colours_right(found, row))), shown_interval(bootstrap(colours_told(found, row))))
        for row in found.rows
    ]
    after, before = "Show and Tell", "Show and Tell, frozen encoder"
    if {after, before} <= set(found.rows):
        cells = [paired_bootstrap(of(found, after), of(found, before)) for of in (colours_right, colours_told)]
        rows.append(("fine-tuned minus frozen", *(shown_interval(cell, plus=True) for cell in cells)))
    return Table(
        "(d) Colours on the world (announcement: fine-tuning the encoder adds them)",
        ("row", "of the colours said, right, %", "of the coloured objects, told rightly, %"),
        tuple(rows),
    )


def combinations_table(found: WorldCaptions) -> Table:
    """(f), colours and relations."""
    rows = []
    for row in found.rows:
        cells = []
        for colours in (True, False):
            seen, unseen = (combinations_right(found, row, colours, known) for known in (True, False))
            cells += [shown_interval(bootstrap(stat)) for stat in (seen, unseen)]
        rows.append((row, *cells))
    return Table(
        "(f) Combinations of base classes that training pictures show, and others: of what is said, right, %",
        ("row", "colours, seen", "colours, unseen", "relations, seen", "relations, unseen"),
        tuple(rows),
        (
            "A colour is judged where the object is dyed, a relation where the two objects have any; chance is 1 of 9"
            " colours.",
        ),
    )


def world_captions(world: Path, rows: Mapping[str, Sequence[Texts]], base: Sequence[str]) -> WorldCaptions:
    """What is needed to judge these captions of the world in a folder."""
    from vivo.world.write import scenes_of

    seen = shown_in(scenes_of(world, "coco_train").values())
    return WorldCaptions(rows, scenes_of(world, "nocaps"), frozenset(seen), frozenset(base))


def world_tables(found: WorldCaptions) -> list[Table]:
    """All tables of the world."""
    return [colours_table(found), combinations_table(found)]
