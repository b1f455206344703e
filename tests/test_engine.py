"""Parts of the engine by hand and against one another: averages, recomputed layers, rules of resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_modeling import small_context, small_model
from test_training import config_for
from torch import nn

from vivo.config import OptimConfig
from vivo.errors import UserError
from vivo.losses import tag_set_loss
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.training.averages import Averages
from vivo.training.best import Best
from vivo.training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, open_checkpoint
from vivo.training.gradients import accumulate, check_all_have_gradients
from vivo.training.optim import build_optimizer, name_parameters
from vivo.training.runs import finetune, pretrain
from vivo.training.tracking import read_records


def tag_batch(pictures: int = 3) -> dict:
    """Two tags masked in the first picture, one in the third; the second has none."""
    batch = small_context(pictures=pictures)
    slots = torch.tensor([0, 1, 10])[: 3 if pictures == 3 else 2]
    batch["tag_ids"].view(-1)[slots] = 3
    batch |= {
        "slot_index": slots,
        "target_ids": torch.tensor([7, 8, 9])[: len(slots)],
        "group_slots": torch.tensor([[[0], [1]], [[2], [-1]]])[: len(slots) - 1],
        "group_size": torch.tensor([2, 1])[: len(slots) - 1],
        "image_ids": [str(i) for i in range(pictures)],
    }
    return batch


def loss_of(output: dict, batch: dict) -> dict:
    return tag_set_loss(output["logits"], batch["target_ids"], batch["group_slots"], batch["group_size"], True)


def test_averages_by_hand():
    model = nn.Linear(1, 1, bias=False)
    frozen = nn.Linear(1, 1)
    frozen.requires_grad_(False)
    both = nn.ModuleList([model, frozen])
    model.weight.data.fill_(1.0)
    averages = Averages(both, decay=0.5)
    assert list(averages.tensors) == ["0.weight"]
    model.weight.data.fill_(2.0)
    averages.update(1)  # d = min(.5, 2 / 11)
    assert averages.tensors["0.weight"].item() == pytest.approx(1 * 2 / 11 + 2 * 9 / 11)
    before = averages.tensors["0.weight"].item()
    model.weight.data.fill_(4.0)
    averages.update(100)  # d = .5
    assert averages.tensors["0.weight"].item() == pytest.approx((before + 4) / 2)
    with averages.applied():
        assert model.weight.item() == pytest.approx((before + 4) / 2)
    assert model.weight.item() == 4.0


def test_recomputed_layers_give_the_same_gradients():
    """Activation checkpointing, dropout on: the recomputation draws the same dropout."""
    gradients = []
    for recomputed in (False, True):
        model = small_model(VivoForTagPretraining, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
        if recomputed:
            model.vivo.activation_checkpointing = True
        torch.manual_seed(1)
        batch = tag_batch()
        loss_of(model(batch), batch)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_a_compiled_model_gives_the_same_gradients():
    """Traced and differentiated by torch.compile, run without generated code (which needs a compiler and minutes)."""
    gradients = []
    for compiled in (False, True):
        model = small_model(VivoForTagPretraining)
        if compiled:
            model.compile(dynamic=True, backend="aot_eager")
        batch = tag_batch()
        loss_of(model(batch), batch)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert not any("_orig_mod" in name for name in model.state_dict())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    """The second micro-batch has no target at all, as a picture without tags would."""
    accelerator, whole, parts = Accelerator(cpu=True), small_model(VivoForTagPretraining), []
    batch = tag_batch()
    found = accumulate(accelerator, whole, loss_of, [batch])
    split = small_model(VivoForTagPretraining)
    rows = {k: v for k, v in batch.items() if k not in ("slot_index", "target_ids", "group_slots", "group_size")}
    for row, slots, targets in ((0, [0, 1], [7, 8]), (1, [], []), (2, [0], [9])):
        part = {k: v[row : row + 1] for k, v in rows.items()}
        part["slot_index"] = torch.tensor(slots, dtype=torch.int64)
        part["target_ids"] = torch.tensor(targets, dtype=torch.int64)
        groups = [[[i] for i in range(len(slots))]] if slots else []
        part["group_slots"] = torch.tensor(groups, dtype=torch.int64).view(len(groups), len(slots), min(1, len(slots)))
        part["group_size"] = torch.tensor([len(slots)] if slots else [], dtype=torch.int64)
        parts.append(part)
    again = accumulate(accelerator, split, loss_of, parts)
    assert again["loss"].item() == pytest.approx(found["loss"].item(), rel=1e-5) and again["count"] == 3
    for (name, one), (_, two) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_a_parameter_that_nothing_trains_is_named():
    model = small_model(VivoForTagPretraining)
    model.vivo.forgotten = nn.Linear(2, 2)
    batch = tag_batch()
    accumulate(Accelerator(cpu=True), model, loss_of, [batch])
    with pytest.raises(UserError, match=r"no gradient for 2 parameters .* vivo.forgotten.weight, vivo.forgotten.bias"):
        check_all_have_gradients(model)


def test_frozen_and_undecayed_parameters_are_named_layers_together():
    model = small_model(VivoForTagPretraining)
    model.freeze_vocabulary()
    without, frozen = name_parameters(model)
    assert frozen == "frozen: vivo.embeddings.word.weight, head.bias"
    # all biases and norms but the frozen bias; six of each layer are named once
    named = without.removeprefix("without decay: ").split(", ")
    assert named == [
        *(f"vivo.embeddings.norm.{kind}" for kind in ("weight", "bias")), "vivo.regions.linear.bias",
        "vivo.layers.*.qkv.bias", "vivo.layers.*.attention_output.bias", "vivo.layers.*.attention_norm.weight",
        "vivo.layers.*.attention_norm.bias", "vivo.layers.*.feed_forward_in.bias",
        "vivo.layers.*.feed_forward_out.bias", "vivo.layers.*.feed_forward_norm.weight",
        "vivo.layers.*.feed_forward_norm.bias", "head.dense.bias", "head.norm.weight", "head.norm.bias",
    ]  # fmt: skip
    # the names are those of the optimizer's groups
    _, undecayed = build_optimizer(model, OptimConfig()).param_groups
    assert sum(3 if "*" in name else 1 for name in named) == len(undecayed["params"])

    model.requires_grad_(True)
    assert name_parameters(model)[1] == "frozen: none"
    for layer in (0, 2):  # not all layers: no star
        model.vivo.layers[layer].qkv.weight.requires_grad_(False)
    assert name_parameters(model)[1] == "frozen: vivo.layers.0.qkv.weight, vivo.layers.2.qkv.weight"


SHORT = ("optim.duration=6steps", "optim.warmup=1step", "optim.batch_size=4", "tracking.save_every=2steps",
         "tracking.keep=9")  # fmt: skip


@pytest.fixture(scope="module")
def six(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates with averages, whose checkpoints stay."""
    out = tmp_path_factory.mktemp("six") / "run"
    pretrain(config_for(tiny_world, out, "tags", *SHORT, "optim.ema=0.9"))
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def equal(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_rules_of_resume(tiny_world: Path, tmp_path: Path, six: Path):
    """In the order of engine.py's list."""
    at_two = six / "checkpoints" / "step_00000002"

    def again(name: str, *overrides: str) -> Path:
        pretrain(config_for(tiny_world, tmp_path / name, "tags", *SHORT, "optim.ema=0.9", *overrides))
        return tmp_path / name

    shutil.copytree(six, tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "model")
    with pytest.raises(UserError, match="holds checkpoints, but engine.resume is never"):
        again("own", "engine.resume=never")
    for late in list_checkpoints(tmp_path / "own" / "checkpoints")[1:]:
        shutil.rmtree(late)
    assert equal(again("own", f"engine.resume={at_two.with_name('step_00000004')}"), six)  # its own, of step 2, wins
    assert [r["step"] for r in read_records(tmp_path / "own" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert equal(again("other", f"engine.resume={at_two}"), six)
    assert [r["step"] for r in read_records(tmp_path / "other" / "metrics.jsonl")] == [3, 4, 5, 6]
    assert equal(again("never", "engine.resume=never"), six)
    for change, what in (
        ("seed=1", "seed 0, and now it is 1"),
        ("optim.batch_size=8", "batch_size 4, and now it is 8"),
    ):
        with pytest.raises(UserError, match=what):
            again("changed", f"engine.resume={at_two}", change)
    frozen = config_for(tiny_world, tmp_path / "frozen", "tags", *SHORT, "model.freeze_embeddings=true")
    pretrain(frozen)
    with pytest.raises(UserError, match="was trained with model.freeze_embeddings True, and now it is False"):
        pretrain(config_for(tiny_world, tmp_path / "frozen", "tags", *SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tiny_world: Path, tmp_path: Path, six: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(six, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    first, before, last = list_checkpoints(tmp_path / "checkpoints")
    (last / name).write_bytes((last / name).read_bytes()[:-3])
    pretrain(config_for(tiny_world, tmp_path, "tags", *SHORT, "optim.ema=0.9"))
    said = capsys.readouterr()
    assert f"checkpoint passed over: {last / name}: " in said.out and "resumed at 4" in said.err
    assert equal(tmp_path, six) and (last.with_name(f"{last.name}.damaged")).is_dir()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [first.name, before.name, last.name]


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_without_any_whole_checkpoint_there_is_an_error(
    tiny_world: Path, tmp_path: Path, six: Path
):
    shutil.copytree(six / "checkpoints", tmp_path / "checkpoints")
    for checkpoint in list_checkpoints(tmp_path / "checkpoints"):
        file = checkpoint / "optimizer.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"optimizer.safetensors: is damaged \(its SHA-256"):
            open_checkpoint(checkpoint)
    with pytest.raises(UserError, match="none of its 3 checkpoints is whole; remove them to begin again"):
        pretrain(config_for(tiny_world, tmp_path, "tags", *SHORT, "optim.ema=0.9"))


@pytest.mark.slow
def test_averages_are_the_model_and_survive_a_resume(tiny_world: Path, tmp_path: Path, six: Path):
    plain = tmp_path / "plain"
    pretrain(config_for(tiny_world, plain, "tags", *SHORT))
    last = six / "checkpoints" / "step_00000004"
    assert not equal(plain, six)
    # the averages change nothing that is learned
    one, two = (load_file(run / "checkpoints" / last.name / "model.safetensors") for run in (plain, six))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(UserError, match="has no averages of the weights"):
        pretrain(config_for(tiny_world, tmp_path / "a", "tags", *SHORT, "optim.ema=0.9",
                            f"engine.resume={plain / 'checkpoints' / last.name}"))  # fmt: skip


@pytest.mark.slow
def test_a_checkpoint_says_what_it_is_and_holds_no_pickle(six: Path):
    (*_, last) = list_checkpoints(six / "checkpoints")
    found = open_checkpoint(last)
    assert found.step == 6 and found.run["optim.batch_size"] == 4 and found.run["objective"] == "tags"
    assert {file.suffix for file in last.iterdir()} <= {".safetensors", ".json"}
    state = json.loads((last / "state.json").read_text())
    assert set(state["files"]) == {file.name for file in last.iterdir()} - {"state.json"}
    said: list[str] = []
    assert newest_checkpoint(six / "checkpoints", said.append).step == 6 and not said
    other = small_model(VivoForTagPretraining)
    with pytest.raises(UserError, match="is of another model"):
        load_checkpoint(last, other, torch.optim.AdamW(other.parameters()))


@pytest.mark.slow
def test_the_best_model_is_kept(tiny_world: Path, tmp_path: Path):
    references = tiny_world / "world" / "coco" / "captions_val.json"
    finetune(config_for(
        tiny_world, tmp_path, "captions", "init=minilm", *SHORT, "tracking.validate_every=2steps",
        "tracking.best=validation_words", f"data.validation_references={references}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    ))  # fmt: skip
    validations = [r for r in read_records(tmp_path / "metrics.jsonl") if "validation_words" in r]
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    highest = max(r["validation_words"] for r in validations)
    assert len(validations) == 3 and best["validation_words"] == highest
    assert best["step"] == next(r["step"] for r in validations if r["validation_words"] == highest)
    assert VivoForCaptioning.from_pretrained(tmp_path / "best").config.training_stage == "captions"
    assert {"validation_CIDEr", "validation_CIDEr_shuffled", "validation_repetition", "validation_alarms"} <= set(
        validations[0]
    )
    with pytest.raises(UserError, match="tracking.best: a validation has no number loss"):
        finetune(config_for(
            tiny_world, tmp_path / "wrong", "captions", "init=minilm", *SHORT, "tracking.validate_every=2steps",
            "tracking.best=loss", f"data.validation_references={references}",
            f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
        ))  # fmt: skip


def test_the_rule_to_stop_by_hand(tmp_path: Path):
    """Two validations in a row without a new best; an equal value is none. A checkpoint's state goes on counting."""
    best = Best(tmp_path, "x", 2, None)
    for done, value, better in ((0, 1.0, True), (5, 0.5, False), (10, 2.0, True), (15, 2.0, False)):
        assert best.take(done, {"x": value}) == better and best.over() == ""
    again = Best(tmp_path, "x", 2, json.loads(json.dumps(best.state())))
    for rule in (best, again):
        assert not rule.take(20, {"x": 1.9})
        assert rule.over().startswith("x has not risen above 2, that of update 10, in 2 validations")
    assert Best(tmp_path, "x", 0, best.state()).over() == ""  # 0: never
    other = Best(tmp_path, "y", 2, best.state())  # another metric begins anew
    assert other.take(25, {"y": -5.0}) and other.state() == {"metric": "y", "value": -5.0, "step": 25, "without": 0}


@pytest.mark.slow
def test_a_run_that_does_not_rise_ends_and_keeps_its_start(tiny_world: Path, tmp_path: Path, capsys):
    """A rate so small that no caption changes: the first validation stays the best, and two more end the run."""
    config = config_for(
        tiny_world, tmp_path, "captions", "init=minilm", "optim.duration=9steps", "optim.warmup=", "optim.batch_size=2",
        "optim.lr=1e-12", "tracking.validate_every=2steps", "tracking.save_every=3steps",
        "tracking.best=validation_words", "tracking.validate_start=true", "tracking.stop_after=2",
        f"data.validation_references={tiny_world / 'world' / 'coco' / 'captions_val.json'}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    )  # fmt: skip
    finetune(config)
    assert "ended after update 4 of 9" in capsys.readouterr().err
    records = read_records(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if "validation_words" in r] == [0, 2, 4]
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 0
    shutil.rmtree(tmp_path / "model")
    finetune(config)  # goes on from update 3 and ends where it did
    assert "resumed at 3" in (again := capsys.readouterr().err) and "ended after update 4 of 9" in again
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if "validation_words" in r] == [0, 2, 4]
    assert (tmp_path / "model" / "model.safetensors").is_file()
