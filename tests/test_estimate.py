"""--print-config, --estimate, --dry-run: the estimate against what real updates hold, and a dry run's clean end."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from live_bytes import LiveBytes

from finetune.train import main as finetune_main
from pretrain.train import main as pretrain_main
from vivo import layers, modeling
from vivo.config import TrainConfig, configs_dir, load_config, to_yaml
from vivo.data.regions import RegionStore
from vivo.data.vocabulary import write_pieces
from vivo.errors import UserError
from vivo.training import dry_run as dry_runs
from vivo.training.dry_run import dry_run
from vivo.training.estimate import checkpoint_bytes, describe, memory_of, parameters_of, picture_bytes
from vivo.training.plan import plan_of
from vivo.training.runs import finetune, pretrain, self_critical
from vivo.training.tracking import read_records

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN, FINETUNE = configs_dir() / "pretrain" / "vivo_base.yaml", configs_dir() / "finetune" / "vivo_xe.yaml"
SCST = configs_dir() / "finetune" / "vivo_scst.yaml"
SMALL = ["model.layers=3", "model.hidden_size=192", "model.heads=6", "model.intermediate_size=768"]
PAIRS = ["data.pairs=nowhere.jsonl"]
TOLERANCE = 0.15
OF_SAMPLES = 0.25  # of self-critical training the estimate is above: samples are not all of full length at once


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Accelerate keeps the first precision that a process asks for."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "fused", "overrides"),
    [
        ("tags", False, ["optim.precision=fp32"]),
        ("tags", False, ["optim.precision=bf16", "optim.batch_size=16"]),
        ("tags", True, ["optim.precision=fp32", "model.dropout=0"]),
        ("tags", False, ["optim.precision=fp32", "optim.ema=0.9", "optim.micro_batch_size=8"]),
        ("tags", False, ["optim.precision=fp32", "engine.activation_checkpointing=true"]),
        ("captions", False, ["optim.precision=fp32"]),
        (
            "captions",
            False,
            ["optim.precision=bf16", "optim.batch_size=8", "masking.caption=dense", "data.captions_per_picture=2"],
        ),
        ("scst", False, ["optim.precision=fp32", "optim.batch_size=8"]),
        ("pairs", False, ["optim.precision=fp32", *PAIRS]),
        ("both", False, ["optim.precision=fp32", *PAIRS]),
    ],
)
def test_memory_of_real_updates(
    stage: str,
    fused: bool,
    overrides: list[str],
    any_precision: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """The most bytes that tensors hold during two updates, within the stated tolerance; checkpoints to 1 %."""
    if fused:  # what a GPU does
        monkeypatch.setattr(layers, "_attention_kernel", lambda x: nullcontext())
        monkeypatch.setattr(modeling.VivoModel, "in_blocks", False)
    path, real = {
        "captions": (FINETUNE, finetune),
        "scst": (SCST, partial(self_critical, from_anything=True)),
    }.get(stage, (PRETRAIN, pretrain))
    write_pieces((f"piece{number}" for number in range(3000)), tmp_path / "vocabulary.txt")
    sizes = [*SMALL, "optim.batch_size=32", f"model.vocabulary={tmp_path / 'vocabulary.txt'}"]
    sizes.append(f"objective={stage}")
    plan = plan_of(load_config(path, [*sizes, *overrides]))
    counted, saved = LiveBytes(), []

    def train(config: TrainConfig) -> Path:
        with counted:
            model = real(config)
        saved.append((model / "model.safetensors").stat().st_size)
        return model

    found = dry_run(plan, train)
    assert set(found.kinds) == ({"tags", "pairs"} if stage == "both" else {stage})
    assert (
        all(math.isfinite(kind.loss) for kind in found.kinds.values())
        and found.pictures == plan.per_process
        and found.rate > 0
    )
    tolerance = OF_SAMPLES if stage == "scst" else TOLERANCE
    assert memory_of(plan, cpu=not fused).total == pytest.approx(counted.peak, rel=tolerance)
    assert saved[0] == pytest.approx(4 * parameters_of(plan).all, rel=0.01)


def test_parameters_and_checkpoint_of_bert_base():
    """BERT-base (110 M with its pooler) with a region projection of 2,054 numbers and without the pooler."""
    plan = plan_of(load_config(PRETRAIN), 64)
    word, position, segment, norm = 30522 * 768, 512 * 768, 2 * 768, 2 * 768
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 2 * norm
    head = 768 * 768 + 768 + norm + 30522
    expected = word + position + segment + norm + 12 * layer + head + 2054 * 768 + 768
    count = parameters_of(plan)
    assert (count.all, count.trained) == (expected, expected)
    assert checkpoint_bytes(plan) == 12 * expected
    frozen = parameters_of(plan_of(load_config(FINETUNE), 8))
    assert frozen.all - frozen.trained == word + 30522
    assert (plan.per_process, plan.micro_batch, plan.steps(None)) == (16, 16, 160_000)


def test_memory_by_hand():
    """Weights, gradients (twice, for DDP's buckets) and AdamW's averages of a model of P parameters."""
    config = load_config(PRETRAIN, ["optim.ema=0.99"])
    one, many = plan_of(config, 1), plan_of(config, 64)
    p = parameters_of(one).all
    assert (memory_of(one).weights, memory_of(one).gradients, memory_of(one).optimizer) == (4 * p, 4 * p, 12 * p)
    assert memory_of(many).gradients == 8 * p
    assert memory_of(one).activations > 30 * memory_of(many).activations / 2  # 1,024 pictures against 16


def test_steps_hours_and_disk():
    config = load_config(PRETRAIN, ["optim.duration=2 epochs", "optim.batch_size=100"])
    lines = {line[:16].strip(): line[16:] for line in describe(plan_of(config, 4), 1000, 10.0)}
    assert lines["steps"] == "20 updates, 2,000 pictures seen, 2.0 epochs"
    assert lines["hours"].startswith("0.0 (0 GPU hours) at 10.0 pictures/s a GPU (given)")
    assert lines["batch"].startswith("100 = 4 x 1 micro-batches x 25 pictures of 50 regions and 15 tag tokens")
    assert lines["region store"] == "0.21 GB for 1,000 pictures of 50 regions"
    unknown = {line[:16].strip(): line[16:] for line in describe(plan_of(config, 4), None, None)}
    assert "--pictures" in unknown["steps"] and "--pictures" in unknown["region store"] and "hours" not in unknown
    # 163.84 million pictures at 64 x 1,000 a second
    full = describe(plan_of(load_config(PRETRAIN), 64), 1_700_000, 1000.0)
    assert any(line.startswith("hours           0.7 (46 GPU hours)") for line in full)


def test_two_kinds_of_updates(tmp_path: Path):
    """The larger kind is what memory must hold; the number of updates of each; pictures of both sets."""
    changes = [*PAIRS, "optim.duration=1000steps", "optim.batch_size=8", "data.pairs_share=0.29"]

    def estimated(objective: str, *more: str) -> int:
        return memory_of(plan_of(load_config(PRETRAIN, [*changes, f"objective={objective}", *more]))).total

    assert estimated("tags") < estimated("pairs") == estimated("both")
    many_tags = ("model.max_tag_tokens=200", "masking.share_max=1", "model.max_caption_tokens=3")
    assert estimated("pairs", *many_tags) < estimated("tags", *many_tags) == estimated("both", *many_tags)

    for name, count in (("tags", 30), ("pairs", 12)):
        (tmp_path / f"{name}.jsonl").write_text('{"image_id": "1"}\n' * count)
    files = [f"data.examples={tmp_path / 'tags.jsonl'}", f"data.pairs={tmp_path / 'pairs.jsonl'}"]
    plan = plan_of(load_config(PRETRAIN, [*changes, "objective=both", *files]))
    lines = {line[:16].strip(): line[16:] for line in describe(plan, None, None)}
    assert lines["steps"] == "1,000 updates (710 of tags, 290 of pairs), 8,000 pictures seen, 190.5 epochs"
    assert lines["batch"].endswith("50 regions and 15 tag tokens, 78 of text in updates of pairs")
    assert "for 42 pictures" in lines["region store"]
    assert plan_of(load_config(PRETRAIN, [*changes, "objective=pairs", *files])).pictures(None) == 12
    assert plan_of(load_config(PRETRAIN, [*changes, "objective=both", files[0]])).pictures(None) is None


def test_pairs_with_regions_of_their_own_have_the_features_of_those():
    stores = ["data.regions=", "data.pairs_regions=nowhere"]
    notes = plan_of(load_config(PRETRAIN, [*PAIRS, *stores, "objective=pairs"])).notes
    assert "data.pairs_regions nowhere is not there: 2,048 numbers a region, as in the paper" in notes


@pytest.mark.slow
def test_a_dry_run_measures_updates_of_both_kinds(any_precision: None):
    """Two updates of each kind by turns, put together in the run's own share."""
    changes = [*SMALL, *PAIRS, "objective=both", "optim.batch_size=8", "data.pairs_share=0.25", "data.hints=detector"]
    plan = plan_of(load_config(PRETRAIN, [*changes, "data.pairs_tags=labels"]))
    records = []

    def train(config: TrainConfig) -> Path:
        model = pretrain(config)
        records.extend(read_records(Path(config.out) / "metrics.jsonl"))
        return model

    found = dry_run(plan, train)
    assert ["pairs" if "pairs/loss" in r else "tags" for r in records] == ["tags", "pairs", "tags", "pairs"]
    seconds = [8 / r["pictures_per_second"] for r in records]
    tags, pairs = found.kinds["tags"], found.kinds["pairs"]
    assert [tags.first_seconds, pairs.first_seconds, tags.seconds, pairs.seconds] == pytest.approx(seconds)
    assert (tags.loss, pairs.loss) == (records[2]["tags/loss"], records[3]["pairs/loss"])
    assert found.rate == pytest.approx(8 / (0.75 * seconds[2] + 0.25 * seconds[3]))
    lines = {line[:16].strip(): line[16:] for line in dry_runs.describe(plan, found)}
    assert lines["loss of pairs"] == f"{pairs.loss:.3f}" and lines["time of tags"].startswith(f"{tags.seconds:.2f} s")
    assert lines["time"] == f"{found.seconds:.2f} s an update of 75% tags and 25% pairs: {found.rate:.1f} pictures/s"


@pytest.mark.slow
def test_bytes_of_a_picture_are_those_of_a_real_store(tiny_world: Path):
    store = RegionStore(tiny_world / "regions" / "coco")
    regions = store.manifest["regions"] / len(store)
    real = sum(shard["bytes"] for shard in store.manifest["shards"]) / len(store)
    assert picture_bytes(regions, store.feature_size) == pytest.approx(real, rel=0.1)


def test_print_config_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overrides = ["optim.lr=3e-4", "data.tag_file=a:b", "optim.warmup="]
    for main, path in ((pretrain_main, PRETRAIN), (finetune_main, FINETUNE)):
        assert main([str(path), *overrides, "--print-config"]) == 0
        (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
        assert to_yaml(load_config(tmp_path / "printed.yaml")) == to_yaml(load_config(path, overrides))


@pytest.mark.slow
def test_a_dry_run_of_64_gpus_needs_no_file_and_leaves_none(tmp_path: Path):
    """In an empty folder, in a process of its own: two updates of 1,024 / 64 pictures, the estimate at their rate."""
    for stage, path, extra in (
        ("pretrain", PRETRAIN, ["data.hints=file", "data.tag_file=none.jsonl", "loss.competing=used"]),
        ("finetune", FINETUNE, ["data.tags=self", "optim.batch_size=1024"]),
    ):
        (tmp_path / "temporary").mkdir(exist_ok=True)
        command = [sys.executable, ROOT / stage / "train.py", path, *SMALL, *extra, "--dry-run", "--estimate"]
        done = subprocess.run(
            [*command, "--gpus", "64", "--pictures", "1700000"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary"), "PATH": "", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = {line[:16].strip(): line[16:] for line in done.stdout.splitlines()}
        assert lines["dry run"].startswith("16 pictures, one process of 64, on CPU")
        assert "is not there: 3 layers of width 192" in done.stdout and "pictures/s" in lines["time"]
        assert lines["memory"].endswith("above that of the libraries")
        assert "of the dry run on CPU" in lines["hours"] and float(lines["loss"]) > 0
        left = [p for p in tmp_path.rglob("*") if p.is_file() or p.name.startswith("vivo-dry-run")]
        assert left == []


@pytest.mark.slow
def test_a_dry_run_takes_the_shape_of_weights_that_are_there(any_precision: None, tmp_path: Path):
    """A model of ours with a vocabulary of its own, and the folder of a text model cut to one layer."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    modeling.VivoForCaptioning(modeling.VivoConfig(vocab_size=500, feature_size=32, **sizes)).save_pretrained(
        tmp_path / "model"
    )
    seen = []

    def train(config: TrainConfig) -> Path:
        model = finetune(config)
        seen.append(modeling.VivoForCaptioning.from_pretrained(model).config)
        return model

    dry_run(plan_of(load_config(FINETUNE, [f"init={tmp_path / 'model'}", "optim.batch_size=4"])), train)
    sizes = (seen[0].vocab_size, seen[0].hidden_size, seen[0].num_hidden_layers, seen[0].feature_size)
    assert sizes == (500, 48, 2, 32)
    plan = plan_of(load_config(PRETRAIN, ["init=minilm", "model.layers=1"]))
    assert (plan.shape.layers, plan.shape.width, plan.shape.pieces) == (1, 384, 30522)


def test_sizes_that_a_configuration_leaves_out_are_those_of_bert_base(tmp_path: Path):
    """As loading has it; without a number of layers it is refused there and here."""
    told = {"model_type": "bert", "num_hidden_layers": 3, "vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(told))
    shape = plan_of(load_config(PRETRAIN, [f"init={tmp_path}"])).shape
    assert (shape.layers, shape.width, shape.heads, shape.inner, shape.pieces) == (3, 768, 12, 3072, 99)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="says no num_hidden_layers"):
        _ = plan_of(load_config(PRETRAIN, [f"init={tmp_path}"])).shape


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match="optim.batch_size: 1024 does not divide by 7 processes"):
        plan_of(load_config(PRETRAIN), 7)
    with pytest.raises(UserError, match="64 does not divide the 16 pictures of one of 64 processes"):
        plan_of(load_config(PRETRAIN, ["optim.micro_batch_size=64"]), 64)
    assert pretrain_main([str(PRETRAIN), "--gpus", "64"]) == 2
    assert "--gpus, --rate and --pictures are for --estimate" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start it without a launcher"):
        dry_run(plan_of(load_config(PRETRAIN)), pretrain)
