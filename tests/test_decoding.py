"""Searches on a toy language whose whole space can be enumerated."""

import math
from itertools import product

import pytest
import torch

from vivo.decoding.constrained import constrained_beam_search
from vivo.decoding.machine import ConstraintMachine
from vivo.decoding.oscar import oscar_beam_search
from vivo.decoding.rules import AtLeast, NoRepeat
from vivo.decoding.sampling import sample
from vivo.decoding.search import Hypothesis, beam_search, greedy_search
from vivo.errors import UserError

WORDS, END, START, LENGTH = 5, 4, 0, 4


class ToyStep:
    """Next-token log-probabilities from a table over (picture, prefix); keeps each beam's own prefix."""

    def __init__(self, seed: int, pictures: int):
        self.seed, self.prefixes = seed, [[()] for _ in range(pictures)]
        self.first = True

    def log_p(self, picture: int, prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, picture, *prefix)) % 2**31)
        return (2 * torch.randn(WORDS, generator=generator)).log_softmax(-1)

    def __call__(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        if not self.first:
            self.prefixes = [
                [self.prefixes[row][parent] + (token,) for parent, token in zip(*pair, strict=True)]
                for row, pair in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True))
            ]
        self.first = False
        return torch.stack(
            [
                torch.stack([self.log_p(row, self.prefixes[row][k]) for k in range(tokens.shape[1])])
                for row in range(tokens.shape[0])
            ]
        )


