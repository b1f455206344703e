"""Losses: hand cases, brute force over valid permutations, gradients."""

from itertools import permutations, product

import pytest
import torch

from vivo.losses import caption_loss, self_critical_loss, tag_set_loss


def brute_force_loss(logits: torch.Tensor, tags: list[tuple[int, ...]]) -> torch.Tensor:
    """Loss of one picture from the definition: every permutation that keeps piece lengths, cost 1 - p."""
    log_p = logits.log_softmax(-1)
    first = [sum(len(t) for t in tags[:i]) for i in range(len(tags))]
    by_length = {}
    for index, tag in enumerate(tags):
        by_length.setdefault(len(tag), []).append(index)
    best = None
    for choice in product(*(permutations(group) for group in by_length.values())):
        exchange = {
            i: j
            for group, order in zip(by_length.values(), choice, strict=True)
            for i, j in zip(group, order, strict=True)
        }
        picked = [log_p[first[i] + k, tags[j][k]] for i, j in exchange.items() for k in range(len(tags[i]))]
        cost = sum(1 - p.exp().item() for p in picked)
        if best is None or cost < best[0] - 1e-9:
            best = (cost, -sum(picked))
    return best[1]


def group_tensors(pictures: list[list[tuple[int, ...]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """target_ids, group_slots, group_size as the collator makes them."""
    targets, groups = [], []
    for tags in pictures:
        by_length = {}
        for tag in tags:
            by_length.setdefault(len(tag), []).append(list(range(len(targets), len(targets) + len(tag))))
            targets.extend(tag)
        groups.extend(by_length.values())
    size, length = max(map(len, groups), default=0), max((len(g[0]) for g in groups), default=0)
    slots = torch.full((len(groups), size, length), -1)
    for row, group in enumerate(groups):
        slots[row, : len(group), : len(group[0])] = torch.tensor(group)
    return torch.tensor(targets, dtype=torch.int64), slots, torch.tensor([len(g) for g in groups], dtype=torch.int64)


PICTURES = [
    [(1,), (2,), (3, 4)],
    [(5, 6), (7, 8), (1,), (9,), (2,)],
    [(3,), (3,), (1, 2, 3)],  # a repeated tag
    [],  # no tag: M = 0
    [(4,)],  # M = 1
]


@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force_with_multi_piece_and_repeated_tags(seed: int):
    generator = torch.Generator().manual_seed(seed)
    targets, slots, sizes = group_tensors(PICTURES)
    logits = (3 * torch.randn(len(targets), 11, generator=generator)).requires_grad_()
    other = logits.detach().clone().requires_grad_()
    result = tag_set_loss(logits, targets, slots, sizes)
    place, expected = 0, torch.zeros(())
    for tags in PICTURES:
        size = sum(map(len, tags))
        if size:
            expected = expected + brute_force_loss(other[place : place + size], tags)
        place += size
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result["count"].item() == len(targets)
    result["loss"].backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_hand_case_two_tags():
    # slot 0 says tag 2, slot 1 says tag 1: the set is predicted, in the other order
    logits = torch.log(torch.tensor([[0.1, 0.1, 0.8], [0.1, 0.7, 0.2]]))
    targets, slots, sizes = group_tensors([[(1,), (2,)]])
    matched = tag_set_loss(logits, targets, slots, sizes)
    fed = tag_set_loss(logits, targets, slots, sizes, hungarian=False)
    assert matched["loss"].item() == pytest.approx(-torch.log(torch.tensor(0.8 * 0.7)).item(), rel=1e-5)
    assert fed["loss"].item() == pytest.approx(-torch.log(torch.tensor(0.1 * 0.2)).item(), rel=1e-5)
    assert (matched["exchanged"].item(), matched["correct"].item(), fed["correct"].item()) == (2, 2, 0)


def test_cost_is_one_minus_p_not_minus_log_p():
    # sum of 1 - p keeps (0.6, 0.005), whose sum is larger than (0.3, 0.29); -log p would exchange them
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3], [0.705, 0.29, 0.005]]))
    targets, slots, sizes = group_tensors([[(1,), (2,)]])
    kept = tag_set_loss(logits, targets, slots, sizes)
    assert 0.6 + 0.005 > 0.3 + 0.29 and 0.6 * 0.005 < 0.3 * 0.29
    assert kept["exchanged"].item() == 0


def test_no_masked_tag_at_all_gives_zero_and_a_gradient():
    logits = torch.zeros(0, 5, requires_grad=True)
    targets, slots, sizes = group_tensors([[]])
    result = tag_set_loss(logits, targets, slots, sizes)
    result["loss"].backward()
    assert result["loss"].item() == 0 and logits.grad.shape == (0, 5)


def test_caption_loss_by_hand_and_with_smoothing():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    targets = torch.tensor([0, 1])
    plain = caption_loss(logits, targets)
    assert plain["loss"].item() == pytest.approx(-torch.log(torch.tensor(0.5 * 0.8)).item(), rel=1e-6)
    assert plain["correct"].item() == 2
    smooth = caption_loss(logits, targets, 0.3)
    others = logits[0, 1] + logits[0, 2] + logits[1, 0] + logits[1, 2]
    by_hand = -(0.7 * (logits[0, 0] + logits[1, 1]) + 0.15 * others)
    assert smooth["loss"].item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize(("smoothing", "worst"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2), (0.1, 0.55)])
def test_caption_loss_has_the_gradient_of_the_published_recipe(smoothing: float, worst: float):
    """Divergence from the smoothed one-hot, its largest values dropped, the mean of the rest (the loss of VinVL)."""
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(10, 7, generator=generator)).requires_grad_()
    targets = torch.randint(0, 7, (10,), generator=generator)
    ours = caption_loss(logits, targets, smoothing, worst)
    (ours["loss"] / ours["count"]).backward()
    again = logits.detach().clone().requires_grad_()
    wanted = torch.full((10, 7), smoothing / 6).scatter(1, targets[:, None], 1.0 - smoothing)
    divergence = (wanted.xlogy(wanted) - wanted * again.log_softmax(-1)).sum(dim=1)
    kept = divergence.sort().values[: {0.0: 10, 0.2: 8, 0.55: 4}[worst]]
    kept.mean().backward()
    torch.testing.assert_close(logits.grad, again.grad, rtol=1e-4, atol=1e-7)
    assert (logits.grad.abs().sum(dim=1) == 0).sum() == 10 - len(kept) and ours["count"].item() == 10


def test_dropping_all_tokens_drops_none():
    """One token, of which half is to go: floor gives none, and a loss of nothing teaches nothing."""
    logits = torch.zeros(1, 4)
    assert caption_loss(logits, torch.tensor([2]), drop_worst=0.5)["loss"].item() == pytest.approx(1.3862944)


def test_entropy_of_sampled_tokens():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]]))
    found = self_critical_loss(logits, torch.tensor([1, 0]), torch.tensor([2.0, -1.0]))
    assert found["entropy"].item() == pytest.approx(1.5 * 0.6931472, rel=1e-5)
    assert found["loss"].item() == pytest.approx(2 * 1.3862944, rel=1e-5)
    assert found["log_p"].tolist() == pytest.approx([-1.3862944, 0.0], abs=1e-6)
