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
from pathlib import Path

import numpy as np

from vivo.errors import UserError
from vivo.files import atomic_write_json
from vivo.metrics.ngrams import ORDERS, Counted, ReferenceNgrams, Tokens, words_of
from vivo.metrics.tokenizer import ptb_tokenize_all

SIGMA = 6.0


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
            counts.update({ngram for tokens in captions for ngram in _ngrams(words_of(tokens))})
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
    rising number of the n-gram; those of n-grams that no reference has (numbers from `known` on) are left out, norm
    [captions] has them."""

    first: np.ndarray
    ngram: np.ndarray
    value: np.ndarray
    norm: np.ndarray
    known: int


@dataclass
class _Vectors:
    """Captions as tf-idf vectors, one `_Cells` per order."""

    cells: list[_Cells]
    lengths: np.ndarray  # in bigrams


class CiderD:
    """Scores captions against the references of a split.

    Args:
        references: [picture][reference][token], at least one reference a picture; or their n-grams.
        frequencies: a stored table; None takes document frequencies from `references`. With a table, n-grams must have
            been counted with their places.
        same_corpus: the table was counted over these very references, so that an n-gram which none of them has
            needs no look-up.

    Raises:
        UserError: one picture (or none) and no stored table: all idf would be log 1 = 0, every score 0.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Tokens]] | ReferenceNgrams,
        frequencies: DocumentFrequencies | None = None,
        same_corpus: bool = False,
    ) -> None:
        stored = frequencies is not None
        ngrams = references if isinstance(references, ReferenceNgrams) else ReferenceNgrams(references, stored)
        if frequencies is None and ngrams.pictures < 2:
            raise UserError(
                f"CIDEr of {ngrams.pictures} picture(s) is 0 by definition (document frequencies need a split); "
                "score more pictures or give stored frequencies (--document-frequencies)"
            )
        self._ngrams, self._frequencies = ngrams, frequencies
        self._unseen: float | None = None  # idf of n-grams that no reference has; None: the table says
        if frequencies is None or same_corpus:
            self._unseen = math.log(ngrams.pictures)
        if frequencies is None:
            self._idf = [_idf(ngrams.pictures, _pictures_with(ngrams, found)) for found in ngrams.counted]
        else:
            self._idf = [self._stored_idf(n, ngrams.captions, found, 0) for n, found in enumerate(ngrams.counted)]
        self._references = self._vectors(ngrams.captions, ngrams.counted)

    @property
    def informative(self) -> bool:
        """Whether any n-gram of the references weighs anything: not where every picture has all of them."""
        return any((idf > 0).any() for idf in self._idf)

    def score(self, captions: Sequence[Tokens], pictures: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """float64 [captions]: CIDEr-D of each caption (10 is a perfect match; papers print 100 times this).

        Args:
            captions: tokens of each caption.
            pictures: index of each caption's picture; None: one caption per picture, in order.
        """
        first = self._ngrams.first
        of = np.arange(self._ngrams.pictures) if pictures is None else np.asarray(pictures, dtype=np.int64)
        if len(of) != len(captions):
            raise ValueError(f"{len(captions)} captions for {len(of)} pictures")
        words = [words_of(tokens) for tokens in captions]
        candidates = self._vectors(words, self._ngrams.count(words, self._unseen is None))
        counts = first[of + 1] - first[of]
        candidate = np.repeat(np.arange(len(captions)), counts)  # one entry per pair of caption and reference
        reference = np.arange(len(candidate)) + np.repeat(first[of] - (np.cumsum(counts) - counts), counts)
        similar = _similarity(candidates, self._references, candidate, reference)
        return np.bincount(candidate, similar, minlength=len(captions)) / counts

    def _vectors(self, captions: Sequence[list[str]], counted: Sequence[Counted]) -> _Vectors:
        cells = []
        for order, found in enumerate(counted):
            idf = self._idf[order]
            if found.distinct > len(idf):
                idf = np.concatenate([idf, self._unseen_idf(order, captions, found)])
            cells.append(_cells(found, idf, len(self._idf[order]), len(captions)))
        return _Vectors(cells, _bigrams([len(words) for words in captions]))

    def _unseen_idf(self, order: int, captions: Sequence[list[str]], found: Counted) -> np.ndarray:
        """idf of the n-grams that no reference has, by number."""
        known = len(self._idf[order])
        if self._unseen is not None:
            return np.full(found.distinct - known, self._unseen)
        return self._stored_idf(order, captions, found, known)

    def _stored_idf(self, order: int, captions: Sequence[list[str]], found: Counted, known: int) -> np.ndarray:
        """idf by the stored table of the n-grams numbered from `known` on."""
        assert self._frequencies is not None and found.place is not None
        numbers, example = np.unique(found.ngram, return_index=True)
        idf = np.zeros(found.distinct - known)
        for number, at in zip(numbers.tolist(), example.tolist(), strict=True):
            if number >= known:
                place = found.place[at]
                words = captions[found.caption[at]][place : place + order + 1]
                idf[number - known] = self._frequencies.idf(" ".join(words))
        return idf


def leave_one_out(ngrams: ReferenceNgrams) -> np.ndarray:
    """float64 [captions]: CIDEr-D of each reference against the others of its picture (10 is a perfect match).

    As often as a picture has references, `CiderD` over the references but the k-th of each picture would score those;
    document frequencies are theirs (see `vivo.metrics.human`). Every picture has two references at least.
    """
    fold = np.arange(len(ngrams.captions)) - ngrams.first[ngrams.picture_of]
    sizes = np.diff(ngrams.first)
    scores = np.zeros(len(ngrams.captions))
    lengths = _bigrams(ngrams.lengths)
    whole = [_pictures_with(ngrams, found) for found in ngrams.counted]
    alone = [_alone(ngrams, found) for found in ngrams.counted]
    for left_out in range(sizes.max()):
        members = np.flatnonzero(fold == left_out)
        cells = []
        for found, pictures_with, (ngram, caption) in zip(ngrams.counted, whole, alone, strict=True):
            # A picture loses an n-gram where the caption that is left out is the only one to have it.
            lost = np.bincount(ngram[fold[caption] == left_out], minlength=found.distinct)
            idf = _idf(ngrams.pictures, pictures_with - lost)
            cells.append(_cells(found, idf, found.distinct, len(ngrams.captions)))
        vectors = _Vectors(cells, lengths)
        of = ngrams.picture_of[members]
        candidate = np.repeat(members, sizes[of])
        begin = np.repeat(ngrams.first[of] - (np.cumsum(sizes[of]) - sizes[of]), sizes[of])
        reference = np.arange(len(candidate)) + begin
        pairs = candidate != reference
        similar = _similarity(vectors, vectors, candidate[pairs], reference[pairs])
        scores += np.bincount(candidate[pairs], similar, minlength=len(scores))
    return scores / (sizes[ngrams.picture_of] - 1)


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


def _pictures_with(ngrams: ReferenceNgrams, found: Counted) -> np.ndarray:
    """How many pictures have each n-gram in a reference, [distinct]."""
    in_picture = np.unique(ngrams.picture_of[found.caption] * found.distinct + found.ngram)
    return np.bincount(in_picture % max(1, found.distinct), minlength=found.distinct)


def _alone(ngrams: ReferenceNgrams, found: Counted) -> tuple[np.ndarray, np.ndarray]:
    """Of the n-grams that one reference of a picture has and its others have not: numbers, and which reference."""
    keys = ngrams.picture_of[found.caption] * found.distinct + found.ngram
    group, at, having = np.unique(keys, return_index=True, return_counts=True)
    return group[having == 1] % max(1, found.distinct), found.caption[at[having == 1]]


def _idf(pictures: int, pictures_with: np.ndarray) -> np.ndarray:
    return np.log(float(pictures)) - np.log(np.maximum(1.0, pictures_with))


def _cells(found: Counted, idf: np.ndarray, known: int, captions: int) -> _Cells:
    """Vectors of captions from their counts; n-grams numbered from `known` on enter the norms alone."""
    value = found.count * idf[found.ngram]
    norm = np.sqrt(np.bincount(found.caption, value**2, minlength=captions))
    kept = found.ngram < known  # what no reference has overlaps with none
    first = np.concatenate([[0], np.cumsum(np.bincount(found.caption[kept], minlength=captions))])
    return _Cells(first, found.ngram[kept], value[kept], norm, known)


def _bigrams(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """How many bigrams captions of so many words have."""
    return np.maximum(0, np.asarray(lengths, dtype=np.float64) - 1)


def _similarity(ours: _Vectors, theirs: _Vectors, candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """CIDEr-D of each pair of candidate and reference ([pairs] each)."""
    total = np.zeros(len(candidate))
    for cells, others in zip(ours.cells, theirs.cells, strict=True):
        norms = cells.norm[candidate] * others.norm[reference]
        overlap = _overlaps(cells, others, candidate, reference)
        total += np.divide(overlap, norms, out=np.zeros_like(norms), where=norms > 0)
    delta = ours.lengths[candidate] - theirs.lengths[reference]
    return 10.0 / ORDERS * total * np.exp(-(delta**2) / (2 * SIGMA**2))


def _overlaps(ours: _Cells, theirs: _Cells, candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each pair of candidate and reference ([pairs] each): sum over n-grams of min(ours, theirs) * theirs."""
    first = theirs.first[reference]
    counts = theirs.first[reference + 1] - first
    pair = np.repeat(np.arange(len(reference)), counts)
    cell = np.arange(len(pair)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    # both lists of keys are of (candidate, n-gram); ours rises
    row = np.repeat(np.arange(len(ours.first) - 1), np.diff(ours.first))
    have, wanted = row * ours.known + ours.ngram, candidate[pair] * ours.known + theirs.ngram[cell]
    if not len(have):
        return np.zeros(len(reference))
    at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    met = np.flatnonzero(have[at] == wanted)
    value = theirs.value[cell[met]]
    return np.bincount(pair[met], np.minimum(ours.value[at[met]], value) * value, minlength=len(reference))


def _ngrams(words: list[str]) -> Iterator[str]:
    """The n-grams of orders 1..4."""
    for n in range(1, ORDERS + 1):
        for start in range(len(words) - n + 1):
            yield " ".join(words[start : start + n])
