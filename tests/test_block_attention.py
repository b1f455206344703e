"""Attention block by block (vivo/block_attention.py) and dropout on a CPU, against the padded passes and by hand."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_modeling import small_model
from test_windows import tag_batch

from vivo.block_attention import Block, BlockPass, Blocks, block_attention, context_blocks, text_blocks
from vivo.data.caption_text import dense_text, masked_text, text_keys
from vivo.dropout import Dropout, Kept, dropout
from vivo.losses import caption_loss, tag_set_loss
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining, VivoModel

HEADS, WIDTH = 2, 6
MASK = 4


def dense(q, own, given: BlockPass, sees: torch.Tensor) -> torch.Tensor:
    """All queries look through all keys of context and own pass, under a mask bool [m, c + n]."""
    context = given.context or (own[0][:0], own[1][:0])
    k, v = (torch.cat(pair) for pair in zip(context, own, strict=True))
    q, k, v = (x.unflatten(1, (HEADS, -1)).transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees).transpose(0, 1).flatten(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(1, 4), max_size=3)), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_blocks_are_attention_under_their_mask(pictures, seed):
    """Pictures of 0 to 3 context elements and captions of 1 to 4 tokens, random masks in them; forward and gradient."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [length for length, _ in pictures]
    longest = max(sum(captions) for _, captions in pictures)
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(pictures), 1, 1)
    real = torch.zeros(len(pictures), longest, dtype=torch.bool)
    for row, (_, captions) in enumerate(pictures):
        begin = 0
        for size in captions:
            inside = slice(begin, begin + size)
            mask[row, inside, inside] |= torch.rand(size, size, generator=draw) < 0.7
            begin += size
        real[row, :begin] = True
    n, c = int(real.sum()), sum(lengths)
    picture = torch.arange(len(pictures)).repeat_interleave(real.sum(dim=1))
    of_context = torch.arange(len(pictures)).repeat_interleave(torch.tensor(lengths))
    place = torch.cat([torch.arange(longest)[row] for row in real]) if n else torch.empty(0, dtype=torch.int64)
    own_sees = (picture[:, None] == picture) & mask[picture[:, None], place[:, None], place]
    sees = torch.cat([picture[:, None] == of_context, own_sees], dim=1)

    blocks = text_blocks(mask, real, lengths)
    assert [b.queries.start for b in blocks.all] == [0, *(b.queries.stop for b in blocks.all)][: len(blocks.all)]
    wanted = (torch.rand(n, generator=draw) < 0.5).nonzero()[:, 0]
    tensors = [torch.randn(rows, WIDTH, generator=draw, dtype=torch.float64) for rows in (n, n, n, c, c)]
    for which in (None, wanted):
        found = []
        for by_block in (False, True):
            q, *rest = (t.clone().requires_grad_() for t in tensors)
            asked = q if which is None else q[which]
            given_pass = BlockPass(blocks if which is None else blocks.of(which), which, tuple(rest[2:]))
            if by_block:
                out = block_attention(asked, tuple(rest[:2]), given_pass, HEADS, 0.0)
            else:
                out = dense(asked, tuple(rest[:2]), given_pass, sees if which is None else sees[which])
            down = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            grads = torch.autograd.grad(out, [q, *rest], down, allow_unused=True)
            filled = (torch.zeros_like(t) if g is None else g for t, g in zip(tensors, grads, strict=True))
            found.append([out.detach(), *filled])
        for own, plain in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(own, plain)


def test_captions_that_do_not_see_each_other_are_cut_apart():
    rows = [[[2, 7, 8, 3], [2, 9, 3]], [[2, 3]]]
    keys = text_keys([[dense_text(tokens, MASK) for tokens in row] for row in rows], 0)
    real = torch.zeros(keys["text_ids"].shape, dtype=torch.bool)
    real.view(-1)[keys["text_places"]] = True
    blocks = text_blocks(keys["text_mask"], real, [3, 5])
    # each token but [SEP], and a query for each but [CLS]
    sizes = [(b.own.stop - b.own.start, b.context) for b in blocks.all]
    assert sizes == [(6, slice(0, 3)), (4, slice(0, 3)), (2, slice(3, 8))]
    assert blocks.pairs == 6 * 9 + 4 * 7 + 2 * 7


