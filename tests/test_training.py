"""The engine on the embedded world: golden curve, overfit to exact captions, exact resume, stop before damage."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vivo.config import DecodeConfig, OptimConfig, TrackingConfig, TrainConfig, load_config
from vivo.data.examples import read_caption_examples, write_caption_examples
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.tag_source import TagSource
from vivo.data.types import CaptionExample
from vivo.durations import parse_duration
from vivo.errors import UserError
from vivo.prediction import caption_pictures, load_captioning_model
from vivo.training import loop
from vivo.training.checkpoint import list_checkpoints
from vivo.training.runs import finetune, pretrain
from vivo.training.schedule import Schedule
from vivo.training.tracking import read_records

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden" / "world_loss.json"


def config_for(world: Path, out: Path, stage: str, *overrides: str):
    """The world's configuration on the tiny world, in fp32."""
    file, regions, examples = {
        "tags": ("world.yaml", "open_images", "tags.jsonl"),
        "captions": ("finetune/world.yaml", "coco", "captions.jsonl"),
    }[stage]  # fmt: skip
    return load_config(
        ROOT / "configs" / file,
        [f"out={out}", f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}",
         f"data.regions={world / 'regions' / regions}",
         f"data.examples={world / 'examples' / examples}",
         "optim.precision=fp32", "tracking.log_every=1step", "tracking.validate_every=", "data.validation_references=",
         "data.validation_regions=", *overrides],
    )  # fmt: skip


class Killed(BaseException):
    pass


