"""Layers as `engine.compile` runs them on a GPU, traced but run without generated code, on the CPU."""

import pytest
import torch
from test_modeling import small_context, small_model
from test_windows import tag_batch
from torch import nn
from torch.nn.attention import sdpa_kernel

from vivo.attention_mask import text_attention_mask
from vivo.layers import Layer
from vivo.losses import caption_loss, tag_set_loss
from vivo.model_config import VivoConfig
from vivo.modeling import CUDNN_FIRST, VivoForCaptioning, VivoForTagPretraining
from vivo.packing import Packing, in_windows
from vivo.whole_rows import WholeRows, additive, weights_of, whole_layer

WIDTH, HEADS = 32, 4


def test_a_whole_row_layer_is_the_layer():
    torch.manual_seed(0)
    layer = Layer(VivoConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=64)).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    x = torch.randn(3, 16, WIDTH)
    whose = torch.randint(4, (3, 16))
    mask = whose[:, :, None] == whose[:, None, :]
    down = torch.randn(3, 16, WIDTH)
    found = []
    for whole in (False, True):
        layer.zero_grad()
        given = x.clone().requires_grad_()
        if whole:
            out = whole_layer(given, additive(mask, x.dtype), weights_of(layer), HEADS, (0.0, 0.0), 1e-12)
        else:
            out = layer(given.flatten(0, 1), Packing(3, 16), mask)[0].view(3, 16, WIDTH)
        out.backward(down)
        found.append([out.detach(), given.grad, *(p.grad.clone() for p in layer.parameters())])
    for plain, own in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-5)


def test_whole_rows_drop_as_often_as_they_should():
    layer = Layer(VivoConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=64)).train()
    nn.init.zeros_(layer.attention_output.weight)
    nn.init.ones_(layer.attention_output.bias)
    nn.init.zeros_(layer.feed_forward_out.weight)
    nn.init.zeros_(layer.feed_forward_out.bias)
    x, mask = torch.zeros(8, 64, WIDTH), torch.ones(8, 64, 64, dtype=torch.bool)
    x[..., 0] = 1e4  # the norm then keeps of each added 1 whether it is there
    torch.manual_seed(0)
    out = whole_layer(x, additive(mask, x.dtype), weights_of(layer), HEADS, (0.0, 0.25), 1e-12)
    rest = out[..., 1:]
    middle = (rest.amax(2, True) + rest.amin(2, True)) / 2
    assert (rest < middle).float().mean().item() == pytest.approx(0.25, abs=0.01)


def loss_of(model, batch):
    found = model(batch)["logits"]
    if "text_ids" in batch:
        return caption_loss(found, batch["target_ids"])["loss"]
    return tag_set_loss(found, batch["target_ids"], batch["group_slots"], batch["group_size"])["loss"]


def caption_batch():
    batch = small_context()
    positions = torch.arange(7).expand(3, -1)
    return batch | {
        "text_ids": torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(1)),
        "text_positions": positions,
        "text_mask": text_attention_mask(positions, torch.ones(3, 7, dtype=torch.bool)),
        "target_index": torch.tensor([1, 9, 10, 20]),
        "target_ids": torch.tensor([7, 8, 9, 10]),
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", [VivoForTagPretraining, VivoForCaptioning])
def test_compiled_layers_give_the_losses_and_gradients_of_plain_ones(kind, half, monkeypatch):
    """In float32 to rounding; in bfloat16 as near to float32 as plain bfloat16 is, about."""
    if kind is VivoForTagPretraining:
        batch = tag_batch(7, 0)
        batch |= in_windows(batch["tag_mask"], batch["region_mask"], 64, 2)
    else:
        batch = caption_batch()
    calls = []
    run = WholeRows.__call__
    monkeypatch.setattr(WholeRows, "__call__", lambda *given: calls.append(1) or run(*given))

    def gradients(compiled: bool, half: bool) -> list[torch.Tensor]:
        torch.compiler.reset()
        model = small_model(kind, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if compiled:
            model.vivo.compile_layers(whole=True, backend="eager")
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of(model, batch)
        loss.backward()
        assert not any("_orig_mod" in name for name in model.state_dict())
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    exact = gradients(False, False)
    found = gradients(True, half)
    assert len(found) == len(exact) and len(calls) == (half and kind is VivoForTagPretraining)
    if not half:
        for own, plain in zip(found, exact, strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-5)
        return

    def apart(some: list[torch.Tensor]) -> float:
        whole = torch.cat([(a - b).flatten() for a, b in zip(some, exact, strict=True)])
        return (whole.norm() / torch.cat([b.flatten() for b in exact]).norm()).item()

    assert apart(found) < 2 * apart(gradients(False, True)) < 0.2


def test_cudnn_comes_first_where_it_can_and_the_order_is_given_back():
    before = torch._C._get_sdp_priority_order()
    with sdpa_kernel(CUDNN_FIRST, set_priority=True):
        within = torch._C._get_sdp_priority_order()
        assert torch.backends.cuda.cudnn_sdp_enabled() and not torch.backends.cuda.flash_sdp_enabled()
    assert within[:3] == [kind.value for kind in CUDNN_FIRST] and torch._C._get_sdp_priority_order() == before


def test_pytorchs_attention_of_cudnn_takes_what_we_give_it():
    """Private to PyTorch: another version may ask for other arguments, and this is the test that says so."""
    forward = torch.ops.aten._scaled_dot_product_cudnn_attention.default._schema
    assert [a.name for a in forward.arguments] == [
        "query", "key", "value", "attn_bias", "compute_log_sumexp", "dropout_p", "is_causal", "return_debug_mask",
        "scale",
    ]  # fmt: skip
    assert [r.name for r in forward.returns] == [
        "output", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "philox_seed", "philox_offset",
        "debug_attn_mask",
    ]  # fmt: skip
    backward = torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default._schema
    assert [a.name for a in backward.arguments] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "philox_seed", "philox_offset", "attn_bias",
        "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "scale",
    ]  # fmt: skip
