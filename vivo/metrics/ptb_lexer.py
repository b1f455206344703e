"""The rules of the PTB lexer: regular expressions, of which the longest match wins, then the first.

An independent implementation: the rules were found by comparing outputs with pycocoevalcap's Java
program (Stanford PTBTokenizer 3.4.1 -preserveLines -lowerCase) until none differed. What follows a
token may belong to the match (it decides which rule is longest) without belonging to the token:
every rule keeps its token in group 1. Text arrives settled, with single spaces and a final newline.
"""

import re
from collections.abc import Callable

from vivo.metrics.ptb_characters import LETTERS

_APOSTROPHE = "['\u2019\x92]"
_ANY_QUOTE = "['\u2019\x92`\u2018\x91]"
_WORD = rf"[{LETTERS}][{LETTERS}0-9]*(?:[.!?][{LETTERS}][{LETTERS}0-9]*)*"  # dog, mp3, sky.People
_THING = (  # well-known, connect_anywhere, jack-o'lantern
    rf"(?:[dolDOL]{_ANY_QUOTE}[{LETTERS}0-9])?[{LETTERS}0-9]+"
    rf"(?:[-_\u058a\u2010\u2011](?:[dolDOL]{_ANY_QUOTE}[{LETTERS}0-9])?[{LETTERS}0-9]+)*"
)
_DOTTED_THING = r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+"  # U.S.-based
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"  # black/white
_COMPANY = r"[A-Z]+(?:(?:&(?:amp;)?|\+)[A-Z]+)+"  # AT&T
_EMAIL = r"<?[a-zA-Z0-9][^ \n\"<>|(){}]*@(?:[^ \n\"<>|(){}.]+\.)*[^ \n\"<>|(){}.]+>?"  # me@there.com
_NUMBER = r"(?:[0-9]*(?:[.:,\u00ad\u066b\u066c][0-9]+)+|[0-9]+)"  # 5, 1,000, 12:30, .5
_PHONE = (
    r"(?:\([0-9]{2,3}\) ?|(?:\+\+?)?(?:[0-9]{2,4}[- ])?[0-9]{2,4}[- ])[0-9]{3,4}[- ]?[0-9]{3,5}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
_TAG = (  # <br/>, <a href="x">, <!-- x -->
    r"<(?:[!?][A-Za-z-][^<>\n]*"
    r"|/?[A-Za-z][A-Za-z0-9:._-]*(?:[ ]+[A-Za-z_][A-Za-z0-9:._-]*(?:=(?:'[^'\n]*'|\"[^\"\n]*\"))?)*[ ]*/?)>"
)
# Abbreviations keep their full stop. "St.b" is one token, "etc.b" is two: titles yield to longer words, others do not.
_TITLES = (
    "adj adm adv alex assoc asst attys? ave brig capt cf cie cmdr col comdr cpl dept det drs? elec ens ft gen govs? "
    "hon insp invt jos lieut lt maj mlle mme mrs? ms msgr mt natl pfc ph pres profs? pvt reps? rev sens? sfc sgt spc "
    "ste? supts? treas vs wm"
)
_ABBREVIATIONS = (
    "ala? apr ariz assn aug bhd bldg blvd bros calif colo cos? conn corp ct dak dec esq est etc ext feb fla fri ga inc "
    "ind intl jan jr jul jun kans? ky ltd mar md mich minn mont? mo neb nev nov oct okla penn plc rd rt sept? seq sq "
    "sr sys tel tenn thu thurs tues? univ va vt wed wisc? wyo ph\\.d"
)
_CASED_ABBREVIATIONS = (  # "The wash. of a miss." ends sentences
    "A[Rr][Kk] A[Zz] D[Ee][Ll] I[Ll][Ll] L[Aa] M[Aa][Ss][Ss] M[Ii][Ss][Ss] O[Rr][Ee] P[Aa] T[Ee][Xx] W[Aa][Ss][Hh] "
    "[Pp]?[Pp]tes? [Pp]?[Pp]tys?"
)
_ABBREVIATIONS_BEFORE_NUMBERS = "art ca figs? nos? op pp prop"
# After a single initial, these words begin a new sentence, so the full stop is not the initial's.
_SENTENCE_STARTS = (
    "a about according after an as at but cannot earlier he her here however if in it last many more now once one "
    "other our she since so some such that the their then there these they this we what when while yet you"
)
_FILE_TYPES = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt"
    "|wav|x|xml|zip"
)


