"""FLOPs by formula against PyTorch's own counter on the real model; the measures of a record by hand."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from test_training import config_for
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from vivo.data.collate import CaptionCollator, Limits, TagCollator
from vivo.data.datasets import CaptionPictures, TagPictures
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.losses import caption_loss, tag_set_loss
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.training.flops import GPU_PEAKS, ModelSize, Work, measured_flops, peak_flops, work_of
from vivo.training.measure import Meter, memory_gib, norm_of
from vivo.training.runs import starting_model


def real_case(world: Path, out: Path, stage: str, *overrides: str):
    """The world's model and one batch of 16 pictures."""
    config = config_for(world, out, stage, "init=minilm", *overrides)
    store = RegionStore(config.data.regions)
    model_class = VivoForTagPretraining if stage == "tags" else VivoForCaptioning
    tokenizer, model = starting_model(config, model_class, store, stage)
    limits = Limits.of(model.config)
    if stage == "tags":
        data = TagPictures(read_tag_examples(config.data.examples), store, TagSource("labels"), None, 0.0, 0)
        collator = TagCollator(tokenizer, limits, 0, 0.15, 1.0, 0)
    else:
        data = CaptionPictures(read_caption_examples(config.data.examples), store, TagSource("detector"), 0.0, 0)
        collator = CaptionCollator(tokenizer, limits, 0, config.masking.caption, 0.15, 2, 0.0)
    keys = [[(0, i) for i in range(16)]]
    return model, next(iter(DataLoader(data, batch_sampler=keys, collate_fn=collator)))


@pytest.mark.parametrize(
    "stage, overrides",
    [
        ("tags", ()),
        ("tags", ("model.layers=5",)),
        ("tags", ("model.freeze_embeddings=true",)),
        ("captions", ()),
        ("captions", ("masking.caption=masked", "model.layers=3", "model.freeze_embeddings=false")),
    ],
)
def test_formula_against_the_counter(tiny_world: Path, tmp_path: Path, stage, overrides):
    """Forward and backward of a real batch; what the counter sees and the formula leaves out is within 1 %."""
    model, batch = real_case(tiny_world, tmp_path, stage, *overrides)
    size = ModelSize.of(model.config, model.vivo.embeddings.word.weight.requires_grad)
    with FlopCounterMode(display=False) as counter:
        logits = model(batch)["logits"]
        if stage == "tags":
            losses = tag_set_loss(logits, batch["target_ids"], batch["group_slots"], batch["group_size"])
        else:
            losses = caption_loss(logits, batch["target_ids"])
        losses["loss"].backward()
    found = work_of(size, batch)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    real = batch["tag_mask"].sum() + batch["region_mask"].sum() + batch.get("text_places", torch.empty(0)).shape[0]
    assert found.elements == int(real)


def test_padding_is_no_work(tiny_world: Path, tmp_path: Path):
    """A batch padded by 10 more places is the same work."""
    model, batch = real_case(tiny_world, tmp_path, "tags")
    size = ModelSize.of(model.config, True)
    padded = dict(batch)
    padded["region_mask"] = torch.nn.functional.pad(batch["region_mask"], (0, 10))
    assert work_of(size, padded) == work_of(size, batch)


def test_one_token_by_hand():
    """D 2, I 3, F 4, V 5, one layer; one region, one tag piece, which is asked for."""
    size = ModelSize(2, 3, 4, 5, 1, False)
    batch = {
        "tag_mask": torch.ones(1, 1, dtype=torch.bool),
        "region_mask": torch.ones(1, 1, dtype=torch.bool),
        "slot_index": torch.zeros(1, dtype=torch.int64),
        "target_ids": torch.zeros(1, dtype=torch.int64),
    }
    projection = 2 * (2 * 1 * 10 * 2)
    layer = 3 * (2 * 2 * 2 * 4 + 2 * 1 * 2 * (4 + 6) + 4 * (1 * 2) * 2)
    head = 3 * 2 * 2 * 2 + 2 * 2 * 2 * 5
    assert work_of(size, batch) == Work(projection + layer + head, 2)


def test_meter_by_hand(tiny_world: Path, tmp_path: Path):
    model, batch = real_case(tiny_world, tmp_path, "captions")
    meter = Meter(model, Accelerator(cpu=True))
    work = work_of(ModelSize.of(model.config, False), batch)
    assert meter.saw(batch) is batch
    meter.saw(batch)
    trained = [p for p in model.parameters() if p.requires_grad]
    length = math.sqrt(sum(float(p.detach().double().square().sum()) for p in trained))
    with meter.watching(True), torch.no_grad():
        for p in trained:
            p.add_(1e-3)
    found = meter.record(seconds=4.0)
    moved = 1e-3 * math.sqrt(sum(p.numel() for p in trained))
    assert found["update_norm"] == pytest.approx(moved / length, rel=1e-3)
    assert found["flops_per_second"] == pytest.approx(2 * work.flops / 4.0)
    assert found["tokens_per_second"] == 2 * work.elements / 4.0
    assert found["mfu"] == pytest.approx(2 * work.flops / 4.0 / meter.peak)
    assert found["memory_gib"] == pytest.approx(memory_gib(torch.device("cpu")), rel=0.05) and found["memory_gib"] > 0.1

    with meter.watching(False), torch.no_grad():
        trained[0].zero_()
    found = meter.record(seconds=1.0)
    assert "update_norm" not in found and found["tokens_per_second"] == 0.0


def test_norm_and_peaks():
    assert norm_of([torch.tensor([3.0]), torch.tensor([[4.0]])]) == 5.0 and norm_of([]) == 0.0
    for place, (name, _, _) in enumerate(GPU_PEAKS):  # else the shorter name would hide the longer one
        assert not any(name != other and other in name for other, *_ in GPU_PEAKS[:place]), name
    assert all(bf16 > fp32 for _, bf16, fp32 in GPU_PEAKS)
    cpu = torch.device("cpu")
    assert measured_flops(cpu, False, seconds=0.0) > 1e8
    peak, source = peak_flops(cpu, False)
    assert peak > 1e8 and source.startswith("measured")
