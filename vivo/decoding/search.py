"""Greedy and beam search over a step function; they know no model.

    B pictures, K beams, V word pieces

A *step* takes the token that each beam ended with and where that beam came from, and answers with
the log-probabilities of the next token:

    log_p = step(tokens, parents)
        tokens   int64 [B, K]: last token of each beam; the start token, with K = 1, in the first call
        parents  int64 [B, K]: which beam of the previous call each beam continues; 0 in the first call.
                 The step keeps its own state (a cache) and reorders it by this. K may change from
                 call to call.
        log_p    float32 [B, K, V]

A *rule* takes what the beams have written, int64 [B, K, t] without the start token, and log_p, and returns
log_p with -inf where it forbids a token (vivo/decoding/rules.py). Where rules forbid all of them, a beam ends.

A hypothesis ends with the end token, or unfinished at `max_tokens`. Its score is its
log-probability divided by its length (end token counted) to the power `length_penalty`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without start and end token, the log-probability of the whole, and its score.

    token_log_probabilities: of each token, and of the end token where there is one; they sum to `log_probability`.
    """

    tokens: list[int]
    log_probability: float
    score: float
    token_log_probabilities: list[float]

    @property
    def ended(self) -> bool:
        """Whether it ended with the end token, and not because of its length."""
        return len(self.token_log_probabilities) > len(self.tokens)


def hypothesis(tokens: list[int], gained: list[float], length_penalty: float) -> Hypothesis:
    """A hypothesis from its tokens and the log-probability of each, the end token's included where there is one."""
    total = sum(gained)
    return Hypothesis(tokens, total, total / max(1, len(gained)) ** length_penalty, gained)


def greedy_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
    rules: Sequence[Rule] = (),
) -> list[Hypothesis]:
    """The most likely token at each step, for B pictures at once; one hypothesis a picture."""
    token = torch.full((pictures, 1), start, dtype=torch.int64, device=device)
    parents = torch.zeros_like(token)
    history = token.new_zeros(pictures, 1, 0)
    gained: list[Tensor] = []
    alive = torch.ones(pictures, dtype=torch.bool, device=device)
    for _ in range(max_tokens):
        log_p = ruled(step(token, parents), history, rules, end)
        value, token = log_p[:, 0].max(dim=-1, keepdim=True)
        token = torch.where(alive[:, None], token, end)
        history = torch.cat([history, token[:, :, None]], dim=2)
        gained.append(value)
        alive = alive & (token[:, 0] != end)
        if not alive.any():
            break
    rows = zip(history[:, 0].tolist(), torch.cat(gained, dim=1).tolist(), strict=True)
    return [until_end(tokens, values, end, length_penalty) for tokens, values in rows]


