"""What is minimised. Dict of tensors in, dict of scalars out; always float32.

All losses return a *sum* and a *count*: the loop divides once, by the count over the whole global
batch (all micro-batches, all processes), so that the gradient does not depend on how it was split.
(Eq. 1 of the paper is a plain sum over the masked tags of one picture; how a batch is reduced is
not stated.)
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivo.matching import assign

_ROWS = 1024  # whose entropy is computed at a time: [rows, V] is as large as the logits


def tag_set_loss(
    logits: Tensor, target_ids: Tensor, group_slots: Tensor, group_size: Tensor, hungarian: bool = True
) -> dict[str, Tensor]:
    """Masked-tag loss under the best assignment of tags to slots (Hu et al. 2021, Eq. 1 and 2).

    Cost of an assignment: 1 - p, summed over the pieces of a tag; loss: -log p under the
    assignment of least cost. Slots are exchanged only within a group: the masked tags of one
    picture that have the same number of pieces.

    Args:
        logits: [K, V] at the K masked slots. target_ids: int [K], the piece that stood there.
        group_slots: int [G, M, N], for each group the slots (0 .. K - 1) of its M tags of N pieces;
            -1 beyond the group's own size or length. Every slot stands in exactly one group.
        group_size: int [G], number of tags in each group.
        hungarian: False keeps the order in which the tags were fed (Table 6, second row).

    Returns:
        loss: sum over the K slots of -log p. count: K. exchanged: number of slots whose target
        the matching changed. correct: number of slots whose most likely piece is the assigned one.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    if hungarian and group_slots.shape[1] > 1:
        target_ids, exchanged = _matched_targets(log_p.detach(), target_ids, group_slots, group_size)
    else:
        exchanged = torch.zeros((), device=logits.device)
    loss = -log_p.gather(1, target_ids[:, None]).sum()
    correct = (log_p.argmax(dim=1) == target_ids).sum()
    return {"loss": loss, "count": _count(target_ids), "exchanged": exchanged, "correct": correct}


def _matched_targets(
    log_p: Tensor, target_ids: Tensor, group_slots: Tensor, group_size: Tensor
) -> tuple[Tensor, Tensor]:
    """The target of each slot after matching, int [K], and how many slots changed."""
    costs = _costs_by_size if log_p.device.type == "cpu" else _costs
    assigned = assign(costs(log_p, target_ids, group_slots, group_size), group_size)
    used = group_slots >= 0
    slots = group_slots.clamp(min=0)
    pieces = target_ids[slots]  # [G, M, N]
    matched = pieces.gather(1, assigned[:, :, None].expand_as(pieces))
    # padding is written to one place behind the end and cut off
    places = torch.where(used, slots, target_ids.shape[0])
    result = torch.cat([target_ids, target_ids.new_zeros(1)]).index_put((places,), matched)[:-1]
    return result, (result != target_ids).sum()


def _costs(log_p: Tensor, target_ids: Tensor, group_slots: Tensor, group_size: Tensor) -> Tensor:
    """What `assign` minimises, [G, M, M]: -p of tag j in slot i, summed over pieces. Any group at once, padding too.

    -p, not 1 - p: the same minimum, and no small probability is lost in rounding (float32 has 1 - 1e-8 = 1).
    """
    slots = group_slots.clamp(min=0)
    pieces = target_ids[slots]
    # p[g, i, j, n]: probability of piece n of tag j in slot n of place i
    p = log_p[slots[:, :, None, :], pieces[:, None, :, :]].exp()
    return torch.where((group_slots >= 0)[:, :, None, :], -p, 0.0).sum(dim=-1)


def _costs_by_size(log_p: Tensor, target_ids: Tensor, group_slots: Tensor, group_size: Tensor) -> Tensor:
    """`_costs` on a CPU, 0 beyond a group's size.

    Each probability lies in a cache line of its own, and waiting for them is most of the matching's time; so only those
    are read that can be chosen (a tenth of the padded ones, of groups of up to 8).
    """
    groups, most, length = group_slots.shape
    p, words = log_p.reshape(-1).numpy(), log_p.shape[1]
    slots, target = group_slots.numpy(), target_ids.numpy()
    cost = np.zeros((groups, most, most), dtype=np.float32)
    shape = group_size.numpy() * (length + 1) + (slots[:, 0] >= 0).sum(axis=1)  # size and pieces of a group
    order = shape.argsort(kind="stable")
    shapes, first = np.unique(shape[order], return_index=True)
    for one, alike in zip(shapes.tolist(), np.split(order, first)[1:], strict=True):
        size, pieces = divmod(one, length + 1)
        if size > 1:
            places = slots[alike, :size, :pieces]
            asked = (places * words)[:, :, None] + target[places][:, None]  # [alike, size, size, pieces]
            cost[alike, :size, :size] = -np.exp(p.take(asked)).sum(axis=-1)
    return torch.from_numpy(cost)


def caption_loss(
    logits: Tensor, target_ids: Tensor, label_smoothing: float = 0.0, drop_worst: float = 0.0
) -> dict[str, Tensor]:
    """Cross-entropy on supervised caption tokens, with the two options of the VinVL recipe (Oscar's
    `BertCaptioningLoss`, whose gradient this is).

    Args:
        logits: [K, V]. target_ids: int [K].
        label_smoothing: share of the target's probability that is spread evenly over the V - 1 other pieces.
        drop_worst: share of the K tokens, those of the largest loss, that are left out: they are taken for noise of
            the captions. floor(K (1 - share)) tokens stay.

    Returns:
        loss: sum over the K tokens; where some are left out, K times the mean of those that stay. count: K.
        correct: number of right argmax.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, target_ids, reduction="none")
    if label_smoothing and logits.shape[1] > 1:
        others = logits.shape[1] - 1
        # -log p summed over the other pieces: V logsumexp - sum of logits, less that of the target
        rest = logits.shape[1] * logits.logsumexp(dim=1) - logits.sum(dim=1) - losses
        losses = (1.0 - label_smoothing) * losses + label_smoothing / others * rest
    count = losses.shape[0]
    # 10 * (1 - 0.2) is 8, and 10 * (1 - 0.7) 3.0000000000000004
    kept = int(round(count * (1.0 - drop_worst), 6))
    if 0 < kept < count:
        losses = losses.topk(kept, largest=False, sorted=False).values * (count / kept)
    correct = (logits.argmax(dim=1) == target_ids).sum()
    return {"loss": losses.sum(), "count": _count(target_ids), "correct": correct}


def self_critical_loss(logits: Tensor, target_ids: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    """What makes sampled tokens more likely where their caption's reward beat its baseline (REINFORCE; Rennie et al.
    2017): its gradient is that of -(expected reward), for samples of this very model.

    Args:
        logits: [K, V] at the K sampled tokens of all samples, ends included. target_ids: int [K], the tokens.
        advantages: float32 [K], reward less baseline of the caption that the token is of.

    Returns:
        loss: sum over K of -advantage * log p. count: K. entropy: sum over K of the entropy, in nats.
        log_p: [K], log-probabilities of the tokens, without gradient.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    taken = log_p.gather(1, target_ids[:, None])[:, 0]
    entropy = torch.stack([-(part.exp() * part).sum() for part in log_p.detach().split(_ROWS)]).sum()
    return {
        "loss": -(advantages * taken).sum(),
        "count": _count(target_ids),
        "entropy": entropy,
        "log_p": taken.detach(),
    }


def _count(target_ids: Tensor) -> Tensor:
    # filled on the device: torch.tensor(...) would be copied there, and a GPU be waited for
    return torch.full((), float(target_ids.shape[0]), device=target_ids.device)
