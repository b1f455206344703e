"""A run that goes on must learn the same as before: real runs of two updates on four pictures made by hand."""

import json
import re
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import training_runs

from vivo.config import load_config
from vivo.data.examples import write_caption_examples, write_tag_examples
from vivo.data.regions import RegionStoreWriter
from vivo.data.types import CaptionExample, Regions, TagExample
from vivo.errors import UserError
from vivo.training.checkpoint import list_checkpoints, open_checkpoint
from vivo.training.identity import check_same_everywhere
from vivo.training.runs import finetune, pretrain, self_critical

IDS = ["a", "b", "c", "d"]
TAGS = {"a": ["dog", "grass"], "b": ["cat"], "c": ["car", "street light"], "d": ["tree", "dog"]}
CAPTIONS = {"a": "a dog on grass", "b": "a cat", "c": "a car under a light", "d": "a dog by a tree"}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "grass", "cat", "car", "street", "light", "tree", "on"]
PIECES += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *string.digits]
PIECES += ["the", "of", "and", "to", "in", "was", "he", "is", "as", "for", "with", "that", "it", "his", "at", "by",
           "from", "her", "she", "you", "had", "an", "were", "but", "be", "this"]  # fmt: skip


def write_store(path: Path, detector: str) -> None:
    draw = np.random.default_rng(0)
    with RegionStoreWriter(path, {"name": detector}, 4) as writer:
        for image_id in IDS:
            features, box = draw.normal(size=(2, 4)).astype(np.float16), np.array([[0, 0, 9, 9]] * 2, np.float32)
            writer.write(image_id, Regions(box, features, ["dog", ""], np.array([0.9, 0.1], np.float32), 10, 10))


def write_examples(folder: Path, tags: dict[str, list[str]], captions: dict[str, str]) -> None:
    write_tag_examples((TagExample(i, tags[i]) for i in IDS), folder / "tags.jsonl")
    write_tag_examples((TagExample(i, tags[i]) for i in IDS), folder / "tags.parquet")
    write_caption_examples((CaptionExample(i, "", [captions[i]], "", tags[i]) for i in IDS), folder / "captions.jsonl")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of two detectors, examples, and the same with other tags and other captions for the same pictures."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("one", "two"):
        write_store(folder / name, f"detector {name}")
    others = dict(zip(IDS, [*IDS[1:], IDS[0]], strict=True))
    write_examples(folder, TAGS, CAPTIONS)
    for name, tags, captions in (
        ("other_tags", {i: TAGS[o] for i, o in others.items()}, CAPTIONS),
        ("other_captions", TAGS, {i: CAPTIONS[o] for i, o in others.items()}),
    ):
        (folder / name).mkdir()
        write_examples(folder / name, tags, captions)
    (folder / "pieces.txt").write_text("\n".join(PIECES))
    (folder / "other_pieces.txt").write_text("\n".join([*PIECES[:-1], "under"]))
    (folder / "names.json").write_text(json.dumps(["dog", "cat", "car", "tree"]))
    (folder / "other_names.json").write_text(json.dumps(["dog", "cat", "car", "grass"]))
    return folder


def command(given: Path, out: Path, objective: str) -> list[str]:
    """A configuration and overrides: two updates of a tiny model, a checkpoint after the first."""
    (out.parent / "run.yaml").write_text(f"objective: {objective}\ninit: random\n")
    examples = "captions.jsonl" if objective in ("captions", "scst") else "tags.jsonl"
    return [
        str(out.parent / "run.yaml"), f"out={out}", f"data.regions={given / 'one'}",
        f"data.examples={given / examples}", "model.hidden_size=8", "model.heads=2", "model.intermediate_size=8",
        "model.layers=1", f"model.vocabulary={given / 'pieces.txt'}", "optim.batch_size=2", "optim.duration=2steps",
        "optim.precision=fp32", "tracking.save_every=1step",
    ]  # fmt: skip


def run(given: Path, out: Path, objective: str, *overrides: str) -> Path:
    """Train, or go on where `out` has a checkpoint; the model's folder."""
    path, *first = command(given, out, objective)
    config = load_config(path, [*first, *overrides])
    return {"captions": finetune, "scst": self_critical}.get(objective, pretrain)(config)


def begun(given: Path, out: Path, objective: str, *overrides: str) -> None:
    run(given, out, objective, *overrides)
    shutil.rmtree(out / "model")


