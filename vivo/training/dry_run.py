"""`--dry-run`: real updates on made-up data of the configured shape, in one process, with nothing left behind.

The data (a RegionStore, tags, captions) lie in a temporary folder and are as long as the configuration allows; the run
is that of pretrain/train.py or finetune/train.py, with the pictures of one process of the job and random weights.
The first update warms up, the second is timed.
"""

import copy
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

OBJECTIVES = ("tags", "captions")
# More pictures would only be copies: an epoch may be shorter than a batch.
MOST_PICTURES = 64
PICTURE_SIZE = (640, 480)
UPDATES = 2


@dataclass(frozen=True)
class DryRun:
    """What was measured: seconds of the first and of the second update, the loss of the second, pictures of each.

    memory: bytes; on a GPU the most that PyTorch had allocated, on a CPU the peak of the process's resident memory
    above what it was before training.
    """

    first_seconds: float
    seconds: float
    loss: float
    pictures: int
    memory: int
    device: str

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds

    @property
    def source(self) -> str:
        """Where the rate comes from, for an estimate that uses it."""
        return f"of the dry run on {self.device}"


def dry_run(plan: Plan, train: Callable[[TrainConfig], Path]) -> DryRun:
    """Run `UPDATES` updates of `plan` by `train` (`runs.pretrain` or `runs.finetune`).

    Raises:
        UserError: more than one process, an objective without made-up data, or what training itself raises.
    """
    if launched():
        raise UserError("--dry-run is for one process: start it without a launcher, and say --gpus N")
    if plan.config.objective not in OBJECTIVES:
        raise UserError(f"--dry-run has no made-up data for objective {plan.config.objective}")
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
        if len(records) != UPDATES:
            raise UserError(
                f"the dry run made {len(records)} updates in {time.monotonic() - began:.0f} s, not {UPDATES}"
            )
        first, second = (plan.per_process / record["pictures_per_second"] for record in records)
        device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
        return DryRun(first, second, records[-1]["loss"], plan.per_process, memory, device)


def describe(plan: Plan, found: DryRun) -> list[str]:
    """The result as lines for people."""
    kind = "allocated by PyTorch" if torch.cuda.is_available() else "resident memory above that of the libraries"
    return [
        f"dry run         {found.pictures} pictures, one process of {plan.gpus}, on {found.device}; made-up data, "
        "random weights",
        *(f"note            {note}" for note in plan.notes),
        f"loss            {found.loss:.3f}",
        f"time            {found.seconds:.2f} s an update ({found.first_seconds:.2f} s the first): "
        f"{found.rate:.1f} pictures/s",
        f"memory          {found.memory / 1e9:.2f} GB at most, {kind}",
    ]


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
    data.validation_regions = data.validation_references = data.vocabulary = data.tagger = ""
    data.tag_file = str(folder / "tags.jsonl")
    data.tags = "file" if data.tags == "self" else data.tags
    data.named_tags_only, data.workers = False, 0
    optim.batch_size, optim.micro_batch_size = plan.per_process, plan.micro_batch
    optim.duration, optim.warmup = f"{UPDATES} steps", ""
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
    if plan.captions:
        captions = [" ".join(rng.permutation(sentence)) for _ in range(config.data.captions_per_picture)]
        write_caption_examples([CaptionExample(i, f"{i}.jpg", captions) for i in ids], folder / "examples.jsonl")
    else:
        write_tag_examples([TagExample(i, tags) for i in ids], folder / "examples.jsonl")
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
