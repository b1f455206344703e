"""What Show and Tell reads: words, pixels, batches, drawn words; and how fast it learns, by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from show_and_tell_cases import CAPTIONS, SIZE, noise, noise_pixels, small_model, small_tokenizer, write_pictures
from torch import nn

from vivo.config import OptimConfig, TrainConfig, configs_dir, load_config
from vivo.data.coco import read_caption_file, read_show_and_tell_split
from vivo.data.text import decode_caption, encode_caption, load_tokenizer
from vivo.data.types import CaptionExample
from vivo.detectors.base import load_detector
from vivo.errors import UserError
from vivo.randomness import example_generator
from vivo.show_and_tell.collate import PictureSampleCollator, SentenceCollator, recurrent_captions
from vivo.show_and_tell.pictures import PictureReader, PictureStore, distorted
from vivo.show_and_tell.scheduled import ScheduledSampling, mixed
from vivo.show_and_tell.words import count_words, word_tokenizer
from vivo.training.optim import build_optimizer, states_of
from vivo.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
FLICKR = ROOT.parent / "shared" / "data" / "flickr8k_3k"

# ---- words -----------------------------------------------------------------------------------


def test_words_that_occur_often_enough(tmp_path: Path):
    captions = ["A dog's ball.", "a DOG runs", "a dog, a cat", "the cat", "the ball"]
    counts = count_words(captions)
    assert counts["a"] == 4 and counts["dog"] == 3 and counts["'"] == 1
    tokenizer = word_tokenizer(captions, 2)
    assert tokenizer.convert_ids_to_tokens(range(5, len(tokenizer))) == ["a", "dog", "ball", "cat", "the"]
    ids = encode_caption(tokenizer, "A dog's ball runs.", 20)
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "[CLS]",
        "a",
        "dog",
        "[UNK]",
        "[UNK]",
        "ball",
        "[UNK]",
        "[UNK]",
        "[SEP]",
    ]
    assert decode_caption(tokenizer, ids[1:]) == "a dog ball"
    assert encode_caption(tokenizer, "a dog a cat", 4) == [2, 5, 6, 3]
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(UserError, match="no word of the captions occurs 9 times"):
        word_tokenizer(captions, 9)


def test_captions_survive_words_and_back():
    """Every one of Flickr8k's captions whose words are all known, as the metrics' tokenizer reads it."""
    if not (FLICKR / "captions.json").is_file():
        pytest.skip(f"no {FLICKR}")
    from vivo.metrics.tokenizer import ptb_tokenize

    captions = [c for _, _, row in read_caption_file(FLICKR / "captions.json") for c in row][::7]
    tokenizer = word_tokenizer(captions, 1)
    back = [decode_caption(tokenizer, encode_caption(tokenizer, c, 100)[1:]) for c in captions]
    different = [c for c, b in zip(captions, back, strict=True) if ptb_tokenize(c) != ptb_tokenize(b)]
    assert len(captions) > 2000 and len(different) <= 0.001 * len(captions), different[:5]


# ---- pictures --------------------------------------------------------------------------------


def test_squares_cut_out_of_the_middle():
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (80, 1, 3)))
    (whole,) = PictureReader(40).detect([ramp])
    (middle,) = PictureReader(40, 100).detect([ramp])
    assert whole.pixels.shape == middle.pixels.shape == (3, 40, 40)
    assert abs(int(whole.pixels[0, 0, 0]) - 1) <= 2 and abs(int(whole.pixels[0, 0, 39]) - 98) <= 2
    assert middle.pixels[0, 5].tolist() == list(range(30, 70))
    assert whole.boxes.tolist() == [[0, 0, 100, 80]] and (whole.width, whole.height) == (100, 80)
    detector = load_detector("whole:size=64,resize=80,device=cpu")
    picture = noise(3)
    (alone,) = load_detector("whole:size=64,resize=80,device=cpu").detect([picture])
    assert alone.features.shape == (1, 1280) and detector.fingerprint()["resize"] == 80
    # no resizing is resizing to the size: a store by specification is a model's
    assert load_detector("whole:size=64").fingerprint() == load_detector("whole:size=64,resize=64").fingerprint()


def test_random_views_hang_on_seed_epoch_and_picture():
    picture, reader = noise(1), PictureReader(40, 60)

    def view(augment: str, epoch: int) -> torch.Tensor:
        return reader.random_view(picture, augment, example_generator(0, epoch, "a", "view")).pixels

    middle = reader.detect([picture])[0].pixels
    assert torch.equal(view("none", 0), middle)
    for augment in ("flip", "cut", "distort"):
        views = [view(augment, epoch) for epoch in range(12)]
        assert all(torch.equal(one, view(augment, epoch)) for epoch, one in enumerate(views))
        distinct = {one.numpy().tobytes() for one in views}
        assert len(distinct) == 2 if augment == "flip" else len(distinct) > 8
        assert all(one.shape == (3, 40, 40) and one.is_contiguous() for one in views)
    flipped = next(v for v in (view("flip", epoch) for epoch in range(12)) if not torch.equal(v, middle))
    assert torch.equal(flipped.flip(2), middle)


def test_other_colours_stay_near():
    """Grey stays grey, whatever hue and saturation do; brightness moves by at most 32 levels before contrast does."""
    grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    for seed in range(8):
        found = distorted(grey, np.random.default_rng(seed)).int()
        assert (found.amax() - found.amin()) <= 1 and abs(found.float().mean() - 128) <= 33
    coloured = torch.stack([torch.full((8, 8), v, dtype=torch.uint8) for v in (200, 40, 40)])
    found = [distorted(coloured, np.random.default_rng(seed)) for seed in range(8)]
    assert len({f.numpy().tobytes() for f in found}) == 8 and all(
        f[0].float().mean() > f[1].float().mean() for f in found
    )


def test_a_store_of_picture_files(tmp_path: Path):
    write_pictures(tmp_path)
    examples = [CaptionExample(str(i), f"{i}.png", ["a"]) for i in range(3)]
    store = PictureStore.of(examples, tmp_path, PictureReader(SIZE))
    assert store.image_ids == ["0", "1", "2"] and "1" in store and "9" not in store
    assert torch.equal(store["1"].pixels, noise_pixels()[1].pixels)
    small_model().check_store(store)
    with pytest.raises(UserError, match="read at 32 pixels"):
        small_model().check_store(PictureStore.of(examples, tmp_path, PictureReader(32)))
    with pytest.raises(UserError, match=r"1 of 4 pictures are not there \(first: 7.png\)"):
        PictureStore.of([*examples, CaptionExample("7", "7.png")], tmp_path, PictureReader(SIZE))
    with pytest.raises(UserError, match="picture x has no file_name"):
        PictureStore.of([CaptionExample("x", "")], tmp_path, PictureReader(SIZE))


def test_encoders_that_cannot_be_are_one_line():
    for specification, words in (
        ("whole:no_such_net,weights=x.safetensors", "has no model"),
        ("whole:resnet10t", "weights=FILE"),
        ("whole:tf_efficientnet_lite0/8", "its blocks have 7 stages; write /1 to /7"),
        ("whole:resnet10t/2,weights=random", "cannot be cut"),
        ("whole:size=16", "must be 32 or more"),
        ("whole:size=64,resize=32", "no less"),
        ("whole:side=64", "has no option"),
    ):
        with pytest.raises(UserError, match=words):
            load_detector(specification)


def test_a_cut_encoder_is_the_beginning_of_the_whole_one():
    """Half of Lite0's sixteen blocks: four stages, 80 channels."""
    cut = load_detector("whole:tf_efficientnet_lite0/4,size=64,device=cpu")
    assert (
        cut.feature_size == 80 and len(cut._plain.blocks) == 4 and sum(len(stage) for stage in cut._plain.blocks) == 8
    )
    whole = load_detector("whole:size=64,device=cpu")
    theirs, ours = whole._plain.state_dict(), cut._plain.state_dict()
    assert ours and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# ---- batches ---------------------------------------------------------------------------------


