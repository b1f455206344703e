"""Captions a second against decoders that compute more than they need.

    python tests/benchmarks/decoding.py [--pictures 8] [--beam 5] [--rounds 3] [--only hidden] [--small]

BERT-base, 50 regions, 20 tag tokens, captions of 20 tokens, random weights, all cores. The end token is forbidden, so
that every decoder writes 20 tokens; the output weights are scaled so that the best hypotheses differ by more than
rounding. Rivals, written here on the weights of the same model, under the same beam search, logits at the last
[MASK] alone in each:

    whole     every hypothesis at every step: the whole sequence [caption, MASK, tags, regions] through all layers, as
              Oscar generates by default (`BertForImageCaptioning` without its hidden-state cache)
    hidden    hidden states of all layers are kept, and keys and values of the whole context and the earlier tokens are
              computed from them at every step for every beam, as with Oscar's `use_hidden_state_cache`

All turns are of one run, by turns; the ratio is that of captions a second, and that of CPU seconds, which neighbours on
the machine disturb less, stands behind it. The same tokens must come out (with bfloat16:
counted). Goals: 15 times `whole`, 4 times `hidden`, bfloat16 2 times float32.
"""

import argparse
import copy
import json
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter, process_time

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# ruff: noqa: E402
# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from vivo.config import DecodeConfig
from vivo.decoding.search import Hypothesis, Step, beam_search
from vivo.modeling import Layer, VivoConfig, VivoForCaptioning
from vivo.prediction import caption_batch

REGIONS, TAGS, TOKENS = 50, 20, 20
CLS, SEP, MASK = 101, 102, 103


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 1000,
    "feature_size": 64,
}  # fmt: skip


def made_up(
    pictures: int, small: bool, device: str = "cpu", config: VivoConfig | None = None
) -> tuple[VivoForCaptioning, dict[str, Tensor]]:
    """A model with random weights, and a batch of full length; of BERT-base size, where no other is given."""
    torch.manual_seed(0)
    config = config or VivoConfig(training_stage="captions", **(SMALL if small else {}))
    model = VivoForCaptioning(config).eval().requires_grad_(False)
    with torch.no_grad():
        model.vivo.embeddings.word.weight.mul_(5.0)
        model.head.bias[SEP] = -1e9
    batch = {
        "tag_ids": torch.randint(104, config.vocab_size, (pictures, TAGS)),
        "tag_positions": config.tag_position_offset + torch.arange(TAGS).expand(pictures, -1),
        "tag_mask": torch.ones(pictures, TAGS, dtype=torch.bool),
        "region_features": torch.randn(pictures, REGIONS, config.feature_size),
        "region_positions": torch.rand(pictures, REGIONS, 6),
        "region_mask": torch.ones(pictures, REGIONS, dtype=torch.bool),
    }
    return model.to(device), {name: value.to(device) for name, value in batch.items()}


class Rival(ABC):
    """A step function with what both rivals share: prefixes, embeddings, one picture's context for each beam."""

    def __init__(self, model: VivoForCaptioning, batch: dict[str, Tensor], beam: int):
        self.model, self.beam = model, beam
        self.prefix: Tensor | None = None
        vivo = model.vivo
        told = vivo.embeddings(batch["tag_ids"], batch["tag_positions"], model.config.tag_segment)
        seen = vivo.regions(batch["region_features"], batch["region_positions"])
        self.context = torch.cat([told, seen], dim=1)  # [B, S, D]

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int64 [B, K], int64 [B, K] -> float32 [B, K, V]."""
        pictures, beams = tokens.shape
        rows = parents + torch.arange(pictures, device=tokens.device)[:, None] * (
            self.prefix.shape[0] // pictures if self.step else 1
        )
        earlier = self.prefix[rows.flatten()] if self.step else tokens.new_zeros(pictures * beams, 0)
        self.prefix = torch.cat([earlier, tokens.view(-1, 1)], dim=1)
        picture = torch.arange(pictures, device=tokens.device).repeat_interleave(beams)
        hidden = self.last_hidden(rows.flatten(), picture)
        return self.model.logits(hidden).float().log_softmax(-1).view(pictures, beams, -1)

    @property
    def step(self) -> int:
        """Tokens written before this call."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    def embed(self, ids: Tensor, first: int) -> Tensor:
        """[N, L] at positions from `first` -> [N, L, D]."""
        places = torch.arange(first, first + ids.shape[1], device=ids.device)
        return self.model.vivo.embeddings(ids, places.expand_as(ids), 0)

    @abstractmethod
    def last_hidden(self, rows: Tensor, picture: Tensor) -> Tensor:
        """Output of the last [MASK] of each hypothesis, [N, D]; rows: those that it continues."""


