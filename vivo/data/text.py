"""Word pieces of tags and captions, and back. One tokenizer for both, saved in every checkpoint."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vivo.data.detokenise import detokenise
from vivo.errors import UserError

_WORDS = re.compile(r"\w+")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """A BERT-shaped fast tokenizer from a checkpoint folder; nothing is downloaded.

    `BertTokenizerFast(vocab_file=...)` would silently give a 5-token vocabulary (transformers 5),
    so the folder must hold tokenizer.json; its padding and truncation are switched off.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise UserError(f"{folder}: no tokenizer.json in this folder; give a checkpoint or BERT folder")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    if tokenizer.mask_token_id is None or len(tokenizer) < 100:
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} entries or no [MASK]; a BERT one is needed")
    return tokenizer


class TagPieces:
    """Word pieces of each tag, remembered: a vocabulary has thousands of tags, a data set millions of uses."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def __call__(self, tag: str) -> tuple[int, ...]:
        pieces = self._known.get(tag)
        if pieces is None:
            pieces = tuple(self._tokenizer(tag.lower(), add_special_tokens=False)["input_ids"])
            self._known[tag] = pieces
        return pieces

    def cut(self, tags: Sequence[str], most: int) -> list[tuple[int, ...]]:
        """Pieces of the first tags that fit into `most` tokens together; a tag is never split."""
        kept, used = [], 0
        for tag in tags:
            pieces = self(tag)
            if pieces and used + len(pieces) <= most:
                kept.append(pieces)
                used += len(pieces)
        return kept


def used_pieces(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[int]:
    """Ids of the word pieces of these texts and of [SEP], ascending."""
    pieces = TagPieces(tokenizer)
    return sorted({tokenizer.sep_token_id}.union(*(pieces(text) for text in dict.fromkeys(texts))))


class WordSequences:
    """Which names stand as whole words in some texts, in any case: "hot dog" does in "A hot dog!", "dog" too."""

    def __init__(self, texts: Iterable[str]):
        self._texts = [" ".join(["", *_WORDS.findall(text.lower()), ""]) for text in texts]
        self._known: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        known = self._known.get(name)
        if known is None:
            wanted = " ".join(["", *_WORDS.findall(name.lower()), ""])
            known = self._known[name] = any(wanted in text for text in self._texts)
        return known


def encode_caption(tokenizer: PreTrainedTokenizerFast, caption: str, most: int) -> list[int]:
    """[CLS] w1 .. wn [SEP], n cut so that at most `most` tokens come out."""
    pieces = tokenizer(caption.lower(), add_special_tokens=False)["input_ids"]
    return [tokenizer.cls_token_id, *pieces[: most - 2], tokenizer.sep_token_id]


def decode_caption(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Word pieces to a caption: ids up to the first [SEP], special tokens dropped, '##' joined.

    The one way back to text, for validation, evaluation and rewards. Punctuation is attached as English writes it
    ("t - shirt" -> "t-shirt", "man ' s" -> "man's"; vivo/data/detokenise.py).
    """
    if tokenizer.sep_token_id in ids:
        ids = list(ids)[: list(ids).index(tokenizer.sep_token_id)]
    # the tokenizer's own way back also rewrites: "do not" becomes "don't"
    pieces = tokenizer.convert_ids_to_tokens(list(ids), skip_special_tokens=True)
    return detokenise(" ".join(pieces).replace(" ##", ""))
