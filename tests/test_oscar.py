"""Captioning checkpoints of Oscar and VinVL: logits and captions of the original code, from random weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import oscar_reference as reference
import pytest
import torch
from oscar_reference import CASES, Case

from vivo.attention_mask import text_attention_mask
from vivo.config import DecodeConfig
from vivo.data.collate import ContextCollator, Limits
from vivo.data.types import Regions
from vivo.decoding.oscar import oscar_beam_search, oscar_greedy_search
from vivo.decoding.search import beam_search
from vivo.modeling import VivoForCaptioning
from vivo.oscar import InputLengths, load_oscar
from vivo.prediction import caption_batch

GOLDEN = json.loads((Path(__file__).parent / "golden" / "oscar.json").read_text())
SPECIAL = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "mask_token_id": 3}


def write_checkpoint(folder: Path, case: Case) -> Path:
    """The folder that the original would have saved."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(reference.configuration(case)))
    torch.save(reference.random_weights(case), folder / "pytorch_model.bin")
    return folder


def imported(folder: Path, case: Case) -> VivoForCaptioning:
    lengths = InputLengths(caption_tokens=40, tag_tokens=case.tag_tokens, regions=case.regions)
    return load_oscar(write_checkpoint(folder, case), lengths, **SPECIAL)


def batch_of(case: Case) -> dict[str, torch.Tensor]:
    """The pictures of a case in one batch, padded, as data/collate.py lays them out."""
    pictures = reference.random_pictures(case)
    told = [[*tags[: case.tag_tokens - 1], reference.SEP] if tags else [] for _, tags in pictures]
    most, longest = max(len(r[: case.regions]) for r, _ in pictures), max(map(len, told))
    regions = torch.zeros(len(pictures), most, reference.NUMBERS)
    for row, (numbers, _) in enumerate(pictures):
        regions[row, : len(numbers)] = numbers[:most]
    counts = torch.tensor([len(r) for r, _ in pictures])
    return {
        "tag_ids": torch.tensor([tags + [0] * (longest - len(tags)) for tags in told]).long().view(len(told), longest),
        "tag_positions": (40 + torch.arange(longest)).expand(len(pictures), -1),
        "tag_mask": torch.arange(longest) < torch.tensor([len(tags) for tags in told])[:, None],
        "region_features": regions[..., :-6],
        "region_positions": regions[..., -6:],
        "region_mask": torch.arange(most) < counts[:, None],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_logits_are_those_of_the_original(case: Case, tmp_path: Path):
    model, golden = imported(tmp_path, case), GOLDEN[case.name]
    assert (model.head.output is None) == case.tied
    caption = torch.tensor(golden["caption"]).expand(4, -1)
    places = torch.arange(caption.shape[1]).expand(4, -1)
    context = model.encode_context(batch_of(case))
    mask = text_attention_mask(places, torch.ones_like(places, dtype=torch.bool))
    hidden = model.vivo.encode_text(context, caption, places, mask)
    expected = torch.tensor(golden["logits"]).view(4, 3, -1)  # at places 0, 4 and 8 of each picture
    assert expected.std() > 0.5
    torch.testing.assert_close(model.logits(hidden)[:, [0, 4, 8]], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_captions_are_those_of_the_original(case: Case, tmp_path: Path):
    model, golden = imported(tmp_path, case), GOLDEN[case.name]
    for beam, name in ((1, "greedy"), (5, "beam5")):
        decode = DecodeConfig(beam=beam, max_tokens=case.max_gen_length - 1, conventions="oscar")
        found = [best for best, *_ in caption_batch(model, batch_of(case), decode)]
        tokens, scores = golden[name]
        assert [h.tokens for h in found] == tokens
        assert [h.score for h in found] == pytest.approx(scores, abs=2e-5)


def test_the_golden_captions_tell_the_conventions_apart(tmp_path: Path):
    """Negative control: vivo's own conventions, tags without [SEP], other positions: other captions somewhere."""

    def captions(change: Callable[[dict], None], conventions: str = "oscar") -> list[list[list[int]]]:
        found = []
        for case in CASES:
            batch = batch_of(case)
            change(batch)
            decode = DecodeConfig(beam=5, max_tokens=case.max_gen_length - 1, conventions=conventions)
            found.append([h.tokens for h, *_ in caption_batch(imported(tmp_path / case.name, case), batch, decode)])
        return found

    golden = [GOLDEN[case.name]["beam5"][0] for case in CASES]
    assert captions(lambda batch: None) == golden
    assert captions(lambda batch: None, "vivo") != golden
    assert captions(lambda batch: batch.update(tag_positions=batch["tag_positions"] - 20)) != golden
    assert captions(lambda batch: batch.update(tag_mask=batch["tag_mask"] & (batch["tag_ids"] != 2))) != golden


@pytest.mark.parametrize("case", CASES[1:3], ids=lambda case: case.name)
def test_the_plain_statement_is_held_to_the_original_too(case: Case):
    state, golden = reference.random_weights(case), GOLDEN[case.name]
    for name, search in (("greedy", reference.greedy), ("beam5", lambda *x: reference.beam(*x, 5))):
        for picture, tokens, score in zip(reference.random_pictures(case), *golden[name], strict=True):
            found = search(case, state, *picture)
            assert found[0] == tokens and found[1] == pytest.approx(score, abs=2e-5)


@pytest.mark.parametrize("seed", range(40, 46))
def test_other_weights_equal_the_plain_statement(seed: int, tmp_path: Path):
    case = Case(seed, tied=seed % 2 == 0, region_norm=seed % 3 == 0, tags=seed % 5 != 0, max_gen_length=9)
    model, state, pictures = imported(tmp_path, case), reference.random_weights(case), reference.random_pictures(case)
    for beam in (1, 3):
        decode = DecodeConfig(beam=beam, max_tokens=8, conventions="oscar")
        found = [best for best, *_ in caption_batch(model, batch_of(case), decode)]
        search = reference.greedy if beam == 1 else lambda *x: reference.beam(*x, 3)
        expected = [search(case, state, *picture) for picture in pictures]
        assert [h.tokens for h in found] == [tokens for tokens, _ in expected]
        assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=2e-5)


class Chain:
    """A step whose log-probabilities are a table of the last token: words 0 .. V - 1, ends at 0."""

    def __init__(self, probabilities: list[list[float]]):
        self.log_p = torch.tensor(probabilities).log()

    def __call__(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return self.log_p[tokens]


def test_the_search_goes_on_until_nothing_can_be_better():
    step = Chain([[1, 0, 0], [0.4, 0.25, 0.35], [0.0, 0.0, 1.0]])
    oscar, own = oscar_beam_search(step, 1, 1, 0, 1, 4)[0][0], beam_search(step, 1, 1, 0, 1, 4)[0][0]
    assert own.tokens == []  # one hypothesis of one is finished
    assert oscar.tokens == [2, 2, 2] and oscar.score == pytest.approx(float(np.log(0.35)) / 4)
    steps: list[int] = []
    step = Chain([[1, 0, 0, 0], [0.9, 0.0, 0.06, 0.04], *[[0.0, 0.0, 0.5, 0.5]] * 2])
    assert oscar_beam_search(lambda t, p: steps.append(1) or step(t, p), 1, 1, 0, 1, 9)[0][0].tokens == []
    assert len(steps) == 2  # log(.9) is above log(.06 * .5) / 9: the second step ends it


def test_the_last_word_is_replaced_by_the_end():
    step = Chain([[1, 0, 0], [0.0, 0.2, 0.8], [0.0, 0.1, 0.9]])
    for found in (oscar_greedy_search(step, 1, 1, 0, 3)[0], oscar_beam_search(step, 1, 1, 0, 1, 3)[0][0]):
        assert found.tokens == [2, 2]  # three steps, and the third word is not said
        assert found.log_probability == pytest.approx(float(np.log(0.8 * 0.9 * 0.9)))
        assert found.score == pytest.approx(found.log_probability / 3)


def test_tags_are_one_text_with_sep_behind():
    class Pieces:
        pad_token_id, sep_token_id = 0, 2

        def __call__(self, tag: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [int(piece) for piece in tag.split()]}

    limits = Limits(6, 5, 40, 40, tags_as_text=True)
    regions = Regions(np.zeros((1, 4), np.float32), np.zeros((1, 8), np.float16), [""], np.ones(1, np.float32), 9, 9)
    rows = [("a", ["10 11", "12", "12", "13"], regions), ("b", [], regions), ("c", ["9"], regions)]
    batch = ContextCollator(Pieces(), limits)(rows)
    assert batch["tag_ids"].tolist() == [[10, 11, 12, 12, 2], [0] * 5, [9, 2, 0, 0, 0]]  # cut at 4 and [SEP]
    assert batch["tag_positions"][0].tolist() == [40, 41, 42, 43, 44]
    assert batch["tag_mask"].sum(dim=1).tolist() == [5, 0, 2]
    plain = ContextCollator(Pieces(), replace(limits, tags_as_text=False))(rows[:1])
    assert plain["tag_ids"].tolist() == [[10, 11, 12, 12, 13]]
    assert plain["tag_positions"].tolist() == [[40, 41, 43, 45, 47]]