def run_until(step: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-train and die before update number `step` (from 0)."""
    real = loop.seed_step

    def dies(seed: int, at: int, rank: int) -> None:
        if at == step:
            raise Killed
        real(seed, at, rank)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "seed_step", dies)
        pretrain(config)


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_records(out / "metrics.jsonl") if "loss" in record]


@pytest.mark.slow
def test_golden_loss_curve_of_the_world_configuration(tiny_world: Path, tmp_path: Path, monkeypatch):
    """The first 20 updates of its 800; write the file anew with a line in CHANGELOG.md when a change means to move
    it: VIVO_WRITE_GOLDEN=1 pytest tests/test_training.py -k golden."""
    run_until(20, config_for(tiny_world, tmp_path, "tags"), monkeypatch)
    found = losses(tmp_path)
    if os.environ.get("VIVO_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == pytest.approx(json.loads(GOLDEN.read_text()), rel=0.01), found


@pytest.mark.slow
def test_eight_scenes_are_overfitted_to_exact_captions(tiny_world: Path, tmp_path: Path):
    chosen = list(read_caption_examples(tiny_world / "examples" / "captions.jsonl"))[:8]
    single = [CaptionExample(e.image_id, e.file_name, e.captions[:1]) for e in chosen]
    write_caption_examples(single, tmp_path / "eight.jsonl")
    references = {
        "images": [{"id": e.image_id, "file_name": e.file_name} for e in single],
        "annotations": [{"id": n, "image_id": e.image_id, "caption": e.captions[0]} for n, e in enumerate(single)],
    }
    (tmp_path / "references.json").write_text(json.dumps(references))
    out = tmp_path / "run"
    finetune(config_for(
        tiny_world, out, "captions", f"data.examples={tmp_path / 'eight.jsonl'}", "init=minilm",
        "optim.duration=120steps", "tracking.validate_every=100percent",
        f"data.validation_references={tmp_path / 'references.json'}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
        "optim.lr=1e-3", "optim.batch_size=8", "data.captions_per_picture=1", "data.tag_dropout=0", "model.dropout=0",
        "optim.warmup=10 steps",
    ))  # fmt: skip
    assert losses(out)[-1] < 0.05
    (validated,) = (r for r in read_records(out / "metrics.jsonl") if "validation_alarms" in r)
    assert (
        validated["validation_alarms"] == "" and validated["validation_distinct"] == 1
    )  # none where captions are right
    store = RegionStore(tiny_world / "regions" / "coco")
    tokenizer, model = load_captioning_model(out / "model", store)
    ids = [e.image_id for e in single]
    for beam in (1, 3):
        captions = caption_pictures(
            model, tokenizer, store, ids, TagSource("detector"), DecodeConfig(beam=beam, max_tokens=38)
        )
        assert [captions[i][0] for i in ids] == [e.captions[0] for e in single]


def pairs_of(world: Path, objective: str) -> list[str]:
    """Overrides for pre-training with captioned pictures, which lie in a store of their own."""
    captions, regions = world / "examples" / "captions.jsonl", world / "regions" / "coco"
    return [f"objective={objective}", f"data.pairs={captions}", f"data.pairs_regions={regions}"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["tags", "both"])
def test_a_killed_run_goes_on_exactly(tiny_world: Path, tmp_path: Path, monkeypatch, objective: str):
    """Stopped after update 5 of 8 (checkpoint at 3): the same weights, bit for bit, dropout on.

    With both, an epoch of the captions ends in update 15 of theirs, one of the tags in update 20: 3 is in mid-epoch of
    both, and behind two updates of tags and one of captions.
    """
    settings = ("optim.duration=8 steps", "optim.warmup=2 steps", "optim.batch_size=8", "tracking.save_every=3 steps",
                "model.dropout=0.1", "tracking.keep=5", *pairs_of(tiny_world, objective))  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(config_for(tiny_world, whole, "tags", *settings))
    run_until(5, config_for(tiny_world, broken, "tags", *settings), monkeypatch)
    assert [p.name for p in list_checkpoints(broken / "checkpoints")] == ["step_00000003"]
    pretrain(config_for(tiny_world, broken, "tags", *settings))
    one, two = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert losses(broken) == losses(whole)
    assert not list(broken.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pairs", "both"])
def test_pre_training_with_captions(tiny_world: Path, tmp_path: Path, objective: str):
    """Both kinds of updates are learned, logged apart, and reach every parameter; the vocabulary comes with tags."""
    steps = 24 if objective == "both" else 12
    pretrain(config_for(
        tiny_world, tmp_path, "tags", *pairs_of(tiny_world, objective), f"optim.duration={steps} steps",
        "optim.warmup=1step", "optim.batch_size=8", "masking.caption=dense", "data.captions_per_picture=2",
        "data.pairs_tags=detector", "data.tag_dropout=0.5", "loss.competing=used", "model.tag_slots=caption",
        f"data.hints={'detector' if objective == 'both' else 'none'}", "tracking.save_every=1step",
    ))  # fmt: skip
    records = read_records(tmp_path / "metrics.jsonl")
    kinds = {kind: [r[f"{kind}/loss"] for r in records if f"{kind}/loss" in r] for kind in ("tags", "pairs")}
    if objective == "both":
        assert len(kinds["tags"]) == len(kinds["pairs"]) == 12
        assert ["pairs/loss" in r for r in records] == [False, True] * 12
        assert all(losses[-1] < losses[0] for losses in kinds.values())
        assert all(0 <= r["tags/matchable_pictures"] <= 1 for r in records if "tags/loss" in r)
    else:
        assert not kinds["tags"] and records[-1]["loss"] < records[0]["loss"]
    assert (tmp_path / "model" / "tag_vocabulary.json").is_file() == (objective == "both")
    read = json.loads((tmp_path / "inputs.json").read_text())
    assert read["pairs"]["path"].endswith("captions.jsonl") and read["pairs_regions"]["pictures"] > 0
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["training_stage"] == objective
    # what has an optimizer state after the second update has had a gradient
    first = load_file(list_checkpoints(tmp_path / "checkpoints")[0] / "optimizer.safetensors")
    moved = [name for name, value in first.items() if name.endswith("exp_avg") and value.any()]
    assert len(moved) == len([name for name in first if name.endswith("exp_avg")])


@pytest.mark.slow
def test_captioned_pictures_of_another_detector_are_refused(tiny_world: Path, tmp_path: Path):
    store = RegionStore(tiny_world / "regions" / "coco")
    foreign = tmp_path / "foreign"
    with RegionStoreWriter(foreign, dict(store.detector) | {"name": "another"}, store.feature_size) as writer:
        for image_id in store.image_ids:
            writer.write(image_id, store[image_id])
    settings = [*pairs_of(tiny_world, "both"), f"data.pairs_regions={foreign}", "optim.duration=1 steps"]
    with pytest.raises(UserError, match="another"):
        pretrain(config_for(tiny_world, tmp_path / "run", "tags", *settings, "optim.warmup="))


@pytest.mark.slow
def test_not_a_number_stops_before_the_update(tiny_world: Path, tmp_path: Path, monkeypatch):
    import vivo.training.tasks as tasks

    real = tasks.tag_set_loss

    def broken(*arguments):
        result = real(*arguments)
        return result | {"loss": result["loss"] * float("nan")}

    monkeypatch.setattr(tasks, "tag_set_loss", broken)
    with pytest.raises(UserError, match=r"step 0: loss nan.*stopped before the update. Pictures"):
        pretrain(
            config_for(
                tiny_world, tmp_path, "tags", "optim.duration=2steps", "optim.warmup=1step", "optim.batch_size=4"
            )
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_features_of_another_detector_are_refused(tiny_world: Path, tmp_path: Path):
    out = tmp_path / "run"
    pretrain(config_for(tiny_world, out, "tags", "optim.duration=1 steps", "optim.warmup=", "optim.batch_size=4"))
    store = RegionStore(tiny_world / "regions" / "coco")
    foreign = tmp_path / "foreign"
    with RegionStoreWriter(foreign, dict(store.detector) | {"name": "another"}, store.feature_size) as writer:
        for image_id in store.image_ids:
            writer.write(image_id, store[image_id])
    with pytest.raises(UserError, match="another"):
        finetune(config_for(tiny_world, tmp_path / "fine", "captions", f"init={out / 'model'}",
                            f"data.regions={foreign}", "optim.duration=1 steps", "optim.warmup="))  # fmt: skip


@pytest.mark.slow
def test_weights_and_biases_offline_and_captions_in_the_record(tiny_world: Path, tmp_path: Path, capsys):
    """W&B writes its run where the run lies; validation prints captions beside references."""
    references = tiny_world / "world" / "coco" / "captions_val.json"
    finetune(config_for(
        tiny_world, tmp_path, "captions", "init=minilm",
        "optim.duration=2steps", "optim.warmup=1step", "optim.batch_size=4",
        "tracking.wandb=offline", "tracking.validate_every=2 steps", f"data.validation_references={references}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    ))  # fmt: skip
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    records = read_records(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2, 2]
    assert 0 < records[-1]["validation_distinct"] <= 1 and records[-1]["validation_CIDEr"] >= 0
    assert capsys.readouterr().out.count("reference: ") == 8


def test_learning_rate_by_hand():
    linear = Schedule(steps=12, warmup=4)
    assert [linear.learning_rate(s) for s in (0, 3, 4, 8, 11)] == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.125])
    cosine = Schedule(steps=10, shape="cosine")
    assert [cosine.learning_rate(s) for s in (0, 5)] == pytest.approx([1.0, 0.5])
    assert Schedule(steps=10, lr=0.3, shape="constant").learning_rate(9) == 0.3


def test_durations_become_updates():
    config = TrainConfig()
    config.optim = OptimConfig(duration="3 epochs", warmup="10 percent", batch_size=8)
    config.tracking = TrackingConfig(log_every="100 examples", validate_every="1 epoch", save_every="7 steps")
    found = Schedule.of(config, 100)
    assert (found.steps, found.warmup, found.log_every, found.validate_every, found.save_every) == (38, 4, 13, 13, 7)
    config.optim.warmup = "2 epochs"
    assert Schedule.of(config, 100).warmup == 25
    config.optim.warmup = "4 epochs"  # would end before the rate is reached: said, not cut
    with pytest.raises(
        UserError, match="optim.warmup: 4 epochs is 50 updates, more than the 38 of optim.duration, 3 ep"
    ):
        Schedule.of(config, 100)
    assert [done for done in range(1, 39) if found.due(found.validate_every, done)] == [13, 26, 38]
    assert (
        parse_duration("10 percent").steps(8, 100, 30) == 3
        and str(parse_duration("1.7e6examples")) == "1.7e+06 examples"
    )
