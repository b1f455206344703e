"""Constrained beam search on toy languages: against exhaustive search, against a slow one, and without constraints."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from vivo.decoding.constrained import constrained_beam_search
from vivo.decoding.machine import ConstraintMachine
from vivo.decoding.rules import AtLeast, NoRepeat
from vivo.decoding.search import beam_search

START = 0
Forms = list[list[tuple[int, ...]]]


@cache
def log_p(seed: int, words: int, picture: int, prefix: tuple[int, ...]) -> tuple[float, ...]:
    """Next-token log-probabilities of a language that remembers everything."""
    values = 2 * np.random.default_rng((seed, picture, *prefix)).standard_normal(words)
    return tuple(torch.tensor(values, dtype=torch.float32).log_softmax(-1).tolist())


class Language:
    """A step over `log_p`; each beam keeps its own prefix, and the number of beams may change."""

    def __init__(self, seed: int, words: int, pictures: int):
        self.seed, self.words = seed, words
        self.prefixes: list[list[tuple[int, ...]]] = [[] for _ in range(pictures)]
        self.beams: list[int] = []

    def __call__(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        if not self.beams:
            self.prefixes = [[()] for _ in self.prefixes]
        else:
            self.prefixes = [
                [mine[parent] + (token,) for parent, token in zip(*pair, strict=True)]
                for mine, pair in zip(self.prefixes, zip(parents.tolist(), tokens.tolist(), strict=True), strict=True)
            ]
        self.beams.append(tokens.shape[1])
        rows = [[log_p(self.seed, self.words, b, p) for p in mine] for b, mine in enumerate(self.prefixes)]
        return torch.tensor(rows, dtype=torch.float32)


def search(seed: int, words: int, forms: list[Forms], continues: set[int], beam: int, longest: int, **options):
    """Constrained search; the last word is the end token."""
    machines = [ConstraintMachine(some, frozenset(continues)) for some in forms]
    step = Language(seed, words, len(forms))
    return constrained_beam_search(step, machines, START, words - 1, beam, longest, **options)


def satisfied_by_hand(forms: Forms, tokens: tuple[int, ...], continues: set[int]) -> int:
    found = 0
    for number, some in enumerate(forms):
        for form in some:
            for stop in range(len(form), len(tokens) + 1):
                whole = stop == len(tokens) or tokens[stop] not in continues
                found |= (whole and tokens[stop - len(form) : stop] == form) << number
    return found


def everything(seed: int, words: int, picture: int, longest: int) -> list[tuple[float, int, tuple[int, ...]]]:
    """(log-probability, length, tokens) of each sequence that ends, or is `longest` long."""
    found = []
    for length in range(1, longest + 1):
        for sequence in product(range(words), repeat=length):
            if words - 1 in sequence[:-1] or (length < longest and sequence[-1] != words - 1):
                continue
            total = sum(log_p(seed, words, picture, sequence[:i])[w] for i, w in enumerate(sequence))
            found.append((total, length, tuple(w for w in sequence if w != words - 1)))
    return found


# words 0 .. 3, 4 continues a word, 5 ends
CASES: list[Forms] = [
    [[(1,)], [(2,), (3,)]],
    [[(1, 2)], [(2, 1)], [(3,)]],
    [[(1, 4), (2,)], [(1,)]],
    [[(0, 0, 1)], [(0,)]],
    [[(1, 2)], [(2,)]],
    [],
]


@pytest.mark.parametrize("at_least", [1, 2])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_wide_beam_is_exhaustive_search(penalty: float, at_least: int):
    longest, words, wide = 4, 6, 1000
    found = search(1, words, CASES, {4}, wide, longest, length_penalty=penalty, at_least=at_least)
    for picture, (forms, result) in enumerate(zip(CASES, found, strict=True)):
        needed = min(at_least, len(forms))
        truth = sorted(
            (
                (-total / length**penalty, tokens)
                for total, length, tokens in everything(1, words, picture, longest)
                if satisfied_by_hand(forms, tokens, {4}).bit_count() >= needed
            ),
        )
        assert len(truth) >= 10 and result.needed == needed and not result.fell_back
        assert [h.tokens for h in result.hypotheses] == [list(tokens) for _, tokens in truth[:wide]]
        assert [h.score for h in result.hypotheses] == pytest.approx([-score for score, _ in truth[:wide]], abs=1e-5)
        by_hand = [satisfied_by_hand(forms, tokens, {4}) for _, tokens in truth[:wide]]
        assert result.satisfied == by_hand


def slow_search(
    seed: int, words: int, picture: int, forms: Forms, continues: set[int], beam: int, longest: int, at_least: int
) -> list[tuple[float, list[int]]]:
    """The same search by loops over hypotheses, words and groups, each hypothesis asked for its state from nothing."""
    machine, end = ConstraintMachine(forms, frozenset(continues)), words - 1
    needed = min(at_least, len(forms))
    living: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: dict[int, list[tuple[float, list[int]]]] = {}

    def reachable(settled: int) -> bool:
        """Whether some set of enough constraints, these among them, takes hypotheses."""
        return any(
            len(finished.get(other, [])) < beam
            for other in range(2 ** len(forms))
            if other & settled == settled and other.bit_count() >= needed
        )

    for length in range(1, longest + 1):
        groups: dict[tuple[int, int], list[tuple[float, tuple[int, ...]]]] = {}
        for total, tokens in living:
            for word, gain in enumerate(log_p(seed, words, picture, tokens)):
                state = machine.run(tokens if word == end else (*tokens, word))
                progress = 0 if word == end else machine.progress(state)
                groups.setdefault((machine.satisfied(state), progress), []).append((total + gain, (*tokens, word)))
        living = []
        for (satisfied, _), members in groups.items():
            members.sort(reverse=True)
            for total, tokens in members[:beam]:
                done = finished.setdefault(satisfied, [])
                if tokens[-1] == end and len(done) < beam:
                    done.append((total / length, list(tokens[:-1])))
            living += [(t, tokens) for t, tokens in members if tokens[-1] != end][:beam]
        living = [(t, tokens) for t, tokens in living if reachable(machine.run(tokens).settled)]
    for total, tokens in sorted(living, reverse=True):
        done = finished.setdefault(machine.satisfied(machine.run(tokens)), [])
        if len(done) < beam:
            done.append((total / longest, list(tokens)))
    return sorted((h for s, done in finished.items() if s.bit_count() >= needed for h in done), reverse=True)[:beam]


# 12 words, 8 .. 10 continue a word, 11 ends


def random_forms(rng: np.random.Generator) -> Forms:
    """Up to 3 constraints of up to 3 forms of up to 3 pieces, from few words, so that they overlap."""

    def form() -> tuple[int, ...]:
        rest = rng.choice([1, 2, 3, 8, 9], size=rng.integers(0, 3)).tolist()
        return (int(rng.integers(1, 4)), *rest)

    return [[form() for _ in range(rng.integers(1, 4))] for _ in range(rng.integers(0, 4))]


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_search_by_loops(seed: int, beam: int):
    rng = np.random.default_rng(seed)
    forms = [random_forms(rng) for _ in range(4)]
    found = search(seed, 12, forms, {8, 9, 10}, beam, 7)
    for picture, result in enumerate(found):
        slow = slow_search(seed, 12, picture, forms[picture], {8, 9, 10}, beam, 7, 2)
        if not slow:  # told apart below
            assert result.fell_back
            continue
        assert [h.tokens for h in result.hypotheses] == [tokens for _, tokens in slow]
        assert [h.score for h in result.hypotheses] == pytest.approx([score for score, _ in slow], abs=1e-5)


@pytest.mark.parametrize("beam", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_without_constraints_it_is_beam_search(seed: int, beam: int):
    plain = beam_search(Language(seed, 12, 3), 3, START, 11, beam, 7)
    found = search(seed, 12, [[], [], []], {8, 9, 10}, beam, 7)
    assert all(not result.fell_back and set(result.satisfied) == {0} for result in found)
    assert [result.hypotheses for result in found] == plain  # to the last bit


def test_pictures_do_not_hang_on_one_another():
    """A picture without constraints among others, and one that is done early: as if alone."""
    forms: list[Forms] = [[], [[(1, 2)], [(3,)]], [[(2,)]]]
    together = search(3, 12, forms, {8}, 3, 7)
    assert together[0].hypotheses == beam_search(Language(3, 12, 1), 1, START, 11, 3, 7)[0]
    for picture in (1, 2):
        slow = slow_search(3, 12, picture, forms[picture], {8}, 3, 7, 2)
        assert [h.tokens for h in together[picture].hypotheses] == [tokens for _, tokens in slow]


class Table:
    """A language written down: probabilities of the next word, {} for none."""

    def __init__(self, probabilities: dict[tuple[int, ...], dict[int, float]], words: int):
        self.probabilities, self.words = probabilities, words
        self.written: list[tuple[int, ...]] = []

    def __call__(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        pairs = zip(parents[0].tolist(), tokens[0].tolist(), strict=True)
        self.written = [(*self.written[p], t) for p, t in pairs] if self.written else [()]
        rows = torch.zeros(1, len(self.written), self.words)
        for beam, prefix in enumerate(self.written):
            for word, probability in self.probabilities.get(prefix, {}).items():
                rows[0, beam, word] = probability
        return rows.log()


def test_what_a_piece_can_take_back_is_not_counted_on():
    """Words x = 0, cat = 1, dog = 2, ##tle = 3, y = 4, end = 5. "cat" and "cat dog" have ended, so the sets {cat} and
    {cat, dog} are full; "x y cat" has a cat, but "x y cat ##tle dog" has none, and {dog} takes it."""
    language = {(): {1: 0.5, 0: 0.5}, (1,): {5: 0.5, 2: 0.5}, (1, 2): {5: 1.0}, (0,): {4: 1.0}, (0, 4): {1: 1.0},
                (0, 4, 1): {3: 1.0}, (0, 4, 1, 3): {2: 1.0}, (0, 4, 1, 3, 2): {5: 1.0}}  # fmt: skip
    machine = ConstraintMachine([[(1,)], [(2,)]], frozenset({3}))
    (found,) = constrained_beam_search(Table(language, 6), [machine], 0, 5, 1, 8, at_least=1)
    assert found.hypotheses[0].tokens == [0, 4, 1, 3, 2] and found.satisfied[0] == 0b10


@pytest.mark.parametrize("rare_continues", [True, False])
def test_a_rare_piece_behind_a_form_is_not_lost_among_many_of_the_other_kind(rare_continues: bool):
    """Behind word 1 there are 60 likely pieces, after which all goes on evenly, and 70, after which the caption ends.

    If the 60 are words and 70 continues word 1, the best caption without the constraint is [1, 70]; if it is the other
    way round, [1, 70] is the best with it. A width of 1 keeps few of a row.
    """
    words, end = 80, 79
    continues = {70} if rare_continues else set(range(2, 62))

    def step(tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, words)
        logits[tokens == START, 1] = 10.0
        logits[tokens == 1, 2:62] = 3.0
        logits[tokens == 1, 70] = 2.0
        logits[tokens == 70, end] = 10.0
        return logits.log_softmax(-1)

    machine = ConstraintMachine([[(1,)]], frozenset(continues))
    result = constrained_beam_search(step, [machine], START, end, 1, 6, at_least=0 if rare_continues else 1)[0]
    assert result.hypotheses[0].tokens == [1, 70] and result.hypotheses[0].ended
    assert result.satisfied == [0 if rare_continues else 1]


def test_hypotheses_are_scored_by_their_own_words():
    result = search(5, 12, [[[(1,)], [(2, 9)], [(3, 3)]]], {8, 9, 10}, 4, 8)[0]
    assert len({tuple(h.tokens) for h in result.hypotheses}) == len(result.hypotheses) == 4
    for h, satisfied in zip(result.hypotheses, result.satisfied, strict=True):
        sequence = (*h.tokens, 11) if h.ended else tuple(h.tokens)
        gained = [log_p(5, 12, 0, sequence[:i])[w] for i, w in enumerate(sequence)]
        assert h.token_log_probabilities == pytest.approx(gained, abs=1e-6)
        assert h.score == pytest.approx(sum(gained) / len(sequence), abs=1e-6)
        assert satisfied == satisfied_by_hand([[(1,)], [(2, 9)], [(3, 3)]], tuple(h.tokens), {8, 9, 10})
        assert satisfied.bit_count() >= 2


def test_a_word_that_is_too_long_for_the_caption_is_left_out_and_said():
    """Of three constraints two are asked for; only one fits into four tokens."""
    forms: Forms = [[(1, 2, 3, 1, 2)], [(3,)], [(2, 2, 2, 2, 2)]]
    result = search(2, 6, [forms], set(), 3, 4)[0]
    assert result.fell_back and result.needed == 2 and set(result.satisfied) == {0b010}
    truth = max(
        (total / length, tokens)
        for total, length, tokens in everything(2, 6, 0, 4)
        if satisfied_by_hand(forms, tokens, set()) == 0b010
    )
    wide = search(2, 6, [forms], set(), 1000, 4)[0]
    assert wide.hypotheses[0].tokens == list(truth[1])


def test_a_word_that_the_model_never_writes_falls_back():
    class Mute(Language):
        def __call__(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
            found = super().__call__(tokens, parents)
            found[..., 1] = -torch.inf
            return found

    machines = [ConstraintMachine([[(1,)]]), ConstraintMachine([[(1,)], [(2,)]])]
    one, two = constrained_beam_search(Mute(0, 6, 2), machines, START, 5, 3, 5)
    assert one.fell_back and one.needed == 1 and set(one.satisfied) == {0}
    assert one.hypotheses == constrained_beam_search(Mute(0, 6, 1), [ConstraintMachine([])], 0, 5, 3, 5)[0].hypotheses
    assert two.fell_back and two.needed == 2 and set(two.satisfied) == {0b10}
    assert all(1 not in h.tokens and 2 in h.tokens for h in two.hypotheses)


def test_rules_hold_in_all_states():
    forms: list[Forms] = [[[(1, 2)], [(3,)]], [[(2,)]], []]
    rules = [NoRepeat(1), AtLeast(4, 11)]
    for result in search(4, 12, forms, {8}, 3, 6, rules=rules):
        assert not result.fell_back and result.hypotheses
        for h in result.hypotheses:
            assert len(set(h.tokens)) == len(h.tokens) >= 4


def test_only_states_that_are_reached_are_asked_of_the_model():
    step = Language(0, 12, 1)
    machine = ConstraintMachine([[(1,)], [(2,)], [(3,)]])
    constrained_beam_search(step, [machine], START, 11, 2, 6)
    # sets of none, one, two, three words: 1, 3, 3, 1 of them with 2 beams each; a single word is written in one way
    assert step.beams == [1, 2 + 3 * 1, 2 + 3 * 2 + 3 * 2, 2 * 8, 2 * 8, 2 * 8]


def test_a_search_stops_when_the_sets_that_may_be_chosen_are_full():
    """Captions with the word end at the second and the third token; those without it are of no use any more."""
    calls = []

    def step(tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        calls.append(tokens.shape[1])
        logits = torch.zeros(*tokens.shape, 6)
        logits[..., 5] = 3.0
        return logits.log_softmax(-1)

    found = constrained_beam_search(step, [ConstraintMachine([[(1,)]])], START, 5, 2, 50)[0]
    assert len(calls) == 3 and len(found.hypotheses) == 2 and found.hypotheses[0].tokens == [1]


def test_many_constraints_are_no_matter_of_memory():
    """A dense machine of 12 constraints has 4,096 states, times as many, times the words."""
    words = 40
    machine = ConstraintMachine([[(n,)] for n in range(1, 13)])
    result = constrained_beam_search(Language(0, words, 1), [machine], START, words - 1, 1, 3, at_least=3)[0]
    assert not result.fell_back and len(set(result.hypotheses[0].tokens)) == 3


def test_forms_that_no_search_can_write_are_refused():
    with pytest.raises(ValueError, match="a form has the end token, 5, in it"):
        search(0, 6, [[[(1, 5)]]], set(), 2, 3)
    with pytest.raises(ValueError, match="a form has the token 6; the vocabulary has 6"):
        search(0, 6, [[[(6,)]]], set(), 2, 3)
