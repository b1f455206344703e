"""What is measured beside scores: hand cases, the published definitions again, properties."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vivo.data.nocaps import WorldClass
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.bootstrap import MeanScore, bootstrap
from vivo.metrics.f1 import class_counts, micro_f1, object_f1
from vivo.metrics.hallucination import count_mentions, hallucinated_classes
from vivo.metrics.long_tail import bins_of, shares_up_to
from vivo.metrics.measures import ANY_SOURCE, CaptionSplit, TrainingCounts, intervals
from vivo.metrics.novelty import diversity, novel
from vivo.metrics.object_truth import Truth, ancestors_matrix, either, truth_of_annotations, truth_of_captions
from vivo.metrics.ratios import RatioScore
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.metrics.word_forms import ClassFinder


def named(name: str, forms: list[str], role: str = "base", parents: list[str] | None = None) -> WorldClass:
    return WorldClass(name, forms[-1], forms, f"/m/{name}", role, role == "base", parents or [])


CLASSES = [
    named("dog", ["dog", "dogs"], parents=["mammal", "animal"]),
    named("animal", ["animal", "animals"]),
    named("mouse", ["mouse", "mice"], "novel", ["mammal"]),
    named("mammal", ["mammal", "mammals"], parents=["animal"]),
    named("bat", ["bat", "bats"], "novel", ["mammal"]),
    named("baseball bat", ["bat", "baseball bat"], "novel"),
]
DOG, ANIMAL, MOUSE, MAMMAL, BAT, BASEBALL = range(6)
NO_PARENTS = [replace(entry, parents=[]) for entry in CLASSES]


def truth(present: list[list[int]], judged: list[list[int]] | None = None, classes=CLASSES) -> Truth:
    """From the numbers of the classes of each picture; all pairs that are not implied alone are judged."""
    there = np.zeros((len(present), len(classes)), dtype=bool)
    for row, numbers in enumerate(present):
        there[row, numbers] = True
    implied = truth_of_captions(there, ancestors_matrix(classes)).implied
    asked = np.zeros_like(there)
    for row, numbers in enumerate(judged if judged is not None else [range(len(classes))] * len(present)):
        asked[row, list(numbers)] = True
    return Truth(there, implied, there | (asked & ~implied))


def mentions(*captions: str) -> list[list[tuple[int, ...]]]:
    finder = ClassFinder(CLASSES)
    return [finder.find_mentions(ptb_tokenize(caption)) for caption in captions]


# Truth


def test_what_is_more_general_is_found_through_several_steps():
    assert np.argwhere(ancestors_matrix(CLASSES)).tolist() == [
        *[[DOG, DOG], [DOG, ANIMAL], [DOG, MAMMAL], [ANIMAL, ANIMAL]],
        *[[MOUSE, ANIMAL], [MOUSE, MOUSE], [MOUSE, MAMMAL], [MAMMAL, ANIMAL], [MAMMAL, MAMMAL]],
        *[[BAT, ANIMAL], [BAT, MAMMAL], [BAT, BAT], [BASEBALL, BASEBALL]],
    ]


def test_labels_by_hand():
    """Picture 1: a dog is there; the file knows no bats. Picture 2: no animal is there, so no dog either."""
    present, absent = {"1": ["/m/dog"]}, {"2": ["/m/animal", "/m/elsewhere"]}
    known = {"/m/dog", "/m/animal", "/m/mouse", "/m/mammal", "/m/elsewhere"}
    plain = truth_of_annotations(present, absent, known, ["1", "2", "3"], CLASSES)
    assert plain.present.nonzero()[0].tolist() == [0] and plain.present[0, DOG]
    assert plain.implied[0].nonzero()[0].tolist() == [DOG, ANIMAL, MAMMAL]
    assert [row.nonzero()[0].tolist() for row in plain.judged] == [[DOG, MOUSE], *[[DOG, ANIMAL, MOUSE, MAMMAL]] * 2]
    verified = truth_of_annotations(present, absent, known, ["1", "2", "3"], CLASSES, verified=True)
    assert [row.nonzero()[0].tolist() for row in verified.judged] == [[DOG], [DOG, ANIMAL, MOUSE, MAMMAL, BAT], []]
    assert (verified.present == plain.present).all() and (verified.implied == plain.implied).all()


truths = st.builds(
    lambda there, asked: Truth(
        there, truth_of_captions(there, ancestors_matrix(CLASSES)).implied, there | (asked & ~there)
    ),
    arrays(bool, (5, 6)),
    arrays(bool, (5, 6)),
)


@given(truths, truths)
@settings(max_examples=60, deadline=None)
def test_either_source(one: Truth, other: Truth):
    both, swapped = either(one, other), either(other, one)
    for ours, theirs in zip(vars(both).values(), vars(swapped).values(), strict=True):
        assert (ours == theirs).all()
    assert (both.present == (one.present | other.present)).all()
    assert not (both.judged & both.implied & ~both.present).any(), "what follows from a finer class is not judged"
    denied = both.judged & ~both.present
    assert (denied <= (one.judged & ~one.present)).all() and (denied <= (other.judged & ~other.present)).all()


# Hallucination


def test_chair_by_hand():
    """Mentions, each as often as it stands there; a shared form is right if either class is there; what is more
    general than something there is no mistake; what is finer is one."""
    of = mentions("two dogs, a dog and a mouse", "an animal with a bat", "a dog", "nothing at all", "a baseball bat")
    shown = truth([[DOG], [MOUSE, BASEBALL], [ANIMAL], [], [BAT]])
    wrong, judged = count_mentions(of, shown)
    assert wrong.tolist() == [1, 0, 1, 0, 1] and judged.tolist() == [3, 2, 1, 0, 1]
    wrong, judged = count_mentions(of, shown, np.array([c.role == "novel" for c in CLASSES]))
    assert wrong.tolist() == [1, 0, 0, 0, 1] and judged.tolist() == [1, 1, 0, 0, 1]
    assert [hallucinated_classes(m, shown, n) for n, m in enumerate(of)] == [[MOUSE], [], [DOG], [], [BASEBALL]]


def test_what_the_truth_does_not_know_is_no_mistake():
    of = mentions("a dog and a mouse", "a bat", "a bat")
    shown = truth([[], [], []], [[DOG], [BAT], [BAT, BASEBALL]])
    wrong, judged = count_mentions(of, shown)
    assert wrong.tolist() == [1, 0, 1] and judged.tolist() == [1, 0, 1]


WORDS = ["a", "dog", "dogs", "animal", "mice", "mammals", "red", "tree", "mouse", "and"]
captions = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), min_size=4, max_size=4)
some_classes = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=4, max_size=4)


@given(captions, some_classes, some_classes)
@settings(max_examples=80, deadline=None)
def test_chair_is_that_of_the_authors(said: list[str], annotated: list[list[int]], referred: list[list[int]]):
    """Their way, on classes without hierarchy: word for word, in a set of the picture's objects."""
    word_class = {form: entry.name for entry in CLASSES[:4] for form in entry.forms}
    objects, hallucinated, bad = 0, 0, 0
    for caption, one, other in zip(said, annotated, referred, strict=True):
        shown = {CLASSES[c].name for c in (*one, *other)}
        nodes = [word_class[word] for word in caption.split() if word in word_class]
        objects += len(nodes)
        mistakes = sum(node not in shown for node in nodes)
        hallucinated += mistakes
        bad += mistakes > 0
    whole = either(truth(annotated, classes=NO_PARENTS), truth(referred, classes=NO_PARENTS))
    wrong, judged = count_mentions(mentions(*said), whole)
    assert (int(judged.sum()), int(wrong.sum()), int((wrong > 0).sum())) == (objects, hallucinated, bad)
    alone = count_mentions(mentions(*said), truth(annotated, classes=NO_PARENTS))[0]
    assert (wrong <= alone).all(), "a second source can only excuse"


