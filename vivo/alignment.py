"""Which region goes with which tag, as a trained model sees it: the paper's Figure 3, and what regions say alone.

    cosine     similarity of an encoder layer's outputs at the tag (mean over its word pieces) and at the region; all
               tags of the picture are read together with all its regions, nothing is masked (the paper: the last layer)
    reading    log-probability of the tag in masked slots where the model sees this region and nothing else: what the
               region is called. Slots are those of pre-training

Nothing in training asks that the *outputs* of a visible tag and of its region be alike: the loss reads masked slots,
and captions read the keys and values that each layer makes of its input, so that no caption ever reads the last layer's
output at tags and regions. Cosines may show alignment or not, whatever the model has learned; reading asks for what
pre-training teaches. docs/measures.md has both on the embedded world.

B pictures of a batch, T tags and R regions of a picture, D width, V word pieces
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.data.collate import FIRST_WORD, Batch, ContextCollator, Limits, tag_positions, to_device
from vivo.data.open_images import Box
from vivo.data.regions import RegionStore
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.detectors.evaluation import overlaps
from vivo.errors import UserError
from vivo.metrics.grounding import TagSums, cosines, on_object, tag_sums
from vivo.metrics.ratios import RatioScore
from vivo.modeling import VivoForPretraining
from vivo.packing import context_places, true_places
from vivo.weights import load_model

BATCH_SIZE = 64
ROWS = 256  # regions read alone in one pass: bounds the logits of all word pieces
WHOLE = 0.98  # share of the picture from which a region is the whole of it


@dataclass
class Alignment:
    """One picture: the T tags that the model read, its R regions, and float64 [T, R] each `cosine` and `reading`."""

    image_id: str
    tags: list[str]
    regions: Regions
    cosine: np.ndarray
    reading: np.ndarray


@dataclass
class ObjectBoxes:
    """The boxes of one class in a picture: float64 [G, 4] in pixels, and which of them are around groups, bool [G]."""

    boxes: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, boxes: Sequence[Box], width: int, height: int) -> "ObjectBoxes":
        """From shares of the picture to its pixels."""
        shares = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=np.float64).reshape(-1, 4)
        return cls(shares * (width, height, width, height), np.array([box.is_group for box in boxes], dtype=bool))


class Aligner:
    """A trained model of any stage, asked which region goes with which tag.

    Args:
        folder: of the model.
        layer: whose output cosines are of, 1 to L (0: the embeddings); None: the last.

    Raises:
        UserError: no model there, one that was never trained, no such layer.
    """

    def __init__(self, folder: str | Path, layer: int | None = None) -> None:
        model = load_model(VivoForPretraining, folder).eval()
        if not model.config.training_stage:
            raise UserError(
                f"{folder}: this model was never trained; give one of pretrain/train.py or finetune/train.py"
            )
        depth = len(model.vivo.layers)
        if layer is not None and not 0 <= layer <= depth:
            raise UserError(f"layer {layer}: {folder} has layers 1 to {depth} (0: its embeddings)")
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.layer = depth if layer is None else layer
        self.limits = Limits.of(model.config)
        tokenizer: PreTrainedTokenizerFast = load_tokenizer(folder)
        self.pieces = TagPieces(tokenizer)
        self._collator = ContextCollator(tokenizer, self.limits)

    def __call__(self, store: RegionStore, pictures: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Alignment]:
        """Each picture's cosines and readings.

        Args:
            pictures: picture ids with their tags; tags that do not fit into the model's places are left out.

        Raises:
            UserError: features of another detector, a picture that the store does not have.
        """
        store.check_compatible(self.model.config.region_fingerprint, self.model.config.feature_size)
        store.check_all_fit(self.limits.max_regions)
        for first in range(0, len(pictures), BATCH_SIZE):
            part = pictures[first : first + BATCH_SIZE]
            regions = [store[image_id] for image_id, _ in part]
            spans = [tag_spans(tags, self.pieces, self.limits) for _, tags in part]
            cosine = self.cosines([(i, list(tags), r) for (i, tags), r in zip(part, regions, strict=True)], spans)
            reading = self.readings([list(of) for of in spans], regions)
            for (image_id, _), of_picture, tags, *fits in zip(part, regions, spans, cosine, reading, strict=True):
                yield Alignment(image_id, list(tags), of_picture, *fits)

    @torch.inference_mode()
    def cosines(
        self, examples: Sequence[tuple[str, list[str], Regions]], spans: Sequence[Mapping[str, tuple[int, int]]]
    ) -> list[np.ndarray]:
        """[T, R] of each picture. spans: see `tag_spans`."""
        batch = to_device(self._collator(examples), self.model.device)
        layers = self.model.vivo.layers
        self.model.vivo.layers = layers[: self.layer]
        try:
            hidden: Tensor = self.model.encode_context(batch).hidden.float().cpu()
        finally:
            self.model.vivo.layers = layers
        room, found = batch["tag_ids"].shape[1], []
        for outputs, of_picture, (*_, regions) in zip(hidden, spans, examples, strict=True):
            told = [outputs[start:end].mean(dim=0) for start, end in of_picture.values()]
            tags = torch.stack(told) if told else outputs[:0]
            found.append(cosines(tags.numpy(), outputs[room : room + len(regions.labels)].numpy()))
        return found

    @torch.inference_mode()
    def readings(self, tags: Sequence[Sequence[str]], regions: Sequence[Regions]) -> list[np.ndarray]:
        """[T, R] of each picture: log-probabilities, summed over the word pieces of a tag."""
        found = [np.zeros((len(t), len(r.labels))) for t, r in zip(tags, regions, strict=True)]
        asked = [self._by_size(of_picture) for of_picture in tags]
        places = [(n, k) for n, of_picture in enumerate(regions) for k in range(len(of_picture.labels)) if tags[n]]
        for first in range(0, len(places), ROWS):
            part = places[first : first + ROWS]
            alone = to_device(self._collator([("", [], one_region(regions[n], k)) for n, k in part]), self.model.device)
            for size in sorted({size for n, _ in part for size in asked[n]}):
                log_p = self._slots(alone, size)
                for row, (n, k) in enumerate(part):
                    if size in asked[n]:
                        numbers, pieces = asked[n][size]
                        found[n][numbers, k] = log_p[row, np.arange(size), pieces].sum(axis=1)
        return found

    def _by_size(self, tags: Sequence[str]) -> dict[int, tuple[list[int], np.ndarray]]:
        """Number of word pieces -> the numbers of such tags, and their pieces int [tags, pieces]."""
        sizes: dict[int, list[int]] = {}
        for number, tag in enumerate(tags):
            sizes.setdefault(len(self.pieces(tag)), []).append(number)
        return {size: (of, np.array([self.pieces(tags[n]) for n in of])) for size, of in sizes.items()}

    def _slots(self, batch: Batch, size: int) -> np.ndarray:
        """Log-probabilities float32 [B, size, V] of the pieces in `size` masked slots, with no other tag."""
        rows, device = batch["region_mask"].shape[0], self.model.device
        as_words = self.limits.tag_slots == "caption"
        places = tag_positions([(0,) * size], FIRST_WORD if as_words else self.limits.tag_position_offset)
        masked = batch | {
            "tag_ids": torch.full((rows, size), self.model.config.mask_token_id, device=device),
            "tag_positions": torch.tensor(places, device=device).expand(rows, size),
            "tag_mask": torch.ones((rows, size), dtype=torch.bool, device=device),
            "tag_words": torch.full((rows, size), as_words, device=device),
        }
        wanted = context_places(true_places(masked["tag_mask"]), size, size + batch["region_mask"].shape[1])
        hidden = self.model.encode_context(masked, wanted).hidden
        return self.model.logits(hidden).float().log_softmax(-1).view(rows, size, -1).cpu().numpy()


def one_region(regions: Regions, place: int) -> Regions:
    """The picture as if the detector had found this region alone."""
    one = slice(place, place + 1)
    return Regions(
        regions.boxes[one],
        regions.features[one],
        regions.labels[one],
        regions.scores[one],
        regions.width,
        regions.height,
    )


def tag_spans(tags: Sequence[str], pieces: TagPieces, limits: Limits) -> dict[str, tuple[int, int]]:
    """Each tag that fits -> the places of its word pieces (from, up to), as collation lays tags out."""
    room = limits.max_tag_tokens - limits.tags_as_text  # [SEP] stands behind tags that are one text
    spans: dict[str, tuple[int, int]] = {}
    used = 0
    for tag in tags:
        length = len(pieces(tag))
        if limits.tags_as_text and used + length > room:
            break  # the text is cut there, and what stands there is a part of a tag
        if length and used + length <= room:
            spans.setdefault(tag, (used, used + length))
            used += length
    return spans


def grounding(seeds: Sequence[Sequence[TagSums]]) -> dict[str, RatioScore]:
    """The shares and the margin of `vivo.metrics.grounding` as statistics over N pictures (mean over seeds).

    Args:
        seeds: the sums of N pictures for each seed.
    """

    def sums(name: str) -> np.ndarray:
        return np.array([[getattr(of_picture, name) for of_picture in of_seed] for of_seed in seeds])

    shares = {name: RatioScore(sums(name), sums("tags")) for name in ("grounded", "chance", "possible", "whole")}
    return shares | {"margin": RatioScore(sums("margin"), sums("contrasted"))}


def sums_of(aligned: Alignment, fit: np.ndarray, objects: Mapping[str, ObjectBoxes], parts: bool = False) -> TagSums:
    """What the tags that `objects` has boxes of add to the figures of `vivo.metrics.grounding`.

    Args:
        fit: the picture's `cosine` or `reading`.
        parts: leave the whole picture out, where there are other regions.
    """
    boxed = [n for n, tag in enumerate(aligned.tags) if tag in objects]
    if not boxed:
        return TagSums()
    hits = np.array([hits_of(aligned.regions, objects[aligned.tags[n]]) for n in boxed])
    whole = whole_pictures(aligned.regions)
    kept = ~whole if parts and not whole.all() else np.ones_like(whole)
    return tag_sums(fit[boxed][:, kept], hits[:, kept], whole[kept])


def whole_pictures(regions: Regions) -> np.ndarray:
    """bool [R]: which regions are (next to) the whole picture."""
    boxes = regions.boxes.astype(np.float64)
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1) >= WHOLE * regions.width * regions.height


def hits_of(regions: Regions, objects: ObjectBoxes) -> np.ndarray:
    """bool [R]: which regions lie on an object."""
    boxes = regions.boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], objects.boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects.boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None], 1e-9)
    return on_object(overlaps(boxes, objects.boxes), shared / area, objects.groups)
