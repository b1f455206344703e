"""CIDEr-D (Vedantam et al. 2015), per picture: equal to pycocoevalcap's "CIDEr" to 1e-9.

Own code because pycocoevalcap takes document frequencies from the pictures that it scores and nothing
else. Here they come from the references of the whole split, or from a stored table (rewards in
training, single pictures), and references are turned into vectors once for many sets of captions.

For n = 1..4, captions are vectors of n-gram counts times idf = log(pictures) - log(max(1, pictures whose
references have the n-gram)). Per reference: the cosine, with the caption's entries clipped to the
reference's, times exp(-(difference in length)^2 / (2 sigma^2)). Mean over n and references, times 10.
Lengths are counted in bigrams, as pycocoevalcap does.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from vivo.errors import UserError
from vivo.files import atomic_write_json
from vivo.metrics.tokenizer import ptb_tokenize_all

ORDERS = 4
SIGMA = 6.0

Tokens = Sequence[str]


@dataclass
class DocumentFrequencies:
    """How many of `pictures` pictures have each n-gram (tokens joined by spaces) in their references.

    `corpus` is the SHA-256 of the captions that were counted (`vivo.metrics.document_frequencies`), "" where unknown.
    """

    pictures: int
    counts: dict[str, int]
    corpus: str = ""

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]]) -> "DocumentFrequencies":
        """Counted over the references [picture][reference][token] of a split."""
        counts: Counter[str] = Counter()
        for captions in references:
            counts.update({ngram for tokens in captions for ngram in _ngrams(_words(tokens))})
        return cls(len(references), counts)

    def save(self, path: str | Path) -> None:
        """Write as JSON with a SHA-256. N-grams of one picture are left out, without loss: they weigh the same as
        unseen ones."""
        content = {
            "pictures": self.pictures,
            "corpus": self.corpus,
            "counts": {k: n for k, n in self.counts.items() if n > 1},
        }
        atomic_write_json(path, {"sha256": _sha256(content), **content})

    @classmethod
    def load(cls, path: str | Path) -> "DocumentFrequencies":
        """Read what `save` wrote.

        Raises:
            UserError: the file cannot be read, is of another kind, or is not as it was written.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            written = content.pop("sha256", None)  # older tables have none
            if written is not None and written != _sha256(content):
                raise ValueError("its SHA-256 is another one")
            counts = {str(ngram): int(n) for ngram, n in content["counts"].items()}
            return cls(int(content["pictures"]), counts, str(content.get("corpus", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a table of document frequencies ({error!r}); write it anew") from error

    def idf(self, ngram: str) -> float:
        """log(pictures) - log(max(1, pictures that have the n-gram))."""
        return math.log(self.pictures) - math.log(max(1, self.counts.get(ngram, 0)))


def _sha256(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@dataclass
class _Cells:
    """The tf-idf vectors of some captions, one order: the entries of caption i are first[i] .. first[i + 1] - 1, by
    rising number of the n-gram; those of n-grams that no reference has are left out (norm [captions] has them)."""

    first: np.ndarray
    ngram: np.ndarray
    value: np.ndarray
    norm: np.ndarray


@dataclass
class _Vectors:
    """Captions as tf-idf vectors, one `_Cells` per order."""

    cells: list[_Cells]
    lengths: np.ndarray  # in bigrams


@dataclass
class _Occurrences:
    """All n-grams of one order: caption, place in the caption, and number of the n-gram; [occurrences] each."""

    caption: np.ndarray
    place: np.ndarray
    ngram: np.ndarray
    distinct: int


class CiderD:
    """Scores captions against the references of a split.

    n-grams are numbers: of a token its place in the vocabulary, of a longer one the rank of the pair
    (number of all but its last token, number of the last token) among the references' pairs.

    Args:
        references: [picture][reference][token]; at least one reference a picture.
        frequencies: a stored table; None takes document frequencies from `references`.
        same_corpus: the table was counted over these very references, so that an n-gram which none of them has
            needs no look-up.

    Raises:
        UserError: one picture (or none) and no stored table: all idf would be log 1 = 0, every score 0.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Tokens]],
        frequencies: DocumentFrequencies | None = None,
        same_corpus: bool = False,
    ) -> None:
        if frequencies is None and len(references) < 2:
            raise UserError(
                f"CIDEr of {len(references)} picture(s) is 0 by definition (document frequencies need a split); "
                "score more pictures or give stored frequencies (--document-frequencies)"
            )
        self._frequencies = frequencies
        self._unseen: float | None = None  # idf of n-grams that no reference has; None: the table says
        if frequencies is None or same_corpus:
            self._unseen = math.log(len(references))
        self._vocabulary: dict[str, int] = {}
        self._pairs: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * ORDERS  # sorted; orders 2.. only
        self._idf: list[np.ndarray] = [np.empty(0)] * ORDERS
        per_picture = np.array([len(captions) for captions in references], dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(per_picture)])
        picture_of = np.repeat(np.arange(len(references)), per_picture)
        captions = [_words(tokens) for picture in references for tokens in picture]
        occurrences = self._number(captions, learn=True)
        for order, found in enumerate(occurrences):
            if frequencies is None:
                in_picture = np.unique(picture_of[found.caption] * found.distinct + found.ngram)
                pictures_with = np.bincount(in_picture % max(1, found.distinct), minlength=found.distinct)
                self._idf[order] = np.log(float(len(references))) - np.log(np.maximum(1.0, pictures_with))
            else:
                self._idf[order] = self._stored_idf(order, captions, found, known=0)
        self._references = self._vectors(captions, occurrences)

    @property
    def informative(self) -> bool:
        """Whether any n-gram of the references weighs anything: not where every picture has all of them."""
        return any((idf > 0).any() for idf in self._idf)

    def score(self, captions: Sequence[Tokens], pictures: Sequence[int] | None = None) -> np.ndarray:
        """float64 [captions]: CIDEr-D of each caption (10 is a perfect match; papers print 100 times this).

        Args:
            captions: tokens of each caption.
            pictures: index of each caption's picture; None: one caption per picture, in order.
        """
        of = np.arange(len(self._first) - 1) if pictures is None else np.asarray(pictures, dtype=np.int64)
        if len(of) != len(captions):
            raise ValueError(f"{len(captions)} captions for {len(of)} pictures")
        words = [_words(tokens) for tokens in captions]
        candidates = self._vectors(words, self._number(words, learn=False))
        counts = self._first[of + 1] - self._first[of]
        candidate = np.repeat(np.arange(len(captions)), counts)  # one entry per pair of caption and reference
        reference = np.arange(len(candidate)) + np.repeat(self._first[of] - (np.cumsum(counts) - counts), counts)
        delta = candidates.lengths[candidate] - self._references.lengths[reference]
        total = np.zeros(len(candidate))
        for order in range(ORDERS):
            ours, theirs = candidates.cells[order], self._references.cells[order]
            overlap = _overlaps(ours, theirs, candidate, reference, len(self._idf[order]))
            norms = ours.norm[candidate] * theirs.norm[reference]
            total += np.divide(overlap, norms, out=np.zeros_like(norms), where=norms > 0)
        total *= np.exp(-(delta**2) / (2 * SIGMA**2))
        return 10.0 / ORDERS * np.bincount(candidate, total, minlength=len(captions)) / counts

    def _number(self, captions: Sequence[list[str]], learn: bool) -> list[_Occurrences]:
        """Find and number the n-grams of all orders; what `learn` has not seen gets numbers after the known ones."""
        flat = list(chain.from_iterable(captions))
        vocabulary = self._vocabulary if learn else {}
        known = 0 if learn else len(self._vocabulary)
        tokens = np.fromiter(map(self._vocabulary.get, flat, repeat(-1)), dtype=np.int64, count=len(flat))
        for place in np.flatnonzero(tokens < 0).tolist():
            tokens[place] = known + vocabulary.setdefault(flat[place], len(vocabulary))
        lengths = np.array([len(c) for c in captions], dtype=np.int64)
        caption = np.repeat(np.arange(len(captions)), lengths)
        place = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = [_Occurrences(caption, place, tokens, known + len(vocabulary))]
        at, ngram = np.arange(len(tokens)), tokens  # where the (n-1)-grams begin in the flat list, and their numbers
        for order in range(1, ORDERS):
            longer = place[at] + order < lengths[caption[at]]
            at = at[longer]
            pairs = (ngram[longer] << 32) | tokens[at + order]
            if learn:
                self._pairs[order], ngram = np.unique(pairs, return_inverse=True)
                distinct = len(self._pairs[order])
            else:
                ngram, distinct = _ranks(self._pairs[order], pairs)
            found.append(_Occurrences(caption[at], place[at], ngram, distinct))
        return found

    def _vectors(self, captions: Sequence[list[str]], occurrences: list[_Occurrences]) -> _Vectors:
        cells = []
        for order, found in enumerate(occurrences):
            known = len(self._idf[order])
            if found.distinct > known:
                idf = np.concatenate([self._idf[order], self._unseen_idf(order, captions, found)])
            else:
                idf = self._idf[order]
            where, counts = np.unique(found.caption * found.distinct + found.ngram, return_counts=True)
            row, ngram = np.divmod(where, max(1, found.distinct))
            value = counts * idf[ngram]
            norm = np.sqrt(np.bincount(row, value**2, minlength=len(captions)))
            kept = ngram < known  # what no reference has overlaps with none, and counts in the norm alone
            first = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=len(captions)))])
            cells.append(_Cells(first, ngram[kept], value[kept], norm))
        lengths = np.array([max(0, len(words) - 1) for words in captions], dtype=np.float64)
        return _Vectors(cells, lengths)

    def _unseen_idf(self, order: int, captions: Sequence[list[str]], found: _Occurrences) -> np.ndarray:
        """idf of the n-grams that no reference has, by number."""
        known = len(self._idf[order])
        if self._unseen is not None:
            return np.full(found.distinct - known, self._unseen)
        return self._stored_idf(order, captions, found, known)

    def _stored_idf(self, order: int, captions: Sequence[list[str]], found: _Occurrences, known: int) -> np.ndarray:
        """idf by the stored table of the n-grams numbered from `known` on."""
        assert self._frequencies is not None
        numbers, example = np.unique(found.ngram, return_index=True)
        idf = np.zeros(found.distinct - known)
        for number, at in zip(numbers.tolist(), example.tolist(), strict=True):
            if number >= known:
                place = found.place[at]
                words = captions[found.caption[at]][place : place + order + 1]
                idf[number - known] = self._frequencies.idf(" ".join(words))
        return idf


def cider_d(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], frequencies: DocumentFrequencies | None = None
) -> dict[str, float]:
    """CIDEr-D by picture id of untokenised captions against untokenised references (times 100: as papers print it).

    Raises:
        UserError: see `CiderD`.
    """
    flat = iter(ptb_tokenize_all([text for texts in references.values() for text in texts]))
    tokenised = [[next(flat) for _ in texts] for texts in references.values()]
    scores = CiderD(tokenised, frequencies).score(ptb_tokenize_all([captions[image_id] for image_id in references]))
    return dict(zip(references, scores.tolist(), strict=True))


def _overlaps(ours: _Cells, theirs: _Cells, candidate: np.ndarray, reference: np.ndarray, known: int) -> np.ndarray:
    """Of each pair of candidate and reference ([pairs] each): sum over n-grams of min(ours, theirs) * theirs."""
    first = theirs.first[reference]
    counts = theirs.first[reference + 1] - first
    pair = np.repeat(np.arange(len(reference)), counts)
    cell = np.arange(len(pair)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    # both lists of keys are of (candidate, n-gram); ours rises
    row = np.repeat(np.arange(len(ours.first) - 1), np.diff(ours.first))
    have, wanted = row * known + ours.ngram, candidate[pair] * known + theirs.ngram[cell]
    if not len(have):
        return np.zeros(len(reference))
    at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    met = np.flatnonzero(have[at] == wanted)
    value = theirs.value[cell[met]]
    return np.bincount(pair[met], np.minimum(ours.value[at[met]], value) * value, minlength=len(reference))


def _ranks(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of each value (its place among the sorted `known`, or a number after them), and how many numbers exist."""
    place = np.searchsorted(known, values)
    missing = known[np.minimum(place, len(known) - 1)] != values if len(known) else np.ones(len(values), dtype=bool)
    new, rank = np.unique(values[missing], return_inverse=True)
    place[missing] = len(known) + rank
    return place, len(known) + len(new)


def _words(tokens: Tokens) -> list[str]:
    """Tokens with a no-break space inside (phone numbers) count as several, as in pycocoevalcap."""
    return " ".join(tokens).split()


def _ngrams(words: list[str]) -> Iterator[str]:
    """The n-grams of orders 1..4."""
    for n in range(1, ORDERS + 1):
        for start in range(len(words) - n + 1):
            yield " ".join(words[start : start + n])