# Ratios and micro F1


@given(arrays(bool, (7, 4)), arrays(bool, (7, 4)), st.lists(st.integers(0, 6), min_size=7, max_size=7))
@settings(max_examples=60, deadline=None)
def test_micro_f1_is_a_ratio_on_any_resample(said: np.ndarray, there: np.ndarray, drawn: list[int]):
    """Pairs counted one by one on the repeated pictures."""
    weights = np.bincount(drawn, minlength=7)[None]
    pairs = Counter((bool(s), bool(t)) for n in drawn for s, t in zip(said[n], there[n], strict=True))
    right, wrong, missed = pairs[True, True], pairs[True, False], pairs[False, True]
    expected = 2 * right / (2 * right + wrong + missed) if right + wrong + missed else float("nan")
    ratio = RatioScore(2 * (said & there).sum(axis=1), said.sum(axis=1) + there.sum(axis=1))
    assert ratio(weights)[0] == pytest.approx(expected, nan_ok=True)
    assert micro_f1(class_counts(said, there, weights))[0] == pytest.approx(expected, nan_ok=True)


def test_ratios_of_seeds_are_averaged_not_pooled():
    ratio = RatioScore([[1, 0], [0, 0]], [[1, 1], [0, 4]])
    assert ratio(np.array([[1, 1]]))[0] == pytest.approx((1 / 2 + 0 / 4) / 2)
    assert np.isnan(ratio(np.array([[2, 0]]))[0]), "the second seed says nothing about picture 1 alone"


