"""Order of data: one global order on any number of processes, and exact resume."""

import pickle

import pytest

from vivo.data.sampler import StepBatches
from vivo.randomness import epoch_permutation


def stream(world: int, micro: int = 0, start: int = 0, stop: int = 7) -> list[list[tuple[int, int]]]:
    """The global batches, put together from all processes' micro-batches."""
    parts = [list(StepBatches(10, 8, 3, start, stop, rank, world, micro)) for rank in range(world)]
    per_step = len(parts[0]) // (stop - start)
    return [
        sum((batch for part in parts for batch in part[step * per_step : (step + 1) * per_step]), [])
        for step in range(stop - start)
    ]


def test_every_epoch_is_a_permutation_across_steps():
    flat = sum(stream(1), [])
    for epoch in range(5):
        assert [i for e, i in flat if e == epoch] == epoch_permutation(3, epoch, 10).tolist()


@pytest.mark.parametrize(("world", "micro"), [(2, 0), (4, 0), (1, 2), (2, 2), (4, 1)])
def test_the_global_batch_does_not_depend_on_how_it_is_split(world: int, micro: int):
    assert stream(world, micro) == stream(1)


def test_resume_is_exact_across_an_epoch_border():
    assert stream(2, start=3) == stream(1)[3:]


def test_goes_to_worker_processes():
    sampler = StepBatches(10, 8, 3, 0, 2)
    assert len(sampler) == 2
    list(sampler)
    assert pickle.loads(pickle.dumps(sampler)).seed == 3


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="does not divide by 3 processes"):
        StepBatches(10, 8, 0, 0, 1, world=3)
    with pytest.raises(ValueError, match="micro batch 3"):
        StepBatches(10, 8, 0, 0, 1, micro_batch_size=3)
