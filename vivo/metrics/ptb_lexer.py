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
_WORD = rf"[{LETTERS}][{LETTERS}0-9]*(?:[.!?][{LETTERS}][{LETTERS}0-9]*)*"  # dog, mp3, sky.People
_NUMBER = r"(?:[0-9]*(?:[.:,\u00ad\u066b\u066c][0-9]+)+|[0-9]+)"  # 5, 1,000, 12:30, .5
_PHONE = (
    r"(?:\([0-9]{2,3}\) ?|(?:\+\+?)?(?:[0-9]{2,4}[- ])?[0-9]{2,4}[- ])[0-9]{3,4}[- ]?[0-9]{3,5}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
# Abbreviations keep their full stop.
_ABBREVIATIONS = (
    "adj adm adv al ala alex apr ariz assn assoc asst attys? aug ave az bhd bldg blvd brig bros calif capt cf cie cmdr "
    "col? colo comdr conn corp cos cpl ct dak dec dept det drs? elec ens esq est etc ext feb fla fri ft ga gen govs? "
    "hon inc ind insp intl invt jan jos jr jul jun kans? ky lieut ltd? maj mar md mfg mich minn mlle mme mont? mrs? ms "
    "msgr mt mtg natl neb nev nov oct okla penn pfc ph plc pptes? pptys? pres profs? ptes? ptys? pvt rd reps? rev rt "
    "sens? sept? seq sfc sgt spc sq sr st ste supts? sys tel tenn thu thurs treas tues? univ va vs vt wed wisc? wm wyo"
)
_CAPITALISED_ABBREVIATIONS = "Ark Del Ill La Mass Miss Ore Pa Tex Wash ARK DEL ILL LA MASS MISS ORE PA TEX WASH"
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
    """A word: curly apostrophes straightened, soft hyphens gone."""
    if token.isascii():
        return token
    return token.replace("\u2019", "'").replace("\x92", "'").replace("\u00ad", "")


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
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&apos;": "'", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--"}

Rule = tuple[re.Pattern[str], Callable[[str], str]]


def _rule(pattern: str, written: Callable[[str], str] = _plain, any_case: bool = False) -> Rule:
    return re.compile(pattern, re.IGNORECASE if any_case else 0), written


def _always(text: str) -> Callable[[str], str]:
    return lambda _: text


# Rules for tokens that begin with a letter or a digit, and the few that may also begin otherwise.
WORD_RULES: list[Rule] = [
    _rule("((?:can(?=not)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na)))(?:not|na|ta|me)", any_case=True),
    _rule(rf"([A-Za-z]*[A-MO-Za-mo-z])n{_APOSTROPHE}t", any_case=True),  # do|n't
    _rule(rf"(n{_APOSTROPHE}t)", any_case=True),
    _rule(rf"({_WORD})(?:{_APOSTROPHE}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])[^A-Za-z])?"),  # man|'s
    _rule(r"(https?://[^ \n\"<>|(){}]+[^ \n\"'<>|.!?(){},-])", any_case=True),
    _rule(
        r"((?:(?i:www)\.(?:[^ \n\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \n\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))"
        r"(?:/[^ \n\"<>|()]+[^ \n\"<>|.!?(){},-])?)"
    ),
    _rule(r"([a-zA-Z0-9][^ \n\"<>|()]*@(?:[^ \n\"<>|().]+\.)*[^ \n\"<>|().]+)"),  # me@there.com
    _rule(rf"([dlj]{_APOSTROPHE}|dunkin{_APOSTROPHE}|somethin{_APOSTROPHE}|ol{_APOSTROPHE})", any_case=True),
    _rule(rf"([A-HJ-XZdlno]{_APOSTROPHE}[{LETTERS}][{LETTERS}]+)"),  # O'Brien
    _rule(rf"([{LETTERS}]*[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z][{LETTERS}]*)"),  # Hawai'i
    _rule(
        "("
        + "|".join(
            word.replace("'", _APOSTROPHE)
            for word in r"cont'd\. ma'am ne'er o'er e'er c'mon nor'easter s'mores li'l ev'ry nat'l o'o".split()
        )
        + ")",
        any_case=True,
    ),
    _rule("([0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4})"),  # 10/29/2011
    _rule("((?:[0-9]{1,4}[- ])?[0-9]{1,4}(?:\\\\?/|\u2044)[0-9]{1,4})", _spaced),  # 1 1/2
    _rule(
        rf"((?:[dolDOL]{_APOSTROPHE}[{LETTERS}0-9])?[{LETTERS}0-9]+"
        rf"(?:[-_\u058a\u2010\u2011](?:[dolDOL]{_APOSTROPHE}[{LETTERS}0-9])?[{LETTERS}0-9]+)*)"
    ),  # well-known, jack-o'lantern
    _rule(r"([A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|[A-Za-z](?:\.[A-Za-z])*\.))+)"),  # U.S.-based
    _rule(r"([A-Z]+(?:(?:&(?:amp;)?|\+)[A-Z]+)+)", lambda token: token.replace("&amp;", "&")),  # AT&T
    _rule(r"(C\+\+|[CF]#)", any_case=True),
    _rule(r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})"),  # black/white
    _rule(r"([A-Za-z]\.(?:[A-Za-z]\.)+)"),  # U.S.A.
    _rule(
        rf"([A-Za-z])\.[ \n]+(?:{_any(_SENTENCE_STARTS.title())}|{_any(_SENTENCE_STARTS.upper())})[ \n]"
    ),  # Vitamin B. The dog
    _rule(r"([A-Za-z]\.)"),
    _rule(rf"({_any(_ABBREVIATIONS)}\.|ph\.d\.?)", any_case=True),
    _rule(rf"({_any(_CAPITALISED_ABBREVIATIONS)}\.)"),
    _rule(rf"({_any(_ABBREVIATIONS_BEFORE_NUMBERS)}\.) ?[0-9]", any_case=True),
    _rule(rf"({_WORD}\.)[,;:]"),  # "the dog.," keeps the full stop on the dog
    _rule(r"((?:US|HK|A|C|NT|S|NZ|R|AUD)\$)"),
    _rule(rf"((?:[{LETTERS}0-9]+\.)+(?:{_FILE_TYPES}))", any_case=True),
    _rule(rf"([-+]?{_NUMBER})"),
    _rule(rf"({_PHONE})", _spaced),
]

