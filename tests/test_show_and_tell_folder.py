"""The folder of a Show and Tell model: by `Captioner`, by `vivo caption`, by transformers' auto classes; its card."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from show_and_tell_cases import noise, small_model, small_tokenizer, write_pictures

from vivo.captioner import Captioner
from vivo.captioners import captioner_class, load_captioner
from vivo.cli import main
from vivo.config import DecodeConfig
from vivo.data.class_forms import ClassWords
from vivo.data.text import decode_caption
from vivo.ensemble import Ensemble
from vivo.errors import UserError
from vivo.model_card import CardFacts, write_card
from vivo.prediction import caption_batch, open_store
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.show_and_tell.pictures import PictureCollator, PictureReader
from vivo.training.checkpoint import save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = small_model(region_fingerprint="0123456789abcdef")
    save_model(folder, model, small_tokenizer())
    write_card(folder, model.config, CardFacts(seed=3))
    return folder


def test_by_captioner_and_by_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    captioner = Captioner.from_pretrained(saved, device="cpu")
    files = write_pictures(tmp_path / "pictures")
    found = captioner.caption_many(files, beam=3, max_tokens=6)
    batch = PictureCollator()(
        [(str(n), [], p) for n, p in enumerate(PictureReader(64).detect([noise(n) for n in range(3)]))]
    )
    expected = caption_batch(small_model(), batch, DecodeConfig(beam=3, max_tokens=6))
    assert [[c.text for c in row] for row in found] == [
        [decode_caption(small_tokenizer(), h.tokens) for h in row] for row in expected
    ]
    assert [[c.score for c in row] for row in found] == [pytest.approx([h.score for h in row]) for row in expected]
    assert all(c.tags == [] and c.regions.boxes.tolist() == [[0, 0, 70, 50]] for row in found for c in row)
    assert main(["caption", str(files[0]), "--checkpoint", str(saved)]) == 0
    assert captioner(files[0])[0].text in capsys.readouterr().out
    captioner.save_pretrained(tmp_path / "again", license="mit")
    assert not (tmp_path / "again" / "detector").exists()
    again = Captioner.from_pretrained(tmp_path / "again", device="cpu")
    assert again(files[1], beam=3)[0].text == captioner(files[1], beam=3)[0].text


def test_constraints_are_refused_where_no_detector_names_anything(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    captioner = Captioner.from_pretrained(saved)
    with pytest.raises(UserError, match="decode.constraints: this captioner has no detector"):
        captioner.caption_many([], constraints=ClassWords())
    picture = write_pictures(tmp_path)[0]
    assert main(["caption", str(picture), "--checkpoint", str(saved), "--constraints", "--beam", "5"]) == 2
    assert "decode.constraints: this captioner has no detector" in capsys.readouterr().err


def test_by_transformers_in_a_process_of_its_own(saved: Path, tmp_path: Path):
    files = write_pictures(tmp_path)
    code = f"""
import vivo
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
d = {str(saved)!r}
processor, model = AutoProcessor.from_pretrained(d), AutoModelForImageTextToText.from_pretrained(d)
print(*(type(x).__name__ for x in (AutoConfig.from_pretrained(d), AutoModel.from_pretrained(d), model, processor)))
for text in processor.batch_decode(model.generate(**processor({[str(f) for f in files]!r}), num_beams=3)):
    print(text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names, *texts = done.stdout.splitlines()
    assert names.split() == ["ShowAndTellConfig", "ShowAndTell", "ShowAndTell", "ShowAndTellProcessor"]
    captioner = Captioner.from_pretrained(saved, device="cpu")
    assert texts == [row[0].text for row in captioner.caption_many(files, beam=3)]


def test_the_card_says_what_it_is(saved: Path):
    card = (saved / "README.md").read_text()
    assert "# show_and_tell model" in card and "It writes a caption for a picture." in card
    assert "Show and Tell: tf_efficientnet_lite0/2, LSTM of 10 units, " in card
    assert "squares of 64 pixels" in card and "fingerprint `0123456789abcdef`" in card
    assert "# this folder\n" in card and "detector/" not in card


def test_which_captioner_lies_in_a_folder(saved: Path, tmp_path: Path):
    assert captioner_class(saved) is ShowAndTell and type(load_captioner(saved)) is ShowAndTell
    with pytest.raises(UserError, match="no config.json"):
        captioner_class(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"model type 'bert' is no captioner of vivo \(vivo, show_and_tell\)"):
        captioner_class(tmp_path)
    with pytest.raises(UserError, match="takes regions, not pictures"):
        (tmp_path / "config.json").write_text('{"model_type": "vivo"}')
        open_store(tmp_path, {})
    untrained = small_model(training_stage="")
    save_model(tmp_path / "untrained", untrained, small_tokenizer())
    with pytest.raises(UserError, match="has not learned to caption yet"):
        Captioner.from_pretrained(tmp_path / "untrained")


def test_the_mean_of_models():
    """Of one model with itself nothing changes; of two it is the mean of their probabilities, word by word."""
    one, two, tokenizer = small_model(seed=1), small_model(seed=2), small_tokenizer()
    batch = PictureCollator()([(str(n), [], p) for n, p in enumerate(PictureReader(64).detect([noise(0), noise(1)]))])
    decode = DecodeConfig(beam=3, max_tokens=6)
    alone, twice = (
        caption_batch(one, batch, decode),
        caption_batch(Ensemble([one, one], [tokenizer] * 2), batch, decode),
    )
    assert [[h.tokens for h in row] for row in alone] == [[h.tokens for h in row] for row in twice]
    both = caption_batch(Ensemble([one, two], [tokenizer] * 2), batch, decode)
    for picture, row in enumerate(both):
        for h in row:
            sequence = [*h.tokens, tokenizer.sep_token_id] if h.ended else h.tokens
            text = {
                "text_ids": torch.tensor([[tokenizer.cls_token_id, *sequence[:-1]]]),
                "text_picture": torch.tensor([picture]),
                "target_index": torch.arange(len(sequence)),
            }
            p = (one(batch | text)["logits"].softmax(-1) + two(batch | text)["logits"].softmax(-1)) / 2
            told = [p[i, word].log().item() for i, word in enumerate(sequence)]
            assert h.token_log_probabilities == pytest.approx(told, abs=1e-5)
    other = small_tokenizer()
    other.add_tokens(["zebra"])
    with pytest.raises(UserError, match="model 2 has other words"):
        Ensemble([one, two], [tokenizer, other])
