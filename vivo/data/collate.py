"""From examples to batches: tags chosen and shuffled, tokens masked, regions padded.

TagBatch (pre-training; all tensors, sizes as in vivo/modeling.py):
    tag_ids, tag_positions int64 [B, T]; tag_mask bool [B, T]     masked slots hold [MASK]
    tag_words bool [B, T]      those that stand as words of a caption; absent with `tag_slots` "tags"
    region_features [B, R, F] as the store has them, float16 (the model converts what it reads: loader processes
        send half the bytes); region_positions float32 [B, R, 6]; region_mask bool [B, R]
    slot_index int64 [K]       masked tag tokens, as places in the flattened [B * T]
    target_ids int64 [K]       the piece that stood there, or its place in `competing`
    competing int64 [P]        word pieces that compete in the softmax, ascending; absent: all of them
    group_slots int64 [G, M, N], group_size int64 [G]     see losses.tag_set_loss
    matchable bool [B]         two or more masked tags of the picture can be exchanged
    tag_places, region_places, window_places, window_rows     see packing.in_windows; for a GPU alone

CaptionBatch (fine-tuning): the same tag and region keys (no tag is masked), and
    text_ids, text_positions int64 [B, L]; text_mask bool [B, L, L]
    text_places int64          elements that are no padding, as places in the flattened [B * L]
    target_index int64 [K]     supervised elements, as places in the flattened [B * L]
    target_ids, competing      as above

Both carry `image_ids`, a list of B strings. Whatever is random is drawn from (seed, epoch, image id).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from vivo.data.caption_text import CaptionText, chosen_captions, dense_text, masked_text, text_keys
from vivo.data.padding import lengths_mask, padded
from vivo.data.text import TagPieces, encode_caption
from vivo.data.types import Regions
from vivo.masking import mask_caption, mask_tags, masked_share, next_pieces
from vivo.packing import in_windows
from vivo.randomness import example_generator

Batch = dict[str, Tensor | list[str]]
FIRST_WORD = 1
"""Position of a caption's first word, behind [CLS]."""


