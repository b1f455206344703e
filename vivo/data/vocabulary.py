"""A smaller vocabulary of word pieces, cut from a BERT's.

The softmax over 30,522 pieces is most of a small model's work on a CPU. A cut keeps the pieces that the
training texts use and, in the vocabulary's own order (roughly by frequency), as many of the others as fit;
the letters always stay, so any English word can still be written. The training texts are split exactly
as before: WordPiece takes the longest piece it finds, and every piece that it took is still there.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vivo.errors import UserError
from vivo.files import atomic_write_text

UNUSED = "[unused"
"""How BERT's placeholders begin."""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def choose_pieces(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], size: int) -> list[str]:
    """The special tokens, the letters, the pieces of `texts`, and others up to `size`, in the vocabulary's order.

    Raises:
        ValueError: `size` is too small for what has to stay.
    """
    vocabulary = tokenizer.get_vocab()
    needed = set(tokenizer.all_special_ids)
    needed.update(vocabulary[piece] for letter in LETTERS for piece in (letter, f"##{letter}") if piece in vocabulary)
    for text in texts:
        needed.update(tokenizer(text.lower(), add_special_tokens=False)["input_ids"])
    if len(needed) > size:
        raise ValueError(f"{len(needed)} pieces have to stay, {size} were allowed")
    order = sorted(vocabulary.items(), key=lambda entry: entry[1])
    free = size - len(needed)
    kept = []
    for piece, number in order:
        if number in needed:
            kept.append(piece)
        elif free and not piece.startswith(UNUSED):
            kept.append(piece)
            free -= 1
    return kept


def write_pieces(pieces: Iterable[str], file: Path) -> None:
    """One piece a line, as BERT's vocab.txt has them."""
    atomic_write_text(file, "".join(f"{piece}\n" for piece in pieces))


def read_pieces(file: str | Path) -> list[str]:
    """The pieces that `write_pieces` wrote."""
    try:
        pieces = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable list of word pieces ({error}); one piece a line is needed") from error
    if len(set(pieces)) != len(pieces) or not all(pieces):
        raise UserError(f"{file}: an empty line, or a word piece twice; one piece a line is needed")
    return pieces


def cut_tokenizer(
    tokenizer: PreTrainedTokenizerFast, pieces: list[str], file: str | Path
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A tokenizer of these pieces alone.

    Args:
        pieces: their numbers in the new vocabulary are their places here.
        file: where they come from, for errors.

    Returns:
        The new tokenizer, and the old number of each of its pieces (which rows of the embeddings to keep).

    Raises:
        UserError: a piece that the old vocabulary does not have, or a special token that is missing.
    """
    old = tokenizer.get_vocab()
    unknown = next((piece for piece in pieces if piece not in old), None)
    if unknown is not None:
        raise UserError(f"{file}: {unknown!r} is no word piece of the model that training starts from")
    number = {piece: place for place, piece in enumerate(pieces)}
    lacking = next((token for token in tokenizer.all_special_tokens if token not in number), None)
    if lacking is not None:
        raise UserError(f"{file}: {lacking} is missing; all of {' '.join(tokenizer.all_special_tokens)} are needed")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["model"]["vocab"] = number
    for token in described["added_tokens"]:
        token["id"] = number[token["content"]]
    for token in (described["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [number[piece] for piece in token["tokens"]]
    names = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("unk", "sep", "pad", "cls", "mask")}
    cut = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)), **names)
    return cut, [old[piece] for piece in pieces]
