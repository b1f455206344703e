"""Pictures laid into windows: nothing is lost, and the model's output and gradient are those of rows."""

import numpy as np
import pytest
import torch

from vivo.data.collate import Limits, TagCollator
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.losses import tag_set_loss
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.packing import Windows, fill_windows, in_windows
from vivo.weights import bert_folder

SHAPE = dict(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    feature_size=10,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def tag_batch(pictures: int, seed: int, regions: tuple[int, int] = (1, 12), tags: int = 6) -> dict[str, torch.Tensor]:
    """Tags and regions of unequal number (a picture may have no tag), two masked places each where there are any."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    n_tags, n_regions = rng.integers(0, tags + 1, pictures), rng.integers(regions[0], regions[1] + 1, pictures)
    n_tags[0] = tags
    tag_mask = torch.arange(tags)[None] < torch.from_numpy(n_tags)[:, None]
    region_mask = torch.arange(regions[1])[None] < torch.from_numpy(n_regions)[:, None]
    slots = [row * tags + place for row, n in enumerate(n_tags) for place in range(min(2, n))]
    groups = torch.arange(len(slots)).view(-1, 1, 1)
    return {
        "tag_ids": torch.randint(5, 50, (pictures, tags), generator=generator),
        "tag_positions": torch.arange(20, 20 + tags).expand(pictures, -1),
        "tag_mask": tag_mask,
        "region_features": torch.randn(pictures, regions[1], 10, generator=generator),
        "region_positions": torch.rand(pictures, regions[1], 6, generator=generator),
        "region_mask": region_mask,
        "slot_index": torch.tensor(slots),
        "target_ids": torch.randint(5, 50, (len(slots),), generator=generator),
        "group_slots": groups,
        "group_size": torch.ones(len(slots), dtype=torch.int64),
    }


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("seed", range(5))
def test_rows_in_windows_overlap_nowhere_and_cross_no_border(size, seed):
    lengths = np.random.default_rng(seed).integers(0, size + 1, 200)
    starts, windows = fill_windows(lengths, size)
    taken = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    assert len(np.unique(taken)) == lengths.sum() and taken.max() < windows * size
    long = lengths > 0
    assert (starts[long] // size == (starts + lengths - 1)[long] // size).all()
    assert windows <= -(-lengths.sum() // size) * 11 / 9 + 1  # best fit decreasing needs no more


def test_the_papers_batch_fills_its_windows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 51, 1024) + rng.integers(1, 16, 1024)
    _, windows = fill_windows(lengths, 128)
    assert lengths.sum() / (windows * 128) > 0.98  # rows of equal length: 0.58


def test_each_place_of_a_window_says_whose_it_is():
    batch = tag_batch(9, 1)
    laid = Windows(batch | in_windows(batch["tag_mask"], batch["region_mask"], 16, 4))
    assert laid.rows.shape[0] % 4 == 0 and laid.rows.shape[1] == 64  # the longest picture has more than 16 elements
    of_tags = batch["tag_mask"].nonzero()[:, 0]
    of_regions = batch["region_mask"].nonzero()[:, 0]
    assert torch.equal(laid.rows.flatten()[laid.places], torch.cat([of_tags, of_regions]))
    assert int((laid.rows < 9).sum()) == len(of_tags) + len(of_regions)
    for picture in range(9):  # neighbours, tags first
        places = laid.places[torch.cat([of_tags, of_regions]) == picture]
        assert torch.equal(places, torch.arange(int(places[0]), int(places[0]) + len(places)))
    mask = laid.mask()
    assert mask.diagonal(dim1=1, dim2=2).all()


def test_a_loader_for_a_gpu_adds_the_windows_of_its_batch():
    regions = Regions(
        np.array([[0, 0, 9, 9]] * 3, np.float32), np.zeros((3, 4), np.float16), [""] * 3, np.zeros(3), 9, 9
    )
    examples = [(0, str(n), ["dog", "cat"][: n + 1], [], regions) for n in range(2)]
    tokenizer = load_tokenizer(bert_folder("minilm"))
    limits = Limits(50, 15, 20, 20)
    plain, laid = (TagCollator(tokenizer, limits, 0, 0.5, 1.0, 0, windows=given)(examples) for given in (False, True))
    added = in_windows(plain["tag_mask"], plain["region_mask"])
    assert laid.keys() - plain.keys() == added.keys()
    assert all(torch.equal(laid[name], value) for name, value in added.items())
    assert laid["image_ids"] == plain["image_ids"] and torch.equal(laid["tag_ids"], plain["tag_ids"])


@pytest.mark.parametrize("seed", range(3))
def test_windows_give_the_logits_and_gradients_of_rows(seed):
    torch.manual_seed(seed)
    model = VivoForTagPretraining(VivoConfig(**SHAPE)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    batch = tag_batch(7, seed)
    found = []
    for given in (batch, batch | in_windows(batch["tag_mask"], batch["region_mask"], 64, 2)):
        model.zero_grad()
        logits = model(given)["logits"]
        tag_set_loss(logits, batch["target_ids"], batch["group_slots"], batch["group_size"])["loss"].backward()
        found.append((logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
