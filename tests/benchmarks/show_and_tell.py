"""Show and Tell: pictures a second of both phases against a plain implementation, in one run, by turns.

    python tests/benchmarks/show_and_tell.py                                  Inception v3 at 299 pixels, 12,000 words
    python tests/benchmarks/show_and_tell.py --encoder tf_efficientnet_lite0 --size 224 --words 3000
    options: --batch 32  --captions 1  --updates 4  --rounds 3  --phases 1 2  --compile  --small (a check in seconds)

The plain implementation is written here as the model is usually written: in each update picture files are opened,
the encoder runs as timm has it (in phase 1 without gradient, for it is frozen; in phase 2 with), the LSTM is a cell in
a loop over the words, with a softmax over all words at each of them, padding included. Ours is the run of
finetune/train_show_and_tell.py: phase 1 reads what the encoder said of each picture from a RegionStore, phase 2 has the
streamlined encoder; both the fused LSTM and a softmax over the words that are asked for. An update is data, forward,
backward, clipping, AdamW. Weights are random and the same, dropout is off: the losses have to agree.

Seconds are wall time; ratios of CPU time, which neighbours on the machine disturb less, stand behind. Goals: phase 1
10 times, phase 2 1.2 times the plain one. On a GPU: the time of an update of 32 pictures beside the announced 0.7 s.
"""

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# ruff: noqa: E402
# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vivo.config import OptimConfig
from vivo.data.collate import to_device
from vivo.data.datasets import CaptionPictures
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.types import CaptionExample
from vivo.detectors.backbone import open_backbone
from vivo.detectors.extract import extract_regions
from vivo.losses import caption_loss
from vivo.show_and_tell.collate import SentenceCollator
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.show_and_tell.pictures import PictureStore
from vivo.show_and_tell.tasks import CaptionedPixels
from vivo.show_and_tell.words import word_tokenizer
from vivo.training.optim import build_optimizer
from vivo.training.runtime import fast_bf16

CLIP = 5.0


