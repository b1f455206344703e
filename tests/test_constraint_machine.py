"""The machine of a constraint set: by hand, and against a comparison of substrings over random sequences."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivo.decoding.machine import ConstraintMachine, State, Written, bits

HOT, DOG, HOUSE, A, S, CAT, TLE = range(7)
CONTINUES = frozenset({S, TLE})


def satisfied_at_each_step(machine: ConstraintMachine, tokens: list[int]) -> list[int]:
    """Bits after each token."""
    state, found = machine.start, []
    for token in tokens:
        state = machine.advance(state, token)
        found.append(machine.satisfied(state))
    return found


def naive(forms: list[list[tuple[int, ...]]], tokens: list[int], continues: frozenset[int]) -> int:
    """Bits of the constraints with a form in `tokens` that no piece continues."""
    text = tuple(tokens)
    found = set()
    for number, some in enumerate(forms):
        for form in some:
            for stop in range(len(form), len(text) + 1):
                if text[stop - len(form) : stop] == form and (stop == len(text) or text[stop] not in continues):
                    found.add(number)
    return bits(found)


def test_the_example_of_the_module():
    machine = ConstraintMachine([[(HOT, DOG)], [(DOG, HOUSE)]], CONTINUES)
    assert satisfied_at_each_step(machine, [A, HOT, HOT, DOG, S, HOT, DOG, HOUSE]) == [0, 0, 0, 1, 0, 0, 1, 3]
    assert machine.run([HOT, DOG]) == State(0, machine.transitions[machine.transitions[0][HOT]][DOG])
    assert machine.run([HOT, DOG, A]) == State(1, 0)


def test_a_word_that_goes_on_is_another_word():
    machine = ConstraintMachine([[(CAT,)]], CONTINUES)
    assert satisfied_at_each_step(machine, [A, CAT, TLE, CAT]) == [0, 1, 0, 1]
    # a form of its own for the longer word, of the same constraint and of another one
    both = ConstraintMachine([[(CAT,), (CAT, S)], [(CAT, TLE)]], CONTINUES)
    assert satisfied_at_each_step(both, [CAT, S]) == [1, 1]
    assert satisfied_at_each_step(both, [CAT, TLE]) == [1, 2]
    assert satisfied_at_each_step(both, [CAT, TLE, S, A]) == [1, 2, 0, 0]
    assert satisfied_at_each_step(both, [CAT, A, CAT, TLE]) == [1, 1, 1, 3]


def test_what_is_satisfied_stays_so():
    machine = ConstraintMachine([[(CAT,)], [(DOG,)]], CONTINUES)
    assert satisfied_at_each_step(machine, [CAT, A, CAT, TLE, DOG, S]) == [1, 1, 1, 1, 3, 1]


def test_one_word_may_satisfy_two_constraints():
    machine = ConstraintMachine([[(HOT, DOG)], [(DOG,)], [(DOG,), (CAT,)]], CONTINUES)
    assert satisfied_at_each_step(machine, [HOT, DOG]) == [0, 7]
    assert satisfied_at_each_step(machine, [A, DOG]) == [0, 6]


def test_progress_is_what_still_leads_somewhere():
    machine = ConstraintMachine([[(HOT, DOG)], [(DOG, HOUSE)]], CONTINUES)
    hot, dog = machine.transitions[0][HOT], machine.transitions[0][DOG]
    assert machine.progress(machine.run([HOT])) == hot
    assert machine.progress(machine.run([HOT, DOG])) == dog  # falls back: "dog house" is still to come
    assert machine.progress(machine.run([DOG, HOUSE, HOT, DOG])) == 0  # nothing is
    assert machine.progress(machine.run([HOT, DOG, HOT])) == 0  # the only form from here is satisfied


def test_written_forms_with_their_places():
    machine = ConstraintMachine([[(HOT, DOG), (HOT, DOG, S)], [(DOG,)]], CONTINUES)
    assert machine.written([A, HOT, DOG, S, DOG]) == [Written(0, 1, 1, 4), Written(1, 0, 4, 5)]
    assert machine.written([HOT, DOG]) == [Written(0, 0, 0, 2), Written(1, 0, 1, 2)]


def test_no_constraints_have_one_state():
    machine = ConstraintMachine([])
    assert machine.run([A, HOT, DOG]) == machine.start and machine.transitions == [{}]


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        ([[]], "constraint 0 has no forms"),
        ([[(A,)], [(HOT,), ()]], "constraint 1 has an empty form"),
        ([[(S, A)]], "constraint 0 has a form that begins within a word"),
        ([[(A,)]] * 41, "41 constraints, at most 40 can be told apart"),
    ],
)
def test_refusals(forms: list[list[tuple[int, ...]]], words: str):
    with pytest.raises(ValueError, match=words):
        ConstraintMachine(forms, CONTINUES)


def test_size_is_that_of_the_forms_and_not_of_the_sets():
    """Ten constraints have 1,024 sets of satisfied ones; a dense machine of them has as many states squared."""
    forms = [[(100 + 3 * n, 1), (100 + 3 * n, 2), (102 + 3 * n,)] for n in range(10)]
    machine = ConstraintMachine(forms)
    assert len(machine.transitions) == 1 + 10 * 4
    # the root's 20 beginnings from every node, and two children of each first piece
    assert sum(map(len, machine.transitions)) == 41 * 20 + 10 * 2
    everything = [token for some in forms for token in some[0]]
    assert machine.satisfied(machine.run(everything)) == 2**10 - 1


WORDS, PIECES = st.integers(0, 2), st.integers(0, 4)  # 3 and 4 continue a word
FORMS = st.lists(st.tuples(WORDS, st.lists(PIECES, max_size=3)).map(lambda f: (f[0], *f[1])), min_size=1, max_size=3)


@given(st.lists(FORMS, max_size=4), st.lists(PIECES, max_size=12))
@settings(max_examples=400, deadline=None)
def test_satisfied_set_equals_a_comparison_of_substrings(forms: list[list[tuple[int, ...]]], tokens: list[int]):
    continues = frozenset({3, 4})
    machine = ConstraintMachine(forms, continues)
    expected = [naive(forms, tokens[: n + 1], continues) for n in range(len(tokens))]
    assert satisfied_at_each_step(machine, tokens) == expected
    assert bits(w.constraint for w in machine.written(tokens)) == naive(forms, tokens, continues)


@given(st.lists(FORMS, max_size=3), st.lists(PIECES, max_size=8), st.lists(PIECES, max_size=8))
@settings(max_examples=200, deadline=None)
def test_equal_states_have_equal_futures(forms: list[list[tuple[int, ...]]], tokens: list[int], more: list[int]):
    """What was written before a state counts through the state alone."""
    machine = ConstraintMachine(forms, frozenset({3, 4}))
    state = machine.run(tokens)
    for token in more:
        state = machine.advance(state, token)
    assert state == machine.run(tokens + more)
