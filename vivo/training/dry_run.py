"""`--dry-run`: real updates on made-up data of the configured shape, in one process, with nothing left behind.

The data (a RegionStore, tags, captions) lie in a temporary folder and are as long as the configuration allows; the run
is that of pretrain/train.py or finetune/train.py, with the pictures of one process of the job and random weights.
The first update warms up, the second is timed; of objective "both" the first and second of each kind.
"""

import copy
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivo.config import TrainConfig
from vivo.data.examples import write_caption_examples, write_tag_examples
from vivo.data.regions import RegionStoreWriter
from vivo.data.text import load_tokenizer
from vivo.data.types import CaptionExample, Regions, TagExample
from vivo.data.vocabulary import write_pieces
from vivo.doctor.all_reduce import launched
from vivo.errors import UserError
from vivo.training.plan import BERT_PIECES, Plan
from vivo.training.tracking import read_records
from vivo.weights import bert_folder

# More pictures would only be copies: an epoch may be shorter than a batch.
MOST_PICTURES = 64
PICTURE_SIZE = (640, 480)
UPDATES = 2  # of each kind


@dataclass(frozen=True)
class Updates:
    """Those of one kind: seconds of the first and of the second, the loss of the second, share of all the run's."""

    first_seconds: float
    seconds: float
    loss: float
    share: float


@dataclass(frozen=True)
class DryRun:
    """What was measured.

    Attributes:
        kinds: "tags", "pairs" or "captions"; both of the first two with objective "both". pictures: of an update.
        memory: bytes, the most of all updates; on a GPU what PyTorch had allocated, on a CPU the peak of the process's
            resident memory above what it was before training.
    """

    kinds: Mapping[str, Updates]
    pictures: int
    memory: int
    device: str

    @property
    def seconds(self) -> float:
        """Of an update, kinds in the run's own shares."""
        return sum(kind.share * kind.seconds for kind in self.kinds.values())

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds

    @property
    def source(self) -> str:
        """Where the rate comes from, for an estimate that uses it."""
        return f"of the dry run on {self.device}"


def dry_run(plan: Plan, train: Callable[[TrainConfig], Path]) -> DryRun:
    """Run `UPDATES` updates of `plan` by `train` (a function of `vivo.training.runs`).

    Raises:
        UserError: more than one process, or what training itself raises.
    """
    if launched():
        raise UserError("--dry-run is for one process: start it without a launcher, and say --gpus N")
    with tempfile.TemporaryDirectory(prefix="vivo-dry-run-") as temporary:
        folder = Path(temporary)
        config = _config(plan, folder)
        _write_data(plan, config, folder)
        gpu = torch.cuda.is_available()
        before, began = _peak_resident(), time.monotonic()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        train(config)
        memory = torch.cuda.max_memory_allocated() if gpu else _peak_resident() - before
        records = [r for r in read_records(Path(config.out) / "metrics.jsonl") if "pictures_per_second" in r]
        kinds = _measured(plan, records)
        if any(len(of_kind) != UPDATES for of_kind in kinds.values()):
            raise UserError(
                f"the dry run made {len(records)} updates in {time.monotonic() - began:.0f} s, not {UPDATES} of each "
                f"kind ({', '.join(kinds)})"
            )
        found = {kind: _updates(plan, kind, of_kind) for kind, of_kind in kinds.items()}
        device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
        return DryRun(found, plan.per_process, memory, device)


def describe(plan: Plan, found: DryRun) -> list[str]:
    """The result as lines for people."""
    memory = "allocated by PyTorch" if torch.cuda.is_available() else "resident memory above that of the libraries"
    several = len(found.kinds) > 1
    lines = [
        f"dry run         {found.pictures} pictures, one process of {plan.gpus}, on {found.device}; made-up data, "
        "random weights",
        *(f"note            {note}" for note in plan.notes),
    ]
    for kind, of_kind in found.kinds.items():
        suffix = f" of {kind}" if several else ""
        lines.append(f"{'loss' + suffix:<16}{of_kind.loss:.3f}")
        rate = "" if several else f": {found.rate:.1f} pictures/s"
        lines.append(
            f"{'time' + suffix:<16}{of_kind.seconds:.2f} s an update ({of_kind.first_seconds:.2f} s the first){rate}"
        )
    if several:
        shares = " and ".join(f"{of_kind.share:.0%} {kind}" for kind, of_kind in found.kinds.items())
        lines.append(f"time            {found.seconds:.2f} s an update of {shares}: {found.rate:.1f} pictures/s")
    lines.append(f"memory          {found.memory / 1e9:.2f} GB at most, {memory}")
    return lines


