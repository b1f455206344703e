"""Weights of others from every layout of files: BERT's logits, and what is refused."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from vivo.config import load_config
from vivo.data.text import load_tokenizer
from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.modeling import VivoForCaptioning, VivoForPretraining, VivoForTagPretraining
from vivo.processing import VivoProcessor
from vivo.tensor_files import TensorFiles
from vivo.training.runs import self_critical
from vivo.training.tasks import keeps_repeats
from vivo.weights import bert_config, bert_folder, head_is_tied, load_bert, load_model

WORLD = Path(__file__).parents[1] / "configs" / "finetune" / "world.yaml"
# Depths and heads of BERT-base and BERT-large, at a width that tests can afford.
BASE = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 48, "intermediate_size": 96}
LARGE = {"num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 64, "intermediate_size": 128}


def random_bert(tied: bool = True, **shape: int) -> BertForMaskedLM:
    """A BERT whose every parameter is random, biases and layer norms too."""
    torch.manual_seed(0)
    shape = shape or {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    config = BertConfig(vocab_size=60, max_position_embeddings=40, tie_word_embeddings=tied, **shape)
    bert = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return bert


@torch.no_grad()
def assert_same_logits(folder: Path, bert: BertForMaskedLM) -> VivoForTagPretraining:
    """The folder loads whole, and text alone gives the logits of `bert`."""
    model = VivoForTagPretraining(bert_config(folder, feature_size=10)).eval()
    assert load_bert(model, folder) == []
    ids = torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    hidden = model.vivo.encode_text(None, ids, torch.arange(9).expand(2, -1), torch.ones(2, 9, 9, dtype=torch.bool))
    expected = bert(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(model.logits(hidden), expected, rtol=1e-5, atol=2e-5)
    return model


def write_bin(bert: BertForMaskedLM, folder: Path, **how: bool) -> dict[str, torch.Tensor]:
    """As BERT's first files were: one pickle, old names of layer norms, the head's weights beside the embeddings."""
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in bert.state_dict().items()
    }
    state.pop("cls.predictions.decoder.bias")
    folder.mkdir(exist_ok=True)
    bert.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin", **how)
    return state


@pytest.mark.parametrize("shape", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("kind", ["whole", "shards"])
def test_safetensors_of_any_size(shape: dict[str, int], kind: str, tmp_path: Path):
    bert = random_bert(**shape)
    bert.save_pretrained(tmp_path, max_shard_size="5GB" if kind == "whole" else "300KB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (kind == "shards")
    assert_same_logits(tmp_path, bert)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_pickles_of_tensors_with_the_old_names(zipped: bool, tmp_path: Path):
    bert = random_bert()
    write_bin(bert, tmp_path, _use_new_zipfile_serialization=zipped)
    assert_same_logits(tmp_path, bert)


def test_pickles_in_shards(tmp_path: Path):
    bert = random_bert()
    state = write_bin(bert, tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    names = list(state)
    place = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(place.values()):
        torch.save({name: state[name] for name in names if place[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
    assert_same_logits(tmp_path, bert)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match="00002.*is missing"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("says", [True, False])
def test_a_head_that_is_not_tied(says: bool, tmp_path: Path):
    """The tensors decide, whatever the configuration says; its own output bias is the one that transformers uses."""
    bert = random_bert(tied=False)
    bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": says}))
    model = assert_same_logits(tmp_path, bert)
    assert not head_is_tied(TensorFiles(tmp_path))
    model.freeze_vocabulary()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert sorted(frozen) == ["head.bias", "head.output.weight", "vivo.embeddings.word.weight"]
    model.save_pretrained(tmp_path / "ours")
    again = load_model(VivoForTagPretraining, tmp_path / "ours")
    assert torch.equal(again.head.output.weight, model.head.output.weight)
    kept = [3, 5, 59]
    cut = VivoForTagPretraining(bert_config(tmp_path, feature_size=10, vocab_size=3))
    load_bert(cut, tmp_path, kept)
    assert torch.equal(cut.head.output.weight, model.head.output.weight[kept])


class Program:
    """What a pickle can hold."""

    def __reduce__(self):
        return (print, ("this must not run",))


def test_pickles_of_anything_else_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    random_bert().config.save_pretrained(tmp_path)
    for content in (Program(), {"weight": torch.zeros(1), "more": Program()}, random_bert()):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="tensors alone") as refused:
            bert_config(tmp_path)
        assert "\n" not in str(refused.value)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Program()}, protocol=2))
    with pytest.raises(UserError):
        bert_config(tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no table of tensors"):
        bert_config(tmp_path)
    assert "must not run" not in capsys.readouterr().out


def ours_in(folder: Path) -> VivoForCaptioning:
    """A small model of ours with random weights, saved."""
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = VivoForCaptioning(VivoConfig(vocab_size=20, feature_size=4, **shape))
    model.save_pretrained(folder)
    return model


def test_a_model_of_ours_is_never_a_pickle(tmp_path: Path):
    model = ours_in(tmp_path)
    load_model(VivoForCaptioning, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="are a pickle.*safetensors"):
        load_model(VivoForCaptioning, tmp_path)


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a model folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "fields", "words"),
    [
        (lambda t: t.pop("vivo.layers.1.qkv.bias"), {}, "vivo.layers.1.qkv.bias is missing"),
        (lambda t: t.pop("vivo.regions.linear.weight"), {}, "vivo.regions.linear.weight is missing"),
        (lambda t: t.pop("vivo.regions.mean"), {}, "vivo.regions.mean is missing"),
        (lambda t: t.update(more=torch.zeros(2)), {}, "more is no part of the model"),
        (lambda t: t.update({"head.bias": torch.zeros(5)}), {}, r"head.bias is \[5\], not \[20\]"),
        (lambda t: t["head.bias"].fill_(math.nan), {}, "head.bias has numbers that are not finite"),
        (lambda t: t["vivo.regions.scale"][1:2].fill_(math.inf), {}, "vivo.regions.scale has numbers"),
        (len, {"num_hidden_layers": 3}, "vivo.layers.2.attention_norm.bias is missing"),
        (len, {"num_hidden_layers": 1}, "vivo.layers.1.attention_norm.bias is no part"),
        (len, {"tie_word_embeddings": False}, "head.output.weight is missing"),
    ],
)
def test_a_model_folder_that_is_not_whole_is_refused_in_one_line(
    change: Callable, fields: dict, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Every stage reads the others' folders, and none of them fills a tensor by chance."""
    ours_in(tmp_path)
    for kind in (VivoForCaptioning, VivoForTagPretraining, VivoForPretraining):
        load_model(kind, tmp_path, training_stage="tags")
    spoil(tmp_path, change)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    capfd.readouterr()
    with pytest.raises(UserError, match=words) as refused:
        load_model(VivoForCaptioning, tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_configurations_and_tokenizers_that_are_none_are_refused_in_one_line(tmp_path: Path):
    ours_in(tmp_path)
    right = json.loads((tmp_path / "config.json").read_text())
    for content, words in (
        ("{", "no readable configuration"),
        ("[]", "is no table of settings"),
        (json.dumps(right | {"hidden_size": "x"}), "hidden_size is 'x'"),
        (json.dumps(right | {"num_attention_heads": 7}), "hidden_size 8 cannot be shared by 7"),
        (json.dumps(right | {"region_layer_norm_eps": None}), "region_layer_norm_eps is None"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=words) as refused:
            load_model(VivoForCaptioning, tmp_path)
        assert "\n" not in str(refused.value)
        config = load_config(WORLD, [f"init={tmp_path}"])
        for reader in (VivoProcessor.from_pretrained, bert_config):
            with pytest.raises(UserError, match=words):
                reader(tmp_path)
        for reader in (keeps_repeats, self_critical):
            with pytest.raises(UserError, match=words):
                reader(config)
    (tmp_path / "config.json").write_text(json.dumps(right))
    for content in ("{}", "[]", "{"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match="tokenizer.json cannot be read") as refused:
            load_tokenizer(tmp_path)
        assert "\n" not in str(refused.value)


def test_other_activations_and_folders_without_weights_are_refused(tmp_path: Path):
    random_bert().config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no weights there"):
        bert_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match="hidden_act is 'relu'"):
        bert_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        TensorFiles(tmp_path)


def test_a_vocabulary_alone_makes_the_same_tokenizer(tmp_path: Path):
    """transformers' own class would make five tokens of it; ours splits as the whole tokenizer of that vocabulary."""
    whole = load_tokenizer(bert_folder("minilm"))
    pieces = sorted(whole.get_vocab(), key=whole.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    alone = load_tokenizer(tmp_path)
    assert len(alone) == len(whole) and alone.mask_token_id == whole.mask_token_id
    for text in ("A man's T-Shirt, 3 dogs!", "Élan vital naïve", "unbelievablyxyzzy", "日本 x", "a" * 120, ""):
        assert alone(text)["input_ids"] == whole(text)["input_ids"]
        ids = whole(text, add_special_tokens=False)["input_ids"]
        assert alone.decode(ids) == whole.decode(ids)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path).tokenize("Dog") != alone.tokenize("Dog")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[CLS]\na\n")
    with pytest.raises(UserError, match=r"\[UNK\] is missing"):
        load_tokenizer(tmp_path)
