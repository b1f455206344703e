"""What can be said of a run before any of its files are there: shape of the model, lengths, batches, steps.

Behind `--estimate` (estimate.py) and `--dry-run` (dry_run.py) of the training programs. Where a file of the run is
there (weights, vocabulary, region store) it says the size; where it is not, the configuration or a default does, and
`Plan.notes` says so.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from vivo.config import TrainConfig
from vivo.data.region_format import read_manifest
from vivo.data.vocabulary import read_pieces
from vivo.durations import parse_duration
from vivo.errors import UserError
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.training.schedule import Schedule
from vivo.weights import bert_folder, read_configuration

BERT_PIECES = 30522
PAPER_FEATURES = 2048
DEFAULT_LAYERS = 6  # of `init: random`; see vivo/training/runs.py


@dataclass(frozen=True)
class Shape:
    """Size of the model: layers, D, heads, feed-forward width, word pieces V, region features F."""

    layers: int
    width: int
    heads: int
    inner: int
    pieces: int
    features: int


@dataclass(frozen=True)
class Plan:
    """A run on `gpus` processes.

    Attributes:
        per_process: pictures of one update in one process. micro_batch: those of one forward pass.
        notes: what stands in for files that are not there, one sentence each.
    """

    config: TrainConfig
    gpus: int
    shape: Shape
    per_process: int
    micro_batch: int
    notes: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the updates learn: "tags", "captions" (also those of pairs), or by turns both."""
        return {"tags": ("tags",), "both": ("tags", "captions")}.get(self.config.objective, ("captions",))

    def text_elements(self, kind: str) -> int:
        """Longest text of one picture in a batch of `kind`: caption tokens, and behind them the queries of `dense`."""
        if kind == "tags":
            return 0
        most, masking = self.config.model.max_caption_tokens, self.config.masking
        if self.config.objective == "scst":
            return self.captions(kind) * 2 * self.config.scst.max_tokens
        return self.captions(kind) * (2 * (most - 1) if masking.caption == "dense" else most)

    def captions(self, kind: str) -> int:
        """Texts of one picture in a batch of `kind`."""
        if kind == "tags":
            return 0
        return self.config.scst.samples if self.config.objective == "scst" else self.config.data.captions_per_picture

    def targets(self, kind: str) -> int:
        """Most supervised tokens of one picture in a batch of `kind`."""
        model, masking, data = self.config.model, self.config.masking, self.config.data
        if kind == "tags":
            return max(1, round(masking.share_max * model.max_tag_tokens))
        if self.config.objective == "scst":
            return self.config.scst.samples * self.config.scst.max_tokens
        most = model.max_caption_tokens
        each = most - 1 if masking.caption == "dense" else max(1, round(masking.caption_probability * most))
        return data.captions_per_picture * each

    @cached_property
    def meta_model(self) -> VivoForCaptioning:
        """The model without memory for its weights, to count them; those of all objectives have the same."""
        shape, model = self.shape, self.config.model
        with torch.device("meta"):
            made = VivoForCaptioning(
                VivoConfig(
                    vocab_size=shape.pieces,
                    hidden_size=shape.width,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    intermediate_size=shape.inner,
                    feature_size=shape.features,
                    region_layer_norm=model.region_layer_norm,
                )
            )
        made.freeze_vocabulary(model.freeze_embeddings, model.freeze_head_bias)
        return made

    def pictures(self, given: int | None) -> int | None:
        """Pictures of the training set (of both sets, where it has two): `given`, else those of its files where they
        are there, else None."""
        if given is not None:
            return given
        data = self.config.data
        sets = {"pairs": [data.pairs], "both": [data.examples, data.pairs]}.get(self.config.objective, [data.examples])
        counts = [_lines(Path(path)) for path in sets]
        return None if None in counts else sum(counts)

    def steps(self, pictures: int | None) -> int | None:
        """Updates of the whole run; None where they hang on a number of pictures that nobody knows."""
        if pictures is None and parse_duration(self.config.optim.duration).unit == "epochs":
            return None
        return Schedule.of(self.config, pictures or 1).steps


