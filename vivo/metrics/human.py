"""How well people do by the same scores: each reference caption of a picture against the picture's other references.

A score of captions means little without it: on nocaps people score about as high in CIDEr as a good model does. Of each
picture the mean over its captions counts, so that nobody's caption is chosen; that of the first captions alone is what
papers often give.

Fold k takes caption k of every picture as its prediction and leaves it out of the references, in the document
frequencies too: they are those of the fold's references. So the scores of a fold are exactly those of any predictions
against these references, pycocoevalcap's to 1e-9. (Frequencies counted over all captions, once, would know the n-grams
of the predictions, as no model's scores do.) Pictures with fewer captions than k + 1 have no prediction in fold k;
their references still count in the frequencies.

A picture has one reference fewer than where a model is scored against all of them, and CIDEr-D and BLEU rise with the
number of references: people against nine stand slightly below a model against ten, and published human scores (nocaps
87.1 on validation) were taken from an eleventh caption against ten.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.files import atomic_write_json, cache_folder
from vivo.metrics import bleu, cider, rouge
from vivo.metrics.bootstrap import Interval, MeanScore, Statistic, SumScore, bootstrap
from vivo.metrics.meteor import Meteor, score_sums
from vivo.metrics.ngrams import ORDERS, ReferenceNgrams
from vivo.metrics.nocaps import PARTS
from vivo.metrics.tokenizer import ptb_tokenize_all

VERSION = 1
"""Of what is kept; to be raised where a score changes."""


@dataclass
class HumanScores:
    """Leave-one-out scores of N pictures.

    Attributes:
        domains: N domains.
        cider, rouge: float64 [N], times 100.
        bleu_counts: float64 [N, 10], as `Scores` has them; every picture weighs the same.
        meteor_statistics: float64 [N, 23], likewise; None where METEOR was not asked for.
    """

    domains: list[str]
    cider: np.ndarray
    rouge: np.ndarray
    bleu_counts: np.ndarray
    meteor_statistics: np.ndarray | None = None

    def table(self, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Interval]]:
        """Scores (times 100) with bootstrap intervals over pictures, by part ("in", "near", "out", "overall"); parts
        without pictures are left out."""
        table: dict[str, dict[str, Interval]] = {}
        for part, domain in PARTS.items():
            members = np.array([n for n, of in enumerate(self.domains) if domain in (None, of)], dtype=np.int64)
            if len(members):
                statistics = self._statistics(members)
                table[part] = {metric: bootstrap(stat, resamples, seed) for metric, stat in statistics.items()}
        return table

    def _statistics(self, members: np.ndarray) -> dict[str, Statistic]:
        found: dict[str, Statistic] = {"CIDEr": MeanScore(self.cider[members])}
        if self.meteor_statistics is not None:
            found["METEOR"] = SumScore(self.meteor_statistics[members], lambda sums: 100 * score_sums(sums))
        found["ROUGE_L"] = MeanScore(self.rouge[members])
        for n in range(ORDERS):
            found[f"BLEU-{n + 1}"] = SumScore(self.bleu_counts[members], partial(_bleu, order=n))
        return found


def _bleu(sums: np.ndarray, order: int) -> np.ndarray:
    return 100 * bleu.bleu_of_sums(sums)[..., order]


def human_record(examples: Sequence[CaptionExample], meteor: Meteor | None = None) -> dict[str, Any]:
    """`human_scores` as JSON values.

    Returns:
        {"references": fewest and most of a picture, "captions_sha256", "mean", "first": {part: {metric: [value, low,
        high]}}}; the bounds are those of the 95 % bootstrap interval over pictures.
    """
    mean, first = human_scores(examples, meteor)
    counts = [len(example.captions) for example in examples]
    tables = {
        name: {part: {metric: list(i) for metric, i in row.items()} for part, row in scores.table().items()}
        for name, scores in (("mean", mean), ("first", first))
    }
    return {"references": [min(counts), max(counts)], "captions_sha256": captions_sha256(examples), **tables}


def kept_human_record(examples: Sequence[CaptionExample], meteor: Meteor | None = None) -> dict[str, Any]:
    """`human_record`, computed once for the same captions and domains (some seconds; minutes with METEOR) and kept in
    `vivo.files.cache_folder`.

    Raises:
        UserError, JavaScoreError: see `human_scores`.
    """
    sha256 = captions_sha256(examples)
    try:
        path = cache_folder("human") / f"{sha256[:32]}-{VERSION}{'-meteor' if meteor else ''}.json"
    except UserError:  # nowhere to keep it
        return human_record(examples, meteor)
    try:
        record = json.loads(path.read_bytes())
        if record["captions_sha256"] == sha256:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or not as it was written
    record = human_record(examples, meteor)
    atomic_write_json(path, record)
    return record


def captions_sha256(examples: Sequence[CaptionExample]) -> str:
    """Of ids, domains and captions, in their order."""
    content = [[example.image_id, example.domain, example.captions] for example in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def human_scores(examples: Sequence[CaptionExample], meteor: Meteor | None = None) -> tuple[HumanScores, HumanScores]:
    """Each reference caption of each picture against the picture's others.

    Args:
        examples: pictures with at least two references each.
        meteor: METEOR too; it takes longer than all else.

    Returns:
        (means over the captions of a picture, scores of its first caption).

    Raises:
        UserError: a picture with fewer than two references, or fewer than two pictures.
        JavaScoreError: METEOR was asked for and cannot be had.
    """
    for example in examples:
        if len(example.captions) < 2:
            raise UserError(
                f"picture {example.image_id} has {len(example.captions)} reference(s); each needs two, of which one is"
                " scored against the other"
            )
    if len(examples) < 2:
        raise UserError(f"{len(examples)} picture(s): document frequencies need a split")
    flat = iter(ptb_tokenize_all([caption for example in examples for caption in example.captions]))
    tokens = [[next(flat) for _ in example.captions] for example in examples]
    texts = [[" ".join(caption) for caption in captions] for captions in tokens]
    ngrams = ReferenceNgrams(tokens)
    first, sizes = ngrams.first[:-1], np.diff(ngrams.first)
    by_caption = [
        100 * cider.leave_one_out(ngrams),
        100 * rouge.leave_one_out(texts),
        bleu.leave_one_out(ngrams),
        *([] if meteor is None else [_meteor_statistics(meteor, texts)]),
    ]
    domains = [example.domain for example in examples]
    means = [np.add.reduceat(rows, first) / (sizes if rows.ndim == 1 else sizes[:, None]) for rows in by_caption]
    return HumanScores(domains, *means), HumanScores(domains, *(rows[first] for rows in by_caption))


def _meteor_statistics(meteor: Meteor, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """[captions, 23], all in one run of the program."""
    captions = [caption for of_picture in texts for caption in of_picture]
    others = [[*of_picture[:k], *of_picture[k + 1 :]] for of_picture in texts for k in range(len(of_picture))]
    return meteor.score(captions, others, {}).statistics
