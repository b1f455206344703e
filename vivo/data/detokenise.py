"""Word pieces in a row, as BERT's tokenizer separates them, to English as people write it.

BERT's tokenizer puts spaces around every punctuation mark, so what stood between two words is lost: "t-shirt" and
"t - shirt" become the same pieces. The rules below take the likelier reading. How often they are wrong, as the metrics'
tokenizer sees it (vivo/metrics/tokenizer.py; texts encoded, decoded and compared with the original's tokens), over all
captions of

    COCO val2017      21 of 25,014
    nocaps            43 of 45,000
    Flickr8k (3,000)   0 of 15,000

What is left is lost in the pieces: missing spaces ("parked.A water"), spaces around a hyphen, accents.
"""

import re
from collections.abc import Callable

_CONTRACTED = r"(?:s|t|re|ve|ll|d|m|all|clock|em)"
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("\u2019", "'"),
        # numbers: 4:30, 2.5, 10,000; "1, 2" stays a list
        (r"(?<=\d) ([.:]) (?=\d)", r"\1"),
        (r"(?<!\d)(\d{1,3}) , (?=\d{3}(?!\d))", r"\1,"),
        (r"([$#]) (?=\d)", r"\1"),
        (r"(?<=\d) %", "%"),
        # abbreviations: u.s., t.v., a.m.
        (r"\b[a-z](?: \. [a-z])+ \.", lambda found: found[0].replace(" ", "")),
        # apostrophes: man's, don't, o'clock, rock 'n' roll, '80s; then single quotes; what is left joins (d'or)
        (rf"(?<=\w) ' ({_CONTRACTED})\b", r"'\1"),
        (r"(?<=\w) ' n ' (?=\w)", " 'n' "),
        (r"(^|(?<= ))' (\d0s)\b", r"'\2"),
        (r"(^|(?<= ))' ([^']+?) '(?= |$)", r"'\2'"),
        (r"(?<=s) '(?= |$)", "'"),
        (r"(?<=\w) ' (?=\w)", "'"),
        # pairs: "stop", (left)
        (r'(^|(?<= ))" ([^"]+?) "(?= |$)', r'"\2"'),
        (r"([(\[]) ", r"\1"),
        (r" ([)\]])", r"\1"),
        # t-shirt, and/or, m&m; a dash of two hyphens stays apart
        (r" - - ", " -- "),
        (r"(?<=\w) ([-/]) (?=\w)", r"\1"),
        (r"\b([a-z]) & ([a-z])\b", r"\1&\2"),
        (r" ([.,!?:;])", r"\1"),
    )
)


def detokenise(text: str) -> str:
    """ "a t - shirt , size 2 . 5" -> "a t-shirt, size 2.5"."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip()
