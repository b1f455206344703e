"""Two kinds of updates in one run: which update is of which kind, its batch, and the means that the log shows."""

import pickle
from fractions import Fraction

import pytest

from vivo.data.mixed import MixedBatches, MixedPictures
from vivo.data.sampler import StepBatches
from vivo.training.means import means

TAGS, PAIRS, BATCH = 10, 6, 4


def mixed(share: float, start: int = 0, stop: int = 12, *split: int) -> list[list[tuple[int, int]]]:
    return list(MixedBatches(TAGS + PAIRS, BATCH, 3, start, stop, *split, tags=TAGS, share=share))


def alone(size: int, updates: int, offset: int = 0) -> list[list[tuple[int, int]]]:
    """What a run on one kind sees."""
    return [[(epoch, index + offset) for epoch, index in batch] for batch in StepBatches(size, BATCH, 3, 0, updates)]


def test_updates_alternate_and_each_kind_is_as_if_it_were_alone() -> None:
    found = mixed(0.5)
    assert found[::2] == alone(TAGS, 6) and found[1::2] == alone(PAIRS, 6, TAGS)


@pytest.mark.parametrize("share", [0.2, 0.29, 0.75, 0.999])
def test_a_share_is_spread_evenly(share: float) -> None:
    found = mixed(share, stop=1000)
    pairs = [batch[0][1] >= TAGS for batch in found]
    exact = Fraction(str(share))
    assert [sum(pairs[:n]) for n in range(1001)] == [n * exact // 1 for n in range(1001)]
    assert [b for b, p in zip(found, pairs, strict=True) if p] == alone(PAIRS, sum(pairs), TAGS)
    assert [b for b, p in zip(found, pairs, strict=True) if not p] == alone(TAGS, 1000 - sum(pairs))


def test_resume_and_processes_see_the_same_updates() -> None:
    assert mixed(0.5, start=7) == mixed(0.5)[7:]
    ranks = [mixed(0.4, 0, 12, rank, 2, 1) for rank in range(2)]
    joined = [sum((r[2 * step + part] for r in ranks for part in range(2)), []) for step in range(12)]
    assert joined == mixed(0.4)


def test_goes_to_worker_processes() -> None:
    sampler = MixedBatches(TAGS + PAIRS, BATCH, 3, 0, 2, tags=TAGS, share=0.5)
    list(sampler)
    assert pickle.loads(pickle.dumps(sampler)).tags == TAGS


def test_pictures_of_both_sets_have_one_numbering() -> None:
    class Numbered(list):
        def __getitem__(self, key: tuple[int, int]) -> tuple:
            return key

    both = MixedPictures(Numbered(range(TAGS)), Numbered(range(PAIRS)))
    assert len(both) == TAGS + PAIRS
    assert both[2, 9] == ("tags", (2, 9)) and both[1, 10] == ("pairs", (1, 0)) and both[0, 15] == ("pairs", (0, 5))


def test_means_are_per_token_per_picture_and_per_kind() -> None:
    one = means({"loss": 6.0, "count": 4.0, "correct": 1.0, "matchable_pictures": 5.0}, 10)
    assert one == {"loss": 1.5, "correct": 0.25, "matchable_pictures": 0.5}
    both = means(
        {"loss": 10.0, "count": 8.0, "tags/loss": 6.0, "tags/count": 2.0, "tags/matchable_pictures": 3.0,
         "tags/pictures": 4.0, "pairs/loss": 4.0, "pairs/count": 6.0, "pairs/pictures": 4.0, "pairs/correct": 3.0},
        8,
    )  # fmt: skip
    assert both == {
        "loss": 1.25, "tags/loss": 3.0, "tags/matchable_pictures": 0.75, "pairs/loss": pytest.approx(2 / 3),
        "pairs/correct": 0.5,
    }  # fmt: skip
    assert means({"loss": 0.0, "count": 0.0}, 4) == {"loss": 0.0}