def test_a_ratio_of_ones_is_a_mean():
    values = np.random.default_rng(0).random(30)
    assert bootstrap(RatioScore(values, np.ones(30)), n=50) == pytest.approx(bootstrap(MeanScore(values), n=50))


# Novelty and diversity


def test_new_captions_and_how_they_differ():
    tokens = [ptb_tokenize(text) for text in ("A dog runs.", "a dog RUNS", "A cat's nap!", "")]
    known = TrainingCounts.of(CLASSES, ["a dog runs", "Nothing else"]).captions
    assert novel(tokens, known).tolist() == [False, False, True, True]
    found = diversity(tokens)
    assert found["captions"] == 4 and found["distinct captions"] == 3 / 4 and found["most repeated"] == 2
    # a dog runs, twice; a cat 's nap
    assert found["vocabulary"] == 6 and found["distinct-1"] == 6 / 10 and found["distinct-2"] == 5 / 7
    assert found["distinct-3"] == 3 / 4 and found["distinct-4"] == 1.0
    ends = {"5 %": pytest.approx(0.45), "50 %": 3.0, "95 %": pytest.approx(3.85)}
    assert found["words"] == {"mean": 2.5, "min": 0, "max": 4, **ends}
    assert found["lengths"] == {0: 1, 3: 2, 4: 1}
    assert diversity([["a"]])["distinct-2"] is None


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=8))
def test_diversity_bounds(tokens: list[list[str]]):
    once, twice = diversity(tokens), diversity(tokens * 2)
    assert 0 < once["distinct captions"] <= 1 and once["vocabulary"] <= 3
    assert sum(once["lengths"].values()) == len(tokens)
    assert twice["distinct captions"] == once["distinct captions"] / 2 and twice["vocabulary"] == once["vocabulary"]
    for n in (1, 2, 3, 4):
        if once[f"distinct-{n}"] is not None:
            assert twice[f"distinct-{n}"] == once[f"distinct-{n}"] / 2


# Rare classes


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30))
def test_every_class_is_in_one_bin(counts: list[int]):
    bins = bins_of(np.array(counts), (0, 10, 100))
    limits = {"0": (0, 0), "1-10": (1, 10), "11-100": (11, 100), "> 100": (101, 10**9)}
    assert np.sum(list(bins.values()), axis=0).tolist() == [1] * len(counts)
    for name, members in bins.items():
        low, high = limits[name]
        assert members.any() and all(low <= counts[c] <= high for c in members.nonzero()[0])