OTHER_RULES: list[Rule] = [
    _rule(r"(<(?:[!?][A-Za-z-][^<>\n]*|/?[A-Za-z][A-Za-z0-9:._-]*(?:[ ][^<>\n]*)?/?)>)", _spaced),  # <a href="x">
    _rule(rf"({_APOSTROPHE}t)(?:is|was)", any_case=True),
    _rule(rf"({_APOSTROPHE}(?:[msd]|re|ve|ll))[^A-Za-z]", any_case=True),
    _rule(
        rf"({_APOSTROPHE}n{_APOSTROPHE}?|{_APOSTROPHE}em|{_APOSTROPHE}[2-9]0s|{_APOSTROPHE}till?|{_APOSTROPHE}cause)",
        any_case=True,
    ),
    _rule(rf"([-+]?{_NUMBER})"),
    _rule(rf"({_PHONE})", _spaced),
    _rule(r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z]", _spaced),  # :-)
    _rule(r"([\^x=~<>]\.\[\^x=~<>\]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\))", _spaced),  # ^_^
    _rule(rf"([@#][{LETTERS}_]*[{LETTERS}])"),
    _rule(r"(&(?:amp|lt|gt|apos|nbsp|mdash|ndash);)", lambda token: _ENTITIES[token.lower()], any_case=True),
    _rule(r"(&#[0-9]+;|&[a-zA-Z]acute;)"),
    _rule(r"(\"|&quot;)[A-Za-z0-9$]", _always("``")),
    _rule(r"(\"|&quot;)", _always("''")),
    _rule(r"(''|``)"),
    _rule(rf"({_APOSTROPHE}|&apos;)[A-Za-z][^ \n]", _always("`")),
    _rule(r"([!?]+)"),
    _rule(r"(\.\.\.+|\. \. \.)", _always("...")),
    _rule(r"(-{2,4})", _always("--")),
    _rule(r"(-{5,}|\*+|@+|#+|_+|>>|<<)"),
    _rule(r"(\S)", _symbol),
]
