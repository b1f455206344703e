"""What each word of a caption hangs on: how much less likely it is without one region, or without one tag.

    evidence = Explainer(model, tokenizer).explain("a dog on a sofa", ["dog", "sofa"], regions)
    evidence[1].regions[0]     # by how much log p(dog | a, picture) falls when region 0 is not there

Nothing is estimated: the region is left out of the model's input as padding is, the caption is read again, and the two
log-probabilities are compared. What is asked of the model is what decoding asked: each word after the true words before
it. A region and its tag are two inputs and are left out one at a time.

What such figures cannot say: two boxes of one dog stand in for each other, so leaving out either changes little. The
change without all regions and without all tags is given beside them, as a measure of what there is to be divided.

    R regions, T tags, Q = 1 + R + T + 2 variants of the input, N tokens of the caption, V word pieces
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.data.caption_text import dense_text, text_keys
from vivo.data.collate import Batch, ContextCollator, Limits, to_device
from vivo.data.text import encode_caption
from vivo.data.types import Regions
from vivo.modeling import VivoForCaptioning

MOST_ROWS = 64
"""Variants of the input that are read together."""


@dataclass
class WordEvidence:
    """One word of a caption. All changes are falls of the log-probability (natural logarithm): positive where the word
    is less likely without that input.

    Attributes:
        start, end: its place in the caption.
        log_probability: of its pieces, given the words before it and the whole input.
        regions: R changes, of the regions that the model reads (the first `max_regions`).
        tags: (tag, change) of each tag that the model is shown.
        without_regions, without_tags: the changes without all of them; 0 where there are none.
    """

    start: int
    end: int
    log_probability: float
    regions: list[float]
    tags: list[tuple[str, float]]
    without_regions: float
    without_tags: float


class Explainer:
    """Evidence for captions of one model; the captions need not be its own."""

    def __init__(self, model: VivoForCaptioning, tokenizer: PreTrainedTokenizerFast):
        self.model, self.tokenizer = model.eval(), tokenizer
        self._collator = ContextCollator(tokenizer, Limits.of(model.config))

    @torch.inference_mode()
    def explain(
        self, caption: str, tags: Sequence[str], regions: Regions, words: Sequence[tuple[int, int]]
    ) -> list[WordEvidence]:
        """Evidence for the words of a caption.

        Args:
            tags: as the model was shown them when it wrote.
            words: (start, end) of each word in the caption; words behind the model's longest caption are left out.
        """
        batch = self._collator([("", list(tags), regions)])
        places = self._collator.tag_places(tags)
        count = int(batch["region_mask"].sum())
        keep_regions, keep_tags = _variants(count, [(start, stop) for _, start, stop in places], batch)
        ids = encode_caption(self.tokenizer, caption, self.model.config.max_caption_tokens)
        log_p = self._read(to_device(batch, self.model.device), keep_regions, keep_tags, ids).double().cpu()
        evidence = []
        for start, end, pieces in self._pieces_of(caption, words, len(ids) - 2):
            of_word = log_p[:, pieces].sum(dim=1)
            falls = (of_word[0] - of_word).tolist()
            evidence.append(
                WordEvidence(
                    start,
                    end,
                    float(of_word[0]),
                    falls[1 : 1 + count],
                    [(name, falls[1 + count + n]) for n, (name, *_) in enumerate(places)],
                    falls[-2],
                    falls[-1],
                )
            )
        return evidence

    def _pieces_of(self, caption: str, words: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int, list[int]]]:
        """(start, end, indices of its pieces) of each word that has any among the first `most` pieces."""
        encoded = self.tokenizer(caption.lower(), add_special_tokens=False, return_offsets_mapping=True)
        starts = [start for start, _ in encoded["offset_mapping"]][:most]
        found = []
        for first, last in words:
            pieces = [n for n, start in enumerate(starts) if first <= start < last]
            if pieces:
                found.append((first, last, pieces))
        return found

    def _read(self, batch: Batch, keep_regions: Tensor, keep_tags: Tensor, ids: Sequence[int]) -> Tensor:
        """Log-probabilities float32 [Q, N] of the caption's tokens behind [CLS], of each variant of the input."""
        text = dense_text(ids, self.tokenizer.mask_token_id)
        found = []
        for first in range(0, len(keep_regions), MOST_ROWS):
            rows = len(keep_regions[first : first + MOST_ROWS])
            of_rows = {name: batch[name].expand(rows, *batch[name].shape[1:]) for name in _SHARED}
            of_rows |= to_device(text_keys([[text]] * rows, self.tokenizer.pad_token_id), self.model.device)
            of_rows["region_mask"] = keep_regions[first : first + rows].to(self.model.device)
            of_rows["tag_mask"] = keep_tags[first : first + rows].to(self.model.device)
            log_p = self.model.caption_logits(of_rows).float().log_softmax(dim=-1)
            found.append(log_p.gather(1, of_rows["target_ids"][:, None]).view(rows, -1))
        return torch.cat(found)


_SHARED = ("tag_ids", "tag_positions", "region_features", "region_positions")


def _variants(regions: int, tags: Sequence[tuple[int, int]], batch: Batch) -> tuple[Tensor, Tensor]:
    """bool [Q, R], bool [Q, T tokens]: which regions and tag tokens are there. All; without each region; without each
    tag (first token, behind the last); without all regions; without all tags."""
    rows = 1 + regions + len(tags) + 2
    keep_regions = torch.ones(rows, regions, dtype=torch.bool)
    keep_tags = torch.ones(rows, batch["tag_mask"].shape[1], dtype=torch.bool)
    for number in range(regions):
        keep_regions[1 + number, number] = False
    for number, (start, stop) in enumerate(tags):
        keep_tags[1 + regions + number, start:stop] = False
    keep_regions[-2] = False
    keep_tags[-1] = False
    return keep_regions, keep_tags