def test_table_3_by_hand():
    rows = shares_up_to(np.array([0, 3, 7, 90]), np.array([5, 5, 0, 30]), (0, 5, 100))
    assert [row["classes"] for row in rows] == [1, 2, 4]
    assert [row["share of training mentions"] for row in rows] == pytest.approx([0, 0.03, 1])
    assert [row["share of evaluation mentions"] for row in rows] == pytest.approx([5 / 40, 10 / 40, 1])
    assert shares_up_to(np.array([0]), np.array([0]), (0,))[0]["share of evaluation mentions"] is None


def test_training_counts_by_hand():
    said = ["A dog and two dogs", "mice with a bat", "a tree"]
    counts = TrainingCounts.of(CLASSES, said, [["dog", "dog", "Dog"], ["baseball bat", "dog"], []])
    assert counts.caption_mentions.tolist() == [2, 0, 1, 0, 1, 1]
    assert counts.tagged_pictures.tolist() == [2, 0, 0, 0, 0, 1]
    assert TrainingCounts.of(CLASSES) == TrainingCounts()


# All together


def split_by_hand() -> CaptionSplit:
    examples = [
        CaptionExample("1", "", ["a dog and mice", "dogs"], "in-domain"),
        CaptionExample("2", "", ["a mouse", "mice"], "out-domain"),
        CaptionExample("3", "", ["a tree", "nothing"], "out-domain"),
    ]
    labels = truth_of_annotations(
        {"1": ["/m/dog"], "2": ["/m/mouse"], "3": ["/m/dog"]}, {}, {"/m/dog", "/m/mouse"}, ["1", "2", "3"], NO_PARENTS
    )
    training = TrainingCounts.of(NO_PARENTS, ["a dog", "a dog on a mat"], [["dog"]] * 20 + [["mouse"]] * 3)
    return CaptionSplit(examples, NO_PARENTS, {"labels": labels}, training, (0, 10, 100))


def test_a_split_by_hand():
    split = split_by_hand()
    one = {"1": "A dog.", "2": "a dog and mice", "3": "a bat"}
    found = intervals(split.measure([one]).statistics, n=0)
    # references: dog said in 1, 2, there in 1: 2/3; mouse said in 2, there in 1 and 2: 2/3
    assert found["objects by references"]["in"]["F1"].value == pytest.approx(2 / 3)
    assert found["objects by references"]["out"]["F1"].value == pytest.approx(2 / 3)
    # of all pairs: 2 right, said 5 (a bat is two classes), there 3
    assert found["objects by references"]["overall"]["micro F1"].value == pytest.approx(4 / 8)
    # labels: dog there in 1 and 3, said in 1 and 2: 1/2; mouse 1; bats are unknown to the file
    assert found["objects by labels"]["overall"]["F1"].value == pytest.approx(3 / 4)
    assert found["objects by labels"]["overall"]["micro F1"].value == pytest.approx(2 * 2 / (3 + 3))
    assert found["objects by labels"]["in"]["precision"].value == pytest.approx(1 / 2)
    chair = found["hallucination"]
    assert list(chair) == ["references", "labels", ANY_SOURCE]
    assert chair["references"]["CHAIRi"].value == pytest.approx(2 / 4)  # dog of 2, bat of 3
    assert chair["labels"]["CHAIRi"].value == pytest.approx(1 / 3) and chair["labels"]["CHAIRs"].value == 1 / 3
    assert chair[ANY_SOURCE]["CHAIRi in"].value == pytest.approx(1 / 2)
    assert chair[ANY_SOURCE]["CHAIRi out"].value == 0.0
    assert found["novelty"]["in"]["new"].value == 0.0 and found["novelty"]["out"]["new"].value == 1.0
    assert found["novelty"]["overall"]["words"].value == pytest.approx((2 + 4 + 2) / 3)
    tags = found["recall by training tags and references"]
    assert list(tags) == ["1-10", "11-100"] and tags["1-10"]["recall"].value == 1 / 2
    assert tags["11-100"]["recall"].value == 1.0
    facts = split.facts()
    assert facts["bins"]["training tags"] == {"0": 4, "1-10": 1, "11-100": 1}
    assert facts["classes"]["labels"] == {"in": 1, "out": 1, "out_unknown": 1, "overall": 2}
    assert [row["classes"] for row in facts["table3"]] == [5, 6, 6]