def _any(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


def _plain(token: str) -> str:
    """A word without its soft hyphens."""
    return token.replace("\u00ad", "")


def _straight(token: str) -> str:
    """A contraction ('s, n't) with a straight apostrophe."""
    return token.translate(_STRAIGHT)


def _symbol(token: str) -> str:
    return _SYMBOLS.get(token, token)


def _spaced(token: str) -> str:
    """Tokens with inner spaces (phone numbers, tags, 1 1/2) keep them as no-break spaces."""
    return token.replace(" ", "\u00a0").replace("(", "-LRB-").replace(")", "-RRB-")


_SYMBOLS = {
    "(": "-LRB-",
    ")": "-RRB-",
    "{": "-LCB-",
    "}": "-RCB-",
    "[": "-LSB-",
    "]": "-RSB-",
    "\u2018": "`",
    "\u201b": "`",
    "\u2039": "`",
    "\x91": "`",
    "\u2019": "'",
    "\u203a": "'",
    "\x92": "'",
    "\u201c": "``",
    "\u00ab": "``",
    "\x93": "``",
    "\u201d": "''",
    "\u00bb": "''",
    "\x94": "''",
    "\u2013": "--",
    "\u2014": "--",
    "\u2015": "--",
    "\x96": "--",
    "\x97": "--",
    "\u2026": "...",
    "\u00ad": "-",
    "\x80": "$",
    "\u00a4": "$",
    "\u20a0": "$",
    "\u20ac": "$",
    "\u00a3": "#",
    "\u00a2": "cents",
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "\u058a": "",
    "\u2010": "",
    "\u2011": "",
}
_STRAIGHT = str.maketrans("\u2019\x92\u2018\x91", "''``")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&apos;": "'", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--"}

Rule = tuple[re.Pattern[str], Callable[[str], str]]


def _rule(pattern: str, written: Callable[[str], str] = _plain, any_case: bool = False) -> Rule:
    return re.compile(pattern, re.IGNORECASE if any_case else 0), written


def _always(text: str) -> Callable[[str], str]:
    return lambda _: text


# Rules for tokens that begin with a letter or a digit.
WORD_RULES: list[Rule] = [
    _rule("((?:can(?=not)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na)))(?:not|na|ta|me)", any_case=True),
    _rule(rf"([A-Za-z]*[A-MO-Za-mo-z])n{_ANY_QUOTE}t", any_case=True),  # do|n't
    _rule(rf"(n{_ANY_QUOTE}t)", _straight, any_case=True),
    _rule(rf"({_WORD})(?:{_APOSTROPHE}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL]))?"),  # man|'s
    _rule(r"(https?://[^ \n\"<>|(){}]+[^ \n\"'<>|.!?(){},-])", any_case=True),
    _rule(
        r"((?:(?i:www)\.(?:[^ \n\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \n\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))"
        r"(?:/[^ \n\"<>|()]+[^ \n\"<>|.!?(){},-])?)"
    ),
    _rule(rf"({_EMAIL})"),
    _rule(rf"([dlj]{_APOSTROPHE}|(?:dunkin|somethin|ol){_APOSTROPHE})", any_case=True),
    _rule(rf"(y{_APOSTROPHE})[A-Za-z]", any_case=True),  # y'|all
    _rule(rf"([A-HJ-XZn]{_ANY_QUOTE}[{LETTERS}][{LETTERS}]+)"),  # O'Brien
    _rule(rf"([{LETTERS}]+[aeiouyAEIOUY]{_ANY_QUOTE}[aeiouA-Z][{LETTERS}]*)"),  # Hawai'i
    _rule(
        r"(cont'd\.?|ma'am|ne'er|o'er|e'er|c'mon|nor'easter|s'mores|li'l|ev'ry|nat'l|o'o)".replace("'", _APOSTROPHE),
        any_case=True,
    ),
    _rule("([0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4})"),  # 10/29/2011
    _rule("((?:[0-9]{1,4}[- ])?[0-9]{1,4}(?:\\\\?/|\u2044)[0-9]{1,4})", _spaced),  # 1 1/2
    _rule(rf"({_THING})"),
    _rule(rf"({_DOTTED_THING})"),
    _rule(rf"({_COMPANY})", lambda token: token.replace("&amp;", "&")),
    _rule(r"(C\+\+|[CF]#)", any_case=True),
    _rule(rf"({_SLASHED})"),
    _rule(r"([A-Za-z]\.(?:[A-Za-z]\.)+)"),  # U.S.A.
    _rule(rf"([A-Za-z])\.[ \n]+(?=[A-Z])(?i:{_any(_SENTENCE_STARTS)})[ \n]"),  # Vitamin B. The dog
    _rule(r"([A-Za-z]\.)"),
    _rule(rf"({_any(_TITLES)}\.)", any_case=True),
    _rule(rf"({_any(_ABBREVIATIONS)}\.)(?:[\s\S]{{2}})?", any_case=True),
    _rule(rf"({_any(_CASED_ABBREVIATIONS)}\.)(?:[\s\S]{{2}})?"),
    _rule(rf"({_any(_ABBREVIATIONS_BEFORE_NUMBERS)}\.)[ \n]?[0-9]", any_case=True),
    _rule(rf"((?:{_WORD}|{_THING}|{_DOTTED_THING}|{_COMPANY})\.)[,;:]"),  # "the dog.," keeps the full stop
    _rule("([\u207a\u207b]?[\u2070\u2074-\u2079]+|[\u208a\u208b]?[\u2080-\u2089]+)"),
    _rule(r"([A-Z]+\$)"),  # US$
    _rule(rf"((?:[{LETTERS}0-9]+\.)+(?:{_FILE_TYPES}))[ \n.?!,]", any_case=True),
    _rule(rf"({_NUMBER})"),
    _rule(rf"({_PHONE})", _spaced),
    _rule(r"(\S)", _symbol),
]

OTHER_RULES: list[Rule] = [
    _rule(rf"({_TAG})", _spaced),
    _rule(rf"({_EMAIL})"),
    _rule("('t)(?:is|was)", any_case=True),
    _rule("('(?:[msd]|re|ve|ll))[^A-Za-z]", any_case=True),
    _rule("([\u2019\x92](?:[msd]|re|ve|ll))", _straight, any_case=True),
    _rule(rf"({_APOSTROPHE}n{_APOSTROPHE}?|{_APOSTROPHE}(?:em|[2-9]0s|till?|cause))", any_case=True),
    _rule(rf"({_APOSTROPHE}[0-9][0-9])[ \n]"),  # '59
    _rule(rf"([-+]?{_NUMBER})"),
    _rule(rf"({_PHONE})", _spaced),
    _rule(r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", _spaced),  # :-)
    _rule(r"([\^x=~<>]\.\[\^x=~<>\]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\))", _spaced),  # ^_^
    _rule(rf"(@[A-Za-z_][A-Za-z0-9_]*|#[{LETTERS}]+)"),
    _rule(r"(&(?:amp|lt|gt|apos|nbsp|mdash|ndash);)", lambda token: _ENTITIES[token.lower()], any_case=True),
    _rule(r"(&#[0-9]+;|&[a-zA-Z]acute;)"),
    _rule(r"(\"|&quot;)[A-Za-z0-9$]", _always("``")),
    _rule(r"(\"|&quot;)", _always("''")),
    _rule(r"(''|``)"),
    _rule(r"('|&apos;)[A-Za-z][^ \n]", _always("`")),
    _rule(r"([!?]+)"),
    _rule(r"(\\\*)"),
    _rule(r"(\.\.\.+|\. \. \.)", _always("...")),
    _rule(r"(-{2,4})", _always("--")),
    _rule("(-{5,}|\\*+|@+|#+|_+|>>|<<|[\u207a\u207b][\u2070\u2074-\u2079]+|[\u208a\u208b][\u2080-\u2089]+)"),
    _rule(r"(\S)", _symbol),
]
