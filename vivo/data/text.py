"""Word pieces of tags and captions, and back. One tokenizer for both, saved in every checkpoint."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vivo.data.detokenise import detokenise
from vivo.errors import UserError

_WORDS = re.compile(r"\w+")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """A BERT-shaped fast tokenizer from a checkpoint folder; nothing is downloaded.

    Padding and truncation are switched off. A folder with vocab.txt alone, as BERT's and Oscar's checkpoints were
    once published, is read here: `BertTokenizerFast(vocab_file=...)` would silently give a vocabulary of 5 tokens
    (transformers 5).
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise UserError(f"{folder}: no tokenizer.json in this folder; give a checkpoint or BERT folder")
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the tokenizers library raises nothing more exact
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UserError(f"{folder}: its tokenizer.json cannot be read ({reason}); copy it again") from error
    else:
        tokenizer = _tokenizer_of_vocabulary(folder / "vocab.txt")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    if tokenizer.mask_token_id is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"{folder}: its tokenizer has {len(tokenizer)} entries or no [MASK]; a BERT one is needed")
    return tokenizer


def _tokenizer_of_vocabulary(file: Path) -> PreTrainedTokenizerFast:
    """BERT's tokenizer of a vocab.txt; tokenizer_config.json beside it may say `"do_lower_case": false`."""
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    try:
        number = {piece: place for place, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}
        told = file.with_name("tokenizer_config.json")
        lower = json.loads(told.read_text(encoding="utf-8")).get("do_lower_case", True) if told.is_file() else True
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no readable vocabulary ({error}); copy the checkpoint again") from error
    lacking = [piece for piece in names.values() if piece not in number]
    if lacking:
        raise UserError(f"{file}: {lacking[0]} is missing; a BERT vocabulary is needed, one piece a line")
    rules = Tokenizer(models.WordPiece(number, unk_token="[UNK]", max_input_chars_per_word=100))
    rules.normalizer = normalizers.BertNormalizer(lowercase=lower)
    rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rules.decoder = decoders.WordPiece()
    ends = [(piece, number[piece]) for piece in ("[CLS]", "[SEP]")]
    rules.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return PreTrainedTokenizerFast(tokenizer_object=rules, **{f"{name}_token": piece for name, piece in names.items()})


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
        return [pieces for _, pieces in self._fitting(tags, most)]

    def fitting(self, tags: Sequence[str], most: int) -> list[str]:
        """The tags whose pieces `cut` gives."""
        return [tag for tag, _ in self._fitting(tags, most)]

    def _fitting(self, tags: Sequence[str], most: int) -> list[tuple[str, tuple[int, ...]]]:
        kept, room = [], most
        for tag in tags:
            pieces = self(tag)
            if 0 < len(pieces) <= room:
                kept.append((tag, pieces))
                room -= len(pieces)
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
