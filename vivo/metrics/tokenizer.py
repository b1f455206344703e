"""PTB tokenisation of captions without Java, equal to pycocoevalcap's PTBTokenizer.

pycocoevalcap pipes captions through Stanford's PTBTokenizer 3.4.1 (-preserveLines -lowerCase) and
removes a list of punctuation. This module does the same in Python. Compared with the Java program
on real captions, differences in the tokens that remain:

    COCO captions 2014, train + val    0 of 616,767
    COCO captions val2017              0 of  25,014
    nocaps validation captions         0 of  45,000
    Flickr8k (3,000 pictures)          0 of  15,000
    captions of the embedded world     0 of   3,000
    with random typing errors put in   1 of 220,000
    lines of random signs              3 of  15,000

Known to differ: characters of scripts that are newer than the reference's tables (it drops them), odd
e-mail addresses, rare HTML entities.

Reference behaviour that surprises, kept because published scores have it:

* brackets stay as the tokens "-lrb-" and "-rrb-": the punctuation list spells them in upper case;
* "!!" and "?!" stay, "!" and "?" go;
* a fraction "1 1/2" or a phone number is one token with no-break spaces inside. Scorers split at
  white space, which includes them, so join tokens with " " before handing them on;
* all captions go through one stream, and a line end is no sentence end: in "Vitamin B." the full
  stop belongs to the B unless the *next* caption begins with a word such as "A" or "The".
  `ptb_tokenize_all` reproduces this; `ptb_tokenize` has no next caption.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from vivo.metrics.ptb_characters import settle
from vivo.metrics.ptb_lexer import OTHER_RULES, WORD_RULES

# As in pycocoevalcap. Its bracket entries are in upper case and so never match the lower-cased tokens.
PUNCTUATIONS = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# A run without white space whose tokens depend on nothing after it, so that they can be remembered:
# no digit, bracket or tag, which may join over a space, and not "no." ("no. 5") or an initial ("B. The").
_INDEPENDENT = re.compile(
    r"(?:[A-Za-z][A-Za-z',;!?&/-]*|(?!(?:art|figs?|nos?|op|pp|prop|ca)\.)[A-Za-z]{2,}\.)(?=[ \n])", re.IGNORECASE
)


def ptb_tokenize(caption: str, following: str = "") -> list[str]:
    """Tokens of one caption, lower-cased, without punctuation.

    Args:
        caption: any text. White space, line breaks and their exotic kin included, only separates words.
        following: the caption that comes next in the reference's stream; matters for a last "B." alone.
    """
    return [token for token in _lex(caption, following) if token not in PUNCTUATIONS]


def ptb_tokenize_all(captions: Sequence[str]) -> list[list[str]]:
    """Tokens of each caption, exactly as pycocoevalcap gives them for the captions in this order."""
    return [
        ptb_tokenize(caption, following) for caption, following in zip_longest(captions, captions[1:], fillvalue="")
    ]


def _lex(caption: str, following: str = "") -> list[str]:
    """All tokens, punctuation included, lower-cased."""
    text = " ".join(settle(caption).split()) + "\n"
    if following and text.endswith(".\n"):  # whose full stop is it? see the module's text
        text += " ".join(settle(following).split(maxsplit=1)[:1]) + "\n"
    tokens: list[str] = []
    position = 0
    while (character := text[position]) != "\n":
        if character == " ":
            position += 1
        elif run := _INDEPENDENT.match(text, position):
            tokens.extend(_tokens_of_run(run[0]))
            position = run.end()
        else:
            position = _next_token(text, position, tokens)
    return tokens


@lru_cache(maxsize=100_000)
def _tokens_of_run(run: str) -> tuple[str, ...]:
    text = run + "\n"
    tokens: list[str] = []
    position = 0
    while position < len(run):
        position = _next_token(text, position, tokens)
    return tuple(tokens)


def _next_token(text: str, position: int, tokens: list[str]) -> int:
    """Append the token that begins at `position` (no white space there); return where it ends."""
    longest = 0
    for pattern, write in WORD_RULES if text[position].isalnum() else OTHER_RULES:
        match = pattern.match(text, position)
        if match and match.end() - position > longest:
            longest = match.end() - position
            token, written = match[1], write
    spelled = written(token).lower()
    if spelled:
        tokens.append(spelled)
    return position + len(token)