def all_hypotheses(seed: int, picture: int, penalty: float) -> list[tuple[float, list[int]]]:
    """Every sequence that ends, or is LENGTH long without an end, with its score."""
    toy, found = ToyStep(seed, 1), []
    for length in range(1, LENGTH + 1):
        for words in product(range(WORDS - 1), repeat=length - 1):
            for last in range(WORDS):
                if last != END and length < LENGTH:
                    continue
                sequence = (*words, last)
                total = sum(toy.log_p(picture, sequence[:i])[w].item() for i, w in enumerate(sequence))
                found.append((total / length**penalty, [w for w in sequence if w != END]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_wide_beam_is_exhaustive_search(seed: int, penalty: float):
    beam = 190  # more than the 4^3 * 5 + ... sequences that can be alive
    expected = [all_hypotheses(seed, picture, penalty) for picture in range(2)]
    assert len(expected[0]) == 1 + 4 + 16 + 64 * 5
    found = beam_search(ToyStep(seed, 2), 2, START, END, beam, LENGTH, penalty)
    for hypotheses, truth in zip(found, expected, strict=True):
        assert hypotheses[0].tokens == truth[0][1]
        assert hypotheses[0].score == pytest.approx(truth[0][0], abs=1e-5)
        if penalty == 0.0:  # the best of 190 survive any pruning of the worst 150
            assert [h.tokens for h in hypotheses[:20]] == [tokens for _, tokens in truth[:20]]


@pytest.mark.parametrize("seed", range(5))
def test_beam_search_keeps_the_best_of_all_words_of_all_beams(seed: int):
    """Against a search that sorts every word of every beam, of a language of 40 words whose ends are likely."""
    words, beam, length = 40, 3, 6
    generator = torch.Generator().manual_seed(seed)
    table = 3 * torch.randn(words, words, generator=generator)
    table[:, END] += 2  # beside the end, a beam may have all that live on
    table = table.log_softmax(-1)
    (found,) = beam_search(lambda tokens, parents: table[tokens], 1, START, END, beam, length)
    living: list[tuple[float, tuple[int, ...]]] = [(0.0, (START,))]
    finished = []
    for _ in range(length):
        every = [(total + table[told[-1], w].item(), (*told, w)) for total, told in living for w in range(words)]
        best = sorted(every, reverse=True)[: 2 * beam]
        finished += [h for h in best[:beam] if h[1][-1] == END]
        living = [h for h in best if h[1][-1] != END][:beam]
        if len(finished) >= beam:
            break
    expected = sorted(((t / (len(told) - 1), told) for t, told in (finished + living)[:beam]), reverse=True)
    assert [h.tokens for h in found] == [[w for w in told[1:] if w != END] for _, told in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_is_greedy(seed: int):
    greedy = greedy_search(ToyStep(seed, 3), 3, START, END, LENGTH)
    beam = beam_search(ToyStep(seed, 3), 3, START, END, 1, LENGTH)
    for one, many in zip(greedy, beam, strict=True):
        assert one.tokens == many[0].tokens
        assert one.score == pytest.approx(many[0].score, abs=1e-5)


def test_hypotheses_are_distinct_sorted_and_scored_by_their_own_words():
    toy = ToyStep(7, 1)
    found = beam_search(ToyStep(7, 1), 1, START, END, 5, LENGTH, 1.0)[0]
    assert len({tuple(h.tokens) for h in found}) == len(found)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for hypothesis in found:
        sequence = tuple(hypothesis.tokens) + ((END,) if len(hypothesis.tokens) < LENGTH else ())
        total = sum(toy.log_p(0, sequence[:i])[w].item() for i, w in enumerate(sequence))
        assert hypothesis.log_probability == pytest.approx(total, abs=1e-5)
        assert hypothesis.score == pytest.approx(total / len(sequence), abs=1e-5)


def check_own_words(toy: ToyStep, picture: int, found: Hypothesis) -> None:
    """The log-probabilities of a hypothesis are those of its words."""
    sequence = (*found.tokens, END) if found.ended else tuple(found.tokens)
    truth = [toy.log_p(picture, sequence[:i])[w].item() for i, w in enumerate(sequence)]
    assert found.token_log_probabilities == pytest.approx(truth, abs=1e-5)
    assert found.log_probability == pytest.approx(sum(truth), abs=1e-5)
    assert found.ended or len(found.tokens) == LENGTH


@pytest.mark.parametrize("seed", range(3))
def test_each_word_has_its_log_probability(seed: int):
    for found in beam_search(ToyStep(seed, 2), 2, START, END, 5, LENGTH) + [
        [h] for h in greedy_search(ToyStep(seed, 2), 2, START, END, LENGTH)
    ]:
        assert found
    for picture in range(2):
        for hypothesis in beam_search(ToyStep(seed, 2), 2, START, END, 5, LENGTH)[picture]:
            check_own_words(ToyStep(seed, 2), picture, hypothesis)
        check_own_words(ToyStep(seed, 2), picture, greedy_search(ToyStep(seed, 2), 2, START, END, LENGTH)[picture])


def repeats(tokens: list[int], size: int) -> bool:
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return len(set(grams)) < len(grams)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_wide_beam_with_rules_is_exhaustive_search_among_what_they_allow(seed: int, size: int):
    rules = [NoRepeat(size), AtLeast(2, END)]
    expected = [
        (score, tokens)
        for score, tokens in all_hypotheses(seed, 0, 1.0)
        if not repeats(tokens, size) and len(tokens) >= 2
    ]
    assert 0 < len(expected) < len(all_hypotheses(seed, 0, 1.0))
    found = beam_search(ToyStep(seed, 1), 1, START, END, 190, LENGTH, 1.0, rules=rules)[0]
    assert found[0].tokens == expected[0][1]
    assert found[0].score == pytest.approx(expected[0][0], abs=1e-5)
    assert not any(repeats(h.tokens, size) or len(h.tokens) < 2 for h in found)
    greedy = greedy_search(ToyStep(seed, 1), 1, START, END, LENGTH, rules=rules)[0]
    assert not repeats(greedy.tokens, size) and len(greedy.tokens) >= 2


@pytest.mark.parametrize("seed", range(4))
def test_diverse_groups_without_diversity_are_copies_of_a_plain_beam(seed: int):
    plain = beam_search(ToyStep(seed, 2), 2, START, END, 2, LENGTH)
    groups = beam_search(ToyStep(seed, 2), 2, START, END, 6, LENGTH, groups=3)
    for one, three in zip(plain, groups, strict=True):
        assert [h.tokens for h in three[::3]] == [h.tokens for h in one]
        assert [h.score for h in three] == pytest.approx([h.score for h in one for _ in range(3)], abs=1e-5)


def diverse_by_hand(seed: int, groups: int, diversity: float) -> list[list[int]]:
    """Groups of one beam each, by loops: each takes the best word after what earlier groups took at this step."""
    toy, written = ToyStep(seed, 1), [()] * groups
    ended = [False] * groups
    for _ in range(LENGTH):
        taken = [0] * WORDS
        for group in range(groups):
            log_p = [v - diversity * t for v, t in zip(toy.log_p(0, written[group]).tolist(), taken, strict=True)]
            order = sorted(range(WORDS), key=lambda w: -log_p[w])
            if not ended[group] and order[0] == END:
                ended[group] = True
                written[group] = (*written[group], END)
            elif not ended[group]:
                written[group] = (*written[group], order[0])
            if not ended[group]:
                taken[order[0]] += 1
    return [[w for w in words if w != END] for words in written]


def test_diverse_groups_keep_away_from_one_another():
    """Against loops where no group ends before the last step: an ended group lets its next best beam run on, which
    takes words too."""
    compared = 0
    for seed in range(150):
        expected = diverse_by_hand(seed, 2, 1.5)
        if any(len(words) < LENGTH for words in expected):
            continue
        found = beam_search(ToyStep(seed, 1), 1, START, END, 2, LENGTH, 0.0, groups=2, diversity=1.5)[0]
        assert sorted(h.tokens for h in found) == sorted(expected)
        for hypothesis in found:
            check_own_words(ToyStep(seed, 1), 0, hypothesis)
        compared += expected[0] != expected[1]
    assert compared >= 10
    with pytest.raises(ValueError, match="5 does not divide into 2 groups"):
        beam_search(ToyStep(0, 1), 1, START, END, 5, LENGTH, groups=2)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_samples_are_distributed_as_the_model_says(temperature: float):
    toy, count = ToyStep(3, 1), 20_000
    uniform = torch.rand(1, count, LENGTH, generator=torch.Generator().manual_seed(0))
    found = sample(CountedToy(3, 1), uniform, START, END, temperature=temperature)[0]
    assert len(found) == count
    for hypothesis in found[:200]:
        check_own_words(toy, 0, hypothesis)
    first = torch.zeros(WORDS)
    for hypothesis in found:
        first[hypothesis.tokens[0] if hypothesis.tokens else END] += 1
    truth = (toy.log_p(0, ()) / temperature).softmax(-1)
    deviation = (truth * (1 - truth) / count).sqrt()
    assert ((first / count - truth).abs() < 5 * deviation + 1e-9).all()
    begins = int(truth[:END].argmax())
    second = torch.zeros(WORDS)
    for hypothesis in found:
        if hypothesis.tokens and hypothesis.tokens[0] == begins:
            second[hypothesis.tokens[1] if len(hypothesis.tokens) > 1 else END] += 1
    truth = (toy.log_p(0, (begins,)) / temperature).softmax(-1)
    deviation = (truth * (1 - truth) / second.sum()).sqrt()
    assert ((second / second.sum() - truth).abs() < 5 * deviation + 1e-9).all()


class CountedToy(ToyStep):
    """The toy with its tables remembered: 20,000 samples meet few prefixes."""

    def __init__(self, seed: int, pictures: int):
        super().__init__(seed, pictures)
        self.known: dict[tuple, torch.Tensor] = {}

    def log_p(self, picture: int, prefix: tuple[int, ...]) -> torch.Tensor:
        if (picture, prefix) not in self.known:
            self.known[picture, prefix] = super().log_p(picture, prefix)
        return self.known[picture, prefix]


def test_a_sample_hangs_on_its_own_numbers_alone():
    uniform = torch.rand(3, 4, LENGTH, generator=torch.Generator().manual_seed(1))
    together = sample(ToyStep(2, 3), uniform, START, END)
    fewer = sample(ToyStep(2, 3), uniform[:, 1:3], START, END)
    assert [[h.tokens for h in row[1:3]] for row in together] == [[h.tokens for h in row] for row in fewer]
    assert len({tuple(h.tokens) for row in together for h in row}) > 3


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_samples_of_the_likeliest_token_alone_are_greedy(options: dict):
    uniform = torch.rand(2, 3, LENGTH, generator=torch.Generator().manual_seed(1))
    greedy = greedy_search(ToyStep(5, 2), 2, START, END, LENGTH)
    for row, best in zip(sample(ToyStep(5, 2), uniform, START, END, **options), greedy, strict=True):
        assert [h.tokens for h in row] == [best.tokens] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"top_k": -1},
        {"temperature": math.nan},
    ],
)
def test_what_leaves_no_distribution_is_refused(options: dict):
    (name,) = options
    with pytest.raises(UserError, match=f"^{name}: must be "):
        sample(ToyStep(5, 2), torch.rand(2, 3, LENGTH), START, END, **options)