def plan_of(config: TrainConfig, gpus: int = 1) -> Plan:
    """The plan of `config` on `gpus` processes.

    Raises:
        UserError: the global batch does not divide by the processes, or a process's part by the micro-batch; another
            captioner than VIVO's.
    """
    optim = config.optim
    if config.objective == "show_and_tell" or _type_of(config.init) == ShowAndTellConfig.model_type:
        raise UserError("--estimate and --dry-run know VIVO's model alone; Show and Tell has --print-config")
    if optim.batch_size % gpus:
        raise UserError(f"optim.batch_size: {optim.batch_size} does not divide by {gpus} processes")
    per_process = optim.batch_size // gpus
    micro = optim.micro_batch_size or per_process
    if per_process % micro:
        raise UserError(
            f"optim.micro_batch_size: {micro} does not divide the {per_process} pictures of one of {gpus} processes"
        )
    notes: list[str] = []
    shape = _shape(config, notes)
    if shape.width % shape.heads:
        raise UserError(f"model.heads: {shape.heads} does not divide model.hidden_size, {shape.width}")
    return Plan(config, gpus, shape, per_process, micro, tuple(notes))


def _type_of(init: str) -> str:
    """The model type of the folder `init`, "" where it is none."""
    path = Path(init) / "config.json"
    return read_configuration(path).get("model_type", "") if path.is_file() else ""


def _lines(path: Path) -> int | None:
    """Lines of a file of JSON lines that are not empty; None where there is no such file."""
    if not path.is_file() or path.suffix != ".jsonl":
        return None
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _shape(config: TrainConfig, notes: list[str]) -> Shape:
    """The model's size; what had to be assumed is added to `notes`."""
    model, init = config.model, config.init
    layers, width, heads, inner = (
        model.layers or DEFAULT_LAYERS,
        model.hidden_size,
        model.heads,
        model.intermediate_size,
    )
    pieces, of_model, features = BERT_PIECES, False, 0
    path = None if init == "random" else bert_folder(init) / "config.json"
    if path is not None and path.is_file():
        found = read_configuration(path)
        of_model = found.get("model_type") == VivoConfig.model_type
        if not of_model and "num_hidden_layers" not in found:
            raise UserError(
                f"{path}: says no num_hidden_layers, so it is not that of a BERT; copy the checkpoint again"
            )
        found = VivoConfig().to_dict() | found  # what it leaves out is as in BERT-base, when it is trained from too
        depth = found["num_hidden_layers"]
        layers = depth if of_model else min(model.layers or depth, depth)
        width, heads, inner = found["hidden_size"], found["num_attention_heads"], found["intermediate_size"]
        pieces, features = found["vocab_size"], found["feature_size"] if of_model else 0
    elif path is not None:
        notes.append(
            f"init {init} is not there: {layers} layers of width {width}, {heads} heads, feed-forward {inner} "
            "(model.layers, hidden_size, heads, intermediate_size), random weights"
        )
    if model.vocabulary and not of_model:
        if Path(model.vocabulary).is_file():
            pieces = len(read_pieces(model.vocabulary))
        else:
            notes.append(f"model.vocabulary {model.vocabulary} is not there: all {pieces:,} word pieces")
    of_pairs = config.objective == "pairs" and config.data.pairs_regions
    field, store = ("pairs_regions", Path(of_pairs)) if of_pairs else ("regions", Path(config.data.regions))
    if (store / "manifest.json").is_file():
        features = read_manifest(store)["feature_size"]
    elif not features:
        features = PAPER_FEATURES
        notes.append(f"data.{field} {store} is not there: {features:,} numbers a region, as in the paper")
    return Shape(layers, width, heads, inner, pieces, features)
