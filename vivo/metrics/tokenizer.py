"""x"""
import re
from vivo.metrics.ptb_characters import settle
from vivo.metrics.ptb_lexer import OTHER_RULES, WORD_RULES

PUNCTUATIONS = frozenset(
    ["''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
_SIMPLE = re.compile(r"[A-Za-z]+(?= )")
_SPLIT = {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}


def lex(caption: str, following="") -> list[str]:
    text = " ".join(settle(caption).split()) + "\n" + following + "\n"
    tokens: list[str] = []
    position = 0
    while True:
        character = text[position]
        if character == " ":
            position += 1
            continue
        if character == "\n":
            return [t.lower() for t in tokens if t]
        simple = _SIMPLE.match(text, position)
        if simple and simple[0].lower() not in _SPLIT:
            tokens.append(simple[0])
            position = simple.end()
            continue
        longest = 0
        for rule, write in WORD_RULES if character.isalnum() else OTHER_RULES:
            match = rule.match(text, position)
            if match and match.end() - position > longest:
                longest = match.end() - position
                token, written = match[1], write
        if not longest:
            token, written = character, str
        tokens.append(written(token))
        position += len(token)
