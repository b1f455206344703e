"""Captions drawn at random from a step function (vivo/decoding/search.py says what that is).

B pictures, K samples of each, V word pieces
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vivo.decoding.search import Hypothesis, Rule, Step, ruled, until_end
from vivo.errors import UserError


def sample(
    step: Step,
    uniform: Tensor,
    start: int,
    end: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    length_penalty: float = 1.0,
    rules: Sequence[Rule] = (),
) -> list[list[Hypothesis]]:
    """K captions of each picture, in the order of their random numbers; they may be equal.

    All randomness comes in: token t of sample k is the inverse of the cumulative distribution at `uniform[b, k, t]`.
    So a caption hangs on its own numbers alone, and not on the batch it is drawn in.

    Args:
        uniform: float [B, K, T] in [0, 1), on the device of the search; T is the longest caption.
        temperature: log-probabilities are divided by it. top_k: only the k likeliest tokens, 0 for all.
        top_p: only the likeliest tokens that together have this probability (nucleus sampling, Holtzman et al.
            2020), the one that reaches it included.

    Returns:
        Hypotheses whose log-probabilities are the model's own, whatever temperature or cut they were drawn with.

    Raises:
        UserError: a temperature or cut that leaves no distribution to draw from.
    """
    if not 0.0 < temperature < math.inf:
        raise UserError(f"temperature: must be above 0, not {temperature}; greedy_search is what 0 would be")
    if top_k < 0:
        raise UserError(f"top_k: must be 0 (all tokens) or more, not {top_k}")
    if not 0.0 < top_p <= 1.0:
        raise UserError(f"top_p: must be above 0 and at most 1 (all tokens), not {top_p}")
    pictures, samples, most = uniform.shape
    tokens = torch.full((pictures, 1), start, dtype=torch.int64, device=uniform.device)
    parents = torch.zeros_like(tokens)
    history = tokens.new_zeros(pictures, 1, 0)
    alive = torch.ones(pictures, samples, dtype=torch.bool, device=uniform.device)
    gained: list[Tensor] = []
    for place in range(most):
        log_p = step(tokens, parents)
        allowed = ruled(log_p, history, rules, end)
        if place == 0:  # all samples begin with the one beam of the first call
            log_p, allowed = log_p.expand(-1, samples, -1), allowed.expand(-1, samples, -1)
            history = history.expand(-1, samples, -1)
        tokens = draw(_cut(allowed / temperature, top_k, top_p), uniform[:, :, place])
        tokens = torch.where(alive, tokens, end)
        gained.append(log_p.gather(2, tokens[..., None]))
        history = torch.cat([history, tokens[..., None]], dim=2)
        alive = alive & (tokens != end)
        if not alive.any():
            break
        if place == 0:
            parents = torch.zeros_like(tokens)
        elif place == 1:
            parents = torch.arange(samples, device=uniform.device).expand(pictures, samples)
    values = torch.cat(gained, dim=2).tolist()
    return [
        [until_end(row, gains, end, length_penalty) for row, gains in zip(rows, of_rows, strict=True)]
        for rows, of_rows in zip(history.tolist(), values, strict=True)
    ]


def _cut(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """[..., V] with -inf for all but the likeliest tokens."""
    if top_k:
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1.0:
        ordered, place = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= top_p  # those before it already have the share
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, place, beyond), -torch.inf)
    return scores


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """The token at `uniform` [B, K] of the cumulative distribution of `scores` [B, K, V]; float64, since float32
    loses rare tokens among 30,000."""
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    # times the sum: rounding may leave it below one
    at = uniform.to(cumulative.dtype)[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, at.contiguous(), right=True).squeeze(-1).clamp(max=scores.shape[-1] - 1)