def test_cut_samples_stay_inside_the_cut():
    uniform = torch.rand(1, 500, LENGTH, generator=torch.Generator().manual_seed(1))
    order = CountedToy(4, 1).log_p(0, ()).softmax(-1).sort(descending=True)
    for options, allowed in (
        ({"top_k": 2}, order.indices[:2]),
        ({"top_p": order.values[0].item() + 1e-3}, order.indices[:2]),
        ({"top_p": order.values[0].item() - 1e-3}, order.indices[:1]),
    ):
        found = sample(CountedToy(4, 1), uniform, START, END, **options)[0]
        assert {h.tokens[0] if h.tokens else END for h in found} == set(allowed.tolist())


def test_where_rules_forbid_everything_a_caption_ends():
    """Four words, none twice, and six at least."""
    rules = [NoRepeat(1), AtLeast(6, END)]
    plain = beam_search(ToyStep(0, 2), 2, START, END, 2, 8, rules=rules)
    machines = [ConstraintMachine([]), ConstraintMachine([[(1,)]])]
    constrained = constrained_beam_search(ToyStep(0, 2), machines, START, END, 1, 8, rules=rules)
    found = [
        *greedy_search(ToyStep(0, 2), 2, START, END, 8, rules=rules),
        *(h for row in plain for h in row),
        *(row[0] for row in oscar_beam_search(ToyStep(0, 2), 2, START, END, 2, 8, rules=rules)),
        *(result.hypotheses[0] for result in constrained),
        *(row[0] for row in sample(ToyStep(0, 2), torch.rand(2, 1, 8), START, END, rules=rules)),
    ]
    assert len(found) == 12
    for one in found:
        assert sorted(one.tokens) == [0, 1, 2, 3] and one.ended and one.score > -torch.inf
