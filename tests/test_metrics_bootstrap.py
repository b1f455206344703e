"""The paired bootstrap: nothing found where nothing is, coverage, seeds, macro F1 on resamples."""

import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from vivo.data.nocaps import WorldClass
from vivo.data.types import CaptionExample
from vivo.metrics.bleu import CorpusBleu, bleu_of_sums
from vivo.metrics.bootstrap import (
    MacroF1,
    MeanScore,
    SumScore,
    bootstrap,
    paired_bootstrap,
    paired_bootstrap_of_seeds,
)
from vivo.metrics.comparison import compare_systems, compare_systems_and_seeds, mean_table, system_intervals
from vivo.metrics.f1 import class_counts, f1_from_counts, macro_f1
from vivo.metrics.nocaps import SplitScorer

CLASSES = [
    WorldClass("bear", "bears", ["bear", "bears"], "/m/1", "base", True, []),
    WorldClass("mouse", "mice", ["mouse", "mice"], "/m/2", "novel", False, []),
]


def test_a_system_does_not_differ_from_itself() -> None:
    scores = MeanScore(np.random.default_rng(0).random(50))
    assert paired_bootstrap(scores, scores) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(scores, scores).within_noise


def test_a_constant_shift_has_no_width() -> None:
    """Pairing: the spread over pictures, here 100 times the shift, cancels."""
    scores = 100 * np.random.default_rng(0).random(50)
    difference = paired_bootstrap(MeanScore(scores + 1), MeanScore(scores))
    assert difference == pytest.approx((1.0, 1.0, 1.0)) and not difference.within_noise


def test_interval_of_a_mean_is_the_normal_one() -> None:
    """800 scores: the interval is 1.96 standard errors to each side, within the noise of 4,000 resamples."""
    scores = np.random.default_rng(1).normal(5, 2, 800)
    value, low, high = bootstrap(MeanScore(scores), n=4000)
    error = scores.std() / np.sqrt(800)
    assert value == pytest.approx(scores.mean())
    assert (value - low, high - value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.06)


def test_coverage() -> None:
    """Of 200 comparisons of equal systems about 5 % are called different (binomial: 3 to 19 with p > 0.99)."""
    generator = np.random.default_rng(2)
    wrong = 0
    for trial in range(200):
        a, b = (MeanScore(generator.normal(0, 1, 100)) for _ in range(2))
        wrong += not paired_bootstrap(a, b, n=300, seed=trial).within_noise
    assert 3 <= wrong <= 20


def test_seeds_are_averaged_on_the_same_resample() -> None:
    seeds = np.random.default_rng(3).random((3, 40))
    assert bootstrap(MeanScore(seeds), seed=7) == pytest.approx(bootstrap(MeanScore(seeds.mean(axis=0)), seed=7))
    truth = np.random.default_rng(4).random((40, 5)) < 0.4
    said = [np.random.default_rng(5 + k).random((40, 5)) < 0.4 for k in range(2)]
    weights = np.random.default_rng(6).multinomial(40, np.full(40, 1 / 40), size=9)
    both = MacroF1(said, truth)(weights)
    assert both == pytest.approx((MacroF1(said[0], truth)(weights) + MacroF1(said[1], truth)(weights)) / 2)


def test_equal_seeds_give_equal_intervals() -> None:
    scores = MeanScore(np.random.default_rng(0).random(30))
    assert bootstrap(scores, seed=1) == bootstrap(scores, seed=1) != bootstrap(scores, seed=2)


def test_macro_f1_is_recomputed_on_each_resample() -> None:
    """Against a plain loop over resampled pictures."""
    generator = np.random.default_rng(8)
    truth, said_a, said_b = (generator.random((60, 6)) < 0.3 for _ in range(3))
    members = np.array([True, True, False, True, True, False])
    interval = paired_bootstrap(MacroF1(said_a, truth, members), MacroF1(said_b, truth, members), n=250, seed=9)
    generator = np.random.default_rng(9)
    differences = []
    for size in (100, 100, 50):  # as drawn: 100 at a time
        for counts in generator.multinomial(60, np.full(60, 1 / 60), size=size):
            drawn = np.repeat(np.arange(60), counts)
            f1 = [
                macro_f1(f1_from_counts(class_counts(said[drawn][:, members], truth[drawn][:, members])))
                for said in (said_a, said_b)
            ]
            differences.append(f1[0] - f1[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    assert interval[1:] == pytest.approx((2 * interval.value - high, 2 * interval.value - low))


def test_macro_f1_over_rare_classes_is_not_biased_twice() -> None:
    """40 samples of 300 pictures, 60 classes on 4 pictures each: most intervals hold the F1 of all pictures, and
    far more than the plain percentiles do."""
    generator = np.random.default_rng(10)
    skill, share = generator.beta(0.5, 1.6, 60), np.full(60, 4 / 300)
    expected = float(np.mean(2 * share * skill / (share * skill + share)))
    held = plain = 0
    for trial in range(40):
        truth = generator.random((300, 60)) < share
        found = bootstrap(MacroF1(truth & (generator.random((300, 60)) < skill), truth), n=200, seed=trial)
        held += found.low <= expected <= found.high
        plain += 2 * found.value - found.high <= expected <= 2 * found.value - found.low
    assert held >= 26 and held > plain + 4, (held, plain)


def test_bleu_is_recomputed_on_each_resample() -> None:
    """Against pycocoevalcap on the resampled pictures; with seeds, the mean of theirs."""
    words = "a dog runs on the red mat".split()
    generator = np.random.default_rng(11)
    texts = [[[words[i] for i in generator.integers(7, size=6)] for _ in range(3)] for _ in range(12)]
    references, seeds = [t[1:] for t in texts], [[t[k] for t in texts] for k in (0, 1)]
    counts = [CorpusBleu(references).counts(captions) for captions in seeds]
    weights = generator.multinomial(12, np.full(12, 1 / 12), size=4)
    found = SumScore(counts, lambda sums: bleu_of_sums(sums)[..., 2])(weights)
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(12), row)
        gts = {n: [" ".join(r) for r in references[i]] for n, i in enumerate(drawn)}
        theirs = [
            Bleu(4).compute_score(gts, {n: [" ".join(c[i])] for n, i in enumerate(drawn)}, verbose=0)[0][2]
            for c in seeds
        ]
        assert value == pytest.approx(np.mean(theirs), abs=1e-9)


def test_classes_that_vanish_from_a_resample_leave_its_mean() -> None:
    truth = np.array([[True, False], [False, True], [False, False]])
    statistic = MacroF1(truth, truth)
    assert statistic(np.array([[3, 0, 0], [1, 1, 1]])).tolist() == [1.0, 1.0]
    assert np.isnan(statistic(np.array([[0, 0, 3]]))[0])
    assert bootstrap(statistic) == (1.0, 1.0, 1.0)


def test_intervals_of_seeds_by_hand() -> None:
    """Every picture alike, so seeds are all there is: of two seeds one is drawn, each as often."""
    constant = [MeanScore(np.full(5, value)) for value in (0.0, 2.0)]
    level = [MeanScore(np.full(5, 1.0))] * 2
    assert paired_bootstrap_of_seeds(constant, level) == (0.0, -1.0, 1.0)
    assert paired_bootstrap(MeanScore([[0.0] * 5, [2.0] * 5]), level[0]) == (0.0, 0.0, 0.0)
    assert paired_bootstrap_of_seeds(level, level) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="two seeds at least"):
        paired_bootstrap_of_seeds(level, level[:1])


