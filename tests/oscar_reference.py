"""Oscar's captioning model stated again, plainly: one picture, no padding, everything computed anew at each step.

Weights and pictures are random functions of a seed. tests/golden/oscar.json holds what the original code made of
the same ones (docs/checkpoints.md says which code), so that this statement and the import are held to the original.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAD, CLS, SEP, MASK = 0, 1, 2, 3
VOCABULARY, WIDTH, HEADS, INNER, LAYERS, PLACES, NUMBERS = 40, 24, 4, 40, 2, 80, 8 + 6
TAG_POSITION = 40


@dataclass(frozen=True)
class Case:
    """One random checkpoint and the pictures that it is shown (a function of the last two digits of the seed)."""

    seed: int
    tied: bool
    region_norm: bool
    tags: bool
    max_gen_length: int = 12
    tag_tokens: int = 8
    regions: int = 6

    @property
    def name(self) -> str:
        return f"seed{self.seed}"


# Seeds whose captions end at different places, so that the ends of both searches are told apart.
CASES = (
    Case(1, tied=False, region_norm=True, tags=True),
    Case(6, tied=True, region_norm=False, tags=True),
    Case(8, tied=True, region_norm=True, tags=True, max_gen_length=20),
    Case(15, tied=False, region_norm=False, tags=True),
    Case(16, tied=True, region_norm=True, tags=True, max_gen_length=20),
    Case(22, tied=True, region_norm=True, tags=True),
    Case(26, tied=True, region_norm=True, tags=True),
    Case(106, tied=True, region_norm=True, tags=False),
    Case(116, tied=False, region_norm=True, tags=False),
)


def configuration(case: Case, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """config.json as the original writes it."""
    norm = {"use_img_layernorm": 1, "img_layer_norm_eps": 1e-5} if case.region_norm else {}
    return norm | {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": PLACES,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "img_feature_dim": NUMBERS,
        "img_feature_type": "frcnn",
        "tie_weights": case.tied,
    }


def random_weights(case: Case, vocabulary: int = VOCABULARY) -> dict[str, Tensor]:
    """A state dict under the original's names."""
    random = np.random.RandomState(case.seed % 100)
    state = {}

    def add(name: str, *shape: int, scale: float = 0.3, around: float = 0.0) -> None:
        state[name] = torch.from_numpy((around + scale * random.standard_normal(shape)).astype(np.float32))

    def linear(name: str, size: int, out: int) -> None:
        add(f"{name}.weight", out, size)
        add(f"{name}.bias", out)

    def norm(name: str) -> None:
        add(f"{name}.weight", WIDTH, scale=0.2, around=1.0)
        add(f"{name}.bias", WIDTH)

    for name, rows, scale in (("word", vocabulary, 0.5), ("position", PLACES, 0.8), ("token_type", 2, 0.5)):
        add(f"bert.embeddings.{name}_embeddings.weight", rows, WIDTH, scale=scale)
    norm("bert.embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", WIDTH, WIDTH)
        linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", WIDTH, INNER)
        linear(f"{layer}.output.dense", INNER, WIDTH)
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", WIDTH, WIDTH)
    linear("bert.img_embedding", NUMBERS, WIDTH)
    if case.region_norm:
        norm("bert.LayerNorm")
    linear("cls.predictions.transform.dense", WIDTH, WIDTH)
    norm("cls.predictions.transform.LayerNorm")
    add("cls.predictions.bias", vocabulary, scale=0.5)
    state["cls.predictions.bias"][SEP] += 1.5  # or hardly a caption would end
    if case.tied:
        state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    else:
        add("cls.predictions.decoder.weight", vocabulary, WIDTH, scale=0.5)
    return state


def random_pictures(case: Case, count: int = 4) -> list[tuple[Tensor, list[int]]]:
    """([features ; six box numbers] [R, 14], pieces of the tags without [SEP]) of each picture; some have more of
    either than the model takes, one has no tags."""
    random = np.random.RandomState(1000 + case.seed % 100)
    pictures = []
    for number in range(count):
        regions = torch.from_numpy(random.standard_normal((random.randint(1, case.regions + 3), NUMBERS)))
        tags = random.randint(4, VOCABULARY, random.randint(2, case.tag_tokens + 4)).tolist()
        pictures.append((regions.float(), tags if case.tags and number != 2 else []))
    return pictures


