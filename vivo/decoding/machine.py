"""Which words a caption must have, as a finite-state machine over word pieces that keeps its transitions alone.

A *constraint* is a class with its word forms ("mouse", "mice"), a *form* is a sequence of word pieces. A form is
written where its pieces stand in a row and no '##' piece follows that would make another word of it: "cat ##tle" has
no "cat". What comes before cannot do that, since a form begins with a piece that begins a word. A constraint is
*satisfied* when any of its forms is written; it stays so.

A state is a pair (settled, node):

    settled   bits of the constraints that are satisfied, whatever follows
    node      longest end of what was written that begins some form, a node of an Aho-Corasick automaton; 0: none

`satisfied(state)` adds to the settled constraints those whose form ends at the node: a next piece '##...' takes them
back, any other token (the end too) settles them. Forms "hot dog" and "dog house", constraints 0 and 1:

    written       node        settled   satisfied
    a             0           {}        {}
    a hot         hot         {}        {}
    .. hot hot    hot         {}        {}          a beginning again: no progress is lost
    .. hot dog    hot dog     {}        {0}
    .. ##s        0           {}        {}          "dogs" is no form here
    .. hot dog    hot dog     {}        {0}
    .. house      dog house   {0}       {0, 1}      "dog" began the other form already

Since the two halves of a state do not hang on each other, nothing is kept for each set of satisfied constraints: the
machine's size is that of its forms, whatever the vocabulary and the number of constraints are.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_CONSTRAINTS = 40
"""Sets of satisfied constraints are bits of an int64, beside the number of a node."""
Form = tuple[int, ...]


class State(NamedTuple):
    """See the module's text. settled: bits. node: place in `ConstraintMachine.transitions`."""

    settled: int
    node: int


@dataclass(frozen=True)
class Written:
    """A form that stands in a caption: constraint and form by number, at tokens `start` to `stop` - 1."""

    constraint: int
    form: int
    start: int
    stop: int


class ConstraintMachine:
    """The machine of one picture's constraints.

    Args:
        constraints: the forms of each constraint; two constraints may share a form.
        continues: the word pieces that continue a word ('##...').

    Attributes:
        transitions: node -> {token: node} for the tokens that lead elsewhere than to node 0.
        ends: bits of the constraints that have a form which ends at the node.
        ahead: bits of the constraints that have a form which goes on from the node.
        fallback: longest shorter end of the node that is a node as well; smaller depth.

    Raises:
        ValueError: no forms, an empty form, one that begins with a piece that continues a word, too many constraints.
    """

    start = State(0, 0)

    def __init__(self, constraints: Sequence[Iterable[Form]], continues: Collection[int] = ()):
        self.forms = [[tuple(form) for form in forms] for forms in constraints]
        self.continues = continues
        if len(self.forms) > MOST_CONSTRAINTS:
            raise ValueError(f"{len(self.forms)} constraints, at most {MOST_CONSTRAINTS} can be told apart")
        for number, forms in enumerate(self.forms):
            if not forms or not all(forms):
                raise ValueError(f"constraint {number} has {'an empty form' if forms else 'no forms'}")
            if any(form[0] in continues for form in forms):
                raise ValueError(f"constraint {number} has a form that begins within a word")
        self.transitions: list[dict[int, int]] = [{}]
        self.ends, self.ahead, self.fallback = [0], [0], [0]
        self._grow()
        self._link()

    def _grow(self) -> None:
        """The trie of all forms."""
        for number, forms in enumerate(self.forms):
            for form in forms:
                node = 0
                for token in form:
                    self.ahead[node] |= 1 << number
                    if token not in self.transitions[node]:
                        self.transitions[node][token] = len(self.transitions)
                        self.transitions.append({})
                        for column in (self.ends, self.ahead, self.fallback):
                            column.append(0)
                    node = self.transitions[node][token]
                self.ends[node] |= 1 << number

    def _link(self) -> None:
        """Fallbacks, and what a node has from its fallback: ends of forms, and transitions that it lacks itself."""
        todo = deque(self.transitions[0].values())
        while todo:  # by depth: the fallback of a node is complete before the node
            node = todo.popleft()
            below = self.fallback[node]
            for token, child in self.transitions[node].items():
                self.fallback[child] = self.transitions[below].get(token, 0)
                todo.append(child)
            self.ends[node] |= self.ends[below]
            self.transitions[node] = self.transitions[below] | self.transitions[node]

    @property
    def size(self) -> int:
        """Number of constraints."""
        return len(self.forms)

    def advance(self, state: State, token: int) -> State:
        """The state after one more token."""
        settled = state.settled if token in self.continues else self.satisfied(state)
        return State(settled, self.transitions[state.node].get(token, 0))

    def run(self, tokens: Iterable[int]) -> State:
        """The state after `tokens`, from the beginning."""
        state = self.start
        for token in tokens:
            state = self.advance(state, token)
        return state

    def satisfied(self, state: State) -> int:
        """Bits of the satisfied constraints, if nothing more comes."""
        return state.settled | self.ends[state.node]

    def progress(self, state: State) -> int:
        """The node, or where it falls back to until some form goes on from it whose constraint is not satisfied."""
        satisfied, node = self.satisfied(state), state.node
        while node and not self.ahead[node] & ~satisfied:
            node = self.fallback[node]
        return node

    def written(self, tokens: Sequence[int]) -> list[Written]:
        """All forms in `tokens` by place, those that begin first and among them the longest first.

        A plain comparison, without the automaton: what a caption says of itself is not the search's word for it.
        """
        tokens = tuple(tokens)
        found = []
        for number, forms in enumerate(self.forms):
            for which, form in enumerate(forms):
                for start in range(len(tokens) - len(form) + 1):
                    stop = start + len(form)
                    whole = stop == len(tokens) or tokens[stop] not in self.continues
                    if whole and tokens[start:stop] == form:
                        found.append(Written(number, which, start, stop))
        return sorted(found, key=lambda w: (w.start, -w.stop, w.constraint))


def bits(numbers: Iterable[int]) -> int:
    """{0, 2} -> 0b101."""
    total = 0
    for number in numbers:
        total |= 1 << number
    return total
