"""Show and Tell: the published equations against the model, beams against enumeration, frozen and folded encoders."""

import copy
from itertools import product

import pytest
import torch
from PIL import Image
from show_and_tell_cases import CAPTIONS, ENCODER, SIZE, noise_pixels, small_model, small_tokenizer
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vivo.config import DecodeConfig
from vivo.detectors.backbone import map_of, normalised, open_backbone, untrained
from vivo.detectors.folding import FoldedConv, fold
from vivo.errors import UserError
from vivo.layers import RegionProjection
from vivo.losses import caption_loss
from vivo.model_config import VivoConfig
from vivo.prediction import caption_batch
from vivo.show_and_tell.collate import SentenceCollator
from vivo.show_and_tell.flops import RecurrentWork
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.show_and_tell.pictures import PictureCollator, Pixels


def batch_of(captions_per_picture: int = 2) -> dict:
    """Three pictures as pixels, with captions."""
    collator = SentenceCollator(small_tokenizer(), 12, 0, captions_per_picture)
    return collator([(0, str(i), [], CAPTIONS[i], picture) for i, picture in enumerate(noise_pixels())])


# ---- the model -------------------------------------------------------------------------------


def plain_logits(model: ShowAndTell, batch: dict) -> Tensor:
    """im2txt's equations, a caption and a word at a time: BasicLSTMCell from a zero state, the picture first."""
    weights = torch.cat([model.lstm.weight_ih_l0, model.lstm.weight_hh_l0], dim=1)

    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (weights @ torch.cat([x, h]) + model.lstm.bias_ih_l0).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    features = map_of(model.encoder.network, normalised(batch["pixels"], *scaling(model))).mean((2, 3))
    found, length = {}, batch["text_ids"].shape[1]
    for row, (ids, picture) in enumerate(zip(batch["text_ids"], batch["text_picture"], strict=True)):
        zero = torch.zeros(model.config.lstm_size)
        h, c = cell(model.image.weight @ features[picture], zero, zero)
        for place, word in enumerate(ids):
            h, c = cell(model.words.weight[word], h, c)
            found[row * length + place] = model.output.weight @ h + model.output.bias
    return torch.stack([found[place] for place in batch["target_index"].tolist()])


def scaling(model: ShowAndTell) -> tuple[Tensor, Tensor]:
    return torch.tensor(model.config.pixel_mean), torch.tensor(model.config.pixel_std)