class Plain(nn.Module):
    """The model as it is usually written, on the weights of ours."""

    def __init__(self, ours: ShowAndTell, frozen: bool):
        super().__init__()
        self.config, self.frozen = ours.config, frozen
        # a copy from before the first pictures: nothing is folded yet; tensors lie as PyTorch has them by default
        self.encoder = copy.deepcopy(ours.encoder.network).to(memory_format=torch.contiguous_format)
        self.encoder.requires_grad_(not frozen)
        self.image, self.words, self.output = (copy.deepcopy(m) for m in (ours.image, ours.words, ours.output))
        self.cell = nn.LSTMCell(self.config.embedding_size, self.config.lstm_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(self.cell, name).data.copy_(getattr(ours.lstm, f"{name}_l0"))

    def forward(self, pixels: Tensor, words: Tensor) -> Tensor:
        """float [B, 3, S, S], int [B, L + 1] padded with 0 -> summed loss."""
        self.encoder.eval()  # batch norms as they are, as in ours
        with torch.set_grad_enabled(not self.frozen):
            features = self.encoder.forward_features(pixels).mean((2, 3))
        h = c = features.new_zeros(len(pixels), self.config.lstm_size)
        h, c = self.cell(self.image(features), (h, c))
        loss = torch.zeros((), device=pixels.device)
        for place in range(words.shape[1] - 1):
            h, c = self.cell(self.words(words[:, place]), (h, c))
            losses = F.cross_entropy(self.output(h), words[:, place + 1], reduction="none")
            loss = loss + (losses * (words[:, place + 1] != 0)).sum()
        return loss


def plain_batch(model: ShowAndTell, files: Sequence[Path], captions: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Picture files and captions as tensors."""
    size, pixels = model.config.picture_size, []
    mean = torch.tensor(model.config.pixel_mean).view(3, 1, 1)
    std = torch.tensor(model.config.pixel_std).view(3, 1, 1)
    for file in files:
        picture = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels.append((torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - mean) / std)
    words = torch.zeros(len(captions), max(map(len, captions)), dtype=torch.int64)
    for row, ids in enumerate(captions):
        words[row, : len(ids)] = torch.tensor(ids)
    return torch.stack(pixels), words


class Case:
    """Made-up pictures and captions, a model, and updates of both kinds on the same pictures."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, frozen: bool):
        self.frozen, self.batch, self.captions = frozen, arguments.batch, arguments.captions
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.half = fast_bf16()
        rng = np.random.default_rng(0)
        vocabulary = [f"w{n}" for n in range(arguments.words)]
        self.tokenizer = word_tokenizer([" ".join(vocabulary)], 1)
        self.examples = []
        for number in range(2 * self.batch):
            patches = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            file = folder / f"{number}.jpg"
            Image.fromarray(patches).resize((480, 360), Image.Resampling.BICUBIC).save(file, quality=90)
            lengths = rng.integers(8, 15, self.captions)  # COCO's captions have 10.5 words
            texts = [" ".join(rng.choice(vocabulary, n)) for n in lengths]
            self.examples.append(CaptionExample(file.stem, file.name, texts))
        torch.manual_seed(0)
        network, mean, std = open_backbone(arguments.encoder, "random")
        self.model = ShowAndTell(
            ShowAndTellConfig(
                vocab_size=len(self.tokenizer), encoder=arguments.encoder, feature_size=network.num_features,
                picture_size=arguments.size, picture_resize=arguments.size, pixel_mean=mean, pixel_std=std, dropout=0.0,
            )
        )  # fmt: skip
        self.model.encoder.network.load_state_dict(network.state_dict())
        self.model.freeze_encoder(frozen)
        self.plain = Plain(self.model, frozen).to(self.device)
        self.model.to(self.device).train()
        collator = SentenceCollator(self.tokenizer, 40, 0, self.captions)
        self.precompute = 0.0
        if frozen:
            files = [folder / e.file_name for e in self.examples]
            begun = perf_counter()
            ids = [e.image_id for e in self.examples]
            extract_regions(files, folder / "store", self.model.encoder.detector(), image_ids=ids, progress=False)
            self.precompute = (perf_counter() - begun) / len(files)
            data = CaptionPictures(self.examples, RegionStore(folder / "store"), TagSource("none"), 0.0, 0)
        else:
            data = CaptionedPixels(
                self.examples, PictureStore.of(self.examples, folder, self.model.reader()), 0, "none"
            )
        self.files = {e.image_id: folder / e.file_name for e in self.examples}
        self.load = lambda numbers: collator([data[0, n] for n in numbers])
        if arguments.compile and not frozen:
            self.model.compile()
        optim = OptimConfig(lr=1e-5)
        self.optimizers = {"plain": torch.optim.AdamW(self._trained(self.plain), lr=1e-5),
                           "ours": build_optimizer(self.model, optim)}  # fmt: skip

    def _trained(self, model: nn.Module) -> list[nn.Parameter]:
        return [p for p in model.parameters() if p.requires_grad]

    def update(self, kind: str, turn: int) -> float:
        """One update; returns the loss per word before it."""
        numbers = [(turn * self.batch + n) % len(self.examples) for n in range(self.batch)]
        batch = self.load(numbers) if kind == "ours" else None
        if batch is not None:
            batch = to_device(batch, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.model(batch)["logits"]
            losses = caption_loss(logits, batch["target_ids"])
            loss, count = losses["loss"], losses["count"]
            model: nn.Module = self.model
        else:
            ids = [self.tokenizer(c)["input_ids"] for n in numbers for c in self.examples[n].captions]
            files = [self.files[self.examples[n].image_id] for n in numbers for _ in range(self.captions)]
            pixels, words = plain_batch(self.model, files, ids)
            loss = self.plain(pixels.to(self.device), words.to(self.device))
            count, model = sum(len(i) - 1 for i in ids), self.plain
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self._trained(model), CLIP)
        self.optimizers[kind].step()
        self.optimizers[kind].zero_grad(set_to_none=True)
        return float(loss.detach()) / float(count)


def measure(case: Case, updates: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each round of each kind, by turns."""
    first = {kind: case.update(kind, 0) for kind in ("plain", "ours")}  # not counted: allocations, threads, folding
    tolerance = 0.03 if case.half else 0.01
    if abs(first["plain"] - first["ours"]) > tolerance:
        raise SystemExit(f"error: the losses differ: {first}")
    seconds: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
    for _ in range(rounds):
        for kind, found in seconds.items():
            wall, cpu = perf_counter(), process_time()
            for turn in range(updates):
                case.update(kind, turn)
            if case.device.type == "cuda":
                torch.cuda.synchronize()
            found.append(((perf_counter() - wall) / updates, (process_time() - cpu) / updates))
    return seconds


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="inception_v3")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--words", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=1, help="of each picture; the plain one encodes it for each")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoder of phase 2")
    parser.add_argument("--small", action="store_true", help="small sizes: a check that both agree")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.encoder, arguments.size, arguments.words, arguments.batch = "tf_efficientnet_lite0/3", 64, 300, 4
        arguments.updates, arguments.rounds = 1, 1
    made: Callable[[int, Path], Case] = lambda phase, folder: Case(arguments, folder, phase == 1)  # noqa: E731
    result = {"encoder": arguments.encoder, "size": arguments.size, "words": arguments.words, "batch": arguments.batch,
              "captions": arguments.captions, "threads": torch.get_num_threads()}  # fmt: skip
    for phase in arguments.phases:
        with tempfile.TemporaryDirectory() as folder:
            case = made(phase, Path(folder))
            seconds = measure(case, arguments.updates, arguments.rounds)
        rates = {kind: arguments.batch / statistics.median(w for w, _ in found) for kind, found in seconds.items()}
        pairs = list(zip(seconds["plain"], seconds["ours"], strict=True))
        wall, cpu = ([a[clock] / b[clock] for a, b in pairs] for clock in (0, 1))
        ratio, of_cpu = statistics.median(wall), statistics.median(cpu)
        print(
            f"phase {phase}: {rates['ours']:.1f} pictures/s ({arguments.batch / rates['ours']:.3f} s an update), plain "
            f"{rates['plain']:.1f}: {ratio:.2f} times ({min(wall):.2f} to {max(wall):.2f}); CPU seconds {of_cpu:.2f}"
            + (f"; computing the outputs once: {1 / case.precompute:.1f} pictures/s" if phase == 1 else ""),
            flush=True,
        )
        result[f"phase {phase}"] = {"seconds": seconds, "wall": wall, "cpu": cpu, "precompute": case.precompute}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
