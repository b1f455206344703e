"""What an update and a step of decoding cost, in units that no machine changes: operations, FLOPs, waits, bytes.

Figures that were counted, with some room: whoever adds to the work of a step is told so here, and may raise them.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from test_modeling import small_context, small_model
from test_windows import SHAPE, tag_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import vivo.losses
from vivo.cached_step import CachedStep
from vivo.losses import tag_set_loss
from vivo.matching import _assign_padded
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.packing import in_windows
from vivo.training.flops import ModelSize, work_of

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")
"""Operations whose result's size or value the host must know: on a GPU it waits for them."""

UPDATE, LAYER, STEP = 380, 76, 75
"""Operations of an update of three layers, of each layer more, of a step of decoding; counted: 366, 73, 72."""
MATCHING = 66
"""Operations of the matching of groups of eight; counted: 64."""
MEMORY = 39.0
"""Most bytes that an update of three layers holds beside the gradients, over those of one activation of all elements;
counted: 37.5."""


class Operations(TorchDispatchMode):
    """Counts operations by name, views left out: what would start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def batch_of(pictures: int = 16) -> dict[str, torch.Tensor]:
    batch = tag_batch(pictures, 0)
    slots = len(batch["target_ids"])
    # pairs of masked tags that can be exchanged: matching has something to do
    batch["group_slots"] = torch.arange(slots - slots % 2).view(-1, 2, 1)
    batch["group_size"] = torch.full((slots // 2,), 2)
    return batch


def laid(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch | in_windows(batch["tag_mask"], batch["region_mask"], 64, 2)


def update(model: VivoForTagPretraining, batch: dict[str, torch.Tensor]) -> None:
    found = model(batch)["logits"]
    losses = tag_set_loss(found, batch["target_ids"], batch["group_slots"], batch["group_size"])
    (losses["loss"] / losses["count"]).backward()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(vivo.losses, "assign", _assign_padded)
    monkeypatch.setattr(vivo.losses, "_costs_by_size", vivo.losses._costs)


def test_an_update_in_windows_waits_for_nothing(as_on_a_gpu):
    model, batch = small_model(VivoForTagPretraining).train(), laid(batch_of())
    with Operations() as seen:
        update(model, batch)
    assert not {name: n for name, n in seen.counts.items() if name in WAITS}


@pytest.mark.parametrize("most", [6, 8])
def test_matching_on_a_gpu_waits_for_nothing_up_to_eight_tags(as_on_a_gpu, most: int):
    slots = torch.arange(3 * most).view(3, most, 1)
    log_p, target = torch.randn(3 * most, 50).log_softmax(dim=-1), torch.randint(50, (3 * most,))
    size = torch.tensor([most, 2, 1])
    for groups in (slots, slots.repeat(5, 1, 1)):
        with Operations() as seen:
            vivo.losses._matched_targets(log_p, target, groups, size.repeat(len(groups) // 3))
        assert not {name: n for name, n in seen.counts.items() if name in WAITS}
        assert seen.counts.total() <= MATCHING


def test_rows_are_the_ones_that_wait(as_on_a_gpu):
    """That the test above can fail: without windows the places of what is real are looked for."""
    with Operations() as seen:
        update(small_model(VivoForTagPretraining).train(), batch_of())
    assert seen.counts["nonzero"] == 2


def test_how_many_operations_an_update_and_a_layer_more_are(as_on_a_gpu):
    counts = []
    for layers in (3, 4):
        model, batch = VivoForTagPretraining(VivoConfig(**(SHAPE | {"num_hidden_layers": layers}))), laid(batch_of())
        update(model, batch)
        with Operations() as seen:
            update(model, batch)
        counts.append(seen.counts.total())
    assert counts[0] <= UPDATE and counts[1] - counts[0] <= LAYER


def test_more_pictures_are_not_more_operations(as_on_a_gpu):
    counts = []
    for pictures in (8, 64):
        model, batch = small_model(VivoForTagPretraining).train(), laid(batch_of(pictures))
        with Operations() as seen:
            update(model, batch)
        counts.append(seen.counts.total())
    assert counts[0] == counts[1]


def test_windows_compute_what_the_formula_says():
    model, batch = small_model(VivoForTagPretraining).train(), laid(batch_of())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        update(model, batch)
    said = work_of(ModelSize.of(model.config, word_embeddings_trained=True), batch).flops
    empty = batch["window_rows"].numel() - len(batch["window_places"])
    size = ModelSize.of(model.config, True)
    # windows are computed as a whole: the places that are left empty, and all pairs of places in every layer
    empty_flops = 3 * empty * ((size.layers - 1) * 2.0 * size.D * (4 * size.D + 2 * size.I) + 4.0 * size.D**2)
    context = batch["tag_mask"].sum(dim=1) + batch["region_mask"].sum(dim=1)
    looking = (size.layers - 1) * context.square().sum() + context[
        batch["slot_index"] // batch["tag_mask"].shape[1]
    ].sum()
    all_pairs = size.layers * batch["window_rows"].numel() * batch["window_rows"].shape[1]
    empty_flops += 3 * 4.0 * size.D * (all_pairs - int(looking))
    assert counter.get_total_flops() == pytest.approx(said + empty_flops, rel=0.01)


def test_how_many_operations_a_step_of_decoding_is():
    model = small_model()
    with torch.inference_mode():
        step = CachedStep(model, model.encode_pictures(small_context()), 40)
        tokens, parents = torch.full((3, 4), 7), torch.zeros(3, 4, dtype=torch.int64)
        step(tokens, parents)
        with Operations() as seen:
            step(tokens, parents)
    assert seen.counts.total() <= STEP and not any(name in WAITS for name in seen.counts)


def test_how_much_memory_an_update_holds_at_most():
    model, batch = small_model(VivoForTagPretraining).train(), batch_of(64)
    update(model, batch)
    model.zero_grad()
    with LiveBytes() as live:
        update(model, batch)
    elements = int(batch["tag_mask"].sum() + batch["region_mask"].sum())
    parameters = sum(p.nbytes for p in model.parameters())
    assert (live.peak - parameters) / (elements * model.config.hidden_size * 4) <= MEMORY


def test_beams_share_one_copy_of_the_context():
    """Of a context of 2,000 places, a step of 16 beams holds what a step of one does, but for masks and tokens."""
    model, held = small_model(), []
    layers, width, places = model.config.num_hidden_layers, model.config.hidden_size, 2000
    context = {
        "tag_ids": torch.full((1, 1), 7),
        "tag_positions": torch.full((1, 1), model.config.tag_position_offset),
        "tag_mask": torch.ones(1, 1, dtype=torch.bool),
        "region_features": torch.randn(1, places, model.config.feature_size),
        "region_positions": torch.rand(1, places, 6),
        "region_mask": torch.ones(1, places, dtype=torch.bool),
    }
    for beams in (1, 16):
        with torch.inference_mode():
            step = CachedStep(model, model.encode_pictures(context), 8 * beams)
            with LiveBytes() as live:
                step(torch.full((1, beams), 7), torch.zeros(1, beams, dtype=torch.int64))
        held.append(live.peak)
    one_copy = layers * 2 * places * width * 4
    assert held[0] > one_copy and held[1] - held[0] < one_copy / 2