def test_captions_as_an_lstm_reads_them_by_hand():
    tokenizer = small_tokenizer()
    found = recurrent_captions([[[2, 7, 8, 3], [2, 9, 3]], [[2, 5]]], tokenizer)
    assert found["text_ids"].tolist() == [[2, 7, 8], [2, 9, 0], [2, 0, 0]]
    assert found["text_picture"].tolist() == [0, 0, 1]
    assert found["target_index"].tolist() == [0, 1, 2, 3, 4, 6] and found["target_ids"].tolist() == [7, 8, 3, 9, 3, 5]


def test_epochs_walk_through_all_captions():
    tokenizer, pictures = small_tokenizer(), noise_pixels()
    collator = SentenceCollator(tokenizer, 12, 0, 1)
    seen = [collator([(epoch, "a", [], CAPTIONS[0], pictures[0])])["target_ids"].tolist() for epoch in range(4)]
    assert seen[0] == seen[2] != seen[1] == seen[3]
    both = SentenceCollator(tokenizer, 12, 0, 2)([(0, "a", [], CAPTIONS[0], pictures[0])])
    assert both["text_picture"].tolist() == [0, 0] and sorted(both["target_ids"].tolist()) == sorted(seen[0] + seen[1])
    draws = PictureSampleCollator(0, 3, 5)([(2, "a", [], [], pictures[0])])["draws"]
    again = PictureSampleCollator(0, 3, 5)([(2, "b", [], [], pictures[1]), (2, "a", [], [], pictures[0])])["draws"]
    assert draws.shape == (1, 3, 5) and torch.equal(draws[0], again[1]) and not torch.equal(again[0], again[1])


