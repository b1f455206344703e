"""Assignment of masked tags: brute force over permutations, SciPy, hand cases."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivo.matching import assign


def brute_force(cost: torch.Tensor) -> float:
    """The least cost over all permutations of a square matrix."""
    rows = range(cost.shape[0])
    return min(sum(cost[i, p[i]].item() for i in rows) for p in permutations(rows))


def cost_of(cost: torch.Tensor, assignment: torch.Tensor) -> float:
    return sum(cost[i, j].item() for i, j in enumerate(assignment.tolist()))


def test_hand_case_prefers_the_sum_over_the_greedy_choice():
    # slot 0 would take tag 0 (0.1), but then slot 1 pays 0.9; the exchange costs 0.2 + 0.2
    cost = torch.tensor([[[0.1, 0.2], [0.2, 0.9]]])
    assert assign(cost, torch.tensor([2])).tolist() == [[1, 0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_equals_brute_force_in_groups_of_unequal_size(seed: int, sizes: list[int]):
    most = max(sizes)
    cost = torch.rand(len(sizes), most, most, generator=torch.Generator().manual_seed(seed))
    result = assign(cost, torch.tensor(sizes))
    for matrix, size, row in zip(cost, sizes, result, strict=True):
        assert sorted(row[:size].tolist()) == list(range(size))
        assert row[size:].tolist() == list(range(size, most))
        if size:
            inner = matrix[:size, :size]
            assert cost_of(inner, row[:size]) == pytest.approx(brute_force(inner), abs=1e-5)


def test_scipy_beyond_eight_agrees_with_the_subset_program():
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(3, 8, 8, generator=generator)
    wide = torch.rand(3, 10, 10, generator=generator)
    wide[:, :8, :8] = cost
    sizes = torch.tensor([8, 5, 0])
    narrow_result, wide_result = assign(cost, sizes), assign(wide, sizes)
    for matrix, size, a, b in zip(cost, sizes.tolist(), narrow_result, wide_result, strict=True):
        assert cost_of(matrix, a[:size]) == pytest.approx(cost_of(matrix, b[:size]), abs=1e-6)
        assert b[size:].tolist() == list(range(size, 10))


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_to_match(size: int):
    assert assign(torch.rand(4, size, size), torch.full((4,), size)).tolist() == [list(range(size))] * 4


def test_no_groups():
    assert assign(torch.rand(0, 3, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 3)


def test_large_costs_do_not_let_padding_in():
    cost = torch.full((1, 4, 4), 1e4)
    assert sorted(assign(cost, torch.tensor([2]))[0].tolist()[:2]) == [0, 1]
