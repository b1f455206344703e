"""METEOR 1.5 (Denkowski and Lavie 2014) by pycocoevalcap's jar, equal to its `Meteor`.

The program turns a caption and its references into statistics (lengths, matches of each kind, chunks), and statistics
into scores: of one caption, or of many by the sum of their statistics. So a domain's METEOR is that of its pictures'
statistics together, as pycocoevalcap's is that of all pictures, and no mean of scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vivo.metrics.java import Java, JavaProcess, JavaScoreError, find_java, scratch_folder, wheel_folder

JAR = "meteor-1.5.jar"
LIMIT = 1200.0
"""Seconds until it is taken to hang: 25,000 references took 16 s."""
# Of the task "rank" in English: share of recall, exponent and weight of fragmentation, weight of content words;
# weights of exact, stem, synonym and paraphrase matches. They are the program's own and stand here for `score_sums`.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHES = np.array([1.0, 0.6, 0.8, 0.6])
STATISTICS = 23


@dataclass
class MeteorScores:
    """METEOR (0..1) of each picture, float64 [N], and of each group; the pictures' statistics [N, 23], to be summed."""

    per_picture: np.ndarray
    groups: dict[str, float]
    statistics: np.ndarray


class Meteor:
    """Scores captions by the jar; each call starts Java once (about 5 s before the first caption).

    Args:
        limit: seconds until it is taken to hang.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit

    def check(self) -> Java:
        """What can be seen without a run.

        Raises:
            JavaScoreError: no Java, or no jar.
        """
        folder = wheel_folder("meteor")
        missing = [name for name in (JAR, "data/paraphrase-en.gz") if not (folder / name).is_file()]
        if missing:
            raise JavaScoreError(f"{folder / missing[0]} missing", "pip install --force-reinstall pycocoevalcap")
        return find_java()

    def score(
        self, captions: Sequence[str], references: Sequence[Sequence[str]], groups: Mapping[str, Sequence[int]]
    ) -> MeteorScores:
        """METEOR of each caption and of each group.

        Args:
            captions: tokens joined by spaces, one caption a picture. references: [picture][reference], likewise.
            groups: pictures by name, as places in `captions`; none is empty.

        Raises:
            JavaScoreError: it cannot be had, and why.
        """
        java = self.check()
        command = [java.program, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(wheel_folder("meteor") / JAR)]
        with (
            scratch_folder() as folder,
            JavaProcess([*command, "-", "-", "-stdio", "-l", "en", "-norm"], folder, self.limit) as process,
        ):
            asked = [_question(caption, texts) for caption, texts in zip(captions, references, strict=True)]
            found = process.ask(asked, len(asked))
            statistics = np.array([_numbers(line, STATISTICS) for line in found]).reshape(len(asked), STATISTICS)
            # EVAL answers with the score of each set of statistics, and then with that of all together.
            everything = [float(x[0]) for x in self._evaluate(process, found)]
            scores = {name: self._evaluate(process, [found[n] for n in of])[-1] for name, of in groups.items()}
        # Where caption and reference are one and the same chunk, the program does not add the chunk to a sum.
        lengths, matched, chunks = statistics[:, :2], statistics[:, 21:], statistics[:, 20]
        chunks[(lengths == matched).all(axis=1) & (chunks == 1)] = 0.0
        return MeteorScores(np.array(everything[:-1]), {name: float(x[0]) for name, x in scores.items()}, statistics)

    @staticmethod
    def _evaluate(process: JavaProcess, statistics: Sequence[str]) -> list[list[float]]:
        line = " ||| ".join(["EVAL", *statistics])
        return [_numbers(answer, 1) for answer in process.ask([line], len(statistics) + 1)]


def score_sums(sums: np.ndarray) -> np.ndarray:
    """METEOR (0..1) of summed statistics [..., 23] -> [...], as the program computes it: for many resamples at once.

    The numbers are: length of caption and reference, function words in each; of exact, stem, synonym and paraphrase
    matches the content words in caption and reference, the function words in each; chunks, matched words in each.
    """
    caption, reference, caption_function, reference_function = np.moveaxis(sums[..., :4], -1, 0)
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)  # kind; content c, content r, function c, function r
    chunks, caption_words, reference_words = np.moveaxis(sums[..., 20:], -1, 0)

    def share(side: int, length: np.ndarray, function: np.ndarray) -> np.ndarray:
        met = (MATCHES * (DELTA * matches[..., side] + (1 - DELTA) * matches[..., side + 2])).sum(axis=-1)
        return _divided(met, DELTA * (length - function) + (1 - DELTA) * function)

    precision, recall = share(0, caption, caption_function), share(1, reference, reference_function)
    mean = _divided(np.ones_like(precision), _divided(1 - ALPHA, precision) + _divided(ALPHA, recall))
    mean = np.where((precision > 0) & (recall > 0), mean, 0.0)
    broken = _divided(chunks, (caption_words + reference_words) / 2)
    return mean * (1 - GAMMA * broken**BETA)


def _divided(above: np.ndarray | float, below: np.ndarray) -> np.ndarray:
    """above / below, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(below), where=below != 0)


def _question(caption: str, references: Sequence[str]) -> str:
    """As pycocoevalcap asks, but nothing in a text may break the line or look like the sign between the parts."""
    lines = [" ".join(part.splitlines()) for part in (*references, caption)]  # str knows all kinds of line breaks
    parts = [line.replace("|||", "").replace("  ", " ") for line in lines]
    return " ||| ".join(["SCORE", *parts])


def _numbers(line: str, count: int) -> list[float]:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise JavaScoreError(f"METEOR answered {line[:80]!r}", "vivo doctor tries it alone")
    return numbers