OTHER = {
    "tags": [
        ("seed=1", "seed 0"),
        ("optim.batch_size=4", "optim.batch_size 2"),
        ("data.examples={given}/other_tags/tags.jsonl", "examples "),
        ("data.regions={given}/two", "detector "),
        ("data.tags=both", "data.tags labels"),
        ("data.hints=detector", "data.hints none"),
        ("data.vocabulary={given}/other_names.json", "data.vocabulary "),
        ("data.region_dropout=0.5", "data.region_dropout 0.0"),
        ("masking.share_min=0.2", "masking.share_min 0.15"),
        ("masking.at_most=1", "masking.at_most 0"),
        ("loss.hungarian=false", "loss.hungarian True"),
        ("loss.competing=used", "loss.competing all"),
        ("model.tag_segment=0", "model.tag_segment 1"),
        ("model.tag_slots=caption", "model.tag_slots tags"),
        ("model.heads=4", "model.num_attention_heads 2"),
        ("model.max_tag_tokens=9", "model.max_tag_tokens 30"),
        ("model.vocabulary={given}/other_pieces.txt", "word pieces "),
        ("model.freeze_embeddings=true", "model.freeze_embeddings False"),
    ],
    "captions": [
        ("data.examples={given}/other_captions/captions.jsonl", "examples "),
        ("data.examples={given}/other_tags/captions.jsonl", "examples "),
        ("data.tag_file={given}/other_tags/tags.jsonl", "data.tag_file "),
        ("data.named_tags_only=true", "data.named_tags_only False"),
        ("data.tag_dropout=0.5", "data.tag_dropout 0.0"),
        ("data.captions_per_picture=2", "data.captions_per_picture 1"),
        ("masking.caption=masked", "masking.caption dense"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing 0.0"),
    ],
}
MORE = {
    "tags": ["data.vocabulary={given}/names.json"],
    "captions": ["data.tags=file", "data.tag_file={given}/tags.jsonl"],
}


@pytest.mark.parametrize("objective", ["tags", "captions"])
def test_what_would_be_learned_otherwise_is_refused(given: Path, tmp_path: Path, objective: str):
    more = [text.format(given=given) for text in MORE[objective]]
    begun(given, tmp_path / "run", objective, *more)
    for change, what in OTHER[objective]:
        with pytest.raises(UserError, match=f"was trained with {what}.*, and now it is .*; go on with what it had"):
            run(given, tmp_path / "run", objective, *more, change.format(given=given))
    run(given, tmp_path / "run", objective, *more)


def test_what_decides_how_and_how_long_may_change(given: Path, tmp_path: Path):
    """Files elsewhere, too, and in another format: their content counts."""
    out = tmp_path / "run"
    begun(given, out, "tags")
    moved = shutil.copytree(given, tmp_path / "moved")
    run(
        moved, out, "tags", f"data.examples={moved / 'tags.parquet'}", "optim.duration=3steps", "optim.lr=1e-5",
        "optim.warmup=1step", "optim.schedule=cosine", "optim.weight_decay=0.1", "optim.clip_norm=0.5",
        "optim.beta1=0.8", "optim.micro_batch_size=1", "model.dropout=0.3", "data.workers=1",
        "tracking.log_every=1step", "tracking.keep=1", "engine.timeout=60", "engine.activation_checkpointing=true",
    )  # fmt: skip
    (last,) = list_checkpoints(out / "checkpoints")
    assert open_checkpoint(last).step == 3 and (out / "model").is_dir()


def test_another_tagger_is_refused(given: Path, tmp_path: Path):
    """With tags: self the tags beside the captions are what these weights write."""
    taggers = [run(given, tmp_path / f"tagger{seed}", "tags", f"seed={seed}") for seed in (0, 1)]
    settings = [f"data.tagger={taggers[0]}", "data.tags=self"]
    begun(given, tmp_path / "run", "captions", *settings)
    with pytest.raises(UserError, match="was trained with weights of the tagger "):
        run(given, tmp_path / "run", "captions", f"data.tagger={taggers[1]}", "data.tags=self")
    moved = shutil.copytree(taggers[0], tmp_path / "moved")
    run(given, tmp_path / "run", "captions", f"data.tagger={moved}", "data.tags=self")


def test_another_reward_is_refused(given: Path, tmp_path: Path):
    """Self-critical training, whose tags the tagger writes that its captioner carries."""
    tagger = run(given, tmp_path / "tagger", "tags")
    captioner = run(given, tmp_path / "captioner", "captions", f"data.tagger={tagger}", "data.tags=self")
    settings = [f"init={captioner}", "data.tags=self", "scst.samples=2", "scst.max_tokens=4"]
    begun(given, tmp_path / "run", "scst", *settings)
    for change, what in (("scst.samples=3", "scst.samples 2"), ("scst.baseline=greedy", "scst.baseline others")):
        with pytest.raises(UserError, match=f"was trained with {what}, and now it is "):
            run(given, tmp_path / "run", "scst", *settings, change)
    run(given, tmp_path / "run", "scst", *settings)


def test_both_kinds_of_examples_count(given: Path, tmp_path: Path):
    pairs = f"data.pairs={given / 'captions.jsonl'}"
    begun(given, tmp_path / "run", "both", pairs)
    for change in (f"data.pairs={given}/other_captions/captions.jsonl", f"data.examples={given}/other_tags/tags.jsonl"):
        with pytest.raises(UserError, match="was trained with examples "):
            run(given, tmp_path / "run", "both", pairs, change)


def test_processes_that_read_other_files_are_named():
    one = {"seed": 0, "examples": "12ab"}
    check_same_everywhere([one, dict(one)])
    with pytest.raises(UserError, match="process 2 has examples 34cd, process 0 has 12ab: give all nodes"):
        check_same_everywhere([one, one, one | {"examples": "34cd"}])


def test_two_processes_with_other_examples_end_before_training(given: Path, tmp_path: Path):
    """As on two nodes, each with a disk of its own; each process reads the folder named after its rank."""
    shutil.copytree(given, tmp_path / "0")
    shutil.copytree(given / "other_tags", tmp_path / "1")
    program = ["pretrain/train.py", *command(given, tmp_path / "run", "tags")]
    said = training_runs.run(2, [*program, f"data.examples={tmp_path}/${{oc.env:RANK}}/tags.jsonl"], status=1)
    assert re.search(r"error: process 1 has examples [0-9a-f]{16}, process 0 has [0-9a-f]{16}: give all nodes", said)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_names_what_it_does_not_train(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(given, tmp_path / "run", "tags", "model.freeze_embeddings=true")
    lines = capsys.readouterr().err.splitlines()
    assert "frozen: vivo.embeddings.word.weight" in lines
    assert next(line for line in lines if line.startswith("without decay: ")).endswith(
        "head.norm.weight, head.norm.bias"
    )
