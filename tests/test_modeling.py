"""The model: parity with BertModel, with one joint pass, of dense queries with decoding, of caches."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from vivo.attention_mask import joint_attention_mask, text_attention_mask
from vivo.cached_step import CachedStep, GraphedStep
from vivo.config import DecodeConfig
from vivo.decoding.search import beam_search
from vivo.errors import UserError
from vivo.modeling import CAPTION_SEGMENT, VivoConfig, VivoForCaptioning, VivoForTagPretraining
from vivo.packing import Packing
from vivo.prediction import caption_batch
from vivo.weights import bert_config, bert_folder, load_bert

SHAPE = dict(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    feature_size=10,
    tag_position_offset=20,
    max_caption_tokens=12,
    cls_token_id=1,
    sep_token_id=2,
    mask_token_id=3,
)


def small_model(kind=VivoForCaptioning, seed: int = 0, **more):
    torch.manual_seed(seed)
    model = kind(VivoConfig(**SHAPE, **more)).eval()
    with torch.no_grad():  # initial weights are so small that nearly anything agrees with anything
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def small_context(seed: int = 0, pictures: int = 3, tags: int = 5, regions: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tag_mask = torch.arange(tags)[None] < torch.tensor([[tags], [0], [tags - 2]])[:pictures]
    region_mask = torch.arange(regions)[None] < torch.tensor([[regions], [1], [regions - 3]])[:pictures]
    return {
        "tag_ids": torch.randint(5, 50, (pictures, tags), generator=generator),
        "tag_positions": torch.arange(20, 20 + tags).expand(pictures, -1),
        "tag_mask": tag_mask,
        "region_features": torch.randn(pictures, regions, 10, generator=generator),
        "region_positions": torch.rand(pictures, regions, 6, generator=generator),
        "region_mask": region_mask,
    }


def joint_pass(model, context, ids, positions, text_mask):
    """One pass over [C, T, R] with the joint mask: what the two passes must equal."""
    vivo = model.vivo
    text = vivo.embeddings(ids, positions, CAPTION_SEGMENT)
    tags = vivo.embeddings(context["tag_ids"], context["tag_positions"], model.config.tag_segment)
    regions = vivo.regions(context["region_features"], context["region_positions"])
    x = torch.cat([text, tags, regions], dim=1)
    seen = joint_attention_mask(text_mask, torch.cat([context["tag_mask"], context["region_mask"]], dim=1))
    packing = Packing(*x.shape[:2])
    flat = x.flatten(0, 1)
    for layer in vivo.layers:
        flat, _ = layer(flat, packing, seen)
    return packing.pad(flat)


def test_two_passes_equal_one_joint_pass_forward_and_gradient():
    model, context = small_model(), small_context()
    ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(7).expand(3, -1)
    text_mask = text_attention_mask(positions, torch.ones(3, 7, dtype=torch.bool))
    hidden = model.vivo.encode_text(model.encode_context(context), ids, positions, text_mask)
    joint = joint_pass(model, context, ids, positions, text_mask)[:, :7]
    torch.testing.assert_close(hidden, joint, rtol=1e-4, atol=1e-5)

    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for output in (hidden, joint):
        model.zero_grad()
        (output * weight).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_tags_that_stand_as_words_have_the_segment_of_captions():
    model, context = small_model(), small_context()
    words = torch.zeros(3, 5, dtype=torch.bool)
    as_tags = model.encode_context(context | {"tag_words": words}).hidden
    torch.testing.assert_close(as_tags, model.encode_context(context).hidden)
    words[0, 2] = True
    some = model.encode_context(context | {"tag_words": words}).hidden
    assert not torch.allclose(some[0], as_tags[0], atol=1e-3)
    torch.testing.assert_close(some[1:], as_tags[1:])
    every = model.encode_context(context | {"tag_words": torch.ones_like(words)}).hidden
    model.config.tag_segment = CAPTION_SEGMENT
    torch.testing.assert_close(every, model.encode_context(context).hidden)


def caption_batch_of(context: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Captions of 6, 3 and 4 tokens with dense queries, padded to 12; some places supervised, not in order."""
    tokens = torch.tensor([6, 3, 4])
    place = torch.arange(12).expand(3, -1)
    query, valid = place >= tokens[:, None], place < 2 * tokens[:, None]
    positions = torch.where(query, place - tokens[:, None] + 1, place).clamp(max=11)
    ids = torch.where(query, 3, torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(4)))
    return context | {
        "text_ids": ids,
        "text_positions": positions,
        "text_mask": text_attention_mask(positions, valid, query=query),
        "text_places": valid.flatten().nonzero()[:, 0],
        "target_index": torch.tensor([24 + 5, 6, 12 + 4, 8, 12 + 3, 24 + 7]),
    }