def beam_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
    rules: Sequence[Rule] = (),
    groups: int = 1,
    diversity: float = 0.0,
) -> list[list[Hypothesis]]:
    """Beam search; per picture up to `beam` hypotheses, best score first.

    Of the best 2K continuations of a picture's K beams, those that end and stand among the first K
    are finished; the best K others live on. A picture is done when K hypotheses are finished. With
    `beam` = 1 this is greedy search; with a beam as wide as the space it is exhaustive.

    Args:
        groups: diverse beam search (Vijayakumar et al. 2018, Hamming diversity): the beams are divided into groups
            of equal size that search one after the other at each step.
        diversity: what a token loses for each beam of an earlier group that took it at this step. It
            decides which beams live on; log-probabilities and scores are the model's.

    Raises:
        ValueError: `beam` does not divide by `groups`.
    """
    if beam % groups:
        raise ValueError(f"a beam of {beam} does not divide into {groups} groups")
    searches = [_Group(pictures, beam // groups, device) for _ in range(groups)]
    tokens = torch.full((pictures, 1), start, dtype=torch.int64, device=device)
    parents = torch.zeros_like(tokens)
    for length in range(1, max_tokens + 1):
        log_p = step(tokens, parents)
        # all groups begin with the one beam of the first call
        parts = [log_p] * groups if length == 1 else log_p.split([g.live for g in searches], dim=1)
        taken = log_p.new_zeros(pictures, log_p.shape[2]) if groups > 1 else None
        chosen, origin, first = [], [], 0
        for group, part in zip(searches, parts, strict=True):
            live = group.live
            allowed = ruled(part, group.history, rules, end)
            token, parent = group.advance(allowed, taken, diversity, end, length_penalty)
            chosen.append(token)
            origin.append(parent + first)
            first += live if length > 1 else 0
            if taken is not None:
                taken.scatter_add_(1, token, torch.ones_like(token, dtype=taken.dtype))
        tokens, parents = torch.cat(chosen, dim=1), torch.cat(origin, dim=1)
        if all(group.done() for group in searches):
            break
    found = [group.hypotheses(length_penalty) for group in searches]
    return [sorted((h for part in row for h in part), key=lambda h: -h.score) for row in zip(*found, strict=True)]


class _Group:
    """The beams of one group: all of them in plain beam search. K of them may live and K may be finished."""

    def __init__(self, pictures: int, beam: int, device: torch.device | str):
        self.beam, self.live = beam, 1
        self.history = torch.zeros(pictures, 1, 0, dtype=torch.int64, device=device)
        self.gained = torch.zeros(pictures, 1, 0, device=device)
        self.guided = torch.zeros(pictures, 1, device=device)  # log-probability less what diversity took
        self.finished: list[list[Hypothesis]] = [[] for _ in range(pictures)]

    def advance(
        self, log_p: Tensor, taken: Tensor | None, diversity: float, end: int, length_penalty: float
    ) -> tuple[Tensor, Tensor]:
        """One token further. log_p: [B, live, V]; taken: how many beams of earlier groups took each token, [B, V].

        Returns the last tokens of the beams that live on and the beams they continue, int64 [B, new live] each.
        """
        guide = log_p if taken is None else log_p - diversity * taken[:, None]
        # the best of a picture are among the best of each of its beams
        best, words = guide.topk(min(2 * self.beam, guide.shape[2]), dim=2)
        candidates = (self.guided[..., None] + best).flatten(1)
        value, flat = candidates.topk(min(2 * self.beam, candidates.shape[1]), dim=1)
        parent, token = flat // words.shape[2], words.flatten(1).gather(1, flat)
        gain = log_p.flatten(1).gather(1, parent * log_p.shape[2] + token)
        ends = token == end
        self._finish(ends[:, : self.beam], value, parent, gain, length_penalty)
        # the best K that go on: ended ones sink behind all others
        order = torch.where(ends, -torch.inf, value).topk(min(self.beam, value.shape[1]), dim=1)
        self.guided, picked = order.values, order.indices
        parent, token = parent.gather(1, picked), token.gather(1, picked)
        self.history = continued(self.history, parent, token)
        self.gained = continued(self.gained, parent, gain.gather(1, picked))
        self.live = token.shape[1]
        return token, parent

    def _finish(self, ends: Tensor, value: Tensor, parent: Tensor, gain: Tensor, length_penalty: float) -> None:
        """Keep the candidates that end, bool [B, K]; the host asks the device once for all of them."""
        rows, places = (ends & (value[:, : self.beam] > -torch.inf)).nonzero(as_tuple=True)
        if not len(rows):
            return
        origin = parent[rows, places]
        length = self.history.shape[2]
        gained = torch.cat([self.gained[rows, origin], gain[rows, places, None]], dim=1)
        told = torch.cat([rows[:, None], self.history[rows, origin], gained.double().view(torch.int64)], dim=1)
        host = told.cpu()
        values = host[:, 1 + length :].contiguous().view(torch.float64).tolist()
        for (row, *tokens), own in zip(host[:, : 1 + length].tolist(), values, strict=True):
            if len(self.finished[row]) < self.beam:
                self.finished[row].append(hypothesis(tokens, own, length_penalty))

    def done(self) -> bool:
        """Whether every picture has K finished hypotheses."""
        return all(len(hypotheses) >= self.beam for hypotheses in self.finished)

    def hypotheses(self, length_penalty: float) -> list[list[Hypothesis]]:
        """The finished ones of each picture, and unfinished ones where there are fewer than K."""
        alive = (self.guided > -torch.inf).tolist()
        for row, found in enumerate(self.finished):
            for place in range(self.live):
                if len(found) < self.beam and alive[row][place]:
                    tokens, values = self.history[row, place].tolist(), self.gained[row, place].tolist()
                    found.append(hypothesis(tokens, values, length_penalty))
        return self.finished


def until_end(tokens: list[int], gained: list[float], end: int, length_penalty: float) -> Hypothesis:
    """The hypothesis of a row of tokens: up to its first end token, or all of them."""
    size = tokens.index(end) if end in tokens else len(tokens)
    return hypothesis(tokens[:size], gained[: size + 1], length_penalty)


def ruled(log_p: Tensor, history: Tensor, rules: Sequence[Rule], end: int) -> Tensor:
    """log_p [B, K, V] after all rules, for beams that have written `history`, int64 [B, K, t].

    A beam that may write nothing at all may end, whatever a rule says: else a picture is left without any caption.
    """
    allowed = log_p
    for rule in rules:
        allowed = rule(history, allowed)
    if rules and (stuck := allowed.amax(dim=-1) == -torch.inf).any():
        allowed = allowed.clone()
        allowed[..., end] = torch.where(stuck, log_p[..., end], allowed[..., end])
    return allowed


def continued(rows: Tensor, parents: Tensor, values: Tensor) -> Tensor:
    """[B, K, t] of the previous beams -> [B, K', t + 1] of those that continue them with `values`."""
    before = rows.gather(1, parents[..., None].expand(-1, -1, rows.shape[2]))
    return torch.cat([before, values[..., None]], dim=2)
