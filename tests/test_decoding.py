"""Searches on a toy language whose whole space can be enumerated."""

from itertools import product

import pytest
import torch

from vivo.decoding.search import beam_search, greedy_search

WORDS, END, START, LENGTH = 5, 4, 0, 4


class ToyStep:
    """Next-token log-probabilities from a table over (picture, prefix); keeps each beam's own prefix."""

    def __init__(self, seed: int, pictures: int):
        self.seed, self.prefixes = seed, [[() for _ in range(200)] for _ in range(pictures)]
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