# ---- scheduled sampling ----------------------------------------------------------------------


def scheduled_batch() -> dict:
    collator = SentenceCollator(small_tokenizer(), 12, 0, 2, drawn=True)
    return collator([(0, str(i), [], CAPTIONS[i], picture) for i, picture in enumerate(noise_pixels())])


def test_drawn_words_are_the_models_own():
    """Each exchanged word is the inverse of the cumulative distribution after the words that now stand before it."""
    model, batch, share = small_model(dropout=0.5).train(), scheduled_batch(), 0.6
    ids = mixed(model, {n: v for n, v in batch.items() if n != "draws"}, batch["draws"], share)
    assert model.training and batch["draws"].shape == (*ids.shape, 2)
    model.eval()
    exchanged = batch["draws"][..., 0] < share
    exchanged[:, 0] = False  # [CLS]
    assert torch.equal(ids[~exchanged], batch["text_ids"][~exchanged])
    assert 0 < (ids != batch["text_ids"]).sum() <= exchanged.sum()
    everywhere = torch.arange(ids.numel())
    with torch.no_grad():
        p = model(batch | {"text_ids": ids, "target_index": everywhere})["logits"].double().softmax(-1)
    p = p.view(*ids.shape, -1)
    for row, place in exchanged.nonzero().tolist():
        below = p[row, place - 1].cumsum(0)
        at, word = batch["draws"][row, place, 1].item(), ids[row, place].item()
        assert (below[word - 1].item() if word else 0.0) - 1e-5 <= at <= below[word].item() + 1e-5


def test_the_share_of_drawn_words_rises_on_a_line():
    schedule = Schedule(steps=11, scheduled_from=5)
    assert [schedule.scheduled_share(step, 0.5) for step in (0, 5, 6, 10)] == pytest.approx([0, 0, 0.1, 0.5])
    prepare, batch, model = ScheduledSampling(schedule, 1.0), scheduled_batch(), small_model()
    assert torch.equal(prepare(model, batch, 3)["text_ids"], batch["text_ids"])
    late = prepare(model, batch, 10)
    assert "draws" not in late and not torch.equal(late["text_ids"], batch["text_ids"])
    assert torch.equal(late["target_ids"], batch["target_ids"])


# ---- rates -----------------------------------------------------------------------------------


def test_the_published_rates():
    """Two, halved each 146,590 updates, for a million; then 0.0005 throughout."""
    config = load_config(configs_dir() / "finetune" / "show_and_tell_inception_v3.yaml")
    schedule = Schedule.of(config, 82_783)
    assert [schedule.learning_rate(step) for step in (0, 146_589, 146_590, 293_180, 999_999)] == [
        2.0, 2.0, 1.0, 0.5, 2.0 / 2**6,
    ]  # fmt: skip
    assert schedule.steps == 1_000_000
    assert int(586_363 / 32 * 8) == 146_590
    joint = load_config(configs_dir() / "finetune" / "show_and_tell_inception_v3_joint.yaml")
    assert Schedule.of(joint, 82_783).learning_rate(1_999_999) == 0.0005
    ours = joint.show_and_tell
    assert (ours.encoder, ours.picture_size, ours.picture_resize) == ("inception_v3", 299, 346)
    assert (ours.embedding_size, ours.lstm_size, ours.init_range, ours.least_count) == (512, 512, 0.08, 4)
    assert (joint.model.dropout, joint.optim.clip_norm, joint.optim.batch_size) == (0.3, 5.0, 32)


