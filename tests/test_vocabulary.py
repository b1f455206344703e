"""A vocabulary cut from the text model's: which pieces stay, and that texts are split as before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivo.data.text import load_tokenizer
from vivo.data.vocabulary import choose_pieces, cut_tokenizer, read_pieces, write_pieces
from vivo.errors import UserError
from vivo.weights import bert_folder

TEXTS = ["a red teddy bear", "two zebras beside a ferris wheel", "a microscope"]


@pytest.fixture(scope="module")
def whole():
    return load_tokenizer(bert_folder("minilm"))


@pytest.fixture(scope="module")
def cut(whole):
    return cut_tokenizer(whole, choose_pieces(whole, TEXTS, 3000), "pieces.txt")


def test_pieces_of_the_texts_stay_and_the_most_frequent_others_fill_up(whole):
    pieces = choose_pieces(whole, TEXTS, 3000)
    assert len(pieces) == len(set(pieces)) == 3000
    vocabulary = whole.get_vocab()  # once: it makes a dict of all 30,522
    numbers = [vocabulary[piece] for piece in pieces]
    assert numbers == sorted(numbers)
    rare = [piece for piece, number in zip(pieces, numbers, strict=True) if number > 3990]
    assert {"zebra", "microscope", "ferris", "teddy", "##q"} <= set(rare) and len(rare) < 12
    assert not any(piece.startswith("[unused") for piece in pieces)
    least = choose_pieces(whole, ["a dog"], 78)  # 5 special tokens, 2 x 36 letters and digits, "dog"
    assert least[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and least[-1] == "##q" and "dog" in least
    with pytest.raises(ValueError, match="78 pieces have to stay, 77 were allowed"):
        choose_pieces(whole, ["a dog"], 77)


def test_texts_are_split_as_before_and_others_can_still_be_written(whole, cut):
    small, rows = cut
    assert len(small) == len(rows) == 3000
    for text in TEXTS:
        assert small.tokenize(text) == whole.tokenize(text)
        assert [rows[i] for i in small(text)["input_ids"]] == whole(text)["input_ids"]
    other = small("unquenchable giraffes", add_special_tokens=False)["input_ids"]
    assert len(other) > 3 and small.decode(other) == "unquenchable giraffes"
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert rows[getattr(small, f"{name}_token_id")] == getattr(whole, f"{name}_token_id")


@settings(max_examples=200, deadline=None)
@given(word=st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20))
def test_any_word_can_be_written(cut, word):
    small, _ = cut
    ids = small(word, add_special_tokens=False)["input_ids"]
    assert small.unk_token_id not in ids and small.decode(ids) == word


def test_it_survives_saving(cut, tmp_path):
    small, _ = cut
    small.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == small.get_vocab()
    assert loaded(TEXTS[0])["input_ids"] == small(TEXTS[0])["input_ids"]
    assert loaded.mask_token_id == small.mask_token_id


def test_bad_lists_are_refused(whole, tmp_path):
    file = tmp_path / "pieces.txt"
    write_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"], file)
    assert len(cut_tokenizer(whole, read_pieces(file), file)[0]) == 6
    for lines, expected in (
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog"], r"pieces\.txt: \[MASK\] is missing"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dogzilla"], "'dogzilla' is no word piece"),
        (["dog", "dog"], "a word piece twice"),
        (["dog", "", "cat"], "an empty line"),
    ):
        write_pieces(lines, file)
        with pytest.raises(UserError, match=expected):
            cut_tokenizer(whole, read_pieces(file), file)
    with pytest.raises(UserError, match=r"none\.txt: no readable list"):
        read_pieces(tmp_path / "none.txt")
