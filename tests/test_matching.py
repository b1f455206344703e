"""Assignment of masked tags: brute force over permutations, SciPy, hand cases."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from vivo.losses import _costs, _costs_by_size, tag_set_loss
from vivo.matching import _assign_by_halves, _assign_padded, assign


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
    results = [assign(cost, torch.tensor(sizes))]
    if most > 1:
        results.append(_assign_padded(cost, torch.tensor(sizes)))  # what a GPU runs
    for result in results:
        for matrix, size, row in zip(cost, sizes, result, strict=True):
            assert sorted(row[:size].tolist()) == list(range(size))
            assert row[size:].tolist() == list(range(size, most))
            if size:
                inner = matrix[:size, :size]
                assert cost_of(inner, row[:size]) == pytest.approx(brute_force(inner), abs=1e-5)


@pytest.mark.parametrize("size", range(2, 9))
def test_halves_equal_scipy(size: int):
    """What a GPU runs, for groups that fill their matrix."""
    cost = torch.rand(50, size, size, generator=torch.Generator().manual_seed(size))
    found = _assign_by_halves(cost)
    assert found.sort(dim=1).values.tolist() == [list(range(size))] * 50
    for matrix, row in zip(cost, found, strict=True):
        slots, tags = linear_sum_assignment(matrix.double().numpy())
        assert cost_of(matrix, row) == pytest.approx(matrix[slots, tags].sum().item(), abs=1e-5)


def test_small_probabilities_are_told_apart():
    """Of an untrained model all are about 1 / V; 1 - p in float32 has a step of 6e-8."""
    logits = torch.zeros(2, 30_000)
    logits[0, :2], logits[1, :2] = torch.tensor([0.0, 0.0005]), torch.tensor([0.0005, 0.0])
    slots = torch.tensor([[[0], [1]]])
    losses = tag_set_loss(logits, torch.tensor([0, 1]), slots, torch.tensor([2]))
    assert losses["exchanged"] == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=6))
def test_costs_of_what_can_be_chosen_are_those_of_all(seed: int, groups: list[tuple[int, int]]):
    """What a CPU reads against what a GPU does, for groups of unequal size and length, each of all slots."""
    generator = torch.Generator().manual_seed(seed)
    most, length = max([size for size, _ in groups], default=1) or 1, max([pieces for _, pieces in groups], default=1)
    slots, count = torch.full((len(groups), most, length), -1), 0
    for group, (size, pieces) in zip(slots, groups, strict=True):
        group[:size, :pieces] = torch.arange(count, count + size * pieces).view(size, pieces)
        count += size * pieces
    target = torch.randint(40, (count + 1,), generator=generator)
    log_p = (5.0 * torch.randn(count + 1, 40, generator=generator)).log_softmax(dim=-1)
    arguments = (log_p, target, slots, torch.tensor([size for size, _ in groups], dtype=torch.int64))
    for size, every, needed in zip(arguments[3].tolist(), _costs(*arguments), _costs_by_size(*arguments), strict=True):
        if size > 1:
            assert torch.allclose(every[:size, :size], needed[:size, :size], atol=1e-6)


def test_scipy_beyond_eight_agrees_with_small_groups():
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
    for found in (assign, _assign_padded):
        assert sorted(found(cost, torch.tensor([2]))[0].tolist()[:2]) == [0, 1]


@pytest.mark.parametrize("most", [3, 5, 9])
def test_costs_that_are_no_numbers_give_an_order_all_the_same(most: int) -> None:
    """The loss is NaN then, and the engine says of which pictures: nothing here may fail before it."""
    cost = torch.rand(4, most, most, generator=torch.Generator().manual_seed(0))
    sound = assign(cost, torch.full((4,), most))
    cost[1], cost[2, 0] = float("nan"), float("inf")
    found = assign(cost, torch.full((4,), most))
    assert found.sort(dim=1).values.tolist() == [list(range(most))] * 4
    assert found[0].tolist() == sound[0].tolist() and found[3].tolist() == sound[3].tolist()