def test_pictures_and_classes_of_a_split():
    measured = split_by_hand().measure([{"1": "A dog.", "2": "a dog and mice", "3": "a bat"}])
    assert measured.pictures[0]["2"] == {
        "caption": "a dog and mice",
        "words": 4,
        "new": True,
        "named": ["dog", "mouse"],
        "hallucinated": {"references": ["dog"], "labels": ["dog"], ANY_SOURCE: ["dog"]},
        "missed": {"references": [], "labels": []},
    }
    assert measured.pictures[0]["3"]["missed"] == {"references": [], "labels": ["dog"]}
    assert measured.numbers["per_class"]["labels"][0]["dog"]["recall"] == 1 / 2
    assert measured.numbers["per_class"]["labels"][0]["bat"]["predicted"] == 0, "the labels do not know bats"


@given(st.lists(captions, min_size=2, max_size=2), some_classes, some_classes)
@settings(max_examples=25, deadline=None)
def test_properties_of_a_split(seeds: list[list[str]], referred: list[list[int]], boxed: list[list[int]]):
    """F1 by references is that of the score program; CHAIRi is 1 - precision where nothing is said twice; seeds are
    averaged; a system does not differ from itself."""
    names = [" ".join(CLASSES[c].name for c in of) or "nothing" for of in referred]
    examples = [CaptionExample(str(n), "", [text]) for n, text in enumerate(names)]
    boxes = truth_of_annotations(
        {str(n): [CLASSES[c].mid for c in of] for n, of in enumerate(boxed)},
        {},
        [entry.mid for entry in CLASSES],
        [str(n) for n in range(4)],
        NO_PARENTS,
    )
    split = CaptionSplit(examples, NO_PARENTS, {"boxes": boxes})
    said = [{str(n): " ".join(dict.fromkeys(text.split())) for n, text in enumerate(of)} for of in seeds]
    said = [{i: text.replace("dogs", "dog").replace("mice", "mouse") for i, text in of.items()} for of in said]
    said = [{i: " ".join(dict.fromkeys(text.split())) for i, text in of.items()} for of in said]
    first, second, both = (split.measure(of) for of in ([said[0]], [said[1]], said))
    one, other, mean = (intervals(m.statistics, n=0) for m in (first, second, both))
    reference = object_f1(said[0], {e.image_id: e.captions for e in examples}, NO_PARENTS)
    for group, row in one["objects by references"].items():
        assert row["F1"].value == pytest.approx(reference[group])
    for rows in (one["objects by boxes"],):
        if "overall" in rows:
            wrong = one["hallucination"]["boxes"]["CHAIRi"].value
            assert wrong == pytest.approx(1 - rows["overall"]["precision"].value, nan_ok=True)
    for section, rows in mean.items():
        for row, columns in rows.items():
            for column, interval in columns.items():
                values = one[section][row][column].value, other[section][row][column].value
                assert interval.value == pytest.approx(np.mean(values), nan_ok=True)
    nothing = intervals(first.statistics, n=20, against=first.statistics)
    values = [i for rows in nothing.values() for row in rows.values() for i in row.values()]
    assert all(i.value == i.low == i.high == 0 for i in values if not np.isnan(i.value))


def test_a_split_refuses_other_pictures():
    with pytest.raises(UserError, match="1 of 3 pictures have no prediction"):
        split_by_hand().measure([{"1": "a", "2": "b"}])
