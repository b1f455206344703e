"""Constrained beam search (Anderson et al. 2017): beams for each state of a machine of constraints.

    B pictures, K beams of a picture, V word pieces, n beams of all pictures, N nodes of all machines

The beams of a picture compete in *groups*: one for each set of satisfied constraints, and, as the nocaps baseline has
it, one more for each beginning of a form that could satisfy another one (`ConstraintMachine.progress`). A group keeps
its best `beam` hypotheses, so that a caption with an unlikely word need not beat those without it. Otherwise each group
is a plain beam search (vivo/decoding/search.py): hypotheses that end among its first `beam` are finished for their set,
and a set takes `beam` of them. Only groups that some hypothesis is in exist.

Nothing is stored for each state and word. A hypothesis carries its state (two integers); most words lead to the
state "no form begun", so the best few words of each row are enough for that one, and the few others are looked
up in the machine's transitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from vivo.decoding.machine import ConstraintMachine
from vivo.decoding.search import Hypothesis, Rule, Step, hypothesis, ruled


@dataclass(frozen=True)
class Constrained:
    """What was found for one picture.

    Attributes:
        hypotheses: up to `beam` of them, best score first, that satisfy at least `needed` constraints; where there is
            none (words that cannot be written, too few tokens), those that satisfy the most.
        satisfied: of each hypothesis, bits of the constraints.
        needed: how many constraints were to be satisfied.
    """

    hypotheses: list[Hypothesis]
    satisfied: list[int]
    needed: int

    @property
    def fell_back(self) -> bool:
        """Whether too few constraints are satisfied."""
        return not self.satisfied or self.satisfied[0].bit_count() < self.needed


def constrained_beam_search(
    step: Step,
    machines: Sequence[ConstraintMachine],
    start: int,
    end: int,
    beam: int,
    max_tokens: int,
    at_least: int = 2,
    length_penalty: float = 1.0,
    device: torch.device | str = "cpu",
    rules: Sequence[Rule] = (),
) -> list[Constrained]:
    """Captions with at least `at_least` of their constraints, or all where there are fewer.

    Args:
        machines: one a picture; one without constraints makes it plain beam search.
        beam: hypotheses of each group.
        at_least: constraints to satisfy; the best score among all hypotheses that do is chosen.

    Raises:
        ValueError: a form has the end token in it, or one outside the vocabulary.
    """
    search = _Search(machines, start, end, beam, at_least, device)
    for _ in range(max_tokens):
        log_p = step(*search.inputs())
        search.advance(ruled(log_p, search.history_by_beam(), rules, end), length_penalty)
        if not len(search.picture):
            break
    return search.results(length_penalty)


class _Transitions:
    """The machines of all pictures in one table; nodes are numbered through, so that a node tells its picture."""

    def __init__(self, machines: Sequence[ConstraintMachine], device: torch.device | str):
        roots, ends, ahead, fallback, edges, counts = [], [], [], [], [], []
        for machine in machines:
            root = len(ends)
            roots.append(root)
            ends += machine.ends
            ahead += machine.ahead
            fallback += [root + node for node in machine.fallback]
            for node in machine.transitions:
                edges += [(token, root + target) for token, target in sorted(node.items())]
                counts.append(len(node))

        def column(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self.root, self.ends, self.ahead, self.fallback = map(column, (roots, ends, ahead, fallback))
        self.token, self.target = column([t for t, _ in edges]), column([t for _, t in edges])
        self.count = column(counts)
        self.first = self.count.cumsum(0) - self.count
        # a node and a token as one number, ascending, to be looked up by bisection
        self.stride = 1 + max((token for token, _ in edges), default=0)
        self.key = self.stride * torch.arange(len(ends), device=device).repeat_interleave(self.count) + self.token

    def has(self, node: Tensor, token: Tensor) -> Tensor:
        """Whether these tokens lead elsewhere than to the root, bool of the shape of both."""
        if not len(self.key):
            return torch.zeros_like(token, dtype=torch.bool)
        wanted = self.stride * node + token
        place = torch.searchsorted(self.key, wanted).clamp(max=len(self.key) - 1)
        return (self.key[place] == wanted) & (token < self.stride)

    def of(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """All transitions of the nodes int64 [n]: which of the n each belongs to, and its place in the table."""
        count = self.count[node]
        owner = torch.arange(len(node), device=node.device).repeat_interleave(count)
        within = torch.arange(len(owner), device=node.device) - (count.cumsum(0) - count)[owner]
        return owner, self.first[node][owner] + within

    def progress(self, node: Tensor, satisfied: Tensor) -> Tensor:
        """`ConstraintMachine.progress` of each; a form has a few pieces, so there are a few rounds."""
        while True:
            useless = (self.ahead[node] & ~satisfied) == 0
            shorter = torch.where(useless, self.fallback[node], node)
            if torch.equal(shorter, node):
                return node
            node = shorter


@dataclass
class _Candidates:
    """Continuations of hypotheses, 1-D each: the hypothesis, the token, its log-probability and the next node."""

    parent: Tensor
    token: Tensor
    gain: Tensor
    node: Tensor

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(self.parent[index], self.token[index], self.gain[index], self.node[index])

    @staticmethod
    def joined(parts: Sequence["_Candidates"]) -> "_Candidates":
        """All of them, one after the other."""
        names = ("parent", "token", "gain", "node")
        return _Candidates(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class _Search:
    """The living hypotheses, n of them, sorted by picture, and the finished ones."""

    def __init__(
        self,
        machines: Sequence[ConstraintMachine],
        start: int,
        end: int,
        beam: int,
        at_least: int,
        device: torch.device | str,
    ):
        if any(end in form for machine in machines for forms in machine.forms for form in forms):
            raise ValueError(f"a form has the end token, {end}, in it")
        self.beam, self.end, self.device = beam, end, device
        self.sizes = [machine.size for machine in machines]
        self.needed = [min(at_least, size) for size in self.sizes]
        self.table = _Transitions(machines, device)
        sets = {id(machine.continues): machine.continues for machine in machines}  # mostly one set that all share
        self._continuing = sorted({piece for continues in sets.values() for piece in continues})
        self.finished: list[dict[int, list[Hypothesis]]] = [{} for _ in machines]
        self.picture = torch.arange(len(machines), device=device)
        self.slot, self.parent = torch.zeros_like(self.picture), torch.zeros_like(self.picture)
        self.token = torch.full_like(self.picture, start)
        self.settled, self.node = torch.zeros_like(self.picture), self.table.root
        self.total = torch.zeros(len(machines), device=device)
        self.history = torch.zeros(len(machines), 0, dtype=torch.int64, device=device)
        self.gained = torch.zeros(len(machines), 0, device=device)

    @property
    def width(self) -> int:
        """K: beams of the picture that has the most."""
        return int(self.slot.max()) + 1

    def _by_beam(self, values: Tensor, fill: int) -> Tensor:
        """[n, ...] -> [B, K, ...]; pictures with fewer beams are filled up."""
        table = values.new_full((len(self.sizes), self.width, *values.shape[1:]), fill)
        table[self.picture, self.slot] = values
        return table

    def inputs(self) -> tuple[Tensor, Tensor]:
        """tokens and parents for the step, int64 [B, K] each."""
        return self._by_beam(self.token, self.end), self._by_beam(self.parent, 0)

    def history_by_beam(self) -> Tensor:
        """What each beam has written, int64 [B, K, t], for rules."""
        return self._by_beam(self.history, self.end)

    def advance(self, log_p: Tensor, length_penalty: float) -> None:
        """One token further. log_p: float32 [B, K, V]."""
        found = self._candidates(log_p.flatten(0, 1), log_p.shape[1])
        total = self.total[found.parent] + found.gain
        alive = total > -torch.inf
        found, total = found[alive], total[alive]
        word = ~self._continues(log_p.shape[2])[found.token]
        settled = self.settled[found.parent]
        settled = torch.where(word, settled | self.table.ends[self.node[found.parent]], settled)
        satisfied = settled | self.table.ends[found.node]
        rank, order = self._ranks(total, found.node, satisfied)
        found, total, settled, satisfied = found[order], total[order], settled[order], satisfied[order]

        ends = found.token == self.end
        self._finish(found[ends & (rank < self.beam)], satisfied[ends & (rank < self.beam)], length_penalty)
        # the best of each group that go on: those that ended make room for others
        ended_before = ends.cumsum(0) - ends.long()
        ended_before = ended_before - ended_before[(torch.arange(len(rank), device=rank.device) - rank)]
        kept = ~ends & (rank - ended_before < self.beam)
        kept &= self._wanted(self.picture[found.parent], settled, kept)
        self._continue(found[kept], total[kept], settled[kept])

    def _candidates(self, rows: Tensor, width: int) -> _Candidates:
        """All continuations that could be among the best of their groups. rows: [B * K, V]."""
        table, words = self.table, rows.shape[1]
        if table.stride > words and len(table.key):
            raise ValueError(f"a form has the token {table.stride - 1}; the vocabulary has {words}")
        row = self.picture * width + self.slot
        owner, edge = table.of(self.node)
        token = table.token[edge]
        parts = [_Candidates(owner, token, rows[row[owner], token], table.target[edge])]
        # Of the words that lead back to the root, the best `beam` of a row, and the end token, can be among the
        # best of a group; so many are left when those that lead elsewhere are taken away.
        enough = self.beam + 1 + int(table.count[self.node].max())
        # A form that ends here is settled by a word and taken back by the rest of one: two groups.
        open_form = (table.ends[self.node] & ~self.settled) != 0
        closed, opened = (~open_form).nonzero()[:, 0], open_form.nonzero()[:, 0]
        if len(closed):
            gain, token = rows.topk(min(enough, words), dim=1)
            parts.append(self._to_root(closed, gain[row[closed]], token[row[closed]]))
        if len(opened):
            continues = self._continues(words)
            mine = rows[row[opened]]
            gain, token = mine.masked_fill(continues, -torch.inf).topk(min(enough, words), dim=1)
            parts.append(self._to_root(opened, gain, token))
            rest = continues.nonzero()[:, 0]
            if len(rest):
                gain, token = mine[:, rest].topk(min(enough, len(rest)), dim=1)
                parts.append(self._to_root(opened, gain, rest[token]))
        return _Candidates.joined(parts)

    def _to_root(self, parent: Tensor, gain: Tensor, token: Tensor) -> _Candidates:
        """Continuations [m, W] of the hypotheses `parent` [m] that begin no form."""
        of = parent[:, None].expand_as(token)
        root = self.table.root[self.picture[of]]
        keep = ~self.table.has(self.node[of], token)
        return _Candidates(of[keep], token[keep], gain[keep], root[keep])

    def _continues(self, words: int) -> Tensor:
        """Which word pieces continue a word, bool [V]; made once."""
        if not isinstance(self._continuing, Tensor):
            known = torch.zeros(words, dtype=torch.bool, device=self.device)
            known[[piece for piece in self._continuing if piece < words]] = True
            self._continuing = known
        return self._continuing

    def _ranks(self, total: Tensor, node: Tensor, satisfied: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted by group and within it by falling total: place within the group, and the order."""
        sets = 1 << max(self.sizes, default=0)
        group = self.table.progress(node, satisfied) * sets + satisfied
        order = total.argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]
        size = torch.unique_consecutive(group[order], return_counts=True)[1]
        first = (size.cumsum(0) - size).repeat_interleave(size)
        return torch.arange(len(order), device=order.device) - first, order

    def _finish(self, ended: _Candidates, satisfied: Tensor, length_penalty: float) -> None:
        pictures = self.picture[ended.parent].tolist()
        rows = zip(pictures, satisfied.tolist(), ended.parent.tolist(), ended.gain.tolist(), strict=True)
        for picture, reached, parent, gain in rows:
            done = self.finished[picture].setdefault(reached, [])
            if len(done) < self.beam:
                values = [*self.gained[parent].tolist(), gain]
                done.append(hypothesis(self.history[parent].tolist(), values, length_penalty))

    def _wanted(self, picture: Tensor, settled: Tensor, kept: Tensor) -> Tensor:
        """Which of the kept ones can still end in a set that takes hypotheses and has enough constraints.

        A set with the settled ones: what is satisfied beside them, the rest of a word can take back.
        """
        useful = torch.ones_like(kept)
        full = [
            {reached for reached, done in sets.items() if len(done) >= self.beam and reached.bit_count() >= needed}
            for sets, needed in zip(self.finished, self.needed, strict=True)
        ]
        if not any(full):
            return useful
        pairs, which = torch.stack([picture, settled], dim=1).unique(dim=0, return_inverse=True)
        answers = [
            _supersets(self.sizes[row] - reached.bit_count(), self.needed[row] - reached.bit_count())
            > sum(reached & ~other == 0 for other in full[row])
            for row, reached in pairs.tolist()
        ]
        return torch.tensor(answers, dtype=torch.bool, device=kept.device)[which]

    def _continue(self, chosen: _Candidates, total: Tensor, settled: Tensor) -> None:
        """The chosen ones are the living; they come sorted by node, and so by picture."""
        parent = chosen.parent
        self.parent = self.slot[parent]
        self.picture, self.token, self.node = self.picture[parent], chosen.token, chosen.node
        count = torch.bincount(self.picture, minlength=len(self.sizes))
        self.slot = torch.arange(len(parent), device=parent.device) - (count.cumsum(0) - count)[self.picture]
        self.settled, self.total = settled, total
        self.history = torch.cat([self.history[parent], chosen.token[:, None]], dim=1)
        self.gained = torch.cat([self.gained[parent], chosen.gain[:, None]], dim=1)

    def results(self, length_penalty: float) -> list[Constrained]:
        """Finished hypotheses, and living ones for sets that have fewer than `beam`."""
        if len(self.picture):
            satisfied = self.settled | self.table.ends[self.node]
            best_first = self.total.argsort(descending=True, stable=True)
            for place in best_first.tolist():
                done = self.finished[int(self.picture[place])].setdefault(int(satisfied[place]), [])
                if len(done) < self.beam:
                    values = self.gained[place].tolist()
                    done.append(hypothesis(self.history[place].tolist(), values, length_penalty))
        return [self._chosen(sets, needed) for sets, needed in zip(self.finished, self.needed, strict=True)]

    def _chosen(self, sets: dict[int, list[Hypothesis]], needed: int) -> Constrained:
        enough = min(needed, max((reached.bit_count() for reached in sets), default=0))
        found = [(h, reached) for reached, done in sets.items() for h in done if reached.bit_count() >= enough]
        found = sorted(found, key=lambda pair: -pair[0].score)[: self.beam]
        return Constrained([h for h, _ in found], [reached for _, reached in found], needed)


def _supersets(free: int, missing: int) -> int:
    """How many sets add at least `missing` of `free` constraints."""
    return sum(comb(free, more) for more in range(max(0, missing), free + 1))
