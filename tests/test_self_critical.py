"""Self-critical training: its gradient against enumeration, its probabilities against the sampler's, and whole runs."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_modeling import SHAPE, small_context
from test_training import config_for, run_until
from training_runs import run, same_weights

from vivo.config import TrainConfig, load_config
from vivo.data.collate import Limits, SampleCollator
from vivo.data.examples import read_caption_examples, write_caption_examples
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.losses import self_critical_loss
from vivo.metrics.reward import CaptionReward
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.training.checkpoint import list_checkpoints
from vivo.training.runs import finetune, self_critical
from vivo.training.self_critical import SelfCritical, others_baseline, scst_loss
from vivo.training.tasks import caption_loss_of, drop_worst_of
from vivo.training.tracking import read_records
from vivo.weights import bert_folder

ROOT = Path(__file__).resolve().parents[1]

# ---- the estimator ---------------------------------------------------------------------------

WORDS, END = 3, 2
SEQUENCES = [(END,), *((w, last) for w, last in product(range(WORDS - 1), range(WORDS)))]  # two tokens at most
REWARDS = dict(zip(SEQUENCES, [0.3, 2.0, -1.0, 0.7, 1.1, 0.0, 3.0], strict=True))


def toy_logits(parameters: torch.Tensor, sequence: tuple[int, ...]) -> torch.Tensor:
    """[tokens, V]: the first token's logits, and the second's, which hang on the first."""
    return parameters[[0, 1 + sequence[0]][: len(sequence)]]


def log_p(parameters: torch.Tensor, sequence: tuple[int, ...]) -> torch.Tensor:
    rows = toy_logits(parameters, sequence).log_softmax(-1)
    return sum(rows[place, token] for place, token in enumerate(sequence))


def gradient_of_expected_reward(parameters: torch.Tensor) -> torch.Tensor:
    wanted = parameters.detach().clone().requires_grad_()
    sum(log_p(wanted, s).exp() * REWARDS[s] for s in SEQUENCES).backward()
    return wanted.grad


def gradient_of_loss(parameters: torch.Tensor, samples: list[tuple[int, ...]], advantages: list[float]) -> torch.Tensor:
    leaf = parameters.detach().clone().requires_grad_()
    logits = torch.cat([toy_logits(leaf, s) for s in samples])
    lengths = torch.tensor([len(s) for s in samples])
    targets = torch.tensor([token for s in samples for token in s])
    self_critical_loss(logits, targets, torch.tensor(advantages).repeat_interleave(lengths))["loss"].backward()
    return leaf.grad


@pytest.mark.parametrize("baseline", [0.0, 5.0])
def test_expected_gradient_is_that_of_the_expected_reward(baseline: float):
    """Over all sequences by their probability; a constant baseline (as the greedy caption's reward is) has no part."""
    parameters = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(0))
    assert sum(log_p(parameters, s).exp() for s in SEQUENCES).item() == pytest.approx(1.0)
    found = sum(
        log_p(parameters, s).exp() * gradient_of_loss(parameters, [s], [REWARDS[s] - baseline]) for s in SEQUENCES
    )
    torch.testing.assert_close(found, -gradient_of_expected_reward(parameters), rtol=1e-4, atol=1e-6)


def test_the_mean_of_the_others_is_unbiased():
    """Over all pairs of samples: the gradient of both is twice that of the expected reward."""
    parameters = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(1))
    found = torch.zeros_like(parameters)
    for pair in product(SEQUENCES, repeat=2):
        rewards = np.array([[REWARDS[s] for s in pair]])
        advantages = (rewards - others_baseline(rewards))[0].tolist()
        probability = (log_p(parameters, pair[0]) + log_p(parameters, pair[1])).exp()
        found += probability * gradient_of_loss(parameters, list(pair), advantages)
    torch.testing.assert_close(found, -2 * gradient_of_expected_reward(parameters), rtol=1e-4, atol=1e-6)


def test_the_mean_of_the_others_by_hand():
    found = others_baseline(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]))
    assert found.tolist() == [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]]


