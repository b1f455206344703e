"""Greedy and beam search by the rules of Oscar's captioning code, for captions that equal the published models' own.

The step function is that of vivo/decoding/search.py. The rules, where they differ from the search there:

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

import torch

from vivo.decoding.search import Hypothesis, Step, greedy_search


def oscar_greedy_search(
    step: Step, pictures: int, start: int, end: int, max_tokens: int, device: torch.device | str = "cpu"
) -> list[Hypothesis]:
    """The most likely token at each step, one hypothesis a picture; see the head of this file."""
    found = greedy_search(step, pictures, start, end, max_tokens, 1.0, device)
    return [Hypothesis(h.tokens[: max_tokens - 1], h.log_probability, h.score) for h in found]


def oscar_beam_search(
    step: Step,
    pictures: int,
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """The best hypothesis of each picture, in a list of its own; see the head of this file."""
    tokens = torch.full((pictures, beam), start, dtype=torch.int64, device=device)
    parents = torch.arange(beam, device=device).expand(pictures, beam)
    total = torch.full((pictures, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    history = torch.zeros(pictures, beam, 0, dtype=torch.int64, device=device)
    best: list[Hypothesis | None] = [None] * pictures
    done = [False] * pictures

    for length in range(1, max_tokens + 1):
        log_p = step(tokens, parents)
        words = log_p.shape[-1]
        value, flat = (total[..., None] + log_p).flatten(1).topk(min(2 * beam, beam * words), dim=1)
        parent, token = flat // words, flat % words
        ends = token == end
        finishes = ends[:, :beam] if length < max_tokens else torch.ones_like(ends[:, :1])
        for row, values in enumerate(value.tolist()):
            known = best[row]
            done[row] = done[row] or (known is not None and known.score >= values[0] / max_tokens**length_penalty)
            if done[row]:
                continue
            for place in finishes[row].nonzero()[:, 0].tolist():
                score = values[place] / length**length_penalty
                if best[row] is None or score > best[row].score:
                    best[row] = Hypothesis(history[row, parent[row, place]].tolist(), values[place], score)
        if length == max_tokens or all(done):
            break
        order = torch.where(ends, -torch.inf, value).topk(min(beam, value.shape[1]), dim=1)
        total, picked = order.values, order.indices
        parents, tokens = parent.gather(1, picked), token.gather(1, picked)
        history = torch.cat(
            [history.gather(1, parents[..., None].expand(-1, -1, length - 1)), tokens[..., None]], dim=2
        )
    return [[hypothesis] for hypothesis in best if hypothesis is not None]
