"""What a word hangs on: every figure against a model run by hand with that region or tag really gone."""

import dataclasses

import numpy as np
import pytest
import torch

from vivo.data.collate import ContextCollator, Limits
from vivo.data.text import encode_caption, load_tokenizer
from vivo.data.types import Regions
from vivo.explanation import Explainer
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.report.highlight import WORD
from vivo.weights import bert_folder

CAPTION = "a snowboarding dog's ball, red."
TAGS = ["dog", "hot dog", "snowboard"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


def model_for(tokenizer, **more) -> VivoForCaptioning:
    """Weights at random, large enough that everything matters."""
    torch.manual_seed(3)
    ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = VivoConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        feature_size=5, training_stage="captions", mask_token_id=tokenizer.mask_token_id, **ids, **more,
    )  # fmt: skip
    model = VivoForCaptioning(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def regions(count: int = 4) -> Regions:
    generator = np.random.default_rng(0)
    boxes = np.array([[10 * n, 5, 10 * n + 20, 25] for n in range(count)], np.float32)
    features = generator.normal(size=(count, 5)).astype(np.float16)
    return Regions(boxes, features, ["dog"] * count, np.full(count, 0.5, np.float32), 200, 50)


def without_region(found: Regions, n: int) -> Regions:
    kept = [i for i in range(len(found.labels)) if i != n]
    return dataclasses.replace(
        found, boxes=found.boxes[kept], features=found.features[kept], labels=[found.labels[i] for i in kept],
        scores=found.scores[kept],
    )  # fmt: skip


@torch.no_grad()
def by_hand(model: VivoForCaptioning, batch: dict, tokens: list[int]) -> list[float]:
    """log p of each token behind [CLS], one pass each: the true tokens before it and one [MASK]."""
    context = model.encode_context(batch)
    found = []
    for n in range(1, len(tokens)):
        ids = torch.tensor([[*tokens[:n], model.config.mask_token_id]])
        seen = torch.ones(n + 1, n + 1, dtype=torch.bool).tril()[None]
        hidden = model.vivo.encode_text(context, ids, torch.arange(n + 1)[None], seen)
        found.append(float(model.logits(hidden[0, -1]).log_softmax(-1)[tokens[n]]))
    return found


def words_of(caption: str) -> list[tuple[int, int]]:
    return [match.span() for match in WORD.finditer(caption)]


def test_every_region_by_hand(tokenizer):
    model, collator = model_for(tokenizer), ContextCollator(tokenizer, Limits.of(model_for(tokenizer).config))
    evidence = Explainer(model, tokenizer).explain(CAPTION, TAGS, regions(), words_of(CAPTION))
    tokens = encode_caption(tokenizer, CAPTION, 40)
    assert tokenizer.convert_ids_to_tokens(tokens[1:-1]) == [
        "a", "snow", "##boarding", "dog", "'", "s", "ball", ",", "red", ".",
    ]  # fmt: skip
    pieces = [[0], [1, 2], [3, 4, 5], [6], [8]]  # the comma and the full stop are no words
    assert [CAPTION[w.start : w.end] for w in evidence] == ["a", "snowboarding", "dog's", "ball", "red"]

    def log_p(batch: dict) -> list[float]:
        found = by_hand(model, batch, tokens)
        return [sum(found[n] for n in of_word) for of_word in pieces]

    whole = log_p(collator([("", TAGS, regions())]))
    assert [w.log_probability for w in evidence] == pytest.approx(whole, abs=1e-4)
    for n in range(4):
        left = log_p(collator([("", TAGS, without_region(regions(), n))]))
        falls = [w.regions[n] for w in evidence]
        assert falls == pytest.approx([a - b for a, b in zip(whole, left, strict=True)], abs=1e-4)
        assert max(map(abs, falls)) > 0.01

    # Without any: no column of regions at all.
    none = collator([("", TAGS, regions())])
    none |= {name: none[name][:, :0] for name in ("region_features", "region_positions", "region_mask")}
    falls = [a - b for a, b in zip(whole, log_p(none), strict=True)]
    assert [w.without_regions for w in evidence] == pytest.approx(falls, abs=1e-4)


def test_every_tag_by_hand(tokenizer):
    """Tags keep their positions when another one goes, as the words of a list that one covers with a finger."""
    model = model_for(tokenizer)
    batch = ContextCollator(tokenizer, Limits.of(model.config))([("", TAGS, regions())])
    evidence = Explainer(model, tokenizer).explain(CAPTION, TAGS, regions(), words_of(CAPTION))
    tokens = encode_caption(tokenizer, CAPTION, 40)
    whole = by_hand(model, batch, tokens)

    def falls(columns: list[int]) -> list[float]:
        kept = [n for n in range(batch["tag_ids"].shape[1]) if n not in columns]
        left = batch | {name: batch[name][:, kept] for name in ("tag_ids", "tag_positions", "tag_mask")}
        found = by_hand(model, left, tokens)
        return [whole[0] - found[0], sum(whole[1:3]) - sum(found[1:3])]

    for n, (tag, columns) in enumerate([("dog", [0]), ("hot dog", [1, 2]), ("snowboard", [3, 4])]):
        assert [w.tags[n][0] for w in evidence] == [tag] * 5
        assert [w.tags[n][1] for w in evidence[:2]] == pytest.approx(falls(columns), abs=1e-4)
    assert [w.without_tags for w in evidence[:2]] == pytest.approx(falls([0, 1, 2, 3, 4]), abs=1e-4)


def test_all_words_and_signs_together_are_the_caption(tokenizer):
    """Asked for each sign as a word too, the log-probabilities add up to that of the text before [SEP]."""
    model = model_for(tokenizer)
    spans = [(0, 1), (2, 14), (15, 20), (21, 25), (25, 26), (27, 30), (30, 31)]
    evidence = Explainer(model, tokenizer).explain(CAPTION, TAGS, regions(), spans)
    batch = ContextCollator(tokenizer, Limits.of(model.config))([("", TAGS, regions())])
    whole = by_hand(model, batch, encode_caption(tokenizer, CAPTION, 40))
    assert sum(w.log_probability for w in evidence) == pytest.approx(sum(whole[:-1]), abs=1e-3)


def test_what_the_model_does_not_read_is_not_explained(tokenizer):
    """Regions, tags and words behind the model's limits; many regions in several passes."""
    model = model_for(tokenizer, max_regions=70, max_tag_tokens=3, max_caption_tokens=5)
    evidence = Explainer(model, tokenizer).explain(CAPTION, TAGS, regions(90), words_of(CAPTION))
    assert [CAPTION[w.start : w.end] for w in evidence] == ["a", "snowboarding"]
    assert [len(w.regions) for w in evidence] == [70, 70]
    assert [tag for tag, _ in evidence[0].tags] == ["dog", "hot dog"]
    assert all(np.isfinite([w.without_regions, w.without_tags, *w.regions]).all() for w in evidence)


def test_no_tags_and_one_region(tokenizer):
    """The only region is all regions; nothing is there any more without it."""
    evidence = Explainer(model_for(tokenizer), tokenizer).explain("a dog", [], regions(1), words_of("a dog"))
    for word in evidence:
        assert word.tags == [] and word.without_tags == 0.0
        assert word.regions == pytest.approx([word.without_regions], abs=1e-5)
    assert Explainer(model_for(tokenizer), tokenizer).explain("", [], regions(1), []) == []


@pytest.mark.parametrize("most, last", [(8, 4), (4, 3)])
def test_places_of_tags_in_one_text(tokenizer, most: int, last: int):
    """Oscar's tags are one text with [SEP] at its end, cut in the middle of a tag where it is too long."""
    limits = Limits(4, most, 12, 12, tags_as_text=True)
    collator = ContextCollator(tokenizer, limits)
    names = ["dog", "dog", "hot dog"]
    assert collator.tag_places(names) == [("dog", 0, 1), ("dog", 1, 2), ("hot dog", 2, last)]
    batch = collator([("", names, regions(1))])
    assert batch["tag_ids"].shape[1] == last + 1
    assert batch["tag_ids"][0, -1] == tokenizer.sep_token_id
