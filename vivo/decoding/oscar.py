"""Greedy and beam search by the conventions of Oscar, for captions that equal the published models' own.

The step function is that of vivo/decoding/search.py. Where the two differ:

    length      `max_tokens` steps are computed (Oscar's max_gen_length - 1, which counts [CLS]); what the last of them
                chooses is replaced by the end token, so a caption has at most `max_tokens` - 1 words. Its
                log-probability still counts that of the word that was replaced.
    the end     beam search does not stop when K hypotheses are finished. It keeps the best finished one (Oscar's
                num_keep_best 1) and stops when its score is at least what the best candidate would have as its
                log-probability divided by `max_tokens` ** `length_penalty`, or at `max_tokens`.
    score       log-probability / length ** length_penalty in beam search, the plain mean in greedy search.
                The length counts the end token (Oscar counts [CLS] and not the end, which is the same number).

Oscar also reads candidates behind place K while fewer than K before them go on. A hypothesis that ends there has
another before it that ends at the same length with more probability, so it is never the best.

Checked against the original code: docs/checkpoints.md.
"""

from collections.abc import Sequence

import torch

from vivo.decoding.search import Hypothesis, Rule, Step, continued, greedy_search, hypothesis, ruled


def oscar_greedy_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    max_tokens: int,
    device: torch.device | str = "cpu",
    rules: Sequence[Rule] = (),
) -> list[Hypothesis]:
    """The most likely token at each step, one hypothesis a picture; see the head of this file."""
    found = greedy_search(step, pictures, start, end, max_tokens, 1.0, device, rules)
    return [hypothesis(h.tokens[: max_tokens - 1], h.token_log_probabilities, 1.0) for h in found]


def oscar_beam_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
    rules: Sequence[Rule] = (),
) -> list[list[Hypothesis]]:
    """The best hypothesis of each picture, in a list of its own; see the head of this file."""
    tokens = torch.full((pictures, 1), start, dtype=torch.int64, device=device)
    parents = torch.zeros_like(tokens)
    total = torch.zeros(pictures, 1, device=device)
    history = torch.zeros(pictures, 1, 0, dtype=torch.int64, device=device)
    gained = torch.zeros(pictures, 1, 0, device=device)
    best: list[Hypothesis | None] = [None] * pictures
    done = [False] * pictures

    for length in range(1, max_tokens + 1):
        log_p = ruled(step(tokens, parents), history, rules, end)
        words = log_p.shape[-1]
        candidates = (total[..., None] + log_p).flatten(1)
        value, flat = candidates.topk(min(2 * beam, candidates.shape[1]), dim=1)
        parent, token, gain = flat // words, flat % words, log_p.flatten(1).gather(1, flat)
        ends = token == end
        finishes = ends[:, :beam] if length < max_tokens else torch.ones_like(ends[:, :1])
        for row, values in enumerate(value.tolist()):
            known = best[row]
            done[row] = done[row] or (known is not None and known.score >= values[0] / max_tokens**length_penalty)
            if done[row]:
                continue
            for place in finishes[row].nonzero()[:, 0].tolist():
                origin = parent[row, place]
                each = [*gained[row, origin].tolist(), gain[row, place].item()]
                found, known = hypothesis(history[row, origin].tolist(), each, length_penalty), best[row]
                if known is None or found.score > known.score:
                    best[row] = found
        if length == max_tokens or all(done):
            break
        order = torch.where(ends, -torch.inf, value).topk(min(beam, value.shape[1]), dim=1)
        total, picked = order.values, order.indices
        parents, tokens = parent.gather(1, picked), token.gather(1, picked)
        history = continued(history, parents, tokens)
        gained = continued(gained, parents, gain.gather(1, picked))
    return [[found] for found in best if found is not None]
