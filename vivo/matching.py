"""Exact assignment of masked tags to masked slots (Hu et al. 2021, section 3.2).

The tags of a picture are a set, so the model may put its predictions for M masked tags into any
order. The paper takes the assignment a that minimises  sum_i C(p_i, t_a(i)),  C = 1 - p_i(t).
A tag of n word pieces fills n neighbouring slots and can only be exchanged with another tag of the
same length (our reading of the paper's "valid permutations": a prediction must be a tag). Tags of
one picture and one length form a *group*; its cost is a square matrix, summed over pieces.

`assign` solves many groups at once by dynamic programming over subsets of tags, on the device and
without a host synchronisation:  best[S] = min_{j in S} best[S - j] + cost[|S| - 1, j].
2^M * M steps beat M! permutations, and for M <= 8 a call of SciPy per picture; beyond that SciPy.
"""

from functools import cache
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LARGEST_SUBSET_PROGRAM = 8


def assign(cost: Tensor, size: Tensor) -> Tensor:
    """Minimum-cost assignment in each of G groups.

    Args:
        cost: float [G, M, M], cost[g, i, j] of putting tag j into slot i; entries beyond the
            group's size are ignored.
        size: int [G], number of slots (= tags) in each group, 0 .. M.

    Returns:
        int64 [G, M]: the tag for each slot. A permutation of 0 .. size - 1 in the first `size`
        places, the identity beyond. Among equal minima the choice is deterministic.
    """
    groups, most, _ = cost.shape
    identity = torch.arange(most, device=cost.device).expand(groups, most)
    if groups == 0 or most <= 1:
        return identity.clone()
    with torch.no_grad():
        inside = identity < size[:, None]
        real = inside[:, :, None] & inside[:, None, :]
        # padding slots take padding tags: their own one for free, anything else at a price no real cost reaches
        price = 1.0 + most * cost.detach().abs().amax().float()
        free = torch.eye(most, dtype=torch.bool, device=cost.device)
        padded = torch.where(real, cost.detach().float(), torch.where(free, 0.0, price))
        if most > LARGEST_SUBSET_PROGRAM:
            return _assign_with_scipy(padded)
        return _assign_by_subsets(padded)


@cache
def _subsets_by_count(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For count = 1 .. size: the subsets with that many members, int64 [subsets], and those members,
    int64 [subsets, count]. A subset is the integer with the bits of its members."""
    table = []
    for count in range(1, size + 1):
        members = np.array(list(combinations(range(size), count)), dtype=np.int64)
        table.append(((1 << members).sum(axis=1), members))
    return table


@cache
def _tables(size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """`_subsets_by_count` on the device, copied there once."""
    return [tuple(torch.from_numpy(t).to(device) for t in tables) for tables in _subsets_by_count(size)]


def _assign_by_subsets(cost: Tensor) -> Tensor:
    """[G, M, M] -> [G, M]: slots 0, 1, ... are filled in turn; a state is the subset of tags used so far."""
    groups, size, _ = cost.shape
    device = cost.device
    best = cost.new_zeros(groups, 1 << size)
    last = torch.zeros(groups, 1 << size, dtype=torch.int64, device=device)
    for slot, (subset, tag) in enumerate(_tables(size, device)):
        without = subset[:, None] ^ (1 << tag)
        total = best[:, without] + cost[:, slot][:, tag]  # [G, subsets, members]
        value, choice = total.min(dim=2)
        best[:, subset] = value
        last[:, subset] = tag.expand(groups, -1, -1).gather(2, choice[..., None])[..., 0]
    result = torch.empty(groups, size, dtype=torch.int64, device=device)
    subset = torch.full((groups, 1), (1 << size) - 1, device=device)
    for slot in range(size - 1, -1, -1):
        tag = last.gather(1, subset)
        result[:, slot] = tag[:, 0]
        subset = subset ^ (1 << tag)
    return result


def _assign_with_scipy(cost: Tensor) -> Tensor:
    """[G, M, M] -> [G, M], one Hungarian algorithm per group on the host."""
    rows = [linear_sum_assignment(matrix)[1] for matrix in cost.double().cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(cost.device)