class Whole(Rival):
    """The whole sequence of each hypothesis from nothing."""

    def last_hidden(self, rows: Tensor, picture: Tensor) -> Tensor:
        """See `Rival`."""
        ids = torch.cat([self.prefix, self.prefix.new_full((len(self.prefix), 1), MASK)], dim=1)
        length = ids.shape[1]
        x = torch.cat([self.embed(ids, 0), self.context[picture]], dim=1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        mask[:length, :length] = mask[:length, :length].tril()
        mask[length:, :length] = False
        for layer in self.model.vivo.layers:
            x = transformed(layer, x, x, mask)
        return x[:, length - 1]


class Hidden(Rival):
    """Two new positions a step; keys and values of everything else from its kept hidden states, for each beam."""

    def __init__(self, model: VivoForCaptioning, batch: dict[str, Tensor], beam: int):
        super().__init__(model, batch, beam)
        self.kept: list[Tensor] = []  # input of each layer: context, then earlier tokens, [N, S + t, D]

    def last_hidden(self, rows: Tensor, picture: Tensor) -> Tensor:
        """See `Rival`."""
        first = self.step - 1
        masks = self.prefix.new_full((len(self.prefix), 1), MASK)
        x = self.embed(torch.cat([self.prefix[:, -1:], masks], dim=1), first)
        if not self.kept:
            states = self.context
            for layer in self.model.vivo.layers:
                self.kept.append(states)
                states = transformed(layer, states, states, None)
        before = self.kept[0].shape[1]
        # the last token sees all but the [MASK] behind it
        mask = torch.ones(2, before + 2, dtype=torch.bool, device=x.device)
        mask[0, -1] = False
        for index, layer in enumerate(self.model.vivo.layers):
            everything = torch.cat([self.kept[index][rows if first else picture], x], dim=1)
            self.kept[index] = everything[:, :-1]
            x = transformed(layer, x, everything, mask)
        return x[:, 1]


def transformed(layer: Layer, x: Tensor, read: Tensor, mask: Tensor | None) -> Tensor:
    """One layer: queries of x [N, L, D], keys and values of `read` [N, M, D]."""
    width = x.shape[2]
    weight, bias = layer.qkv.weight, layer.qkv.bias
    q = F.linear(x, weight[:width], bias[:width])
    k, v = F.linear(read, weight[width:], bias[width:]).split(width, dim=2)
    q, k, v = (t.unflatten(2, (layer.heads, -1)).transpose(1, 2) for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    x = layer.attention_norm(x + layer.attention_output(attended))
    return layer.feed_forward_norm(x + layer.feed_forward_out(F.gelu(layer.feed_forward_in(x))))


@torch.inference_mode()
def searched(make: Callable[[], Step], pictures: int, beam: int, device: str = "cpu") -> list[list[Hypothesis]]:
    """The beam search of all decoders here."""
    return beam_search(make(), pictures, CLS, SEP, beam, TOKENS, device=device)


def main() -> None:
    """Measure, compare tokens and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["bf16", "hidden", "whole"], help="what vivo is compared with")
    parser.add_argument("--small", action="store_true", help="a tiny model: a check that all decoders agree")
    arguments = parser.parse_args()
    model, batch = made_up(arguments.pictures, arguments.small)
    half = copy.deepcopy(model).to(torch.bfloat16)
    decode = DecodeConfig(beam=arguments.beam, max_tokens=TOKENS)
    beam, pictures = arguments.beam, arguments.pictures
    decoders: dict[str, Callable[[], list[list[Hypothesis]]]] = {
        "vivo": lambda: caption_batch(model, batch, decode),
        "bf16": lambda: caption_batch(half, batch, decode),
        "hidden": lambda: searched(lambda: Hidden(model, batch, beam), pictures, beam),
        "whole": lambda: searched(lambda: Whole(model, batch, beam), pictures, beam),
    }
    decoders = {name: decoder for name, decoder in decoders.items() if name in ("vivo", *arguments.only)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in decoders}
    tokens = {}
    decoders["vivo"]()  # once, not counted: allocations, threads
    for turn in range(arguments.rounds):
        for name, decoder in decoders.items():
            wall, cpu = perf_counter(), process_time()
            found = decoder()
            seconds[name].append((perf_counter() - wall, process_time() - cpu))
            tokens[name] = [[h.tokens for h in row] for row in found]
            print(f"round {turn + 1}  {name:<8} {pictures / seconds[name][-1][0]:8.2f} captions/s", flush=True)
    for name in {"hidden", "whole"} & set(tokens):
        if tokens[name] != tokens["vivo"]:
            raise SystemExit(f"error: {name} writes other tokens than vivo")
    ratios = {}
    for name in decoders.keys() - {"vivo"}:
        of, over = ("vivo", name) if name == "bf16" else (name, "vivo")
        pairs = list(zip(seconds[of], seconds[over], strict=True))
        wall, cpu = ([a[clock] / b[clock] for a, b in pairs] for clock in (0, 1))
        ratios[name] = {"wall": wall, "cpu": cpu}
        text = f"{over} is {statistics.median(wall):.1f} times as fast as {of}"
        print(f"{text} ({min(wall):.1f} to {max(wall):.1f}); CPU seconds: {statistics.median(cpu):.1f} times")
    if "bf16" in tokens:
        same = sum(a[0] == b[0] for a, b in zip(tokens["bf16"], tokens["vivo"], strict=True))
        print(f"same best caption with bfloat16: {same} of {pictures}")
    print(json.dumps({"beam": beam, "pictures": pictures, "seconds": seconds, "ratios": ratios}))


if __name__ == "__main__":
    main()
