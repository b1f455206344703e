"""Greedy and beam search over a step function.

    B pictures, K beams, V word pieces

A *step* takes the token that each beam ended with and where that beam came from, and answers with
the log-probabilities of the next token:

    log_p = step(tokens, parents)
        tokens   int64 [B, K]: last token of each beam; the start token in the first call
        parents  int64 [B, K]: which beam of the previous call each beam continues; 0 .. K - 1 in
                 the first call. The step keeps its own state (a cache) and reorders it by this.
        log_p    float32 [B, K, V]

A hypothesis ends with the end token, or unfinished at `max_tokens`. Its score is its
log-probability divided by its length (end token counted) to the power `length_penalty`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without start and end token, the log-probability of the whole, and its score."""

    tokens: list[int]
    log_probability: float
    score: float


def greedy_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
) -> list[Hypothesis]:
    """The most likely token at each step, for B pictures at once; one hypothesis a picture."""
    token = torch.full((pictures, 1), start, dtype=torch.int64, device=device)
    parents = torch.zeros_like(token)
    total = torch.zeros(pictures, device=device)
    length = torch.zeros(pictures, dtype=torch.int64, device=device)
    alive = torch.ones(pictures, dtype=torch.bool, device=device)
    chosen = []
    for _ in range(max_tokens):
        value, best = step(token, parents)[:, 0].max(dim=-1)
        total = torch.where(alive, total + value, total)
        length = length + alive
        chosen.append(torch.where(alive, best, end))
        alive = alive & (best != end)
        token = best[:, None]
        if not alive.any():
            break
    rows = torch.stack(chosen, dim=1).tolist()
    return [
        Hypothesis(row[: row.index(end)] if end in row else row, log_p, log_p / size**length_penalty)
        for row, log_p, size in zip(rows, total.tolist(), length.tolist(), strict=True)
    ]


def beam_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Beam search; per picture up to `beam` hypotheses, best score first.

    Of the best 2K continuations of a picture's K beams, those that end and stand among the first K
    are finished; the best K others live on. A picture is done when K hypotheses are finished. With
    `beam` = 1 this is greedy search; with a beam as wide as the space it is exhaustive.
    """
    tokens = torch.full((pictures, beam), start, dtype=torch.int64, device=device)
    parents = torch.arange(beam, device=device).expand(pictures, beam)
    # all beams begin alike: only the first may continue, or the K best would be K copies
    total = torch.full((pictures, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    history = torch.zeros(pictures, beam, 0, dtype=torch.int64, device=device)
    finished: list[list[Hypothesis]] = [[] for _ in range(pictures)]

    for length in range(1, max_tokens + 1):
        log_p = step(tokens, parents)
        words = log_p.shape[-1]
        value, flat = (total[..., None] + log_p).flatten(1).topk(min(2 * beam, beam * words), dim=1)
        parent, token = flat // words, flat % words
        ends = token == end
        for row, place in ends[:, :beam].nonzero().tolist():
            log_probability = value[row, place].item()
            if len(finished[row]) < beam and log_probability > -torch.inf:
                sequence = history[row, parent[row, place]].tolist()
                finished[row].append(Hypothesis(sequence, log_probability, log_probability / length**length_penalty))
        # the best K that go on: ended ones sink behind all others
        order = torch.where(ends, -torch.inf, value).topk(min(beam, value.shape[1]), dim=1)
        total, picked = order.values, order.indices
        parents, tokens = parent.gather(1, picked), token.gather(1, picked)
        history = torch.cat(
            [history.gather(1, parents[..., None].expand(-1, -1, length - 1)), tokens[..., None]], dim=2
        )
        if all(len(hypotheses) >= beam for hypotheses in finished):
            break

    for row, hypotheses in enumerate(finished):
        for place in range(total.shape[1]):
            log_probability = total[row, place].item()
            if len(hypotheses) < beam and log_probability > -torch.inf:
                score = log_probability / history.shape[2] ** length_penalty
                hypotheses.append(Hypothesis(history[row, place].tolist(), log_probability, score))
        hypotheses.sort(key=lambda h: -h.score)
    return finished
