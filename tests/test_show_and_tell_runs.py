"""Show and Tell by the engine: overfitted to exact captions, frozen where it should be, resumed exactly, rewarded."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from show_and_tell_cases import noise
from test_training import run_until
from training_runs import run, same_weights

from eval.predict import main as predict
from finetune.train_show_and_tell import main as train
from vivo.captioner import Captioner
from vivo.captioners import load_captioner
from vivo.config import TrainConfig, load_config
from vivo.data.coco import read_caption_file
from vivo.data.examples import write_caption_examples
from vivo.data.predictions import read_header, read_predictions
from vivo.data.regions import RegionStore
from vivo.data.text import load_tokenizer
from vivo.data.types import CaptionExample
from vivo.data.vocabulary import choose_pieces, write_pieces
from vivo.errors import UserError
from vivo.training.checkpoint import list_checkpoints
from vivo.training.runs import replay_finetune, self_critical, show_and_tell
from vivo.training.tracking import read_records
from vivo.weights import bert_folder
from vivo.world.write import WorldConfig, write_world

ROOT = Path(__file__).resolve().parents[1]
FLICKR = ROOT.parent / "shared" / "data" / "flickr8k_3k"
PICTURES = 16


def write_examples(folder: Path, examples: list[CaptionExample]) -> None:
    """examples.jsonl and references.json."""
    write_caption_examples(examples, folder / "examples.jsonl")
    references = {
        "images": [{"id": e.image_id, "file_name": e.file_name} for e in examples],
        "annotations": [{"id": n, "image_id": e.image_id, "caption": e.captions[0]} for n, e in enumerate(examples)],
    }
    (folder / "references.json").write_text(json.dumps(references))


def settings(folder: Path, pictures: Path, out: Path, *overrides: str) -> TrainConfig:
    """The world's recipe on what `write_examples` left in `folder`."""
    return load_config(
        ROOT / "configs" / "finetune" / "show_and_tell_world.yaml",
        [f"out={out}", f"data.pictures={pictures}", f"data.examples={folder / 'examples.jsonl'}",
         f"data.regions={folder / 'outputs'}", "data.validation_references=", "data.validation_regions=",
         "data.captions_per_picture=1", "tracking.validate_every=", "tracking.save_every=", "tracking.log_every=1 step",
         "show_and_tell.least_count=1", "optim.precision=fp32", *overrides],
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sixteen pictures of the world with one caption each: (folder, pictures)."""
    folder = tmp_path_factory.mktemp("drawn")
    write_world(folder / "world", WorldConfig(open_images=1, coco=PICTURES, coco_val=1, nocaps=1, workers=1), False)
    found = read_caption_file(folder / "world" / "coco" / "captions_train.json")
    write_examples(folder, [CaptionExample(i, image["file_name"], captions[:1]) for i, image, captions in found])
    return folder, folder / "world" / "coco" / "images"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four small pictures for a small encoder."""
    folder = tmp_path_factory.mktemp("small")
    captions = ["a red car", "two cats on a bed", "a dog", "one dog on a bed"]
    (folder / "pictures").mkdir()
    for number in range(4):
        noise(number).save(folder / "pictures" / f"{number}.png")
    write_examples(folder, [CaptionExample(str(n), f"{n}.png", [text]) for n, text in enumerate(captions)])
    return folder, folder / "pictures"


SMALL = (
    "show_and_tell.encoder=tf_efficientnet_lite0/2", "show_and_tell.picture_size=64", "show_and_tell.embedding_size=16",
    "show_and_tell.lstm_size=16", "optim.batch_size=3", "optim.duration=6 steps", "optim.warmup=1 step",
)  # fmt: skip
JOINT = ("show_and_tell.freeze_encoder=false", "data.regions=")


def check_overfitted(folder: Path, pictures: Path, out: Path, references: dict[str, str]) -> None:
    """Both phases reach exact captions; from the store, from pixels, and through `Captioner`."""
    show_and_tell(settings(folder, pictures, out / "one", "optim.duration=120 steps", "optim.batch_size=16",
                           "optim.lr=4e-3", "model.dropout=0"))  # fmt: skip
    records = read_records(out / "one" / "metrics.jsonl")
    assert records[-1]["loss"] < 0.05 < 2 < records[0]["loss"]
    store = RegionStore(folder / "outputs")
    assert len(store) == len(references) and store.feature_size == 1280 and store.detector["name"] == "whole"
    common = [f"references={folder / 'references.json'}", "decode.beam=3", "decode.max_tokens=38"]
    for name, seen in (("store", f"regions={folder / 'outputs'}"), ("pixels", f"pictures={pictures}")):
        where = out / name
        other = "pictures=" if name == "store" else "regions="
        assert predict([str(ROOT / "configs" / "eval" / "world.yaml"), f"checkpoint={out / 'one' / 'model'}", seen,
                        other, f"out={where}", "tags=none", *common]) == 0  # fmt: skip
        assert read_predictions(where / "predictions.json") == references
    show_and_tell(settings(folder, pictures, out / "two", *JOINT, f"init={out / 'one' / 'model'}", "optim.lr=1e-4",
                           "optim.duration=4 steps", "optim.batch_size=16", "optim.schedule=constant"))  # fmt: skip
    captioner = Captioner.from_pretrained(out / "two" / "model", device="cpu")
    files = {i: image["file_name"] for i, image, _ in read_caption_file(folder / "references.json")}
    for image_id, caption in list(references.items())[:4]:
        assert captioner(pictures / files[image_id], beam=3, max_tokens=38)[0].text == caption


@pytest.mark.slow
def test_sixteen_scenes_are_overfitted_to_exact_captions(drawn: tuple[Path, Path], tmp_path: Path):
    folder, pictures = drawn
    references = {i: captions[0] for i, _, captions in read_caption_file(folder / "references.json")}
    check_overfitted(folder, pictures, tmp_path, references)


@pytest.mark.slow
def test_sixteen_photographs_are_overfitted_to_exact_captions(tmp_path: Path):
    if not (FLICKR / "captions.json").is_file():
        pytest.skip(f"no {FLICKR}")
    found = read_caption_file(FLICKR / "captions.json")[:PICTURES]
    clean = [(i, image, captions[0].lower().replace(" .", ".").replace(" ,", ",")) for i, image, captions in found]
    write_examples(tmp_path, [CaptionExample(i, image["file_name"], [text]) for i, image, text in clean])
    check_overfitted(tmp_path, FLICKR / "images", tmp_path, {i: text for i, _, text in clean})


def encoder_of(model: Path) -> dict[str, torch.Tensor]:
    return {n: t for n, t in load_file(model / "model.safetensors").items() if n.startswith("encoder.")}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("kept", ("optim.optimizer=sgd", "optim.lr=0.5", "optim.schedule=stairs", "optim.decay_every=2 steps")),
        ("pixels", ("data.regions=", "show_and_tell.augment=distort", "show_and_tell.picture_resize=80")),
        ("joint", (*JOINT, "show_and_tell.batch_norm=trained", "show_and_tell.augment=cut",
                   "show_and_tell.picture_resize=80", "optim.lr=0.5", "optim.encoder_rate=0.5",
                   "optim.encoder_decay=0.01", "show_and_tell.encoder_dropout=0.2", "optim.optimizer=sgd",
                   "optim.momentum=0.9")),
        ("scheduled", ("show_and_tell.scheduled_sampling=0.8", "optim.ema=0.9")),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_exactly(small, tmp_path: Path, monkeypatch, name: str, more: tuple[str, ...]):
    """Stopped after update 5 of 6 (checkpoint at 4), in mid-epoch, dropout on: the same weights, bit for bit; and a
    frozen encoder is what it was."""
    monkeypatch.setattr("test_training.pretrain", show_and_tell)  # what `run_until` starts
    folder, pictures = small
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    chosen = (*SMALL, "tracking.save_every=2 steps", "tracking.keep=9", *more)
    show_and_tell(settings(folder, pictures, whole, *chosen))
    run_until(5, settings(folder, pictures, broken, *chosen), monkeypatch)
    assert [p.name for p in list_checkpoints(broken / "checkpoints")][-1] == "step_00000004"
    show_and_tell(settings(folder, pictures, broken, *chosen))
    assert same_weights(whole, broken)
    one, two = ([r["loss"] for r in read_records(out / "metrics.jsonl")] for out in (whole, broken))
    assert one == two and len(one) == 6
    begun, ended = (encoder_of(run) for run in (whole / "checkpoints" / "step_00000002", whole / "model"))
    moved = {n for n in begun if not torch.equal(begun[n], ended[n])}
    assert bool(moved) == (name == "joint")
    if name == "joint":  # a bias before a norm by the batch's own statistics has no effect
        assert moved >= {n for n in begun if "bias" not in n}
    if name == "kept":
        rates = [r["lr"] for r in read_records(whole / "metrics.jsonl")]
        assert rates == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.125, 0.125])


