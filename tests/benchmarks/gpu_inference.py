"""The sections of gpu.py without training: captions, constrained captions, self-critical updates, extraction."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from results import Results
from training_step import BASE, CLIP, TINY, Numbers, some_regions, some_tags, with_features

if TYPE_CHECKING:
    from gpu import Card


def beam(results: Results, card: "Card") -> None:
    """Captions a second at beam 5: bf16 against fp32, and against computing everything anew for each token."""
    from decoding import Whole, made_up, searched

    from vivo.config import DecodeConfig
    from vivo.prediction import caption_batch

    decode, device = DecodeConfig(beam=5, max_tokens=20), str(card.device)
    model, batch = made_up(4 if card.tiny else 256, card.tiny, device)
    half = copy.deepcopy(model).to(torch.bfloat16)
    pictures = batch["tag_ids"].shape[0]
    turns = 1 if card.tiny else 3
    rates: dict[str, float] = {}
    rates_of_few: dict[str, float] = {}
    for size in (pictures // 4, pictures):
        part = {name: value[:size] for name, value in batch.items()}
        for name, kind in (("bf16", half), ("fp32", model)):
            seconds = card.seconds(lambda _, m=kind, b=part: caption_batch(m, b, decode), turns, 1)
            rates[name] = size / seconds
            results.note(f"beam/{name}, {size} pictures captions/s", rates[name])
            rates_of_few.setdefault(name, rates[name])
    card.fresh_memory()
    caption_batch(half, batch, decode)
    results.note("beam/GiB", card.peak_gib())
    few = max(1, pictures // 4)
    if card.cuda:
        some = {name: value[:few] for name, value in batch.items()}
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            caption_batch(half, some, decode)
            card.wait()
        kernels = [e for e in seen.key_averages() if "CUDA" in str(e.device_type)]
        busy = sum(e.self_device_time_total for e in kernels) / 1e3
        wall = 1e3 * few / rates_of_few["bf16"]
        told = {"kernels": sum(e.count for e in kernels), "GPU ms": busy, "ms without the profiler": wall}
        results.note(f"beam/{few} pictures, bf16", told)
    part = {name: value[:few] for name, value in batch.items()}
    theirs = card.seconds(lambda _: searched(lambda: Whole(half, part, 5), few, 5, device), 1, 1)
    ours = card.seconds(lambda _: caption_batch(half, part, decode), turns, 1)
    same = [
        a[0].tokens == b[0].tokens
        for a, b in zip(
            searched(lambda: Whole(model, part, 5), few, 5, device), caption_batch(model, part, decode), strict=True
        )
    ]
    results.note("beam/same captions as the whole sequence, fp32", f"{sum(same)} of {len(same)}")
    results.row(f"beam 5, {few} pictures, bf16, against recomputing", few / ours, few / theirs, "captions/s", 15.0)
    theirs = card.seconds(lambda _: searched(lambda: Whole(half, batch, 5), pictures, 5, device), 1, 0)
    what = f"beam 5, {pictures} pictures, bf16, against recomputing"
    results.row(what, rates["bf16"], pictures / theirs, "captions/s", 15.0)
    results.row(f"beam 5, {pictures} pictures, bf16 against fp32", rates["bf16"], rates["fp32"], "captions/s", 2.0)


def cbs(results: Results, card: "Card") -> None:
    """Constrained beam search against plain beam search of as many hypotheses."""
    from constrained import constrained, plain
    from decoding import made_up

    model, batch = made_up(2 if card.tiny else 64, card.tiny, str(card.device))
    pictures = batch["tag_ids"].shape[0]
    widths = constrained(model, batch, 3, 5)
    width = round(sum(widths) / len(widths))
    turns = 1 if card.tiny else 3
    ours = card.seconds(lambda _: constrained(model, batch, 3, 5), turns, 1)
    theirs = card.seconds(lambda _: plain(model, batch, width), turns, 1)
    what = f"constrained beam search, {pictures} pictures, 3 constraints"
    results.row(what, 1e3 * ours, 1e3 * theirs, "ms", 1 / 1.3, less_is_better=True)


class Letters(Numbers):
    """`Numbers` whose pieces can be written out: piece 27 is "wbb"."""

    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = True) -> list[str]:
        """A word for each id."""
        return [f"w{chr(97 + i // 676 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in ids if i > 103]


def scst(results: Results, card: "Card") -> None:
    """A self-critical update of 64 pictures x 5 samples: its parts."""
    from vivo.data.collate import Limits, SampleCollator, to_device
    from vivo.metrics.reward import CaptionReward
    from vivo.modeling import VivoForCaptioning
    from vivo.training.self_critical import SelfCritical, scst_loss

    shape = TINY if card.tiny else BASE
    pictures, samples = (4, 2) if card.tiny else (64, 5)
    torch.manual_seed(0)
    model = VivoForCaptioning(shape.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    tokenizer = Letters()
    with torch.no_grad():  # samples of about ten pieces, as captions have
        model.head.bias[tokenizer.sep_token_id] += 8.1 if not card.tiny else 4.0
    model.to(card.device).train().freeze_vocabulary()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    rng = np.random.default_rng(0)
    regions = some_regions(np.full(pictures, 50), rng)
    words = tokenizer.convert_ids_to_tokens(range(1000, 1050))
    captions = [[" ".join(rng.choice(words, 10)) for _ in range(5)] for _ in range(pictures)]
    collator = SampleCollator(tokenizer, Limits.of(model.config), 0, samples, 20, 0.0)
    tags = [some_tags(15, shape.vocabulary, rng) for _ in range(pictures)]
    batch = collator([(0, str(n), tags[n], captions[n], regions[n]) for n in range(pictures)])
    batch = with_features(batch, shape.features, card.device)
    spent = {"reward": 0.0, "sampling with reward": 0.0}
    reward = CaptionReward(captions)

    def timed(*arguments: Sequence) -> np.ndarray:
        begun = perf_counter()
        found = reward(*arguments)
        spent["reward"] += perf_counter() - begun
        return found

    prepare = SelfCritical(tokenizer, timed, [str(n) for n in range(pictures)], "others")
    tokens = []

    def update(_: int) -> None:
        begun = perf_counter()
        with torch.autocast(card.device.type, torch.bfloat16):
            made = to_device(prepare(model, batch, 0), card.device)
            tokens.append(made["target_ids"].shape[0] / (pictures * samples))
            spent["sampling with reward"] += perf_counter() - begun
            output = model(made)
        losses = scst_loss(output, made)
        (losses["loss"] / losses["count"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    turns = 4
    update(0)
    spent.update(dict.fromkeys(spent, 0.0))
    seconds = card.seconds(update, turns, 0)
    results.note("scst/ms of an update", {"all": 1e3 * seconds, **{k: 1e3 * v / turns for k, v in spent.items()}})
    results.note("scst/tokens of a sample", sum(tokens) / len(tokens))
    share = spent["reward"] / turns / seconds
    what = f"self-critical update, {pictures} x {samples} samples: share of the reward"
    results.row(what, share, 0.05, "of its time", 1.0, less_is_better=True)


def extraction(results: Results, card: "Card") -> None:
    """JPEG files into a store: batches, decoded ahead, against one picture after the other. Random weights."""
    import timm
    from PIL import Image

    from vivo.data.regions import RegionStoreWriter
    from vivo.detectors.extract import extract_regions
    from vivo.detectors.grid import GridDetector, GridSettings
    from vivo.detectors.pictures import open_picture

    pictures = 8 if card.tiny else 512
    network, scales = ("resnet18", "64x2") if card.tiny else ("resnet50", "448x7")
    torch.manual_seed(0)
    body = timm.create_model(network, pretrained=False, num_classes=0)
    kinds: dict[str, Callable[[], GridDetector]] = {
        dtype: lambda d=dtype: GridDetector(
            GridSettings(network, scales, d, str(card.device)), body, [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
        )
        for dtype in ("float32", "bfloat16")
    }
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        small = rng.integers(0, 256, (pictures, 15, 20, 3), dtype=np.uint8)
        for number in range(pictures):
            path = folder / f"{number}.jpg"
            Image.fromarray(small[number]).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
            paths.append(path)
        detector = kinds["float32"]()
        some = paths[: max(4, pictures // 4)]
        detector.detect([open_picture(some[0])])
        begun = perf_counter()
        with RegionStoreWriter(folder / "loop", detector.fingerprint(), detector.feature_size) as writer:
            for path in some:
                writer.write(path.stem, detector.detect([open_picture(path)])[0])
        theirs = len(some) / (perf_counter() - begun)
        rates = {}
        for dtype, make in kinds.items():
            detector = make()
            size = detector.batch_size
            detector.detect([open_picture(path) for path in paths[:size]])
            found = extract_regions(
                paths, folder / dtype, detector, batch_size=size, workers=2 if card.tiny else 14, progress=False
            )
            rates[dtype] = found.written / found.seconds
            ready = [open_picture(path) for path in paths[:size]]
            seconds = card.seconds(lambda _, d=detector, p=ready: d.detect(p), 3, 1)
            results.note(f"extraction/{network} {scales} {dtype} pictures/s", rates[dtype])
            results.note(f"extraction/{dtype} decoded pictures in memory/s", size / seconds)
        results.row(f"extraction, grid {network} {scales}, fp32", rates["float32"], theirs, "pictures/s", 3.0)
        results.note("extraction/embedded detector", "runs on the CPU alone: not measured here")
