"""Exact assignment of masked tags to masked slots (Hu et al. 2021, section 3.2).

The tags of a picture are a set, so the model may put its predictions for M masked tags into any
order. The paper takes the assignment a that minimises  sum_i C(p_i, t_a(i)),  C = 1 - p_i(t).
A tag of n word pieces fills n neighbouring slots and can only be exchanged with another tag of the
same length (our reading of the paper's "valid permutations": a prediction must be a tag). Tags of
one picture and one length form a *group*; its cost is a square matrix, summed over pieces.

`assign` solves many groups at once by meeting in the middle: whichever tags the first half of the slots takes, the
second half takes the others. For each choice of these tags the best order of either half is found by trying all, which
is M! / (M/2)! sums for M slots instead of M! (1,680 for M = 8): about 20 kernels on a GPU, and no wait for it. Beyond
M = 8 SciPy's Hungarian algorithm, group by group; on a CPU, where its 3 microseconds a group are little, beyond M = 6.
"""

from functools import cache
from itertools import combinations, permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LARGEST_ON_GPU = 8
LARGEST_ON_CPU = 6


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
        cost = cost.detach().float()
        if cost.device.type == "cpu":
            return _assign_by_size(cost, size)
        return _assign_padded(cost, size)


def _assign_padded(cost: Tensor, size: Tensor) -> Tensor:
    """`assign` of groups of any size at once, so that nobody has to know on the host how many have which."""
    most = cost.shape[1]
    inside = torch.arange(most, device=cost.device) < size[:, None]
    real = inside[:, :, None] & inside[:, None, :]
    # padding slots take padding tags: their own one for free, anything else at a price no real cost reaches
    price = 1.0 + most * cost.abs().amax()
    free = torch.eye(most, dtype=torch.bool, device=cost.device)
    padded = torch.where(real, cost, torch.where(free, 0.0, price))
    return _assign_with_scipy(padded) if most > LARGEST_ON_GPU else _assign_by_halves(padded)


def _assign_by_size(cost: Tensor, size: Tensor) -> Tensor:
    """`assign` without padding: the groups of each size together."""
    result = torch.arange(cost.shape[1]).repeat(len(cost), 1)
    for count in range(2, cost.shape[1] + 1):
        groups = (size == count).nonzero()[:, 0]
        if len(groups):
            part = cost[groups, :count, :count]
            result[groups, :count] = _assign_by_halves(part) if count <= LARGEST_ON_CPU else _assign_with_scipy(part)
    return result


@cache
def _orders(size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For the first and the second half of `size` slots: tags int64 [C, O, h], for each of C choices
    of tags the O orders in which its h slots can take them (or, in the second half, take all others); and where the
    costs of these stand in the flattened cost matrix, int64 [h, C * O]."""
    half = size // 2
    choices = list(combinations(range(size), half))
    others = [[tag for tag in range(size) if tag not in chosen] for chosen in choices]
    halves = []
    for begin, tags in ((0, choices), (half, others)):
        orders = torch.tensor([list(permutations(part)) for part in tags])
        places = orders.flatten(0, 1) + size * torch.arange(begin, begin + orders.shape[2])
        halves.append((orders.to(device), places.t().contiguous().to(device)))
    return halves


def _assign_by_halves(cost: Tensor) -> Tensor:
    """[G, M, M] -> [G, M]."""
    groups, size, _ = cost.shape
    flat = cost.flatten(1).t().contiguous()  # [M * M, G]: what is picked are whole rows
    least, best = [], []
    for orders, places in _orders(size, cost.device):
        total = flat.index_select(0, places[0])
        for place in places[1:]:
            total += flat.index_select(0, place)
        value, order = total.view(*orders.shape[:2], groups).min(dim=1)  # [C, G]
        least.append(value)
        best.append(order)
    choice = (least[0] + least[1]).argmin(dim=0, keepdim=True)
    found = [
        orders[choice[0], order.gather(0, choice)[0]]
        for (orders, _), order in zip(_orders(size, cost.device), best, strict=True)
    ]
    return torch.cat(found, dim=1)


def _assign_with_scipy(cost: Tensor) -> Tensor:
    """[G, M, M] -> [G, M], one Hungarian algorithm per group on the host.

    SciPy refuses NaN; here any order will do then: the loss is NaN too, and the run says which pictures it is of.
    """
    rows = [linear_sum_assignment(matrix)[1] for matrix in cost.nan_to_num().cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(cost.device)