def text_logits(case: Case, state: dict[str, Tensor], caption: list[int], regions: Tensor, tags: list[int]) -> Tensor:
    """[len(caption), V]: caption elements see earlier ones, themselves, tags and regions; those see each other."""
    regions = regions[: case.regions]
    told = [*tags[: case.tag_tokens - 1], SEP] if tags else []
    n, t, total = len(caption), len(told), len(caption) + len(told) + len(regions)
    sees = torch.zeros(total, total, dtype=torch.bool)
    sees[:, n:] = True
    sees[:n, :n] = torch.ones(n, n).tril().bool()
    positions = [*range(n), *range(TAG_POSITION, TAG_POSITION + t)]
    x = state["bert.embeddings.word_embeddings.weight"][torch.tensor([*caption, *told])]
    x = x + state["bert.embeddings.position_embeddings.weight"][torch.tensor(positions)]
    x = x + state["bert.embeddings.token_type_embeddings.weight"][torch.tensor([0] * n + [1] * t)]
    x = _norm(state, "bert.embeddings.LayerNorm", x)
    seen = _linear(state, "bert.img_embedding", regions)
    if case.region_norm:
        seen = _norm(state, "bert.LayerNorm", seen, 1e-5)
    x = torch.cat([x, seen])
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        q, k, v = (
            _linear(state, f"{layer}.attention.self.{part}", x).view(total, HEADS, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(1, 2) / (WIDTH / HEADS) ** 0.5).masked_fill(~sees, -torch.inf)
        read = (scores.softmax(-1) @ v).transpose(0, 1).reshape(total, WIDTH)
        x = _norm(
            state, f"{layer}.attention.output.LayerNorm", x + _linear(state, f"{layer}.attention.output.dense", read)
        )
        inner = F.gelu(_linear(state, f"{layer}.intermediate.dense", x))
        x = _norm(state, f"{layer}.output.LayerNorm", x + _linear(state, f"{layer}.output.dense", inner))
    x = F.gelu(_linear(state, "cls.predictions.transform.dense", x[:n]))
    x = _norm(state, "cls.predictions.transform.LayerNorm", x)
    return x @ state["cls.predictions.decoder.weight"].T + state["cls.predictions.bias"]


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float = 1e-12) -> Tensor:
    return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps)


def greedy(case: Case, state: dict[str, Tensor], regions: Tensor, tags: list[int]) -> tuple[list[int], float]:
    """(words, mean log-probability) by the original's rules."""
    caption, total = [CLS], 0.0
    for length in range(1, case.max_gen_length):
        log_p = text_logits(case, state, [*caption, MASK], regions, tags)[-1].log_softmax(-1)
        word = int(log_p.argmax())
        total += float(log_p[word])
        if word == SEP or length == case.max_gen_length - 1:  # there the last word becomes [SEP], whatever it is
            return caption[1:], total / length
        caption.append(word)
    raise AssertionError("unreachable")


def beam(case: Case, state: dict[str, Tensor], regions: Tensor, tags: list[int], width: int) -> tuple[list[int], float]:
    """(words, log-probability per token) by the original's rules: one finished hypothesis is kept, the best."""
    longest = case.max_gen_length - 1
    beams, best = [(0.0, [CLS])], None
    for length in range(1, longest + 1):
        candidates = []
        for total, caption in beams:
            log_p = text_logits(case, state, [*caption, MASK], regions, tags)[-1].log_softmax(-1)
            candidates += [(total + float(log_p[word]), caption, word) for word in range(len(log_p))]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * width]
        if best is not None and best[1] >= candidates[0][0] / longest:
            break
        beams = []
        for total, caption, word in candidates:
            if word == SEP or length == longest:
                if best is None or total / length > best[1]:
                    best = (caption[1:], total / length)
            else:
                beams.append((total, [*caption, word]))
                if len(beams) == width:
                    break
    assert best is not None
    return best