@dataclass(frozen=True)
class Limits:
    """Longest input of one picture, and where tag positions start (VivoConfig has the same names)."""

    max_regions: int
    max_tag_tokens: int
    max_caption_tokens: int
    tag_position_offset: int
    tag_slots: str = "tags"
    tags_as_text: bool = False

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Limits":
        """Those of a model, from its VivoConfig."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def box_positions(boxes: np.ndarray, width: int | np.ndarray, height: int | np.ndarray) -> np.ndarray:
    """float32 [..., R, 4] pixels -> float32 [..., R, 6]: x1/W, y1/H, x2/W, y2/H, (x2-x1)/W, (y2-y1)/H.

    Args:
        width, height: of one picture, or float32 [...] of several.
    """
    width, height = (np.asarray(size, dtype=np.float32)[..., None] for size in (width, height))
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)  # one by one: numpy is slow over a last axis of 4
    x1, y1, x2, y2 = x1 / width, y1 / height, x2 / width, y2 / height
    return np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], axis=-1, dtype=np.float32)


def detected_tags(regions: Regions, repeats: bool = False) -> list[str]:
    """Class names that the detector gave, in the order of the regions; each once, or as often as it gave them."""
    named = [label for label in regions.labels if label]
    return named if repeats else list(dict.fromkeys(named))


def tag_positions(tags: Sequence[tuple[int, ...]], offset: int) -> list[int]:
    """Position ids of the pieces of consecutive tags.

    A gap of one position stands between tags: the pieces of a tag are neighbours, so the model can
    see where a masked tag of two pieces ends and the next begins, without any extra token.
    """
    gaps = [number for number, pieces in enumerate(tags, offset) for _ in pieces]
    return [place + gap for place, gap in enumerate(gaps)]


def _ends(tags: Sequence[tuple[int, ...]]) -> list[int]:
    """Position of the last piece of each tag, where the tags stand as words."""
    return [tag_positions(tags[: n + 1], FIRST_WORD)[-1] for n in range(len(tags))]


class _Collator:
    """What both stages share: the padded tags and regions of a batch."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, limits: Limits, seed: int = 0, competing: Tensor | None = None
    ):
        self.tokenizer, self.limits, self.seed, self.competing = tokenizer, limits, seed, competing
        self.pieces = TagPieces(tokenizer)

    def _told(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        """Pieces of the tags that fit, tag by tag; with `tags_as_text` all in one, which ends with [SEP]."""
        most = self.limits.max_tag_tokens
        if not self.limits.tags_as_text:
            return self.pieces.cut(names, most)
        text = [piece for name in names for piece in self.pieces(name)][: most - 1]
        return [(*text, self.tokenizer.sep_token_id)] if text else []

    def _shown(self, names: Sequence[str], dropout: float, generator: np.random.Generator) -> list[tuple[int, ...]]:
        """Pieces of the tags beside captions: some left out at random, in random order, cut to what fits."""
        order = generator.permutation(len(names))
        kept = generator.random(len(names)) >= dropout
        return self._told([names[i] for i in order if kept[i]])

    def _among_competing(self, batch: Batch) -> Batch:
        """The batch with its targets as places in `competing`, which it carries along."""
        if self.competing is not None:
            batch["competing"] = self.competing
            batch["target_ids"] = torch.searchsorted(self.competing, batch["target_ids"])
        return batch

    def _context(
        self, tags: list[list[tuple[int, ...]]], regions: list[Regions], words: Sequence[int] | None = None
    ) -> Batch:
        """Tag and region keys of a batch.

        Args:
            tags: the pieces of each tag of each picture.
            words: how many of a picture's tags, the first ones, stand where the words of a caption stand.
        """
        offset, of_words = self.limits.tag_position_offset, words or [0] * len(tags)
        ids = [[piece for tag in picture for piece in tag] for picture in tags]
        places = [
            tag_positions(picture[:n], FIRST_WORD) + tag_positions(picture[n:], offset)
            for picture, n in zip(tags, of_words, strict=True)
        ]
        most = min(self.limits.max_regions, max(len(r.labels) for r in regions))
        kind = np.result_type(*{r.features.dtype for r in regions})
        features = np.empty((len(regions), most, regions[0].features.shape[1]), dtype=kind)
        boxes = np.zeros((len(regions), most, 4), dtype=np.float32)
        present = np.zeros((len(regions), most), dtype=bool)
        for row, region in enumerate(regions):
            count = min(most, len(region.labels))
            features[row, :count] = region.features[:count]
            features[row, count:] = 0
            boxes[row, :count] = region.boxes[:count]
            present[row, :count] = True
        sizes = np.array([(region.width, region.height) for region in regions], dtype=np.float32)
        batch: Batch = (
            {} if words is None else {"tag_words": padded([[p < offset for p in row] for row in places], False)}
        )
        return batch | {
            "tag_ids": padded(ids, self.tokenizer.pad_token_id),
            "tag_positions": padded(places, self.limits.tag_position_offset),
            "tag_mask": lengths_mask(ids),
            "region_features": torch.from_numpy(features),
            "region_positions": torch.from_numpy(box_positions(boxes, sizes[:, 0], sizes[:, 1])),
            "region_mask": torch.from_numpy(present),
        }


class TagCollator(_Collator):
    """Pre-training batches from (epoch, image id, tags, hints, regions).

    Args:
        hint_dropout: share of the hints left out at random.
        competing: int64 [P], ascending, the word pieces that compete in the softmax; None for all.
        windows: add the keys of `vivo.packing.in_windows`, which a GPU wants.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        limits: Limits,
        seed: int,
        share_min: float,
        share_max: float,
        at_most: int,
        next_piece: float = 0.0,
        hint_dropout: float = 0.0,
        competing: Tensor | None = None,
        windows: bool = False,
    ):
        super().__init__(tokenizer, limits, seed, competing)
        self.windows = windows
        self.share_min, self.share_max, self.at_most = share_min, share_max, at_most
        self.next_piece, self.hint_dropout = next_piece, hint_dropout

    def __call__(self, examples: Sequence[tuple[int, str, list[str], list[str], Regions]]) -> Batch:
        tags, first, words = [], [], []
        as_words = self.limits.tag_slots == "caption"
        for epoch, image_id, names, hints, _ in examples:
            generator = example_generator(self.seed, epoch, image_id, "tags")
            order = generator.permutation(len(names)).tolist()
            kept = self.pieces.cut([names[i] for i in order], self.limits.max_tag_tokens)
            if as_words:
                kept = kept[: sum(p < self.limits.max_caption_tokens for p in _ends(kept))]
            words.append(len(kept))
            share = masked_share(self.share_min, self.share_max, generator)
            masked = mask_tags(len(kept), share, self.at_most, generator)
            asked = next_pieces(masked, [len(pieces) for pieces in kept], self.next_piece, generator).tolist()
            tags.append([pieces[: n + 1] if n >= 0 else pieces for pieces, n in zip(kept, asked, strict=True)])
            first.append([max(n, 0) if m else None for n, m in zip(asked, masked.tolist(), strict=True)])
            if hints:
                self._mix_in(hints, tags[-1], first[-1], example_generator(self.seed, epoch, image_id, "hints"))
        batch = self._context(tags, [regions for *_, regions in examples], words if as_words else None)
        batch |= self._slots(tags, first, batch["tag_ids"])
        if self.windows:
            batch |= in_windows(batch["tag_mask"], batch["region_mask"])
        batch["image_ids"] = [image_id for _, image_id, *_ in examples]
        return self._among_competing(batch)

    def _mix_in(
        self,
        hints: list[str],
        tags: list[tuple[int, ...]],
        first: list[int | None],
        generator: np.random.Generator,
    ) -> None:
        """Put the hints that fit at random places between the tags of a picture, or behind those that stand as
        words (both lists in place)."""
        kept = [hints[i] for i in generator.permutation(len(hints)) if generator.random() >= self.hint_dropout]
        room = self.limits.max_tag_tokens - sum(map(len, tags))
        for pieces in self.pieces.cut(kept, room):
            between = self.limits.tag_slots == "tags"
            place = int(generator.integers(len(tags) + 1)) if between else len(tags)
            tags.insert(place, pieces)
            first.insert(place, None)

    def _slots(self, tags: list[list[tuple[int, ...]]], first: list[list[int | None]], tag_ids: Tensor) -> Batch:
        """Put [MASK] into `tag_ids` (in place) and list slots, targets and groups.

        Args:
            first: the first masked piece of each tag, None for tags that are not masked.
        """
        index, targets, groups, matchable = [], [], [], []
        for row, (picture, begins) in enumerate(zip(tags, first, strict=True)):
            by_length: dict[int, list[list[int]]] = {}
            place = row * tag_ids.shape[1]
            for pieces, begin in zip(picture, begins, strict=True):
                if begin is not None:
                    hidden = pieces[begin:]
                    slots = list(range(len(targets), len(targets) + len(hidden)))
                    if begin > 0:  # the pieces before it say which tag it is: nothing to exchange
                        groups.append([slots])
                    else:
                        by_length.setdefault(len(hidden), []).append(slots)
                    index.extend(range(place + begin, place + len(pieces)))
                    targets.extend(hidden)
                place += len(pieces)
            groups.extend(by_length.values())
            matchable.append(any(len(group) > 1 for group in by_length.values()))
        slot_index = torch.tensor(index, dtype=torch.int64)
        tag_ids.view(-1)[slot_index] = self.tokenizer.mask_token_id
        size = max((len(g) for g in groups), default=0)
        length = max((len(g[0]) for g in groups), default=0)
        group_slots = np.full((len(groups), size, length), -1, dtype=np.int64)
        for row, group in enumerate(groups):
            group_slots[row, : len(group), : len(group[0])] = group
        return {
            "slot_index": slot_index,
            "target_ids": torch.tensor(targets, dtype=torch.int64),
            "group_slots": torch.from_numpy(group_slots),
            "group_size": torch.tensor([len(g) for g in groups], dtype=torch.int64),
            "matchable": torch.tensor(matchable),
        }


class ContextCollator(_Collator):
    """Tags and regions alone, for prediction: nothing is random, tags stand in the given order."""

    def __call__(self, examples: Sequence[tuple[str, list[str], Regions]]) -> Batch:
        tags = [self._told(names) for _, names, _ in examples]
        batch = self._context(tags, [regions for *_, regions in examples])
        batch["image_ids"] = [image_id for image_id, *_ in examples]
        return batch

    def tag_places(self, names: Sequence[str]) -> list[tuple[str, int, int]]:
        """(tag, its first token, the one behind its last) of each tag that the model is shown."""
        most = self.limits.max_tag_tokens
        shown = list(names) if self.limits.tags_as_text else self.pieces.fitting(names, most)
        places, start = [], 0
        for name in shown:
            stop = start + len(self.pieces(name))
            if self.limits.tags_as_text:  # cut in the middle of a tag; its last token is [SEP]
                stop = min(stop, most - 1)
            if stop > start:
                places.append((name, start, stop))
            start = stop
        return places


class CaptionCollator(_Collator):
    """Fine-tuning batches from (epoch, image id, tags, captions, regions).

    Args:
        supervision: "masked" or "dense", as `masked_text` and `dense_text` make them.
        probability, at_most: of the tokens that "masked" hides; see `mask_caption`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        limits: Limits,
        seed: int,
        supervision: str,
        probability: float,
        captions_per_picture: int,
        tag_dropout: float,
        competing: Tensor | None = None,
        at_most: int = 0,
    ):
        super().__init__(tokenizer, limits, seed, competing)
        self.supervision, self.probability, self.at_most = supervision, probability, at_most
        self.captions_per_picture, self.tag_dropout = captions_per_picture, tag_dropout

    def __call__(self, examples: Sequence[tuple[int, str, list[str], list[str], Regions]]) -> Batch:
        tags, texts = [], []
        for epoch, image_id, names, captions, _ in examples:
            generator = example_generator(self.seed, epoch, image_id, "captions")
            tags.append(self._shown(names, self.tag_dropout, generator))
            chosen = chosen_captions(self.seed, epoch, image_id, captions, self.captions_per_picture)
            texts.append([encode_caption(self.tokenizer, c, self.limits.max_caption_tokens) for c in chosen])
            texts[-1] = [self._supervised(tokens, generator) for tokens in texts[-1]]
        batch = self._context(tags, [regions for *_, regions in examples])
        batch |= text_keys(texts, self.tokenizer.pad_token_id)
        batch["image_ids"] = [image_id for _, image_id, *_ in examples]
        return self._among_competing(batch)

    def _supervised(self, tokens: list[int], generator: np.random.Generator) -> CaptionText:
        """One caption [CLS] .. [SEP]: some tokens hidden (the paper), or all asked for in one pass; at inference both
        are the same."""
        mask = self.tokenizer.mask_token_id
        if self.supervision == "masked":
            hidden = mask_caption(len(tokens), self.probability, generator, self.at_most)
            return masked_text(tokens, hidden, mask)
        return dense_text(tokens, mask)