def test_intervals_of_seeds_are_as_wide_as_the_error_of_their_mean() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(size=12)
    seeds = [MeanScore(np.full(3, value)) for value in values]
    _, low, high = paired_bootstrap_of_seeds(seeds, [MeanScore(np.zeros(3))] * 2, n=20_000)
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / math.sqrt(12), rel=0.03)


def test_intervals_of_seeds_hold_both_kinds_of_noise() -> None:
    """Variances of pictures and of seeds add up; equal seeds give the interval of the pictures."""
    generator = np.random.default_rng(6)
    pictures = generator.normal(size=400)
    same = [MeanScore(pictures)] * 3
    nothing = [MeanScore(np.zeros(400))] * 3
    assert paired_bootstrap_of_seeds(same, nothing, n=500) == paired_bootstrap(same[0], nothing[0], n=500)
    shifts = generator.normal(scale=0.1, size=9)
    _, low, high = paired_bootstrap_of_seeds([MeanScore(pictures + s) for s in shifts], nothing, n=20_000)
    error = math.sqrt(pictures.var() / 400 + shifts.var(ddof=1) / 9)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_unequal_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="the same ones"):
        paired_bootstrap(MeanScore([1.0, 2.0]), MeanScore([1.0]))


def test_compare_systems() -> None:
    """On 60 pictures that show a bear or a mouse: right captions beat wrong ones, seeds that swap errors tie."""
    split = [
        CaptionExample(str(n), "", [f"a {animal} on a mat", f"one {animal}"], domain)
        for n in range(30)
        for n, animal, domain in [(2 * n, "bear", "in-domain"), (2 * n + 1, "mouse", "out-domain")]
    ]
    scorer = SplitScorer(split, CLASSES)
    right = scorer.score({e.image_id: e.captions[1] for e in split})
    bears = scorer.score({e.image_id: "one bear" for e in split})
    halves = [
        scorer.score({e.image_id: e.captions[1] if int(e.image_id) // 2 % 2 == k else "a tree" for e in split})
        for k in range(2)
    ]
    table = compare_systems(scorer, [right], [bears], n=200)
    assert table["out"]["F1"] == (1.0, 1.0, 1.0)
    assert table["in"]["CIDEr"] == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert table["out"]["CIDEr"].low > 0 and table["overall"]["ROUGE_L"].low > 0
    assert "near" not in table
    ties = compare_systems(scorer, halves[:1], halves[1:], n=200)
    assert all(interval.within_noise for row in ties.values() for interval in row.values())
    seeds = compare_systems_and_seeds(scorer, [right, bears], halves, n=200)
    once = compare_systems(scorer, [right, bears], halves, n=200)
    assert {part: row.keys() for part, row in seeds.items()} == {part: row.keys() for part, row in once.items()}
    for part, row in seeds.items():
        for metric, interval in row.items():
            assert interval.value == pytest.approx(once[part][metric].value)
            assert interval.value == pytest.approx(
                mean_table([right, bears])[part][metric] - mean_table(halves)[part][metric]
            )
    width = {n: found["out"]["CIDEr"].high - found["out"]["CIDEr"].low for n, found in enumerate((once, seeds))}
    assert width[1] > 1.5 * width[0]
    both = system_intervals(scorer, halves, n=200)
    assert both["overall"]["CIDEr"].value == pytest.approx(right.table["overall"]["CIDEr"] / 2, rel=0.2)
    assert both["out"]["F1_unknown"].value == pytest.approx(2 / 3)
