"""Several captions of a picture, with the log-probability of each word piece.

n_best=5 decode.beam=5      with eval/predict.py: predictions.n_best.jsonl, one line a picture (docs/decoding.md)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from vivo.data.predictions import n_best_path
from vivo.data.text import decode_caption
from vivo.decoding.search import Hypothesis
from vivo.files import atomic_write_text, remove_file


def pieces_of(tokenizer: PreTrainedTokenizerFast, found: Hypothesis) -> list[str]:
    """The word pieces that `found.token_log_probabilities` are of: where it ended, [SEP] is the last."""
    return tokenizer.convert_ids_to_tokens([*found.tokens, *([tokenizer.sep_token_id] if found.ended else [])])


def n_best_captions(tokenizer: PreTrainedTokenizerFast, found: Sequence[Hypothesis], most: int) -> list[dict[str, Any]]:
    """{"caption", "score", "log_probability", "pieces", "token_log_probabilities"} of the best hypotheses."""
    return [
        {
            "caption": decode_caption(tokenizer, one.tokens),
            "score": one.score,
            "log_probability": one.log_probability,
            "pieces": pieces_of(tokenizer, one),
            "token_log_probabilities": one.token_log_probabilities,
        }
        for one in found[:most]
    ]


def write_n_best(predictions: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Captions by picture id, beside a predictions file. Without any, what lies there of earlier ones is removed."""
    if not rows:
        remove_file(n_best_path(predictions))
        return
    lines = [
        json.dumps({"image_id": image_id, "captions": captions}, ensure_ascii=False, allow_nan=False) + "\n"
        for image_id, captions in rows.items()
    ]
    atomic_write_text(n_best_path(predictions), "".join(lines))
