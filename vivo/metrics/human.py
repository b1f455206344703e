"""How well people do by the same scores: each reference caption of a picture against the picture's other references.

A score of captions means little without it: on nocaps people score about as high in CIDEr as a good model does. Of each
picture the mean over its captions counts, so that nobody's caption is chosen; that of the first captions alone is what
papers often give.

Fold k takes caption k of every picture as its prediction and leaves it out of the references, in the document
frequencies too: they are those of the fold's references. So the scores of a fold are exactly those of any predictions
against these references, pycocoevalcap's to 1e-9. (Frequencies counted over all captions, once, would know the n-grams
of the predictions, as no model's scores do.) Pictures with fewer captions than k + 1 have no prediction in fold k; their
references still count in the frequencies.

A picture has one reference fewer than where a model is scored against all of them, and CIDEr-D and BLEU rise with the
number of references: people against nine stand slightly below a model against ten, and published human scores (nocaps
87.1 on validation) were taken from an eleventh caption against ten.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.bleu import CorpusBleu, bleu_of_sums, count_table
from vivo.metrics.bootstrap import Interval, MeanScore, SumScore, bootstrap
from vivo.metrics.cider import CiderD
from vivo.metrics.meteor import Meteor, score_sums
from vivo.metrics.nocaps import PARTS
from vivo.metrics.rouge import rouge_l
from vivo.metrics.tokenizer import ptb_tokenize_all


@dataclass
class HumanScores:
    """Leave-one-out scores of N pictures.

    Attributes:
        image_ids, domains: of the pictures. references: how many each has, int [N].
        cider, rouge: float64 [N], times 100: means over the picture's captions.
        bleu_counts, meteor_statistics: float64 [N, 10] and [N, 23]: means over the picture's captions, so that every
            picture weighs the same; METEOR's are None where it was not asked for.
        first: the same of the first captions alone; None in `first` itself.
    """

    image_ids: list[str]
    domains: list[str]
    references: np.ndarray
    cider: np.ndarray
    rouge: np.ndarray
    bleu_counts: np.ndarray
    meteor_statistics: np.ndarray | None = None
    first: "HumanScores | None" = None

    def members(self, part: str) -> np.ndarray:
        """Indices of the pictures of "in", "near", "out" or "overall"."""
        return np.array([n for n, of in enumerate(self.domains) if PARTS[part] in (None, of)], dtype=np.int64)

    def table(self, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Interval]]:
        """Scores (times 100) with bootstrap intervals over pictures, by part; parts without pictures are left out."""
        table: dict[str, dict[str, Interval]] = {}
        for part in PARTS:
            members = self.members(part)
            if len(members):
                row = {"CIDEr": MeanScore(self.cider[members]), "ROUGE_L": MeanScore(self.rouge[members])}
                statistics = row | {
                    f"BLEU-{n + 1}": SumScore(self.bleu_counts[members], lambda s, n=n: 100 * bleu_of_sums(s)[..., n])
                    for n in range(4)
                }
                if self.meteor_statistics is not None:
                    sums = self.meteor_statistics[members]
                    statistics["METEOR"] = SumScore(sums, lambda s: 100 * score_sums(s))
                table[part] = {metric: bootstrap(stat, resamples, seed) for metric, stat in statistics.items()}
        return table


def human_scores(examples: Sequence[CaptionExample], meteor: Meteor | None = None) -> HumanScores:
    """Score each reference caption of each picture against the picture's others.

    Args:
        examples: pictures with at least two references each.
        meteor: METEOR too; it takes longer than all else.

    Raises:
        UserError: a picture with fewer than two references, or fewer than two pictures.
        JavaScoreError: METEOR was asked for and cannot be had.
    """
    for example in examples:
        if len(example.captions) < 2:
            raise UserError(
                f"picture {example.image_id} has {len(example.captions)} reference(s); people are scored against the"
                " others of a picture, so each needs two"
            )
    flat = iter(ptb_tokenize_all([caption for example in examples for caption in example.captions]))
    tokens = [[next(flat) for _ in example.captions] for example in examples]
    texts = [[" ".join(caption) for caption in captions] for captions in tokens]
    counts = np.array([len(captions) for captions in tokens])
    folds = []
    for left_out in range(counts.max()):
        members = np.flatnonzero(counts > left_out)
        others = [[c for k, c in enumerate(captions) if k != left_out] for captions in tokens]
        cider = CiderD(others).score([tokens[n][left_out] for n in members], members)
        others_texts = [[t for k, t in enumerate(texts[n]) if k != left_out] for n in members]
        predictions = [texts[n][left_out] for n in members]
        bleu_counts = count_table(CorpusBleu(others_texts).counts(predictions))
        columns = [100 * cider[:, None], 100 * rouge_l(predictions, others_texts)[:, None], bleu_counts]
        if meteor is not None:
            columns.append(meteor.score(predictions, others_texts, {}).statistics)
        folds.append((members, np.concatenate(columns, axis=1)))
    means = np.zeros((len(examples), folds[0][1].shape[1]))
    for members, found in folds:
        means[members] += found
    means /= counts[:, None]
    whole, first = (_scores(examples, counts, rows, meteor is not None) for rows in (means, folds[0][1]))
    whole.first = first
    return whole


def _scores(examples: Sequence[CaptionExample], counts: np.ndarray, rows: np.ndarray, meteor: bool) -> HumanScores:
    ids, domains = [example.image_id for example in examples], [example.domain for example in examples]
    return HumanScores(ids, domains, counts, rows[:, 0], rows[:, 1], rows[:, 2:12], rows[:, 12:] if meteor else None)