def _measured(plan: Plan, records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records of each kind of update, in their order."""
    objective = plan.config.objective
    if objective != "both":
        return {objective: list(records)}
    return {kind: [r for r in records if f"{kind}/loss" in r] for kind in ("tags", "pairs")}


def _updates(plan: Plan, kind: str, records: Sequence[dict[str, Any]]) -> Updates:
    """The figures of the `UPDATES` records of one kind."""
    first, second = (plan.per_process / record["pictures_per_second"] for record in records)
    pairs, share = plan.config.data.pairs_share, 1.0
    if plan.config.objective == "both":
        share = pairs if kind == "pairs" else 1.0 - pairs
    return Updates(first, second, records[-1]["loss"], share)


def _config(plan: Plan, folder: Path) -> TrainConfig:
    """The configuration of the dry run: that of the plan, with its files in `folder`."""
    config = copy.deepcopy(plan.config)
    model, data, optim, tracking = config.model, config.data, config.optim, config.tracking
    shape = plan.shape
    config.out, config.init = str(folder / "run"), "random"
    model.layers, model.hidden_size, model.heads = shape.layers, shape.width, shape.heads
    model.intermediate_size = shape.inner
    model.vocabulary = "" if shape.pieces >= BERT_PIECES else str(folder / "vocabulary.txt")
    data.regions, data.examples = str(folder / "regions"), str(folder / "examples.jsonl")
    data.pairs, data.pairs_regions = str(folder / "pairs.jsonl"), ""
    data.pairs_share = 0.5  # by turns; what is measured of each kind is put together in the run's own share
    data.validation_share = 0.0
    data.validation_regions = data.validation_references = data.vocabulary = data.tagger = ""
    data.tag_file = str(folder / "tags.jsonl")
    data.tags = "file" if data.tags == "self" else data.tags
    data.named_tags_only, data.workers = False, 0
    config.scst.frequencies = ""
    optim.batch_size, optim.micro_batch_size = plan.per_process, plan.micro_batch
    optim.duration, optim.warmup = f"{UPDATES * len(plan.kinds)} steps", ""
    tracking.wandb, tracking.log_every = "disabled", "1 step"
    tracking.validate_every = tracking.save_every = tracking.best = ""
    config.engine.resume = "auto"
    return config


def _write_data(plan: Plan, config: TrainConfig, folder: Path) -> None:
    """A RegionStore, examples and a tag file of random content and full length, from the run's seed."""
    rng = np.random.default_rng(config.seed)
    limits, shape = config.model, plan.shape
    words = _words(max(limits.max_tag_tokens, limits.max_caption_tokens))
    tags, sentence = words[: limits.max_tag_tokens], words[: max(1, limits.max_caption_tokens - 2)]
    width, height = PICTURE_SIZE
    ids = [f"made-up-{number}" for number in range(min(plan.per_process, MOST_PICTURES))]
    with RegionStoreWriter(folder / "regions", {"name": "made up"}, shape.features) as writer:
        for image_id in ids:
            corners = np.sort(rng.uniform(0, 1, (limits.max_regions, 2, 2)), axis=1).reshape(-1, 4)
            writer.write(
                image_id,
                Regions(
                    (corners * [width, height, width, height]).astype(np.float32),
                    rng.standard_normal((limits.max_regions, shape.features), np.float32),
                    [tags[number % len(tags)] for number in range(limits.max_regions)],
                    np.sort(rng.uniform(0, 1, limits.max_regions).astype(np.float32))[::-1],
                    width,
                    height,
                ),
            )
    write_tag_examples([TagExample(i, tags) for i in ids], folder / "tags.jsonl")
    if "tags" in plan.kinds:
        write_tag_examples([TagExample(i, tags) for i in ids], folder / "examples.jsonl")
    if "captions" in plan.kinds:
        captions = [" ".join(rng.permutation(sentence)) for _ in range(config.data.captions_per_picture)]
        name = "examples" if config.objective in ("captions", "scst") else "pairs"
        pairs = [CaptionExample(i, f"{i}.jpg", captions, tags=tags) for i in ids]
        write_caption_examples(pairs, folder / f"{name}.jsonl")
    if shape.pieces < BERT_PIECES:
        write_pieces(_vocabulary(plan), folder / "vocabulary.txt")


def _words(count: int) -> list[str]:
    """`count` different words that are one word piece each."""
    vocabulary = load_tokenizer(bert_folder("minilm")).get_vocab()
    plain = (word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 3)
    return sorted(plain, key=vocabulary.__getitem__)[:count]


def _vocabulary(plan: Plan) -> list[str]:
    """As many pieces as the model of the plan has, the words of `_words` among them."""
    tokenizer = load_tokenizer(bert_folder("minilm"))
    vocabulary = tokenizer.get_vocab()
    limits = plan.config.model
    first = [*tokenizer.all_special_tokens, *_words(max(limits.max_tag_tokens, limits.max_caption_tokens))]
    others = (piece for piece in sorted(vocabulary, key=vocabulary.__getitem__) if piece not in set(first))
    return [*first, *others][: plan.shape.pieces]


def _peak_resident() -> int:
    """Most bytes that this process has had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