@pytest.mark.parametrize("kind", [VivoForCaptioning, VivoForTagPretraining])
def test_packed_and_wanted_equal_the_whole_padded_pass_forward_and_gradient(kind):
    """What training computes (no padding, the last layer only where it is read) == everything, then picked."""
    model, context = small_model(kind), small_context()
    if kind is VivoForCaptioning:
        batch = caption_batch_of(context)
        chosen = batch["target_index"]
        rows, places, width = chosen // 12, chosen % 12, 12
        joint = joint_pass(model, context, batch["text_ids"], batch["text_positions"], batch["text_mask"])
    else:
        slots = torch.tensor([12, 0, 3, 10])  # of the pictures 2, 0, 0, 2; the second has no tag
        batch, width = context | {"slot_index": slots}, 1
        rows, places = slots // 5, slots % 5 + 1
        nothing = torch.zeros(3, 1, dtype=torch.int64)
        joint = joint_pass(model, context, nothing, nothing, torch.ones(3, 1, 1, dtype=torch.bool))
    assert joint.shape[1] == width + 5 + 6
    whole = model.logits(joint[rows, places])
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(5))
    gradients = []
    for output in (model(batch)["logits"], whole):
        torch.testing.assert_close(output, whole, rtol=1e-4, atol=1e-5)
        model.zero_grad()
        (output * weight).sum().backward(retain_graph=True)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
def test_padding_is_not_computed_and_the_last_layer_computes_what_is_read():
    model, context = small_model(), small_context()
    batch = caption_batch_of(context)
    counts = {"in": [], "out": []}
    for layer in model.vivo.layers:
        layer.attention_output.register_forward_hook(lambda _, x, y: counts["in"].append(x[0].shape[0]))
        layer.feed_forward_out.register_forward_hook(lambda _, x, y: counts["out"].append(y.shape[0]))
    model(batch)
    real = int(context["tag_mask"].sum() + context["region_mask"].sum())
    text = 2 * (6 + 3 + 4)
    # context, whose last output nobody reads; then text, whose last output is read at the targets
    assert counts["in"] == counts["out"] == [real, real, text, text, len(batch["target_index"])]