def test_gradients_with_dropout_are_those_of_the_same_draw():
    torch.manual_seed(0)
    context = [torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    own = [torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.zeros(2, 3).masked_fill(torch.tensor([[0, 0, 1], [1, 0, 0]], dtype=torch.bool), -1e9)
    blocks = Blocks([
        Block(slice(0, 3), slice(0, 3), slice(0, 4)),
        Block(slice(3, 5), slice(3, 5), slice(1, 2), bias),
    ])  # fmt: skip

    def attended(q, k, v, *context):
        torch.manual_seed(3)
        return block_attention(q, (k, v), BlockPass(blocks, None, context), HEADS, 0.4)

    assert torch.autograd.gradcheck(attended, (*own, *context))
    plain = block_attention(own[0], tuple(own[1:]), BlockPass(blocks, None, tuple(context)), HEADS, 0.0)
    draws = torch.stack([
        block_attention(own[0], tuple(own[1:]), BlockPass(blocks, None, tuple(context)), HEADS, 0.4).detach()
        for _ in range(4000)
    ])  # fmt: skip
    assert (draws.mean(dim=0) - plain).abs().max() < 0.1 and draws.std(dim=0).min() > 0.05


def caption_batch() -> dict[str, torch.Tensor]:
    """Rows of one to three captions, of a tag batch's pictures."""
    batch = tag_batch(6, 1)
    given = [[([2, 7, 8, 9, 3], [0, 0, 1, 1, 0]), ([2, 11, 3], [0, 1, 0])], [([2, 12, 13, 3], [0, 0, 0, 1])], []]
    texts = [[masked_text(tokens, hidden, MASK) for tokens, hidden in row] for row in given]
    texts += [[dense_text([2, 20, 21, 3], MASK)] * 3, [dense_text([2, 30, 3], MASK)], texts[0]]
    return batch | text_keys(texts, 0)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", [VivoForTagPretraining, VivoForCaptioning])
def test_a_training_pass_in_blocks_is_the_padded_one(kind, recomputed, monkeypatch):
    """Logits, loss and every gradient; the wanted elements in an order of their own; a picture without regions."""
    batch = tag_batch(6, 1) if kind is VivoForTagPretraining else caption_batch()
    batch["region_mask"] = batch["region_mask"].clone()
    batch["region_mask"][4] = False
    name = "slot_index" if kind is VivoForTagPretraining else "target_index"
    batch[name] = batch[name].flip(0)
    batch["target_ids"] = batch["target_ids"].flip(0)
    found = []
    for by_block in (False, True):
        monkeypatch.setattr(VivoModel, "in_blocks", property(lambda _, by_block=by_block: by_block))
        model = small_model(kind, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if recomputed:
            model.checkpoint_activations()
        logits = model(batch)["logits"]
        if kind is VivoForTagPretraining:
            loss = tag_set_loss(logits, batch["target_ids"], batch["group_slots"], batch["group_size"])["loss"]
        else:
            loss = caption_loss(logits, batch["target_ids"])["loss"]
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        found.append((logits.detach(), gradients))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    for each, plain in found[0][1].items():
        own = found[1][1][each]
        assert (own is None) == (plain is None), each
        if plain is not None:
            torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-5)


def test_training_on_a_cpu_goes_block_by_block():
    model = small_model(VivoForTagPretraining).train()
    assert model.vivo.in_blocks
    with torch.no_grad():
        assert not model.vivo.in_blocks
    blocks = context_blocks([3, 0, 2])
    assert [b.queries for b in blocks.all] == [slice(0, 3), slice(3, 5)] and blocks.pairs == 13


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.full((1000, 1000), 2.0, requires_grad=True)
    y = dropout(x, p)
    y.sum().backward()
    dropped = y == 0
    # a million draws: five standard deviations
    assert dropped.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p)) ** 0.5 / 1000)
    assert y.detach()[~dropped].unique().numel() == 1 and y.max().item() == pytest.approx(2 / (1 - p), rel=1e-3)
    assert torch.equal(x.grad == 0, dropped) and torch.equal(x.grad[~dropped], y.detach()[~dropped] / 2)
    four = torch.corrcoef(dropped.view(-1, 4).float().T) - torch.eye(4)  # those of one random number
    assert four.abs().max() < 0.01


def test_dropout_is_a_matter_of_the_seed_and_of_training():
    x, layer = torch.ones(7, 9), Dropout(0.3)
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(layer(x))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x) and not dropout(x, 1.0).any()
    assert Kept((0,), 0.1).mask.shape == (0,) and Kept((3, 5), 0.1).mask.shape == (3, 5)
    assert Kept((1,), 1.0).scale == 0.0
    assert Kept((1,), 0.1).scale * (1 - round(0.1 * 65536) / 65536) == pytest.approx(1.0, rel=1e-12)
    assert dropout(x.bfloat16(), 0.3).dtype == torch.bfloat16
