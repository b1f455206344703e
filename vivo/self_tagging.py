"""Tags that the pre-trained model writes itself, from regions alone (no detector's class names needed).

Pre-training hides up to all tags of a picture, so the model can fill all-[MASK] slots. For each number
of pieces n one pass reads as many slots of n pieces as fit. A slot gives each tag of a known vocabulary
the product of its pieces' probabilities, and the tag is present if any slot wrote it:
1 - prod_slots (1 - p). Matched training lets slots differ, so slots complete each other.

A slot of two pieces must write some tag of two pieces, present or not, so scores of different n do not
compare: each n has a threshold of its own, fitted where labels are known (`fit_thresholds`).
Neither the paper nor its re-implementations do this.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.data.collate import FIRST_WORD, ContextCollator, Limits, tag_positions, to_device
from vivo.data.datasets import TagPictures
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource, read_tag_file
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.modeling import VivoForTagPretraining
from vivo.packing import context_places, true_places
from vivo.training.checkpoint import save_model
from vivo.weights import load_model

VOCABULARY = "tag_vocabulary.json"
MOST_SLOTS = 8
FITTED_PICTURES = 500
BATCH_SIZE = 64


class SelfTagger:
    """A pre-trained model with the tag vocabulary that it may write.

    Args:
        model: trained with the objective "tags" or "both".
        names: the vocabulary; tags that are too long for the model's tag places are left out.
        thresholds: number of pieces -> least score of a tag that is written; see `fit_thresholds`.

    Raises:
        UserError: the model has not been pre-trained, or no name is left.
    """

    def __init__(
        self,
        model: VivoForTagPretraining,
        tokenizer: PreTrainedTokenizerFast,
        names: Sequence[str],
        thresholds: Mapping[int, float] | None = None,
    ):
        if model.config.training_stage not in ("tags", "both"):
            raise UserError(
                f'self-tagging needs the pre-trained model (stage "tags" or "both"), this one is of stage '
                f'"{model.config.training_stage}"; give the model folder of pretrain/train.py'
            )
        self.model, self.tokenizer, self.limits = model.eval(), tokenizer, Limits.of(model.config)
        pieces = TagPieces(tokenizer)
        kept = [name for name in dict.fromkeys(names) if 0 < len(pieces(name)) <= self.limits.max_tag_tokens]
        if not kept:
            raise UserError("self-tagging: no tag name to choose from; is the vocabulary empty?")
        self.names = kept
        self.lengths = np.array([len(pieces(name)) for name in kept])
        self.thresholds = dict(thresholds or {})
        self._collator = ContextCollator(tokenizer, self.limits)
        # only pieces of tags can be written: the head's other rows are not computed
        used = sorted({piece for name in kept for piece in pieces(name)})
        row = {piece: n for n, piece in enumerate(used)}
        self._used = torch.tensor(used)
        self._chains = {
            n: torch.tensor([[row[p] for p in pieces(name)] for name in kept if len(pieces(name)) == n])
            for n in self.sizes
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "SelfTagger":
        """Model, vocabulary and thresholds as `pretrain/train.py` leaves them in its model folder."""
        path = Path(folder) / VOCABULARY
        try:
            saved = json.loads(path.read_text())
            names, thresholds = saved["names"], {int(n): float(bar) for n, bar in saved["thresholds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: no readable tag vocabulary ({error}); give the model folder that pretrain/train.py wrote"
            ) from error
        model = load_model(VivoForTagPretraining, Path(folder)).to(device)
        return cls(model, load_tokenizer(folder), names, thresholds)

    def save_vocabulary(self, folder: Path) -> None:
        """The file that `from_pretrained` wants beside the weights."""
        (folder / VOCABULARY).write_text(json.dumps({"names": self.names, "thresholds": self.thresholds}, indent=1))

    def save_pretrained(self, folder: Path) -> None:
        """Weights, tokenizer, vocabulary and thresholds."""
        save_model(folder, self.model, self.tokenizer)
        self.save_vocabulary(folder)

    @property
    def sizes(self) -> list[int]:
        """Numbers of pieces that names have."""
        return sorted(set(self.lengths.tolist()))

    @torch.inference_mode()
    def scores(self, regions: Sequence[Regions]) -> np.ndarray:
        """float32 [pictures, names] in 0..1: how surely each tag is present, comparable within one length."""
        result = np.zeros((len(regions), len(self.names)), dtype=np.float32)
        batch = to_device(self._collator([("", [], r) for r in regions]), self.model.device)
        for size in self.sizes:
            result[:, self.lengths == size] = self._of_length(batch, size).cpu().numpy()
        return result

    def _of_length(self, batch: dict[str, Tensor], size: int) -> Tensor:
        """[B, names of this many pieces]."""
        pictures, device = batch["region_mask"].shape[0], self.model.device
        slots = max(1, min(MOST_SLOTS, self.limits.max_tag_tokens // size))
        as_words = self.limits.tag_slots == "caption"
        places = tag_positions([(0,) * size] * slots, FIRST_WORD if as_words else self.limits.tag_position_offset)
        shape = (pictures, slots * size)
        masked = batch | {
            "tag_ids": torch.full(shape, self.model.config.mask_token_id, device=device),
            "tag_positions": torch.tensor(places, device=device).expand(shape),
            "tag_mask": torch.ones(shape, dtype=torch.bool, device=device),
            "tag_words": torch.full(shape, as_words, device=device),
        }
        regions = batch["region_mask"].shape[1]
        wanted = context_places(true_places(masked["tag_mask"]), slots * size, slots * size + regions)
        hidden = self.model.encode_context(masked, wanted).hidden
        log_p = self.model.logits(hidden, self._used.to(device)).float().log_softmax(-1).view(pictures, slots, size, -1)
        chains = self._chains[size].to(device)  # [names, size]
        total = sum(log_p[:, :, n].index_select(2, chains[:, n]) for n in range(size))  # [B, slots, names]
        return 1.0 - (1.0 - total.exp()).clamp(min=1e-9).prod(dim=1)

    def fit_thresholds(self, labelled: Sequence[tuple[Regions, Sequence[str]]]) -> None:
        """Set, for each number of pieces, the threshold with the best F1 over all (picture, tag) pairs of that length.

        Args:
            labelled: pictures with all their tags, from the pre-training set (never from evaluation pictures).
        """
        scores = np.concatenate([self.scores([r for r, _ in part]) for part in _parts(labelled)])
        index = {name: n for n, name in enumerate(self.names)}
        truth = np.zeros(scores.shape, dtype=bool)
        for row, (_, tags) in enumerate(labelled):
            truth[row, [index[tag] for tag in tags if tag in index]] = True
        for size in self.sizes:
            of_size = self.lengths == size
            self.thresholds[size] = best_threshold(scores[:, of_size], truth[:, of_size])

    def tags(self, regions: Sequence[Regions]) -> list[list[tuple[str, float]]]:
        """(tag, score) of each picture, best first; possibly none."""
        found = []
        bar = np.array([self.thresholds[n] for n in self.lengths.tolist()], dtype=np.float32)
        for part in _parts(regions):
            for scores in self.scores(part):
                # by how far a tag clears the bar of its own length
                order = np.argsort(-(scores / np.maximum(bar, 1e-6)), kind="stable")
                found.append([(self.names[i], float(scores[i])) for i in order if scores[i] >= bar[i]])
        return found


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The score above which (inclusive) pairs are called positive with the best F1; above 1 without a positive.

    Args:
        scores: [...] in 0..1. truth: bool of the same shape.
    """
    flat = scores.reshape(-1)
    order = np.argsort(-flat, kind="stable")
    right = np.cumsum(truth.reshape(-1)[order])
    if not len(right) or right[-1] == 0:
        return 2.0
    f1 = 2 * right / (np.arange(1, len(right) + 1) + right[-1])
    # equal scores stand or fall together: only the last of them is a threshold
    last = np.append(flat[order][1:] != flat[order][:-1], True)
    return float(flat[order][int(np.argmax(np.where(last, f1, -1.0)))])