def test_a_run_of_another_kind_is_refused(small, tmp_path: Path):
    folder, pictures = small
    out = tmp_path / "run"
    show_and_tell(settings(folder, pictures, out, *SMALL, "optim.duration=2 steps", "tracking.save_every=1 step"))
    for override, words in (
        ("show_and_tell.scheduled_sampling=0.5", "show_and_tell.scheduled_sampling 0.0"),
        ("show_and_tell.standardise_features=false", "model.standardise_features True"),
        ("show_and_tell.picture_size=96", "detector "),
        ("show_and_tell.least_count=2", "word pieces "),
        ("optim.optimizer=sgd", "optim.optimizer must"),
    ):
        changes = [override, "optim.momentum=0.9"] if "sgd" in override else [override]
        if "size" in override:
            changes.append(f"data.regions={tmp_path / 'others'}")
        with pytest.raises(UserError, match=words):
            show_and_tell(settings(folder, pictures, out, *SMALL, "optim.duration=3 steps", *changes))
    with pytest.raises(UserError, match="expects features of size 24 from detector"):
        other = settings(folder, pictures, tmp_path / "other", *SMALL, *JOINT, f"init={out / 'model'}")
        show_and_tell(other)  # its encoder moves
        again = settings(folder, pictures, tmp_path / "again", *SMALL, f"init={tmp_path / 'other' / 'model'}")
        show_and_tell(again)
    for asked, has in (("lstm_size=999", "999, but the model of init .* has 16"), ("vocabulary=pieces", "has words")):
        with pytest.raises(UserError, match=rf"show_and_tell.{asked.partition('=')[0]}: .*{has}"):
            more = [f"init={out / 'model'}", f"show_and_tell.{asked}"]
            show_and_tell(settings(folder, pictures, tmp_path / "asked", *SMALL, *more))
    with pytest.raises(UserError, match="4 of 4 pictures are not there"):
        show_and_tell(settings(folder, tmp_path, tmp_path / "none", *SMALL, *JOINT))