def test_logits_and_gradients_are_those_of_the_published_equations():
    model, batch = small_model(encoder_frozen=False), batch_of()
    model.encoder.folded = True  # as timm has it; the folded one is compared below
    gradients = []
    for logits in (lambda: model(batch)["logits"], lambda: plain_logits(model, batch)):
        model.zero_grad(set_to_none=True)
        found = logits()
        caption_loss(found, batch["target_ids"])["loss"].backward()
        gradients.append((found.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (ours, of_ours), (theirs, of_theirs) = gradients
    assert ours.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert of_ours.keys() == of_theirs.keys() and "encoder.network.conv_stem.weight" in of_ours
    for name in of_ours:
        torch.testing.assert_close(of_ours[name], of_theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_initial_weights_are_the_published_ones():
    model = ShowAndTell(small_model().config)
    for weight in (model.image.weight, model.words.weight, model.output.weight, model.lstm.weight_hh_l0):
        assert 0.07 < weight.abs().max() <= 0.08 and abs(weight.mean()) < 0.02
    assert model.image.bias is None and not model.output.bias.any() and not model.lstm.bias_hh_l0.any()
    gates = model.lstm.bias_ih_l0.view(4, -1)
    assert gates[1].eq(1).all() and not gates[[0, 2, 3]].any()
    assert not model.lstm.bias_hh_l0.requires_grad


def test_dropout_is_on_inputs_and_outputs_alone():
    """With every input dropped nothing is left of picture and words; the state itself is never dropped."""
    batch = batch_of()
    model = small_model(dropout=1.0).train()
    assert torch.allclose(model(batch)["logits"], model.output.bias.expand(len(batch["target_ids"]), -1))
    model.eval()
    torch.testing.assert_close(model(batch)["logits"], small_model()(batch)["logits"])
    torch.manual_seed(0)
    some = small_model(dropout=0.3).train()
    assert not torch.allclose(some(batch)["logits"], some(batch)["logits"])


# ---- search ----------------------------------------------------------------------------------

LENGTH = 4


def all_captions(model: ShowAndTell, batch: dict, picture: int, penalty: float) -> list[tuple[float, list[int]]]:
    """Every caption of up to LENGTH words, by teacher forcing, with its score; the best first."""
    cls, sep, words = model.config.cls_token_id, model.config.sep_token_id, range(5, model.config.vocab_size)
    sequences = [
        (*some, last)
        for length in range(LENGTH)
        for some in product(words, repeat=length)
        for last in ((sep,) if length < LENGTH - 1 else (sep, *words))
    ]
    found = []
    for sequence in sequences:
        ids = torch.tensor([[cls, *sequence[:-1]]])
        text = {"text_ids": ids, "text_picture": torch.tensor([picture]), "target_index": torch.arange(len(sequence))}
        with torch.no_grad():
            log_p = model(batch | text)["logits"].log_softmax(-1)
        total = log_p.gather(1, torch.tensor(sequence)[:, None]).sum().item()
        found.append((total / len(sequence) ** penalty, [word for word in sequence if word != sep]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_is_exhaustive_search_on_a_toy_vocabulary(penalty: float):
    """Three words and the end: 1 + 3 + 9 + 27 * 4 captions of two pictures. (The published search drops the likeliest
    words, see docs/show_and_tell.md.)"""
    model = small_model(words=8, spread=1.0)
    batch = PictureCollator()([(str(i), [], picture) for i, picture in enumerate(noise_pixels(2))])
    expected = [all_captions(model, batch, picture, penalty) for picture in range(2)]
    assert len(expected[0]) == 1 + 3 + 9 + 27 * 4 and expected[0] != expected[1]
    found = caption_batch(model, batch, DecodeConfig(beam=120, max_tokens=LENGTH, length_penalty=penalty))
    for hypotheses, truth in zip(found, expected, strict=True):
        assert hypotheses[0].tokens == truth[0][1]
        assert hypotheses[0].score == pytest.approx(truth[0][0], abs=1e-4)
        if penalty == 0.0:  # the best of 120 survive any pruning
            assert [h.tokens for h in hypotheses[:10]] == [tokens for _, tokens in truth[:10]]
    one = caption_batch(model, batch, DecodeConfig(beam=1, max_tokens=LENGTH))
    three = caption_batch(model, batch, DecodeConfig(beam=3, max_tokens=LENGTH, length_penalty=0.0))
    assert all(b[0].log_probability >= a[0].log_probability - 1e-5 for a, b in zip(one, three, strict=True))


def test_what_is_no_word_is_never_said():
    model = small_model()
    with torch.no_grad():
        model.output.bias[[0, 1, 2, 4]] += 20.0
    batch = PictureCollator()([(str(i), [], picture) for i, picture in enumerate(noise_pixels())])
    for beam in (1, 3):
        found = caption_batch(model, batch, DecodeConfig(beam=beam, max_tokens=6))
        assert all(token > 4 for row in found for h in row for token in h.tokens)


# ---- the encoder -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [(ENCODER, SIZE), ("tf_efficientnet_lite0/4", 96), ("resnet10t", 64), ("inception_v3", 96)]
)
def test_a_folded_network_is_the_same_function_with_the_same_gradients(name: str, size: int):
    torch.manual_seed(0)
    network = untrained(name).double()  # in float32 a rounding error moves some place over the kink of a ReLU
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    folded, inputs = copy.deepcopy(network), torch.randn(2, 3, size, size, dtype=torch.float64)
    assert fold(folded, lambda net: map_of(net, inputs))
    kinds = [type(module) for module in folded.modules()]
    assert FoldedConv in kinds and Conv2dSame not in kinds
    # the norm behind resnet10t's stem of three convolutions is no neighbour of the last one
    assert sum(kind in (nn.BatchNorm2d, BatchNormAct2d) for kind in kinds) == (name == "resnet10t")
    assert list(folded.state_dict()) == list(network.state_dict())
    weight, gradients = torch.randn_like(map_of(network, inputs)), []
    for net in (network, folded):
        (map_of(net, inputs) * weight).sum().backward()
        gradients.append({n: p.grad for n, p in net.named_parameters()})
    close(map_of(folded, inputs), map_of(network, inputs))
    for n, value in gradients[0].items():
        close(gradients[1][n], value, n)
    network.train(), folded.train()  # the statistics of the batch: nothing is folded, and both learn them
    close(map_of(folded, inputs), map_of(network, inputs))
    for (n, ours), theirs in zip(folded.state_dict().items(), network.state_dict().values(), strict=True):
        close(ours, theirs, n)


def close(found: Tensor, expected: Tensor, name: str = "") -> None:
    """Within rounding errors of the largest value: random networks of many layers make large ones."""
    assert (found - expected).abs().max() <= 1e-8 * expected.abs().max() + 1e-12, name


def test_a_network_whose_norms_stand_before_its_convolutions_stays_as_it_is():
    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(0.5)
            self.norm.running_var.fill_(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x))

    network, x = Before().eval(), torch.randn(1, 3, 4, 4)
    before = network(x)
    assert not fold(network, lambda net: net(x))
    assert type(network.conv) is nn.Conv2d and torch.equal(network(x), before)


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_what_of_the_encoder_learns(batch_norm: str):
    """Frozen means frozen; trained, every weight gets a gradient, and statistics move only where that is wanted."""
    model, batch = small_model(batch_norm=batch_norm, encoder_frozen=False), batch_of()
    model.train()
    before = copy.deepcopy(model.encoder.state_dict())
    caption_loss(model(batch)["logits"], batch["target_ids"])["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    after = model.encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("running" in name or "num_batches" in name for name in moved)
    assert bool(moved) == (batch_norm == "trained")

    model.freeze_encoder(True)
    model.train()
    model.zero_grad(set_to_none=True)
    frozen = copy.deepcopy(model.encoder.state_dict())
    caption_loss(model(batch)["logits"], batch["target_ids"])["loss"].backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad)
    assert all(torch.equal(value, frozen[name]) for name, value in model.encoder.state_dict().items())


def test_outputs_of_the_frozen_encoder_stand_for_the_pixels():
    """What a store keeps of it (fp16) gives the logits of the pixels, to its precision."""
    model, batch = small_model(), batch_of()
    found = model.encoder.detector().detect([picture_of(p) for p in noise_pixels()])
    features = torch.stack([torch.from_numpy(r.features[0]) for r in found])
    kept = {name: value for name, value in batch.items() if name != "pixels"} | {"features": features}
    torch.testing.assert_close(model(kept)["logits"], model(batch)["logits"], rtol=1e-2, atol=5e-3)


def picture_of(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.pixels.permute(1, 2, 0).numpy())


def test_standardised_features_by_hand():
    model = small_model(standardise_features=True)
    sample = torch.randn(50, 24) * 7 + 3
    model.set_statistics(sample)
    batch = batch_of()
    batch["features"] = sample[:3]
    del batch["pixels"]
    deviation = sample.std(dim=0)
    expected = ((sample[:3] - sample.mean(dim=0)) / (deviation + 0.05 * deviation.mean())).clamp(-8, 8)
    plain = small_model()
    torch.testing.assert_close(model(batch)["logits"], plain(batch | {"features": expected})["logits"])

    for same in (sample[:1], sample[:1].expand(4, -1)):  # no scale
        with pytest.raises(UserError, match=f"standardise_features: the encoder says the same of the {len(same)} pict"):
            model.set_statistics(same)
    with pytest.raises(UserError, match="standardise_regions: the features of the 1 regions"):
        RegionProjection(VivoConfig(feature_size=24, standardise_regions=True)).set_statistics(sample[:1])


@pytest.mark.parametrize("trained", [False, True])
def test_formula_against_the_counter(trained: bool):
    """FLOPs of a step. PyTorch counts no LSTM of oneDNN, and too many for the backward pass of depthwise convolutions;
    the first convolution has no gradient of its input, which the formula counts."""
    shape = {"lstm_size": 96, "embedding_size": 48, "feature_size": 512}
    model, batch = small_model(words=3000, encoder="resnet10t", encoder_frozen=not trained, **shape), batch_of()
    model.train()
    with torch.backends.mkldnn.flags(enabled=False):
        model(batch)  # folded
        with FlopCounterMode(display=False) as counter:
            caption_loss(model(batch)["logits"], batch["target_ids"])["loss"].backward()
    assert RecurrentWork(model)(batch).flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    features = {n: v for n, v in batch.items() if n != "pixels"} | {"features": torch.randn(3, 512)}
    if not trained:
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            caption_loss(model(features)["logits"], batch["target_ids"])["loss"].backward()
        assert RecurrentWork(model)(features).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("name", ["inception_v3", "tf_efficientnet_lite0", "tf_efficientnet_lite0/4"])
def test_outputs_of_a_random_encoder_are_of_a_sensible_size(name: str):
    """Without statistics of its norms Inception's overflow fp16, in which they are kept."""
    torch.manual_seed(0)
    network, *_ = open_backbone(name, "random")
    inputs = torch.nn.functional.interpolate(torch.randn(2, 3, 9, 9), size=(160, 160), mode="bilinear")
    with torch.no_grad():
        found = map_of(network, inputs).mean((2, 3))
    assert 0.01 < found.std() < 10 and found.abs().max() < 100
    assert (found[0] - found[1]).abs().mean() > 0.02 * found.abs().mean()
    momenta = {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {module.momentum for module in untrained(name).modules() if isinstance(module, nn.BatchNorm2d)}