def _parts(items: Sequence) -> Iterator[Sequence]:
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start : start + BATCH_SIZE]


def save_tag_vocabulary(
    folder: Path, model: VivoForTagPretraining, tokenizer: PreTrainedTokenizerFast, data: TagPictures
) -> None:
    """Beside a model that has just been pre-trained: its tags, and thresholds fitted on training pictures."""
    tags = [data.tags_of(index) for index in range(len(data))]
    tagger = SelfTagger(model, tokenizer, sorted({tag for of_picture in tags for tag in of_picture}))
    sample = range(0, len(data), max(1, len(data) // FITTED_PICTURES))
    tagger.fit_thresholds([(data.store[data.examples[i].image_id], tags[i]) for i in sample])
    tagger.save_vocabulary(folder)


def open_tag_source(
    kind: str,
    store: RegionStore,
    image_ids: Sequence[str],
    tag_file: str = "",
    tagger: str | Path = "",
    repeats: bool = False,
) -> TagSource:
    """The tag source that a configuration names, with the tags of these pictures at hand.

    Args:
        kind: "labels", "detector", "both", "none", "file" (needs `tag_file`) or "self" (needs `tagger`, a
            folder that pretrain/train.py left; it tags the pictures here and now).
        repeats: see `TagSource`.
    """
    if kind == "file":
        source = read_tag_file(tag_file, repeats)
        source.check(image_ids)
        return source
    if kind != "self":
        return TagSource(kind, repeats=repeats)
    return written_tags(open_tagger(tagger, store), store, image_ids)


def open_tagger(folder: str | Path, store: RegionStore) -> SelfTagger:
    """The pre-trained model in `folder`, to write tags for pictures of `store`; features of another detector are
    refused."""
    writer = SelfTagger.from_pretrained(folder, "cuda" if torch.cuda.is_available() else "cpu")
    store.check_compatible(writer.model.config.region_fingerprint, writer.model.config.feature_size)
    store.check_all_fit(writer.limits.max_regions)
    return writer


def written_tags(writer: SelfTagger, store: RegionStore, image_ids: Sequence[str]) -> TagSource:
    """The tags that `writer` gives these pictures."""
    given: dict[str, list[str]] = {}
    for ids in _parts(image_ids):
        found = writer.tags([store[i] for i in ids])
        given |= {i: [name for name, _ in tags] for i, tags in zip(ids, found, strict=True)}
    return TagSource("given", given)
