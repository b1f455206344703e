"""How captions are supervised: who sees what, and what may share one pass."""

import numpy as np
import pytest
import torch

from vivo.data.collate import CaptionCollator, Limits
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.losses import caption_loss
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.weights import bert_folder

LIMITS = Limits(max_regions=4, max_tag_tokens=8, max_caption_tokens=12, tag_position_offset=12)
CAPTIONS = ["a dog", "two brown dogs run", "the dog and a cow on grass", "grass", "a cow looks at the dog"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


def model_of(**more) -> VivoForCaptioning:
    torch.manual_seed(0)
    config = VivoConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        feature_size=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )
    model = VivoForCaptioning(config)
    with torch.no_grad():  # initial weights are so small that nearly anything agrees with anything
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def batch_of(tokenizer, captions_per_picture: int, epoch: int, supervision: str = "dense"):
    generator = np.random.default_rng(0)
    regions = Regions(
        np.array([[0, 0, 20, 20], [10, 5, 60, 40]], dtype=np.float32),
        generator.standard_normal((2, 3)).astype(np.float16),
        ["dog", "cow"],
        np.array([0.9, 0.8], dtype=np.float32),
        100,
        50,
    )
    collator = CaptionCollator(tokenizer, LIMITS, 0, supervision, 0.3, captions_per_picture, 0.0)
    batch = collator([(epoch, "a", ["dog"], CAPTIONS, regions)])
    return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}


@torch.no_grad()
def test_a_query_sees_the_true_tokens_to_its_left_and_nothing_else(tokenizer):
    """Each text element is replaced in turn; the logits that move are those of the queries that may see it."""
    model = model_of().eval()
    batch = batch_of(tokenizer, 3, 0)
    ids, positions = batch["text_ids"], batch["text_positions"][0].tolist()
    queries = batch["target_index"].tolist()
    text = [place for place in batch["text_places"].tolist() if place not in queries]
    # which caption an element belongs to: captions stand one behind the other, each from position 0 on
    starts = [place for place in text if positions[place] == 0]
    caption = {place: sum(start <= place for start in starts) for place in (*text, *queries)}
    assert len(starts) == 3 and len(queries) == len(text)
    before = model.caption_logits(batch)
    for place in (*text, *queries):
        changed = ids.clone()
        changed[0, place] += 7
        moved = (model.caption_logits({**batch, "text_ids": changed}) - before).abs().amax(dim=1)
        for query, by in zip(queries, moved.tolist(), strict=True):
            sees = query == place or (
                place in text and caption[place] == caption[query] and positions[place] < positions[query]
            )
            assert by > 1e-6 if sees else by == 0.0, (place, query, by)


@pytest.mark.parametrize("supervision", ["dense", "masked"])
def test_five_captions_in_one_pass_have_the_gradient_of_five_passes(tokenizer, supervision: str):
    """The sum over the captions of one picture, whose context is encoded once or five times."""

    def gradients(batches) -> tuple[float, int, dict[str, torch.Tensor]]:
        model = model_of().train()
        found = [caption_loss(model.caption_logits(batch), batch["target_ids"]) for batch in batches]
        sum(f["loss"] for f in found).backward()
        loss, count = (sum(float(f[name].detach()) for f in found) for name in ("loss", "count"))
        return loss, int(count), {n: p.grad for n, p in model.named_parameters()}

    apart_batches = [batch_of(tokenizer, 1, epoch, supervision) for epoch in range(5)]
    together_batch = batch_of(tokenizer, 5, 0, supervision)
    if supervision == "masked":  # the masks of the five are drawn apart: put them side by side by hand
        together_batch = side_by_side(together_batch, apart_batches)
    together, apart = gradients([together_batch]), gradients(apart_batches)
    assert together[1] == apart[1] > 5
    # float32 inside the loss
    assert together[0] == pytest.approx(apart[0], rel=1e-6)
    for name, gradient in together[2].items():
        torch.testing.assert_close(gradient, apart[2][name], rtol=1e-4, atol=1e-6, msg=name)


def side_by_side(like, batches):
    """The text of five batches of one caption in one row, with a mask that keeps them apart."""
    sizes = [b["text_ids"].shape[1] for b in batches]
    firsts = [sum(sizes[:n]) for n in range(len(sizes))]
    mask = torch.block_diag(*[b["text_mask"][0].double() for b in batches]).bool()[None]
    return like | {
        "text_ids": torch.cat([b["text_ids"] for b in batches], dim=1),
        "text_positions": torch.cat([b["text_positions"] for b in batches], dim=1),
        "text_mask": mask,
        "text_places": torch.arange(sum(sizes)),
        "target_index": torch.cat([b["target_index"] + f for b, f in zip(batches, firsts, strict=True)]),
        "target_ids": torch.cat([b["target_ids"] for b in batches]),
    }