@torch.no_grad()
def test_hidden_tokens_do_not_leak():
    model, context = small_model(), small_context()
    ids = torch.randint(5, 50, (3, 6), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(3, -1)
    text_mask = text_attention_mask(positions, torch.ones(3, 6, dtype=torch.bool))

    def encode(context, ids):
        encoded = model.encode_context(context)
        return model.vivo.encode_text(encoded, ids, positions, text_mask), encoded.hidden

    text, rest = encode(context, ids)
    later = ids.clone()
    later[:, 4] = (later[:, 4] + 7) % 45 + 5
    changed_text, changed_rest = encode(context, later)
    torch.testing.assert_close(text[:, :4], changed_text[:, :4])  # earlier tokens
    assert (text[:, 4:] - changed_text[:, 4:]).abs().amin(dim=(0, 2)).min() > 0  # this one and later ones do change
    torch.testing.assert_close(rest, changed_rest)  # tags and regions

    padded = {
        **context,
        "tag_ids": torch.where(context["tag_mask"], context["tag_ids"], 7),
        "region_features": torch.where(context["region_mask"][..., None], context["region_features"], 9.0),
    }
    torch.testing.assert_close(encode(padded, ids)[0], text)


@torch.no_grad()
def test_regions_are_a_set():
    model, context = small_model(VivoForTagPretraining), small_context(pictures=1)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = {
        **context,
        "region_features": context["region_features"][:, order],
        "region_positions": context["region_positions"][:, order],
    }
    tags = context["tag_ids"].shape[1]
    one, two = model.encode_context(context).hidden, model.encode_context(shuffled).hidden
    torch.testing.assert_close(one[:, :tags], two[:, :tags], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one[:, tags:][:, order], two[:, tags:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dense_queries_give_the_logits_of_decoding():
    """Training's one pass with a query per place == inference's step by step."""
    model, context = small_model(), small_context()
    caption = torch.randint(5, 50, (3, 6), generator=torch.Generator().manual_seed(3))
    caption[:, 0] = 1
    ids = torch.cat([caption, torch.full((3, 6), 3)], dim=1)
    positions = torch.cat([torch.arange(6), torch.arange(1, 7)]).expand(3, -1)
    query = (torch.arange(12) >= 6).expand(3, -1)
    mask = text_attention_mask(positions, torch.ones(3, 12, dtype=torch.bool), query=query)
    encoded = model.encode_context(context)
    hidden = model.vivo.encode_text(encoded, ids, positions, mask)
    dense = model.logits(hidden[:, 6:]).log_softmax(-1)
    step = CachedStep(model, encoded)
    for place in range(6):
        one = step(caption[:, place : place + 1], torch.zeros(3, 1, dtype=torch.int64))
        torch.testing.assert_close(one[:, 0], dense[:, place], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_captions_of_one_picture_in_one_row_equal_captions_apart():
    model, context = small_model(), small_context(pictures=1)
    a, b = torch.tensor([[1, 7, 8, 9]]), torch.tensor([[1, 20, 21]])
    encoded = model.encode_context(context)

    def alone(ids):
        positions = torch.arange(ids.shape[1])[None]
        mask = text_attention_mask(positions, torch.ones_like(ids, dtype=torch.bool))
        return model.vivo.encode_text(encoded, ids, positions, mask)

    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    group = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    mask = text_attention_mask(positions, torch.ones_like(positions, dtype=torch.bool), group)
    both = model.vivo.encode_text(encoded, torch.cat([a, b], dim=1), positions, mask)
    torch.testing.assert_close(both, torch.cat([alone(a), alone(b)], dim=1), rtol=1e-4, atol=1e-5)


class UncachedStep:
    """The slow way: every beam's whole prefix and a [MASK], with a joint mask, from nothing."""

    def __init__(self, model, context):
        self.model, self.context, self.prefix = model, context, None

    def __call__(self, tokens, parents):
        pictures, beams = tokens.shape
        if self.prefix is None:
            self.prefix = tokens[..., None]
        else:
            moved = self.prefix.gather(1, parents[..., None].expand(-1, -1, self.prefix.shape[2]))
            self.prefix = torch.cat([moved, tokens[..., None]], dim=2)
        length = self.prefix.shape[2] + 1
        positions = torch.arange(length).expand(pictures, -1)
        mask = text_attention_mask(positions, torch.ones(pictures, length, dtype=torch.bool))
        rows = []
        for beam in range(beams):
            ids = torch.cat([self.prefix[:, beam], torch.full((pictures, 1), 3)], dim=1)
            hidden = joint_pass(self.model, self.context, ids, positions, mask)[:, length - 1]
            rows.append(self.model.logits(hidden).log_softmax(-1))
        return torch.stack(rows, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_cached_decoding_equals_uncached(beam: int, seed: int):
    model, context = small_model(seed=seed, training_stage="captions"), small_context(seed)
    decode = DecodeConfig(beam=beam, max_tokens=8)
    cached = caption_batch(model, context, decode)
    plain = beam_search(UncachedStep(model, context), 3, 1, 2, beam, 8)
    for one, two in zip(cached, plain, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in two]
        assert [h.score for h in one] == pytest.approx([h.score for h in two], abs=1e-4)


@torch.no_grad()
def test_text_equals_transformers_bert_and_its_head(tmp_path):
    torch.manual_seed(0)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=40,
        )
    ).eval()
    for parameter in bert.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    bert.save_pretrained(tmp_path)
    model = VivoForTagPretraining(bert_config(tmp_path, feature_size=10)).eval()
    assert load_bert(model, tmp_path) == []
    ids = torch.randint(0, 60, (2, 9))
    everywhere = torch.ones(2, 9, 9, dtype=torch.bool)
    hidden = model.vivo.encode_text(None, ids, torch.arange(9).expand(2, -1), everywhere)
    assert (model.logits(hidden) - bert(ids).logits).abs().max() < 1e-5


@torch.no_grad()
def test_embedded_text_weights_equal_transformers_bert():
    from transformers import BertModel

    folder = bert_folder("minilm")
    bert = BertModel.from_pretrained(folder).eval()
    model = VivoForTagPretraining(bert_config(folder, feature_size=10)).eval()
    missing = load_bert(model, folder)  # a sentence encoder has no masked-token head
    assert sorted(missing) == sorted(n for n, _ in model.named_parameters() if n.startswith("head."))
    ids = torch.randint(1000, 20000, (2, 12))
    hidden = model.vivo.encode_text(None, ids, torch.arange(12).expand(2, -1), torch.ones(2, 12, 12, dtype=torch.bool))
    assert (hidden - bert(ids).last_hidden_state).abs().max() < 1e-5


@torch.no_grad()
def test_a_cut_vocabulary_gives_the_logits_of_the_kept_pieces(tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(
        BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    ).save_pretrained(tmp_path)
    kept = [0, 7, 8, 9, 20, 33, 59]
    whole = VivoForTagPretraining(bert_config(tmp_path, feature_size=10)).eval()
    cut = VivoForTagPretraining(bert_config(tmp_path, feature_size=10, vocab_size=len(kept))).eval()
    load_bert(whole, tmp_path)
    load_bert(cut, tmp_path, kept)
    few = torch.randint(0, len(kept), (2, 9))
    logits = []
    for model, ids in ((whole, torch.tensor(kept)[few]), (cut, few)):
        positions, mask = torch.arange(9).expand(2, -1), torch.ones(2, 9, 9, dtype=torch.bool)
        logits.append(model.logits(model.vivo.encode_text(None, ids, positions, mask)))
    torch.testing.assert_close(logits[1], logits[0][..., kept], rtol=1e-5, atol=1e-6)


def test_weights_of_another_shape_are_refused(tmp_path):
    BertForMaskedLM(
        BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    ).save_pretrained(tmp_path)
    wrong = VivoForTagPretraining(bert_config(tmp_path, feature_size=10, pad_token_id=0))
    other = VivoForTagPretraining(VivoConfig(**{**SHAPE, "vocab_size": 61, "num_hidden_layers": 2}))
    load_bert(wrong, tmp_path)
    with pytest.raises(UserError, match=r"word_embeddings.*\[60, 32\].*\[61, 32\]"):
        load_bert(other, tmp_path)
    with pytest.raises(UserError, match="has 2"):
        bert_config(tmp_path, layers=3)


def test_save_and_load_are_exact_and_between_stages(tmp_path):
    model = small_model(VivoForTagPretraining)
    model.save_pretrained(tmp_path)
    again = VivoForCaptioning.from_pretrained(tmp_path)
    fresh = small_model(VivoForCaptioning, seed=9)
    for (name, one), (_, two), (_, three) in zip(
        model.named_parameters(), again.named_parameters(), fresh.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
        assert not torch.equal(one, three), name  # negative control


def test_frozen_vocabulary_gets_no_gradient():
    model = small_model()
    model.freeze_vocabulary()
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["vivo.embeddings.word.weight", "head.bias"]


@pytest.mark.parametrize("beam", [1, 3])
def test_bfloat16_weights_read_float32_features_and_mostly_write_the_same(beam: int):
    decode, same = DecodeConfig(beam=beam, max_tokens=4), 0
    for seed in range(8):
        context, model = small_context(seed), small_model(seed=seed, standardise_regions=True)
        expected = caption_batch(model, context, decode)
        found = caption_batch(model.to(torch.bfloat16), context, decode)
        for (one, *_), (two, *_) in zip(expected, found, strict=True):
            if one.tokens == two.tokens:
                same += 1
                assert two.score != one.score and two.score == pytest.approx(one.score, abs=0.05)
    assert same >= 20  # of 24


def test_a_step_of_fixed_shapes_gives_what_the_plain_one_gives():
    """What becomes a CUDA graph: all of the cache is read under a wide mask, whatever of it is kept."""
    model, context = small_model(), small_context()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        encoded = model.encode_pictures(context)
        plain = CachedStep(model, encoded, 60)
        fixed = GraphedStep(CachedStep(model, encoded, 60), captured=False)
        for beams, parents in ((1, 1), (4, 1), (4, 4), (4, 4), (4, 4), (3, 4), (3, 3), (3, 3)):
            tokens = torch.randint(5, 50, (3, beams), generator=generator)
            origin = torch.randint(parents, (3, beams), generator=generator)
            torch.testing.assert_close(fixed(tokens, origin), plain(tokens, origin), rtol=1e-4, atol=1e-5)
    assert fixed.given[2].shape[2] == fixed.cache.room  # the last ones did have fixed shapes


def test_a_step_of_fixed_shapes_outgrows_its_room():
    model, context = small_model(), small_context()
    with torch.no_grad():
        encoded = model.encode_pictures(context)
        plain, fixed = CachedStep(model, encoded), GraphedStep(CachedStep(model, encoded), captured=False)
        for _ in range(9):
            tokens, origin = torch.full((3, 2), 7), torch.zeros(3, 2, dtype=torch.int64)
            torch.testing.assert_close(fixed(tokens, origin), plain(tokens, origin), rtol=1e-4, atol=1e-5)
