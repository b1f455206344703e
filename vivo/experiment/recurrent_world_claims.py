"""The claims about Show and Tell on the embedded world: novel objects, (d) colours, (f) combinations that no training
caption says.

A value is the mean over seeds with a 95 % bootstrap interval over pictures; a difference is paired by picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.experiment.recurrent_tables import Table, shown_interval
from vivo.metrics.bootstrap import Statistic, bootstrap, paired_bootstrap
from vivo.metrics.comparison import system_intervals
from vivo.metrics.nocaps import SplitScorer
from vivo.metrics.ratios import RatioScore
from vivo.world.facts import Fact, Said, accuracy, judged, shown, shown_in
from vivo.world.scenes import Scene
from vivo.world.write import scenes_of

Texts = dict[str, str]


@dataclass(frozen=True)
class WorldCaptions:
    """Captions of the world's evaluation pictures, and what these show.

    Attributes:
        rows: name -> captions by picture id, one for each seed. scenes: of the evaluation pictures. seen: all facts
            that training scenes show (`vivo.world.facts`). base: classes of the training captions. seen_by: facts of
            rows that were trained on other captions.
    """

    rows: Mapping[str, Sequence[Texts]]
    scenes: Mapping[str, Scene]
    seen: frozenset[Fact]
    base: frozenset[str]
    seen_by: Mapping[str, frozenset[Fact]] = field(default_factory=dict)

    def said(self, row: str) -> list[list[list[Said]]]:
        """[seed][picture]: what the captions say of classes that are there."""
        return [[judged(texts[i], scene) for i, scene in self.scenes.items()] for texts in self.rows[row]]


def ratio(counts: Sequence[Sequence[tuple[float, float]]]) -> RatioScore:
    """[seed][picture](right, said) -> right / said in percent."""
    table = np.array(counts, dtype=np.float64)
    return RatioScore(100 * table[..., 0], table[..., 1])


def colours_right(found: WorldCaptions, row: str) -> Statistic:
    """(d): of the colours that captions say of dyed objects that are there, the share that is right, in percent."""
    return ratio([[accuracy(filter(_of_dyed, said)) for said in seed] for seed in found.said(row)])


def colours_of_undyed(found: WorldCaptions, row: str) -> Statistic:
    """Of the colours that captions say of objects that are there, the share said of objects in their natural colours,
    which no caption of the world gives one, in percent."""
    counts = []
    for seed in found.said(row):
        said = [[_of_dyed(one) for one in picture if len(one.fact) == 2] for picture in seed]
        counts.append([(len(dyed) - sum(dyed), len(dyed)) for dyed in said])
    return ratio(counts)


def _of_dyed(one: Said) -> bool:
    """Whether it is a colour, said of an object that has one."""
    return len(one.fact) == 2 and bool(one.truth[0][0])


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


def combinations(found: WorldCaptions, row: str, colours: bool, seen: bool) -> list[list[tuple[int, int]]]:
    """[seed][picture]: (right, said) of what captions say of colours (or relations) of base classes, where the true
    combination was in training pictures (or not).

    Of an object in its natural colours there is no combination, and it is left out.
    """
    counts, known = [], found.seen_by.get(row, found.seen)
    for seed in found.said(row):
        of_seed = []
        for said in seed:
            kept = [
                one
                for one in said
                if (len(one.fact) == 2) == colours
                and set(one.fact[1:] if colours else one.fact[::2]) <= found.base
                and one.truth
                and (not colours or _of_dyed(one))
                and any(fact in known for fact in one.truth) == seen
            ]
            of_seed.append(accuracy(kept))
        counts.append(of_seed)
    return counts


def colours_table(found: WorldCaptions) -> Table:
    """(d)."""
    measures = (colours_right, colours_told, colours_of_undyed)
    rows = [(row, *(shown_interval(bootstrap(of(found, row))) for of in measures)) for row in found.rows]
    after, before = "Show and Tell", "Show and Tell, frozen encoder"
    if {after, before} <= set(found.rows):
        cells = [paired_bootstrap(of(found, after), of(found, before)) for of in measures]
        rows.append(("fine-tuned minus frozen", *(shown_interval(cell, plus=True) for cell in cells)))
    return Table(
        "(d) Colours on the world (announcement: fine-tuning the encoder adds them)",
        (
            "row",
            "of colours said of dyed objects, right, %",
            "of dyed objects, colour told rightly, %",
            "of colours said, of objects in natural colours, %",
        ),
        tuple(rows),
        ("Chance of the first is 1 of 9 colours.",),
    )


def combinations_table(found: WorldCaptions) -> Table:
    """(f), colours and relations."""
    rows = []
    for row in found.rows:
        colours, relations = ([combinations(found, row, of, known) for known in (True, False)] for of in (True, False))
        apart = "-"
        if all(np.array(counts).sum(axis=1)[:, 1].min() for counts in colours):
            apart = shown_interval(paired_bootstrap(*map(ratio, colours)), plus=True)
        rows.append((row, *map(_shown_counts, colours), apart, *map(_shown_counts, relations)))
    return Table(
        "(f) Combinations of base classes that captioned training pictures show, and others: of what is said, right, %",
        (
            "row",
            "colours, captioned",
            "colours, never captioned",
            "difference",
            "relations, captioned",
            "relations, never captioned",
        ),
        tuple(rows),
        (
            "A colour is judged where the object is dyed, a relation where the two objects have any; chance is 1 of 9"
            " colours. In brackets: right of said, of all seeds; without a share where a seed says none.",
            "Pictures of pre-training, which have tags without colours and no captions, do show most of the held-out"
            " colours: VIVO has seen them and not read them, Show and Tell and none have not seen them.",
        ),
    )


def training_facts(world: Path) -> frozenset[Fact]:
    """All that the captioned training pictures of a world show."""
    return frozenset(shown_in(scenes_of(world, "coco_train").values()))


def _shown_counts(counts: Sequence[Sequence[tuple[int, int]]]) -> str:
    """ "25.0 [20.1, 30.2] (10 of 40)"; the counts alone where a seed said nothing."""
    right, said = np.array(counts).sum(axis=1).T
    told = f"{right.sum()} of {said.sum()}"
    return f"{shown_interval(bootstrap(ratio(counts)))} ({told})" if said.min() else told


def world_captions(
    world: Path,
    rows: Mapping[str, Sequence[Texts]],
    base: Sequence[str],
    seen_by: Mapping[str, frozenset[Fact]],
) -> WorldCaptions:
    """What is needed to judge these captions of the world in a folder."""
    return WorldCaptions(rows, scenes_of(world, "nocaps"), training_facts(world), frozenset(base), seen_by)


def naming_table(found: WorldCaptions, world: Path) -> Table:
    """Novel objects: CIDEr by domain and F1."""
    scorer = SplitScorer(
        read_nocaps(world / "nocaps" / "nocaps_val_captions.json"), read_classes(world / "classes.json")
    )
    rows = []
    for row, seeds in found.rows.items():
        table = system_intervals(scorer, [scorer.score(texts) for texts in seeds])
        cells = [shown_interval(table[part]["CIDEr"]) for part in ("in", "near", "out", "overall")]
        cells += [shown_interval(table["out"][metric], 3) for metric in ("F1", "F1_unknown")]
        rows.append((row, str(len(seeds)), *cells))
    head = ("row", "seeds", *(f"CIDEr {part}" for part in ("in", "near", "out", "overall")), "F1 novel", "F1 unknown")
    return Table(
        f"Novel objects of the world: {len(scorer.image_ids)} evaluation pictures",
        head,
        tuple(rows),
        ("F1 unknown: of novel objects that the detector of none and vivo does not know either.",),
    )


def world_tables(found: WorldCaptions, world: Path | None = None) -> list[Table]:
    """All tables of the world; without its folder, not that of novel objects."""
    naming = [naming_table(found, world)] if world else []
    return [*naming, colours_table(found), combinations_table(found)]
