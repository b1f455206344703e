"""Which characters the reference PTB tokeniser treats as letters, as symbols, or drops.

Measured by sending every character of the Basic Multilingual Plane through pycocoevalcap's
tokeniser, alone, between letters and between digits. Letters of scripts that entered Unicode after
the reference's tables (about 500 rare ones) are dropped there and kept as letters here.
"""

import unicodedata

# Letters that may form a word; what lies in these ranges and is no letter is moved out of the way by `settle`.
LETTERS = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2071\u207f\u2090-\u209c\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2139\u2c00-\u2dff"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\ud7ff"
    "\uf900-\ufdff\ufe70-\ufefe\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc\u00ad"
)

# Punctuation, signs and numerals (categories P*, S*, No) are tokens of their own here, and are dropped elsewhere.
_SYMBOL_RANGES = (
    (0xA1, 0xFF),
    (0x37E, 0x37E),
    (0x387, 0x387),
    (0x589, 0x589),
    (0x5BE, 0x5BE),
    (0x5C0, 0x5C6),
    (0x5F3, 0x5F4),
    (0x606, 0x60C),
    (0x61B, 0x61F),
    (0x66A, 0x66D),
    (0x6D4, 0x6D4),
    (0x700, 0x70D),
    (0x964, 0x965),
    (0xE3F, 0xE3F),
    (0xE4F, 0xE4F),
    (0x1FBD, 0x1FBD),
    (0x2013, 0x2023),
    (0x2026, 0x2026),
    (0x2030, 0x203B),
    (0x203E, 0x2042),
    (0x2044, 0x2044),
    (0x2070, 0x208E),
    (0x20A0, 0x20A0),
    (0x20A4, 0x20A4),
    (0x20AC, 0x20AC),
    (0x2100, 0x2189),
    (0x2190, 0x2BFF),
    (0xFF01, 0xFFE6),
)
_NOT_SYMBOLS = {0x2150, 0x2151, 0x2152, 0x215F, 0x2189, 0x218A, 0x218B}
# Hyphens that join words, curly apostrophes, and the Windows-1252 controls that stand for quotes, dashes and the euro.
_KEPT = set("\u058a\u2010\u2011\x80\x91\x92\x93\x94\x96\x97\u00ad")


class _Settle(dict):
    """str.translate table, filled on demand: dropped characters become a space, symbols get spaces where needed."""

    def __missing__(self, code: int) -> str | int:
        self[code] = value = _settled(code)
        return value


def _settled(code: int) -> str | int:
    character = chr(code)
    if code < 0x80 or character in _KEPT:
        return code
    if code > 0xFFFF:  # emoji, above all
        return " "
    category = unicodedata.category(character)
    if category[0] == "L" or category == "Nd" or (category == "Nl" and 0x3000 < code):
        return code
    if category in ("Mn", "Mc") and code < 0xE00:  # later marks, emoji variation selectors among them, are dropped
        return code
    if category == "Sk" and 0x2C2 <= code <= 0x385:  # spacing accents inside words
        return code
    in_range = any(low <= code <= high for low, high in _SYMBOL_RANGES) and code not in _NOT_SYMBOLS
    if in_range and (category[0] in "PS" or category == "No"):
        return f" {character} " if 0x100 <= code < 0x2000 else code
    return " "


_TABLE = _Settle()


def settle(text: str) -> str:
    """Replace what the reference drops by spaces; ASCII text comes back as it is."""
    return text if text.isascii() else text.translate(_TABLE)