class SampleCollator(_Collator):
    """Pictures whose captions are to be sampled, from (epoch, image id, tags, captions, regions).

    The tag and region keys of a CaptionBatch, `image_ids`, and

        draws float64 [B, samples, tokens]      even random numbers in [0, 1), one for each token to be sampled

    drawn from (seed, epoch, image id): a picture's samples are the same on any number of processes and after a resume.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        limits: Limits,
        seed: int,
        samples: int,
        tokens: int,
        tag_dropout: float,
    ):
        super().__init__(tokenizer, limits, seed)
        self.samples, self.tokens, self.tag_dropout = samples, tokens, tag_dropout

    def __call__(self, examples: Sequence[tuple[int, str, list[str], list[str], Regions]]) -> Batch:
        tags, draws = [], []
        for epoch, image_id, names, *_ in examples:
            shown = example_generator(self.seed, epoch, image_id, "captions")
            tags.append(self._shown(names, self.tag_dropout, shown))
            generator = example_generator(self.seed, epoch, image_id, "samples")
            draws.append(generator.random((self.samples, self.tokens)))
        batch = self._context(tags, [regions for *_, regions in examples])
        batch["draws"] = torch.from_numpy(np.stack(draws))
        batch["image_ids"] = [image_id for _, image_id, *_ in examples]
        return batch


def picture_rows(batch: Batch) -> Tensor:
    """What a batch of any captioner has of its pictures, a row each: region features, features of whole pictures
    (vivo/show_and_tell/collate.py), or pixels."""
    return next(batch[name] for name in ("region_features", "features", "pixels") if name in batch)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors to the device, asynchronously where they are pinned; lists as they are."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
