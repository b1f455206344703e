"""Batches, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vivo.data.collate import (
    CaptionCollator,
    ContextCollator,
    Limits,
    SampleCollator,
    TagCollator,
    box_positions,
    detected_tags,
    tag_positions,
)
from vivo.data.text import TagPieces, WordSequences, decode_caption, encode_caption, load_tokenizer, used_pieces
from vivo.data.types import Regions
from vivo.losses import tag_set_loss
from vivo.weights import bert_folder

LIMITS = Limits(max_regions=4, max_tag_tokens=8, max_caption_tokens=12, tag_position_offset=12)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


def regions(count: int, labels: list[str] | None = None) -> Regions:
    boxes = np.array([[10 * i, 5, 10 * i + 20, 25] for i in range(count)], dtype=np.float32)
    return Regions(
        boxes,
        np.arange(count * 3, dtype=np.float16).reshape(count, 3),
        labels or [""] * count,
        np.full(count, 0.5, dtype=np.float32),
        200,
        50,
    )


def test_box_positions_by_hand():
    assert box_positions(np.array([[20, 5, 120, 30]], dtype=np.float32), 200, 50).tolist() == [
        pytest.approx([0.1, 0.1, 0.6, 0.6, 0.5, 0.5])
    ]


def test_tags_of_regions_come_once_and_unnamed_ones_not():
    assert detected_tags(regions(4, ["dog", "", "hot dog", "dog"])) == ["dog", "hot dog"]


def test_tag_positions_leave_a_gap_between_tags():
    assert tag_positions([(1,), (2, 3), (4,)], 40) == [40, 42, 43, 45]


def test_a_tag_is_never_split(tokenizer):
    pieces = TagPieces(tokenizer)
    assert pieces.cut(["dog", "hot dog", "cat"], 2) == [pieces("dog"), pieces("cat")]


def tag_batch(tokenizer, examples, **options):
    options = {"share_min": 1.0, "share_max": 1.0, "at_most": 0} | options
    return TagCollator(tokenizer, LIMITS, 0, **options)(examples)


def test_masked_slots_groups_and_targets_belong_together(tokenizer):
    examples = [
        (0, "a", ["dog", "hot dog", "cat"], [], regions(2)),
        (0, "b", [], [], regions(1)),  # no tags and no masked tags are valid
        (0, "c", ["teddy bear"], [], regions(4)),
    ]
    batch = tag_batch(tokenizer, examples)
    assert batch["tag_ids"].shape == (3, 4) and batch["region_features"].shape == (3, 4, 3)
    assert batch["tag_mask"].sum(1).tolist() == [4, 0, 2] and batch["region_mask"].sum(1).tolist() == [2, 1, 4]
    assert (batch["tag_ids"].flatten()[batch["slot_index"]] == tokenizer.mask_token_id).all()
    groups = []
    for slots, size in zip(batch["group_slots"], batch["group_size"], strict=True):
        words = [tokenizer.decode(batch["target_ids"][row[row >= 0]]) for row in slots[:size]]
        groups.append(sorted(words))
    assert sorted(groups) == [["cat", "dog"], ["hot dog"], ["teddy bear"]]
    assert sorted(batch["group_slots"][batch["group_slots"] >= 0].tolist()) == list(range(6))


def test_tags_asked_piece_by_piece(tokenizer):
    """ "hot dog" and "dog": piece 0 of the first is one slot, to be exchanged with "dog"; piece 1 stands behind the
    true "hot" and is exchanged with nothing; no piece after the one that is asked for is in the input."""
    hot, dog, mask = *TagPieces(tokenizer)("hot dog"), tokenizer.mask_token_id
    seen = set()
    for epoch in range(20):
        batch = tag_batch(tokenizer, [(epoch, "a", ["hot dog", "cat"], [], regions(1))], next_piece=1.0)
        ids, matchable = batch["tag_ids"][0].tolist(), batch["matchable"].tolist()
        targets = batch["target_ids"].tolist()
        cat = TagPieces(tokenizer)("cat")[0]
        if len(ids) == 2:
            assert ids == [mask, mask] and sorted(targets) == sorted([hot, cat]) and matchable == [True]
            assert batch["group_size"].tolist() == [2] and batch["tag_positions"].tolist() == [[12, 14]]
        else:
            assert ids in ([hot, mask, mask], [mask, hot, mask]) and sorted(targets) == sorted([dog, cat])
            assert batch["group_size"].tolist() == [1, 1] and matchable == [False]
        assert batch["tag_ids"].flatten()[batch["slot_index"]].tolist() == [mask, mask]
        seen.add(len(ids))
    assert seen == {2, 3}


def test_hints_are_seen_and_never_asked_for(tokenizer):
    pieces = TagPieces(tokenizer)
    places = set()
    for epoch in range(20):
        batch = tag_batch(tokenizer, [(epoch, "a", ["dog", "cat"], ["hot dog", "dog"], regions(1))])
        assert sorted(batch["target_ids"].tolist()) == sorted([*pieces("dog"), *pieces("cat")])
        ids = batch["tag_ids"][0].tolist()
        assert ids.count(tokenizer.mask_token_id) == 2
        shown = [i for i in ids if i != tokenizer.mask_token_id]
        assert sorted(shown) == sorted([*pieces("hot dog"), *pieces("dog")])
        assert batch["slot_index"].tolist() == [n for n, i in enumerate(ids) if i == tokenizer.mask_token_id]
        places.add(tuple(i == tokenizer.mask_token_id for i in ids))
    assert len(places) > 3  # hints stand before, between and behind the tags


def test_tags_to_predict_may_stand_where_the_words_of_a_caption_stand(tokenizer):
    limits = replace(LIMITS, tag_slots="caption")
    collator = TagCollator(tokenizer, limits, 0, 0.5, 0.5, 0)
    batch = collator([(0, "a", ["hot dog", "cat"], ["dog", "cat"], regions(1)), (0, "b", ["dog"], [], regions(1))])
    first, second = batch["tag_positions"].tolist()
    two = first[:2] == [1, 2]  # "hot dog" came first: 1 2, gap, 4; else 1, gap, 3 4
    assert first == [*([1, 2, 4] if two else [1, 3, 4]), 12, 14]
    assert batch["tag_words"].tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
    assert second[0] == 1
    many = collator([(0, "a", ["dog"] * 8, [], regions(1))])  # 1, 3, .. 11: six words fit before position 12
    assert many["tag_positions"][0].tolist() == [1, 3, 5, 7, 9, 11]


def test_hints_that_do_not_fit_or_fall_to_dropout_are_left_out(tokenizer):
    room = LIMITS.max_tag_tokens - 1
    batch = tag_batch(tokenizer, [(0, "a", ["dog"], ["cat"] * (room + 5), regions(1))])
    assert batch["tag_mask"].sum() == LIMITS.max_tag_tokens
    left = [
        int(tag_batch(tokenizer, [(0, f"{n}", ["dog"], ["cat"], regions(1))], hint_dropout=0.3)["tag_mask"].sum()) - 1
        for n in range(400)
    ]
    assert 0.62 < np.mean(left) < 0.78


def test_competing_pieces_are_the_full_softmax_without_the_others(tokenizer):
    """Forward and gradient: leaving pieces out of the softmax equals a logit of minus infinity for each of them."""
    texts = ["dog", "hot dog", "cat"]
    competing = torch.tensor(used_pieces(tokenizer, texts))
    assert tokenizer.sep_token_id in competing and len(competing) == 4  # hot, dog, cat and the end
    example = [(0, "a", texts, [], regions(2))]
    full, few = tag_batch(tokenizer, example), tag_batch(tokenizer, example, competing=competing)
    assert few["competing"][few["target_ids"]].tolist() == full["target_ids"].tolist()
    torch.manual_seed(0)
    logits = torch.randn(len(full["target_ids"]), len(tokenizer), requires_grad=True)
    out = torch.ones(len(tokenizer), dtype=torch.bool).index_fill(0, competing, False)
    groups = full["group_slots"], full["group_size"]
    one = tag_set_loss(logits.masked_fill(out, -torch.inf), full["target_ids"], *groups)["loss"]
    other = tag_set_loss(logits[:, competing], few["target_ids"], *groups)["loss"]
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    (a,), (b,) = torch.autograd.grad(one, logits), torch.autograd.grad(other, logits)
    torch.testing.assert_close(a, b)
    assert not b[:, out].any() and b[:, competing].any()


def test_names_in_texts_are_whole_words():
    words = WordSequences(["A hot dog!", "two dogs, and a fire-truck"])
    assert [name in words for name in ("dog", "hot dog", "Hot Dog", "fire truck", "cat", "do", "truck and")] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip


def test_pictures_with_something_to_match_are_counted(tokenizer):
    examples = [
        (0, "a", ["dog", "cat"], [], regions(1)),
        (0, "b", ["dog", "hot dog"], [], regions(1)),
        (0, "c", [], [], regions(1)),
    ]
    assert tag_batch(tokenizer, examples)["matchable"].tolist() == [True, False, False]


def test_share_is_kept_and_order_differs_by_epoch_but_not_by_batch(tokenizer):
    tags = ["dog", "cat", "cow", "pig", "fox", "bee"]
    one = tag_batch(tokenizer, [(0, "a", tags, [], regions(1))], share_min=0.5, share_max=0.5)
    same = tag_batch(
        tokenizer, [(0, "z", tags, [], regions(1)), (0, "a", tags, [], regions(1))], share_min=0.5, share_max=0.5
    )
    later = tag_batch(tokenizer, [(1, "a", tags, [], regions(1))], share_min=0.5, share_max=0.5)
    assert len(one["target_ids"]) == 3
    assert torch.equal(one["tag_ids"][0], same["tag_ids"][1])
    assert not torch.equal(one["tag_ids"], later["tag_ids"])


def caption_batch(tokenizer, supervision: str, examples, **options):
    options = {"probability": 0.15, "captions_per_picture": 1, "tag_dropout": 0.0} | options
    return CaptionCollator(tokenizer, LIMITS, 0, supervision, **options)(examples)


def test_dense_supervises_every_token_and_the_end(tokenizer):
    batch = caption_batch(tokenizer, "dense", [(0, "a", ["dog"], ["a red dog"], regions(2))])
    words = tokenizer.convert_ids_to_tokens(batch["text_ids"][0])
    assert words == ["[CLS]", "a", "red", "dog"] + ["[MASK]"] * 4
    assert batch["text_positions"][0].tolist() == [0, 1, 2, 3, 1, 2, 3, 4]
    assert batch["target_index"].tolist() == [4, 5, 6, 7]
    assert tokenizer.convert_ids_to_tokens(batch["target_ids"]) == ["a", "red", "dog", "[SEP]"]


def test_masked_hides_what_it_asks_for(tokenizer):
    batch = caption_batch(tokenizer, "masked", [(0, "a", [], ["a red dog runs"], regions(1))], probability=0.5)
    flat = batch["text_ids"].flatten()
    assert (flat[batch["target_index"]] == tokenizer.mask_token_id).all() and len(batch["target_ids"]) == 3
    flat = flat.clone()
    flat[batch["target_index"]] = batch["target_ids"]
    assert tokenizer.convert_ids_to_tokens(flat) == ["[CLS]", "a", "red", "dog", "runs", "[SEP]"]


def test_epochs_walk_through_all_captions_of_a_picture(tokenizer):
    captions = ["one dog", "two cats", "three cows"]
    seen = []
    for epoch in range(3):
        batch = caption_batch(tokenizer, "dense", [(epoch, "a", [], captions, regions(1))])
        seen.append(decode_caption(tokenizer, batch["target_ids"].tolist()))
    assert sorted(seen) == sorted(captions)


def test_several_captions_in_one_row(tokenizer):
    examples = [(0, "a", [], ["one dog", "two brown cats"], regions(1)), (0, "b", [], ["a cow"], regions(1))]
    batch = caption_batch(tokenizer, "dense", examples, captions_per_picture=2)
    assert batch["text_ids"].shape == (2, 2 * 3 + 2 * 4)
    texts = (
        decode_caption(tokenizer, batch["target_ids"][:3].tolist()),
        decode_caption(tokenizer, batch["target_ids"][3:7].tolist()),
    )
    assert sorted(texts) == ["one dog", "two brown cats"]


def test_tag_dropout_leaves_out_the_stated_share(tokenizer):
    tags = ["dog", "cat", "cow", "pig"]
    kept = sum(
        caption_batch(tokenizer, "dense", [(epoch, "a", tags, ["x"], regions(1))], tag_dropout=0.3)["tag_mask"].sum()
        for epoch in range(200)
    )
    assert abs(kept.item() / 800 - 0.7) < 0.05


def test_context_for_prediction_is_not_random(tokenizer):
    batch = ContextCollator(tokenizer, LIMITS, 0)([("a", ["dog", "hot dog"], regions(6))])
    assert tokenizer.convert_ids_to_tokens(batch["tag_ids"][0]) == ["dog", "hot", "dog"]
    assert batch["region_features"].shape == (1, 4, 3)  # the first max_regions


def test_captions_survive_the_round_trip(tokenizer):
    for text in ("a hot dog on a table.", "the man's t-shirt is red, not blue", "two ice creams!"):
        assert decode_caption(tokenizer, encode_caption(tokenizer, text, 40)) == text


def test_random_numbers_of_samples_hang_on_seed_epoch_and_picture_alone(tokenizer):
    def draws(seed: int, epoch: int, *pictures: str) -> torch.Tensor:
        collator = SampleCollator(tokenizer, LIMITS, seed, 2, 5, 0.0)
        return collator([(epoch, i, ["dog"], ["x"], regions(1)) for i in pictures])["draws"]

    both = draws(0, 3, "a", "b")
    assert both.shape == (2, 2, 5) and both.dtype == torch.float64 and both.unique().numel() == 20
    assert torch.equal(draws(0, 3, "b")[0], both[1])
    for other in (draws(1, 3, "a"), draws(0, 4, "a"), draws(0, 3, "c")):
        assert not torch.equal(other[0], both[0])
