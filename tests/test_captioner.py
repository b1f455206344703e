"""Pictures in, captions out: one, a list, a folder with broken ones among them, and the folder that is saved."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vivo.captioner import Captioner
from vivo.captioning import CaptioningModel
from vivo.cli import main
from vivo.config import DecodeConfig
from vivo.data.class_forms import ClassWords
from vivo.data.text import decode_caption
from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.modeling import VivoForCaptioning
from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene


@pytest.fixture(scope="module")
def captioner(tiny_captioner: Path) -> Captioner:
    """A random model on real features."""
    return Captioner.from_pretrained(tiny_captioner, "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, one below another folder; two broken files and a text between them."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (folder / "b").mkdir()
    for name in ("a.png", "b/b.jpg", "c.png", "e.jpg", "g.png"):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.NEAREST).save(folder / name)
    (folder / "d.jpg").write_bytes((folder / "e.jpg").read_bytes()[:300])
    (folder / "f.png").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_folder_gives_each_picture_its_own_captions(captioner: Captioner, pictures: Path, batch_size: int):
    found = list(captioner.caption_folder(pictures, beam=2, max_tokens=6, batch_size=batch_size))
    assert [f.path.name for f in found] == ["a.png", "b.jpg", "c.png", "d.jpg", "e.jpg", "f.png", "g.png"]
    broken = {f.path.name: f.problem for f in found if f.problem}
    assert set(broken) == {"d.jpg", "f.png"} and all(str(pictures) in problem for problem in broken.values())
    for one in found:
        if one.problem:
            assert one.captions == []
            continue
        alone = captioner(one.path, beam=2, max_tokens=6)
        assert [c.text for c in one.captions] == [c.text for c in alone]
        assert [c.score for c in one.captions] == pytest.approx([c.score for c in alone], abs=1e-4)
    assert len({f.captions[0].text for f in found if f.captions}) > 1


def test_a_stream_reads_no_further_than_it_is_asked(captioner: Captioner, pictures: Path):
    asked: list[Path] = []

    def paths() -> Iterator[Path]:
        for _ in range(1000):
            asked.append(pictures / "a.png")
            yield asked[-1]

    stream = captioner.caption_files(paths(), max_tokens=2, batch_size=3)
    assert not next(stream).problem
    assert len(asked) == 3


def test_only_broken_pictures_is_no_error_of_the_whole(captioner: Captioner, pictures: Path, tmp_path: Path):
    found = list(captioner.caption_files([pictures / "f.png", tmp_path / "missing.png"]))
    assert "not a picture" in found[0].problem and "does not exist" in found[1].problem
    with pytest.raises(UserError, match="not a picture"):
        captioner(pictures / "f.png")
    with pytest.raises(UserError, match="no pictures in it"):
        captioner.caption_folder(tmp_path)


def test_saved_folder_by_code_by_command_and_by_transformers(
    captioner: Captioner, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path / "saved"
    captioner.save_pretrained(folder, license="cc-by-4.0")
    again = Captioner.from_pretrained(folder, device="cpu")
    expected = [captioner(p)[0].text for p in (pictures / "a.png", pictures / "e.jpg")]
    assert [again(p)[0].text for p in (pictures / "a.png", pictures / "e.jpg")] == expected
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    ids = model.generate(**processor([pictures / "a.png", pictures / "e.jpg"]))
    assert processor.batch_decode(ids) == expected
    assert main(["caption", str(pictures), "--checkpoint", str(folder)]) == 1  # two of its pictures are broken
    printed = capsys.readouterr()
    assert (
        f"{pictures / 'a.png'}: {expected[0]}\n" in printed.out
        and f"{pictures / 'e.jpg'}: {expected[1]}\n" in printed.out
    )
    assert printed.err.count("left out: ") == 2 and printed.err.count("\n") == 2
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    (folder / "README.md").write_text(card.replace("# vivo model", "# my own model"))
    again = Captioner.from_pretrained(folder, device="cpu")
    again.save_pretrained(tmp_path / "copy")  # the card goes along
    assert "# my own model" in (tmp_path / "copy" / "README.md").read_text()
    again.save_pretrained(tmp_path / "other", license="mit", language="fr")
    assert (tmp_path / "other" / "README.md").read_text().startswith("---\nlicense: mit\nlanguage: fr\n")


def test_a_pretrained_folder_says_that_it_has_not_learned_to_caption(captioner: Captioner, tmp_path: Path):
    captioner.model.config.training_stage = "tags"
    try:
        captioner.model.save_pretrained(tmp_path)
    finally:
        captioner.model.config.training_stage = "captions"
    with pytest.raises(UserError, match="has not learned to caption yet"):  # and not that it has no detector
        Captioner.from_pretrained(tmp_path, device="cpu")


def test_constraints_put_detected_names_into_captions(
    captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    scene = sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=3)
    render(scene).save(tmp_path / "scene.png")
    free = captioner(tmp_path / "scene.png", beam=5, max_tokens=12)
    found = captioner(tmp_path / "scene.png", beam=5, max_tokens=12, constraints=ClassWords())
    trace = found[0].trace
    assert trace is not None and not trace["fell_back"] and free[0].trace is None
    named = [c for c in trace["constraints"] if c["satisfied"]]
    assert len(named) >= min(2, len(trace["constraints"])) > 0
    assert all(c["written"] in found[0].text and c["detected"] in found[0].tags for c in named)
    assert not all(c["written"] in free[0].text for c in named)
    assert found[0].score < free[0].score

    folder = tmp_path / "saved"
    captioner.save_pretrained(folder)
    command = ["caption", str(tmp_path / "scene.png"), "--checkpoint", str(folder), "--beam", "5", "--constraints"]
    assert main(command) == 0
    assert all(c["written"] in capsys.readouterr().out for c in named[:1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beam": 0}, "decode.beam: must be 1 or more, not 0"),
        ({"beam": -1}, "decode.beam: must be 1 or more, not -1"),
        ({"max_tokens": 0}, "decode.max_tokens: must be 1 or more, not 0"),
        ({"batch_size": 0}, "decode.batch_size: must be 1 or more, not 0"),
        ({"decode": DecodeConfig(length_penalty=-1.0)}, "decode.length_penalty: must be from 0 to 10, not -1.0"),
        ({"decode": DecodeConfig(groups=2), "beam": 3}, "decode.beam: 3 does not divide by decode.groups: 2"),
        (
            {"decode": DecodeConfig(conventions="oscar"), "constraints": ClassWords()},
            "decode.constraints: are not part",
        ),
        ({"decode": DecodeConfig(constraints="detector", constraint_regions="x")}, "decode.constraint_regions: is for"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_the_first_picture(
    captioner: Captioner, pictures: Path, options: dict[str, object], said: str
):
    with pytest.raises(UserError) as refused:
        captioner.caption_folder(pictures, **options)
    assert str(refused.value).startswith(said)
    if "batch_size" not in options:
        with pytest.raises(UserError, match=said[:20]):
            captioner(pictures / "a.png", **options)


def test_no_pictures_have_no_captions_and_a_file_is_no_folder(captioner: Captioner, pictures: Path):
    assert captioner.caption_many([]) == [] == list(captioner.caption_files([]))
    with pytest.raises(UserError, match=r"cannot write into .*notes.txt: File exists; choose another place"):
        captioner.save_pretrained(pictures / "notes.txt")


def test_a_whole_decode_config_reaches_the_search(captioner: Captioner, pictures: Path):
    def shown(**options: object) -> list[tuple[str, float]]:
        return [(c.text, c.score) for c in captioner(pictures / "a.png", **options)]

    assert shown(decode=DecodeConfig(beam=3, max_tokens=6)) == shown(beam=3, max_tokens=6)
    assert shown(decode=DecodeConfig(beam=5, max_tokens=6), beam=3) == shown(beam=3, max_tokens=6)  # ours go before
    whole = captioner(pictures / "a.png", decode=DecodeConfig(max_tokens=6, length_penalty=0.0))[0]
    assert whole.score == pytest.approx(6 * shown(max_tokens=6)[0][1], rel=1e-5)
    words = captioner(pictures / "a.png", decode=DecodeConfig(max_tokens=12, no_repeat=1))[0].text.split()
    assert len(set(words)) == len(words)
    scene = render(sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=3))
    named = captioner(scene, decode=DecodeConfig(beam=5, max_tokens=12, constraints="detector"))
    asked = captioner(scene, beam=5, max_tokens=12, constraints=ClassWords())
    assert named[0].trace == asked[0].trace is not None and [c.text for c in named] == [c.text for c in asked]


@pytest.mark.parametrize("beam", [1, 3])
def test_each_word_piece_has_its_log_probability(captioner: Captioner, pictures: Path, beam: int):
    for caption in captioner(pictures / "a.png", beam=beam, max_tokens=6):
        assert len(caption.pieces) == len(caption.token_log_probabilities) <= 7
        assert sum(caption.token_log_probabilities) / len(caption.pieces) == pytest.approx(caption.score)
        ids = captioner.tokenizer.convert_tokens_to_ids(caption.pieces)
        assert decode_caption(captioner.tokenizer, ids) == caption.text


def test_bfloat16_weights_caption_by_code_and_by_transformers(captioner: Captioner, pictures: Path, tmp_path: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    captioner.save_pretrained(tmp_path / "saved")
    half = Captioner.from_pretrained(tmp_path / "saved", device="cpu", dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    paths = [pictures / name for name in ("a.png", "b/b.jpg", "c.png", "e.jpg", "g.png")]
    scores = [[found[0].score for found in c.caption_many(paths, max_tokens=1)] for c in (captioner, half)]
    assert scores[0] != scores[1] and scores[1] == pytest.approx(scores[0], abs=0.1)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert processor.batch_decode(model.generate(**processor(paths))) == [c[0].text for c in half.caption_many(paths)]


def test_a_model_that_lacks_a_method_is_no_captioner() -> None:
    """It cannot be made, and the error names what is missing."""

    class Half(CaptioningModel):
        def encode_pictures(self, batch):
            return batch

    with pytest.raises(TypeError, match="check_store.*collator.*step"):
        Half()
    with pytest.raises(UserError, match="reads regions, not pictures"):
        VivoForCaptioning(VivoConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).reader()
