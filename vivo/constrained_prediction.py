"""Captions that must name what a detector saw: constraints, the search with them, and what a search says of itself.

    decode.constraints=detector      with eval/predict.py; docs/decoding.md

Beside predictions.json lies predictions.constraints.jsonl, one line a picture: `ConstrainedCaptions.traces`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from vivo.captioning import CaptioningModel
from vivo.config import DecodeConfig
from vivo.data.class_forms import ClassWords, read_class_words
from vivo.data.collate import Batch, picture_rows
from vivo.data.regions import RegionStore
from vivo.data.text import TagPieces, decode_caption
from vivo.data.types import Regions
from vivo.decoding.constrained import Constrained, constrained_beam_search
from vivo.decoding.constraints import Constraint, ConstraintRules, LeftOut, choose_constraints
from vivo.decoding.machine import ConstraintMachine
from vivo.decoding.search import Hypothesis
from vivo.errors import UserError
from vivo.prediction import check_found, decoding_rules

Chosen = tuple[list[Constraint], list[LeftOut]]


@torch.inference_mode()
def constrained_batch(
    model: CaptioningModel, batch: Batch, machines: Sequence[ConstraintMachine], decode: DecodeConfig
) -> list[Constrained]:
    """Captions of each picture of a batch (of the model's own collator) under its constraints.

    Args:
        machines: one a picture, over the pieces of the model's tokenizer.
    """
    config = model.config
    limit = min(decode.max_tokens, config.max_caption_tokens - 1)
    step = model.step(model.encode_pictures(batch), decode.beam * (limit + 1))
    return constrained_beam_search(
        step,
        machines,
        config.cls_token_id,
        config.sep_token_id,
        decode.beam,
        limit,
        decode.constraints_satisfied,
        decode.length_penalty,
        picture_rows(batch).device,
        decoding_rules(decode, config.sep_token_id, model.never_said),
    )


class ConstrainedCaptions:
    """The search of `vivo.prediction.caption_batch`, with constraints from detections.

    Args:
        detections: image id -> the regions whose names become constraints.
        words: forms and heights of their classes.

    Attributes:
        traces: image id -> {"caption", "needed", "satisfied" (a number), "fell_back", "constraints": [{"name",
            "detected", "score", "box", "satisfied", "written", "tokens"}], "left_out": [{"name", "score", "reason"}]}
            of the best caption; `written` are the words that satisfy a constraint, `tokens` their place
            among the caption's word pieces, [first, behind the last].
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        detections: Callable[[str], Regions],
        words: ClassWords,
        decode: DecodeConfig,
    ):
        self.tokenizer, self.decode, self.words = tokenizer, decode, words
        self.rules = ConstraintRules(decode.constraint_score, decode.constraint_overlap, decode.constraints_at_most)
        self._detections = detections
        self._pieces = TagPieces(tokenizer)
        self._continues = continuing_pieces(tokenizer)
        self.traces: dict[str, dict[str, Any]] = {}

    @classmethod
    def open(
        cls,
        tokenizer: PreTrainedTokenizerFast,
        store: RegionStore,
        image_ids: Sequence[str],
        decode: DecodeConfig,
        shown: Mapping[str, str] | None = None,
    ) -> "ConstrainedCaptions":
        """For the pictures `image_ids` of a store, by `decode.constraint_*`.

        Args:
            shown: for a control, the picture whose detections count instead of its own.

        Raises:
            UserError: pictures that `decode.constraint_regions` lacks; no picture with any constraint.
        """
        if decode.constraint_regions:
            store = RegionStore(decode.constraint_regions)
            lost = [i for i in image_ids if i not in store]
            if lost:
                raise UserError(
                    f"{store.path}: lacks {len(lost)} of the {len(image_ids)} pictures to caption (first: {lost[0]}); "
                    "extract their regions too, or leave out decode.constraint_regions"
                )
        words = read_class_words(decode.constraint_classes, decode.constraint_hierarchy)
        found = cls(tokenizer, lambda i: store[shown[i] if shown else i], words, decode)
        if not any(found.choose(image_id)[0] for image_id in image_ids):
            raise UserError(
                f"{store.path}: its detector, {store.detector.get('name', 'without name')}, names nothing that could "
                f"be a constraint in these {len(image_ids)} pictures, with a score of at least "
                f"{decode.constraint_score}; give decode.constraint_regions, regions of another, or "
                "decode.constraints=none"
            )
        return found

    def choose(self, image_id: str) -> Chosen:
        """Constraints of a picture that can be written with the tokenizer's pieces, and what is left out."""
        chosen, left_out = choose_constraints(
            self._detections(image_id), self.words.forms, self.words.height, self.rules
        )
        writable = [constraint for constraint in chosen if self._forms(constraint)]
        left_out += [LeftOut(c.name, c.score, "has no word pieces") for c in chosen if c not in writable]
        return writable, left_out

    def __call__(self, model: CaptioningModel, batch: Batch, image_ids: Sequence[str]) -> list[list[Hypothesis]]:
        """Hypotheses of each picture of a batch, best first; leaves a trace of each."""
        chosen = [self.choose(image_id) for image_id in image_ids]
        machines = [
            ConstraintMachine([list(self._forms(c).values()) for c in some], self._continues) for some, _ in chosen
        ]
        found = constrained_batch(model, batch, machines, self.decode)
        check_found([result.hypotheses for result in found])
        for image_id, result, machine, of in zip(image_ids, found, machines, chosen, strict=True):
            self.traces[image_id] = self._trace(result, machine, of)
        return [result.hypotheses for result in found]

    def _forms(self, constraint: Constraint) -> dict[str, tuple[int, ...]]:
        """Form -> word pieces, for the forms that have any."""
        pieces = {form: self._pieces(form) for form in constraint.forms}
        unknown = self.tokenizer.unk_token_id
        return {form: found for form, found in pieces.items() if found and unknown not in found}

    def _trace(self, result: Constrained, machine: ConstraintMachine, chosen: Chosen) -> dict[str, Any]:
        best, (constraints, left_out) = result.hypotheses[0], chosen
        rows: list[dict[str, Any]] = []
        written = machine.written(best.tokens)
        for number, constraint in enumerate(constraints):
            first = next((w for w in written if w.constraint == number), None)
            rows.append(
                {
                    "name": constraint.name,
                    "detected": constraint.detected,
                    "score": round(constraint.score, 4),
                    "box": [round(x, 1) for x in constraint.box],
                    "satisfied": first is not None,
                    "written": list(self._forms(constraint))[first.form] if first else "",
                    "tokens": [first.start, first.stop] if first else [],
                }
            )
        return {
            "caption": decode_caption(self.tokenizer, best.tokens),
            "needed": result.needed,
            "satisfied": sum(row["satisfied"] for row in rows),
            "fell_back": result.fell_back,
            "constraints": rows,
            "left_out": [{"name": x.name, "score": round(x.score, 4), "reason": x.reason} for x in left_out],
        }


def summary_of(traces: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """For the header of the predictions: how many pictures had how many constraints, and what became of them."""
    counts = Counter(len(trace["constraints"]) for trace in traces)
    return {
        "pictures_by_constraints": {str(number): counts[number] for number in sorted(counts)},
        "constraints": sum(number * count for number, count in counts.items()),
        "satisfied": sum(trace["satisfied"] for trace in traces),
        "fell_back": sum(trace["fell_back"] for trace in traces),
    }


def continuing_pieces(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids of the pieces that continue a word."""
    return frozenset(number for piece, number in tokenizer.get_vocab().items() if piece.startswith("##"))