def test_ensembles_and_their_header(small, tmp_path: Path):
    """The mean of two models' probabilities, through eval/predict.py; other words are refused."""
    folder, pictures = small
    for name, more in (("a", ()), ("b", ("seed=1",)), ("c", ("show_and_tell.least_count=2",))):
        show_and_tell(settings(folder, pictures, tmp_path / name, *SMALL, *more))
    program = [str(ROOT / "configs" / "eval" / "world.yaml"), f"checkpoint={tmp_path / 'a' / 'model'}", "tags=none",
               f"references={folder / 'references.json'}", f"regions={folder / 'outputs'}",
               "decode.beam=3"]  # fmt: skip
    out = tmp_path / "both"
    assert predict([*program, f"ensemble={tmp_path / 'b' / 'model'}", f"out={out}"]) == 0
    assert len(read_header(out / "predictions.json")["ensemble"]) == 1
    assert len(read_predictions(out / "predictions.json")) == 4
    assert predict([*program, f"ensemble={tmp_path / 'c' / 'model'}", f"out={out}"]) == 2


@pytest.mark.slow
def test_the_reward_of_four_pictures_rises(small, tmp_path: Path):
    """SCST on a Show and Tell model: its samples have the probabilities of the gradient's pass, and get better."""
    folder, pictures = small
    show_and_tell(settings(folder, pictures, tmp_path / "start", *SMALL, "optim.batch_size=4", "optim.lr=1e-2",
                           "optim.duration=25 steps", "model.dropout=0"))  # fmt: skip
    config = load_config(
        ROOT / "configs" / "finetune" / "world_scst.yaml",
        [f"out={tmp_path / 'scst'}", f"init={tmp_path / 'start' / 'model'}", f"data.regions={folder / 'outputs'}",
         f"data.examples={folder / 'examples.jsonl'}", "data.validation_regions=", "data.validation_references=",
         "tracking.validate_every=", "tracking.validate_start=false", "tracking.best=", "tracking.stop_after=0",
         "tracking.log_every=1step", "optim.batch_size=4", "optim.warmup=", "optim.precision=fp32", "optim.lr=2e-3",
         "optim.schedule=constant", "optim.duration=40 steps", "scst.max_tokens=8", "data.tags=none",
         "model.dropout=0"],
    )  # fmt: skip
    self_critical(config)
    records = read_records(tmp_path / "scst" / "metrics.jsonl")
    rewards = [record["reward"] for record in records]
    assert sum(rewards[-10:]) > 1.2 * sum(rewards[:10]), rewards
    assert all(r["off_policy"] < 1e-5 for r in records)