# ---- one model, two ways ---------------------------------------------------------------------

LIMITS = Limits(max_regions=6, max_tag_tokens=5, max_caption_tokens=12, tag_position_offset=20)
CAPTIONS = [["a dog on the grass", "a dog"], ["a red car"], ["two cats on a bed"]]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


def captioner(tokenizer, likely: tuple[str, ...] = (), **more) -> VivoForCaptioning:
    """A small random captioner over the real vocabulary that ends now and then.

    likely: words whose bias makes them common; without any, all 30,522 pieces are drawn.
    """
    torch.manual_seed(0)
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    model = VivoForCaptioning(VivoConfig(**SHAPE | {"vocab_size": len(tokenizer)} | names | more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for word in likely:
            model.head.bias[tokenizer.convert_tokens_to_ids(word)] += 14.0
        model.head.bias[tokenizer.sep_token_id] += 12.5 if likely else 9.0
    return model


def pictures(tokenizer, samples: int = 4, tokens: int = 8, epoch: int = 0):
    """A batch of three pictures as SampleCollator makes it."""
    rng = np.random.default_rng(0)
    regions = [
        Regions(
            np.array([[0, 0, 5, 5]] * n, dtype=np.float32),
            rng.standard_normal((n, 10)).astype(np.float32),
            [""] * n,
            np.ones(n, dtype=np.float32),
            10,
            10,
        )
        for n in (6, 1, 3)
    ]
    tags = [["dog", "grass"], [], ["cat"]]
    collator = SampleCollator(tokenizer, LIMITS, 0, samples, tokens, 0.0)
    return collator([(epoch, str(i), tags[i], CAPTIONS[i], regions[i]) for i in range(3)])


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_the_gradient_pass_has_the_samplers_probabilities(tokenizer, baseline: str):
    """Within 1e-5, of finished and of unfinished samples alike; dropout is off while sampling, whatever the mode."""
    model = captioner(tokenizer, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
    prepare = SelfCritical(tokenizer, CaptionReward(CAPTIONS), ["0", "1", "2"], baseline)
    batch = prepare(model, pictures(tokenizer), 0)
    assert model.training and "draws" not in batch
    assert 0 < batch["ended"].sum() < 3
    output = model.eval()(batch)
    log_p = output["logits"].log_softmax(-1).gather(1, batch["target_ids"][:, None])[:, 0]
    assert (log_p - batch["sampled_log_p"]).abs().max().item() < 1e-5
    assert log_p.std() > 0.5  # they are not all the same
    assert scst_loss(output, batch)["off_policy"].item() / len(log_p) < 1e-5
    again = prepare(model, pictures(tokenizer), 7)  # nothing hangs on the step
    assert all(torch.equal(batch[name], again[name]) for name in batch if name != "image_ids")
    other = prepare(model, pictures(tokenizer, epoch=1), 0)
    assert not torch.equal(other["draws"] if "draws" in other else other["target_ids"][:9], batch["target_ids"][:9])


def test_rewards_baselines_and_advantages_fit_together(tokenizer):
    model = captioner(tokenizer, ("a", "dog", "red", "car", "cats", "on"))
    found = {}
    for baseline in ("others", "greedy"):
        prepare = SelfCritical(tokenizer, CaptionReward(CAPTIONS), ["0", "1", "2"], baseline)
        batch = pictures(tokenizer)
        samples, greedy = prepare.decode(model, batch)
        found[baseline] = prepare(model, batch, 0)
        of_token = iter(found[baseline]["advantages"].tolist())
        for row, (rewards, baselines) in enumerate(
            zip(found[baseline]["rewards"], found[baseline]["baselines"], strict=True)
        ):
            for k, sample in enumerate(samples[row]):
                expected = (rewards[k] - baselines[k]).item()
                ours = [next(of_token) for _ in sample.token_log_probabilities]
                assert ours == pytest.approx([expected] * len(ours), abs=1e-6)
        assert next(of_token, None) is None
    others, by_greedy = found["others"], found["greedy"]
    assert torch.equal(others["rewards"], by_greedy["rewards"]) and others["rewards"].max() > 0.1
    assert others["baselines"].numpy() == pytest.approx(others_baseline(others["rewards"].numpy()), abs=1e-5)
    assert (by_greedy["baselines"] == by_greedy["baselines"][:, :1]).all() and len(greedy) == 3


def test_samples_of_a_picture_share_its_context_exactly(tokenizer):
    """The gradient of all samples in one row is that of each sample in a row of its own."""
    model = captioner(tokenizer)
    prepare = SelfCritical(tokenizer, CaptionReward(CAPTIONS), ["0", "1", "2"], "others")
    batch = pictures(tokenizer)
    samples, _ = prepare.decode(model, batch)
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    context = {name: batch[name] for name in small_context()}
    together = context | prepare.text(samples, rewards, torch.zeros(3, 4))
    scst_loss(model(together), together)["loss"].backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    for k in range(4):
        one = context | prepare.text([[row[k]] for row in samples], rewards[:, k : k + 1], torch.zeros(3, 1))
        scst_loss(model(one), one)["loss"].backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_worst_tokens_are_left_out_from_a_step_on(minimal_captions):
    """Captions alone carry the share, from `loss.drop_worst_from` on; 5 percent of 100 updates are 5."""
    prepare = drop_worst_of(minimal_captions, 50)
    captions, tags = {"text_ids": torch.zeros(1, 1)}, {"tag_ids": torch.zeros(1, 1)}
    assert "drop_worst" not in prepare(None, captions, 4) and "drop_worst" not in prepare(None, tags, 5)
    assert prepare(None, captions, 5)["drop_worst"].item() == 0.2 and "drop_worst" not in captions
    logits, targets = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(10, dtype=torch.int64)
    loss = caption_loss_of(minimal_captions)
    whole = loss({"logits": logits}, {"target_ids": targets})
    part = loss({"logits": logits}, {"target_ids": targets, **prepare(None, captions, 5)})
    assert part["loss"] < whole["loss"] and part["count"] == whole["count"] == 10


@pytest.fixture
def minimal_captions() -> TrainConfig:
    return load_config(
        ROOT / "configs" / "finetune" / "world.yaml",
        ["loss.drop_worst=0.2", "loss.drop_worst_from=5 percent", "optim.duration=100 steps"],
    )


# ---- whole runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four captioned pictures (four.jsonl) and a captioner that has begun to learn them (start/model)."""
    folder = tmp_path_factory.mktemp("four")
    chosen = list(read_caption_examples(tiny_world / "examples" / "captions.jsonl"))[:4]
    write_caption_examples(chosen, folder / "four.jsonl")
    finetune(config_for(
        tiny_world, folder / "start", "captions", f"data.examples={folder / 'four.jsonl'}", "init=minilm",
        "optim.duration=25steps", "optim.lr=1e-3", "optim.batch_size=4", "data.tag_dropout=0",
        "optim.warmup=2 steps",
    ))  # fmt: skip
    return folder


def program(world: Path, folder: Path, out: Path) -> list[str]:
    """finetune/train_scst.py on the four pictures, without validation."""
    return [
        "finetune/train_scst.py", "configs/finetune/world_scst.yaml", f"out={out}",
        f"init={folder / 'start' / 'model'}", f"data.examples={folder / 'four.jsonl'}",
        f"data.regions={world / 'regions' / 'coco'}", f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}",
        "data.validation_regions=", "data.validation_references=", "tracking.validate_every=",
        "tracking.validate_start=false", "tracking.best=", "tracking.stop_after=0", "tracking.log_every=1step",
        "optim.batch_size=4", "optim.warmup=", "optim.precision=fp32", "scst.max_tokens=12",
    ]  # fmt: skip


def scst_config(world: Path, folder: Path, out: Path, *overrides: str) -> TrainConfig:
    """The same as a configuration."""
    _, file, *settings = program(world, folder, out)
    return load_config(ROOT / file, [*settings, *overrides])


@pytest.mark.slow
def test_the_reward_of_four_scenes_rises(tiny_world: Path, four: Path, tmp_path: Path):
    self_critical(scst_config(
        tiny_world, four, tmp_path, "optim.duration=20steps", "optim.lr=1e-4", "optim.schedule=constant",
    ))  # fmt: skip
    records = read_records(tmp_path / "metrics.jsonl")
    rewards = [record["reward"] for record in records]
    assert np.mean(rewards[-5:]) > 1.4 * np.mean(rewards[:5]), rewards
    assert all(r["off_policy"] < 1e-5 for r in records)
    assert records[-1]["entropy"] < records[0]["entropy"] and all(0 < r["distinct"] <= 1 for r in records)
    assert {"baseline", "advantage", "words", "ended", "reward"} <= set(records[0])


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tiny_world: Path, four: Path, tmp_path: Path, monkeypatch):
    """Stopped after update 4 of 6 (checkpoint at 3): the same weights, bit for bit, and the same rewards."""
    monkeypatch.setattr("test_training.pretrain", self_critical)  # what `run_until` starts
    settings = ("optim.duration=6 steps", "tracking.save_every=3 steps", "optim.batch_size=3", "scst.baseline=greedy")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    self_critical(scst_config(tiny_world, four, whole, *settings))
    run_until(4, scst_config(tiny_world, four, broken, *settings), monkeypatch)
    assert [p.name for p in list_checkpoints(broken / "checkpoints")] == ["step_00000003"]
    self_critical(scst_config(tiny_world, four, broken, *settings))
    assert same_weights(whole, broken)
    kept = ("loss", "reward", "baseline", "entropy")
    one, two = ([[r[k] for k in kept] for r in read_records(out / "metrics.jsonl")] for out in (whole, broken))
    assert one == two and len(one) == 6


@pytest.mark.slow
def test_two_processes_sample_and_learn_as_one(tiny_world: Path, four: Path, tmp_path: Path):
    """With baseline others the gradients of what all samples of a picture share cancel to rounding errors, which the
    first update of AdamW would make as large as any other; a large `eps` leaves them small. Two updates: in a third
    weights that differ by 6e-8 drew one word another than before, which lay that near to its neighbour."""
    settings = ("optim.duration=2steps", "optim.eps=1e-3")
    for processes, name, more in ((1, "one", ()), (2, "two", ()), (1, "parts", ("optim.micro_batch_size=2",))):
        run(processes, [*program(tiny_world, four, tmp_path / name), *settings, *more])
    kept = ("loss", "reward", "baseline", "advantage", "entropy", "words", "distinct", "ended", "tokens_per_step")
    found = {
        name: [[r[k] for k in kept] for r in read_records(tmp_path / name / "metrics.jsonl")]
        for name in ("one", "two", "parts")
    }
    assert len(found["one"]) == 2 and found["one"][0][1] > 0
    weights = {name: load_file(next((tmp_path / name).rglob("model.safetensors"))) for name in found}
    for name in ("two", "parts"):
        for key, value in weights["one"].items():
            torch.testing.assert_close(weights[name][key], value, rtol=0, atol=1e-6)
        assert found[name][0] == pytest.approx(found["one"][0], rel=1e-5), name
        for ours, expected in zip(found[name], found["one"], strict=True):
            assert ours == pytest.approx(expected, rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused(tiny_world: Path, four: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no fine-tuned captioner; give the model folder of finetune/train.py"):
        self_critical(scst_config(tiny_world, four, tmp_path / "a", "init=minilm", "optim.duration=1step"))
    for override, words in (
        ("scst.samples=1", "scst.samples: baseline others compares"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing: is of cross-entropy; objective scst wants 0.0"),
        ("loss.competing=used", "loss.competing: is of cross-entropy; objective scst wants all"),
        ("tracking.stop_after=1", "tracking.stop_after: needs tracking.best"),
    ):
        with pytest.raises(UserError, match=words):
            scst_config(tiny_world, four, tmp_path / "b", override)
