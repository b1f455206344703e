"""The way back from word pieces: hand cases, and real captions through the metrics' tokenizer."""

import json
from pathlib import Path

import pytest

from vivo.data.detokenise import detokenise
from vivo.data.text import decode_caption, encode_caption, load_tokenizer
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.weights import bert_folder

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CASES = [
    "a man in a t-shirt",
    "the man's hat isn't red, it's blue",
    "the players' bench",
    "do not enter",  # which the tokenizer's own decoding makes "don't enter"
    "ten o'clock in the '80s",
    "rock 'n' roll",
    "fleur d'or",
    "a sign that says 'stop' on a pole",
    'a sign that says "do not enter" in red',
    "a clock shows 4:30, or 12:25:10",
    "2.5 miles and 10,000 people, 1,234,567 in all",
    "1, 2 and 3",
    "the u.s. flag on a t.v. at 10 a.m.",
    "a black/white dog and/or a cat",
    "50% of $5 is #1",
    "a dog (left) runs!",
    "what?! no... yes; see: it",
    "m&m candies in black & white",
    "a unicycle, an aardvark and a skateboarder",  # pieces with ##
    "a two-year-old on a merry-go-round",
    "a dog -- a big one",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


@pytest.mark.parametrize("text", CASES)
def test_hand_cases_come_back(tokenizer, text: str):
    assert decode_caption(tokenizer, encode_caption(tokenizer, text, 60)) == text


def test_pieces_as_bert_separates_them():
    assert detokenise("a t - shirt , size 2 . 5 , of the men ' s team .") == "a t-shirt, size 2.5, of the men's team."
    assert detokenise("") == "" and detokenise("' '") == "' '"
    assert detokenise("- a dog -") == "- a dog -"


def test_special_tokens_and_what_follows_the_end_are_left_out(tokenizer):
    ids = [*encode_caption(tokenizer, "a dog", 9), *encode_caption(tokenizer, "a cat", 9)]
    assert decode_caption(tokenizer, [tokenizer.mask_token_id, *ids]) == "a dog"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")
@pytest.mark.parametrize(
    ("file", "every", "most"),
    [
        ("coco_captions_val2017.json", 10, 0.002),
        ("nocaps_val_captions.json", 18, 0.003),
        ("flickr8k_3k/captions.json", 6, 0.001),
    ],
)
def test_real_captions_keep_their_tokens(tokenizer, file: str, every: int, most: float):
    """2,500 captions of each, encoded and decoded; the figures of all are in vivo/data/detokenise.py."""
    captions = [a["caption"] for a in json.loads((SHARED / file).read_text())["annotations"]][::every]
    differ = [
        text
        for text in captions
        if ptb_tokenize(decode_caption(tokenizer, encode_caption(tokenizer, text, 400))) != ptb_tokenize(text)
    ]
    assert len(captions) > 2_000 and len(differ) / len(captions) < most, differ