def test_a_stopped_update_is_run_again(small, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    """Not finite: stopped before the update; --replay finds pictures, loss and model, of features and of pixels."""
    import vivo.training.tasks as tasks

    real = tasks.caption_loss
    folder, pictures = small
    for name, more in (("kept", ()), ("pixels", JOINT)):
        config = settings(folder, pictures, tmp_path / name, *SMALL, *more)
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "caption_loss", lambda *a: (r := real(*a)) | {"loss": r["loss"] * float("nan")})
            with pytest.raises(UserError, match="step 0: loss nan.*stopped before the update. Pictures of the update"):
                show_and_tell(config)
        assert replay_finetune(config, tmp_path / name / "nonfinite" / "step_00000000") is False
        said = capsys.readouterr().out
        assert "3 pictures: " in said and "features not finite: none" in said and "gradients not finite: 0" in said


@pytest.mark.parametrize("override", ["optim.precision=bf16", "engine.activation_checkpointing=true"])
def test_options_of_the_engine(small, tmp_path: Path, override: str):
    """Half precision stays near; recomputed blocks change nothing."""
    folder, pictures = small
    found = []
    for name, more in (("plain", ()), ("with", (override,))):
        AcceleratorState._reset_state(True)  # accelerate keeps the first precision that a process asks for
        show_and_tell(settings(folder, pictures, tmp_path / name, *SMALL, *JOINT, "model.dropout=0", *more))
        found.append([r["loss"] for r in read_records(tmp_path / name / "metrics.jsonl")])
    AcceleratorState._reset_state(True)
    assert found[1] == pytest.approx(found[0], rel=0.02 if "bf16" in override else 1e-5)


@pytest.mark.slow
def test_two_processes_learn_as_one(small, tmp_path: Path):
    """Phase 1 from a store, phase 2 from pixels, each on one process (this one), two, and two micro-batches."""
    folder, pictures = small
    program = ["finetune/train_show_and_tell.py", "configs/finetune/show_and_tell_world.yaml",
               f"data.pictures={pictures}", f"data.examples={folder / 'examples.jsonl'}", "model.dropout=0",
               "data.validation_references=", "data.validation_regions=", "data.captions_per_picture=1",
               "tracking.validate_every=", "tracking.save_every=", "tracking.log_every=1 step",
               "show_and_tell.least_count=1", "optim.precision=fp32", *SMALL, "optim.batch_size=4"]  # fmt: skip
    for phase, more in (("one", [f"data.regions={tmp_path / 'outputs'}"]), ("two", [*JOINT, "optim.lr=1e-4"])):
        losses = {}
        for processes, micro in ((1, 0), (2, 0), (1, 2)):
            out = tmp_path / f"{phase}{processes}{micro}"
            arguments = [*program, *more, f"out={out}", f"optim.micro_batch_size={micro}"]
            if processes > 1:
                run(processes, arguments)
            else:
                assert train(arguments[1:]) == 0
            losses[processes, micro] = [r["loss"] for r in read_records(out / "metrics.jsonl")]
        assert len(losses[1, 0]) == 6
        for key in ((2, 0), (1, 2)):
            assert losses[key] == pytest.approx(losses[1, 0], rel=1e-6), (phase, key)


def test_word_pieces_instead_of_words(small, tmp_path: Path):
    """BERT's, cut to a file of pieces; captions come back from them, and a run of words is not gone on with."""
    folder, pictures = small
    whole = load_tokenizer(bert_folder("minilm"))
    captions = ["a red car", "two cats on a bed", "a dog", "one dog on a bed"]
    write_pieces(choose_pieces(whole, captions, 150), tmp_path / "pieces.txt")
    pieces = ("show_and_tell.vocabulary=pieces", f"model.vocabulary={tmp_path / 'pieces.txt'}")
    out = tmp_path / "run"
    show_and_tell(settings(folder, pictures, out, *SMALL, *pieces, "optim.batch_size=4", "optim.lr=1e-2",
                           "optim.duration=500 steps", "model.dropout=0", "tracking.save_every=500 steps"))  # fmt: skip
    model = load_captioner(out / "model")
    assert model.config.vocab_size == 150 and not model.config.words
    assert model.config.cls_token_id == load_tokenizer(out / "model").cls_token_id
    captioner = Captioner.from_pretrained(out / "model", device="cpu")
    assert [captioner(pictures / f"{n}.png", beam=3)[0].text for n in range(4)] == captions
    with pytest.raises(UserError, match="word pieces "):
        show_and_tell(settings(folder, pictures, out, *SMALL, "optim.duration=501 steps", "optim.batch_size=4"))