def test_groups_of_the_optimizer():
    model = small_model(encoder_frozen=False)
    optim = OptimConfig(optimizer="sgd", lr=0.5, momentum=0.9, weight_decay=0.1, encoder_rate=0.01, encoder_decay=0.0)
    optimizer = build_optimizer(model, optim)
    assert type(optimizer) is torch.optim.SGD and states_of(optimizer) == ("momentum_buffer",)
    assert [(g["scale"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (1.0, 0.1), (1.0, 0.0), (0.01, 0.0), (0.01, 0.0),
    ]  # fmt: skip
    named = {id(p): n for n, p in model.named_parameters()}
    for group, encoder in zip(optimizer.param_groups, (False, False, True, True), strict=True):
        assert group["params"] and all(named[id(p)].startswith("encoder.") == encoder for p in group["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(
        [p for p in model.parameters() if p.requires_grad]
    )
    assert states_of(build_optimizer(model, OptimConfig(optimizer="sgd"))) == ()
    assert states_of(build_optimizer(nn.Linear(2, 2), OptimConfig())) == ("step", "exp_avg", "exp_avg_sq")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["show_and_tell.picture_resize=100"],
            "show_and_tell.picture_resize: 100 is less than show_and_tell.picture_size",
        ),
        (["show_and_tell.freeze_encoder=false", "data.pictures="], "data.pictures: is needed to train the encoder"),
        (["show_and_tell.augment=flip"], "show_and_tell.augment: the outputs of a frozen encoder are computed once"),
        (["loss.competing=used"], "loss.competing: Show and Tell has all words compete"),
        (["data.regions=", "data.pictures="], "data.regions: is needed"),
        (["optim.schedule=stairs"], "optim.decay_every: is needed with optim.schedule: stairs, and with it alone"),
        (["optim.decay_every=5 steps"], "optim.decay_every: is needed"),
        (["optim.momentum=0.9"], "optim.momentum: is of optim.optimizer: sgd"),
        (["show_and_tell.encoder_dropout=0.1"], "show_and_tell.encoder_dropout: is of an encoder that is trained"),
        (["show_and_tell.batch_norm=trained"], "show_and_tell.batch_norm: is of an encoder that is trained"),
        (["optim.encoder_rate=0.5"], "optim.encoder_rate: is of an encoder that is trained"),
        (["data.region_dropout=0.5"], "data.region_dropout: Show and Tell has one region"),
        (["show_and_tell.scheduled_from=2 steps"], "show_and_tell.scheduled_from: needs show_and_tell.scheduled_samp"),
        (["show_and_tell.scheduled_sampling=1.5"], "show_and_tell.scheduled_sampling: must be from 0 to 1"),
        (["data.validation_regions=", "data.pictures="], "data.validation_references: needs"),
    ],
)
def test_what_cannot_be_configured(overrides: list[str], words: str):
    with pytest.raises(UserError, match=words):
        load_config(configs_dir() / "finetune" / "show_and_tell_world.yaml", overrides)


def test_defaults_are_of_lite0():
    show_and_tell = TrainConfig().show_and_tell
    assert (show_and_tell.encoder, show_and_tell.picture_size, show_and_tell.freeze_encoder) == (
        "tf_efficientnet_lite0", 224, True,
    )  # fmt: skip


# ---- the published split ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_split_of_coco(tmp_path: Path):
    """From the official files, which pycocoevalcap's wheel carries: 20,267 captions to test, as published; to train the
    586,363 published ones and five of one picture (their converter skips a file that it cannot decode)."""
    import zipfile

    import pycocoevalcap

    jar = Path(pycocoevalcap.__path__[0]) / "spice" / "spice-1.0.jar"
    if not jar.is_file():
        pytest.skip("this pycocoevalcap has no spice-1.0.jar")
    with zipfile.ZipFile(jar) as archive:
        for name in ("train", "val"):
            content = archive.read(f"coco/annotations/captions_{name}2014.json")
            (tmp_path / f"captions_{name}2014.json").write_bytes(content)
    files = [tmp_path / f"captions_{name}2014.json" for name in ("train", "val")]
    parts = {part: read_show_and_tell_split(*files, part) for part in ("train", "val", "test")}
    captions = {part: sum(len(e.captions) for e in examples) for part, examples in parts.items()}
    assert captions["train"] == 586_363 + 5 and captions["test"] == 20_267
    assert sum(len(examples) for examples in parts.values()) == 82_783 + 40_504
    assert len({e.image_id for examples in parts.values() for e in examples}) == 82_783 + 40_504
