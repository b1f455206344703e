"""How captions differ from their references: lengths and words, counted on the metrics' tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from vivo.report.charts import Bar, Column, Line, bar_chart, column_chart, line_chart

LONGEST = 25
"""Words; longer captions are counted together."""
WORDS = 10
"""Words of each of the two lists."""
RANKS = 200
Captions = Sequence[Sequence[str]]


@dataclass
class WordUse:
    """A word and how often it stands in 1,000 words of the captions, and of the references."""

    word: str
    captions: float
    references: float


@dataclass
class CaptionPlots:
    """Charts and figures of one set of captions against its references.

    mean_words: of captions, of references. distinct: how many unlike captions. vocabulary: unlike words of the
    captions, and of one reference a picture (equally many texts, so that the two compare).
    """

    lengths: Markup
    ranks: Markup
    more: Markup
    less: Markup
    mean_words: tuple[float, float]
    distinct: int
    vocabulary: tuple[int, int]


def caption_plots(captions: Captions, references: Sequence[Captions]) -> CaptionPlots:
    """From the tokens of one caption and of all references of each picture."""
    people = [tokens for texts in references for tokens in texts]
    more, less = word_use(captions, people)
    means = mean_length(captions), mean_length(people)
    return CaptionPlots(
        lengths=length_chart(captions, people, means),
        ranks=rank_chart(captions, people),
        more=use_chart(more, "Words that the captions use more often than the references"),
        less=use_chart(less, "Words that the captions use less often than the references"),
        mean_words=means,
        distinct=len({tuple(tokens) for tokens in captions}),
        vocabulary=(vocabulary(captions), vocabulary([texts[0] for texts in references if texts])),
    )


def mean_length(captions: Captions) -> float:
    """Mean number of words."""
    return sum(map(len, captions)) / max(len(captions), 1)


def vocabulary(captions: Captions) -> int:
    """How many unlike words."""
    return len({word for tokens in captions for word in tokens})


def length_shares(captions: Captions) -> list[float]:
    """Percent of the captions with 0, 1, .. words; the last entry is `LONGEST` or more."""
    counts = np.bincount([min(len(tokens), LONGEST) for tokens in captions], minlength=LONGEST + 1)
    return (100 * counts / max(len(captions), 1)).tolist()


def length_chart(captions: Captions, people: Captions, means: tuple[float, float]) -> Markup:
    """Lengths side by side."""
    labels = [str(n) for n in range(LONGEST)] + [f"{LONGEST}+"]
    columns = [Column("captions", length_shares(captions), "ours"), Column("references", length_shares(people), "base")]
    # No room is left for lengths that nobody writes.
    used = [n for n in range(LONGEST + 1) if any(column.values[n] for column in columns)] or [0]
    first, last = max(0, used[0] - 1), used[-1] + 1
    for column in columns:
        column.values = column.values[first:last]
    label = f"Words in a caption: {means[0]:.1f} on average, in a reference {means[1]:.1f}; percent of the texts"
    return column_chart(labels[first:last], columns, label)


def frequencies(captions: Captions) -> Counter[str]:
    """How often each word stands in them."""
    return Counter(word for tokens in captions for word in tokens)


def word_use(captions: Captions, people: Captions) -> tuple[list[WordUse], list[WordUse]]:
    """The words whose share of all words is most above that of the references, and most below."""
    ours, theirs = frequencies(captions), frequencies(people)
    all_ours, all_theirs = max(sum(ours.values()), 1), max(sum(theirs.values()), 1)
    uses = [
        WordUse(word, 1000 * ours[word] / all_ours, 1000 * theirs[word] / all_theirs) for word in sorted(ours | theirs)
    ]
    uses.sort(key=lambda use: use.references - use.captions)
    more = [use for use in uses[:WORDS] if use.captions > use.references]
    less = [use for use in uses[::-1][:WORDS] if use.captions < use.references]
    return more, less


def use_chart(uses: Sequence[WordUse], label: str) -> Markup:
    """Thick: captions, thin: references."""
    if not uses:
        return Markup('<p class="note">None.</p>')
    told = ", ".join(f"{use.word} {use.captions:.0f} against {use.references:.0f}" for use in uses)
    bars = [Bar(use.word, use.captions, None, use.references, None, "said") for use in uses]
    return bar_chart(bars, f"{label}, in 1,000 words: {told}", digits=0)


def rank_chart(captions: Captions, people: Captions) -> Markup:
    """How often the most frequent word stands there, the second, and so on, in 1,000 words."""
    lines = []
    for label, texts, style in (("references", people, 1), ("captions", captions, 0)):
        counts = sorted(frequencies(texts).values(), reverse=True)
        if counts:
            shares = [1000 * count / sum(counts) for count in counts[:RANKS]]
            lines.append(Line(label, list(range(1, len(shares) + 1)), shares, style))
    return line_chart(lines, "Occurrences in 1,000 words by the rank of the word, captions and references", height=210)
