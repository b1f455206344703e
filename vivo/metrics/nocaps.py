"""nocaps scores by domain, as the benchmark's server computes them.

CIDEr, ROUGE-L and SPICE are scores of single pictures (document frequencies over the whole split), averaged by
domain: the published overall is exactly the weighted mean of the published domains. BLEU comes from the
corpus counts of a domain's pictures, METEOR from their statistics together.

The "domain" of the public validation file gives 417 in / 2,670 near / 1,413 out pictures, the server
used 648 / 2,938 / 914: only "overall" compares with papers (see `domains_note`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.bleu import CorpusBleu, bleu
from vivo.metrics.cider import CiderD, DocumentFrequencies
from vivo.metrics.f1 import f1_table
from vivo.metrics.java import JavaScoreError
from vivo.metrics.meteor import Meteor
from vivo.metrics.ngrams import ReferenceNgrams
from vivo.metrics.rouge import rouge_l
from vivo.metrics.spice import Spice
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder, NamedClass

PARTS = {"in": "in-domain", "near": "near-domain", "out": "out-domain", "overall": None}
F1_PLACES = {
    "in": ("in", "F1"),
    "out": ("out", "F1"),
    "out_unknown": ("out", "F1_unknown"),
    "overall": ("overall", "F1"),
}
"""Where the F1 of each group of classes stands in the table: part, key."""
METRICS = ("CIDEr", "ROUGE_L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
JAVA_METRICS = ("SPICE", "METEOR")
DEFINITIONS = {
    "CIDEr": "CIDEr-D times 100, mean over pictures",
    "SPICE": "SPICE 1.0 times 100, mean over pictures",
    "METEOR": "METEOR 1.5 times 100, of the pictures' statistics together",
    "ROUGE_L": "ROUGE-L (F, beta 1.2, best reference) times 100, mean over pictures",
    "BLEU-n": "times 100, of the pictures' n-gram counts together, closest reference length",
    "F1": "of named objects, 0 to 1, mean over classes, over all pictures: in base, out novel, overall all classes",
    "tokens": "PTB, lower case, without punctuation, as pycocoevalcap",
}
"""What the numbers of a table are; the same as pycocoevalcap's."""
PUBLIC_SIZES = {"in": 417, "near": 2670, "out": 1413}
SERVER_SIZES = {"in": 648, "near": 2938, "out": 914}
PARTITION_NOTE = (
    "in / near / out are the public file's domains (417 / 2,670 / 1,413 pictures); published domain scores use the "
    "server's (648 / 2,938 / 914). Only overall compares with papers."
)


@dataclass
class Scores:
    """Scores of one set of captions.

    Attributes:
        table: {"in" | "near" | "out" | "overall": {"CIDEr", "ROUGE_L", "BLEU-1".."BLEU-4" and, where they were asked
            for and could be had, "SPICE" and "METEOR" (all times 100, as papers print them), "pictures"}}; where
            classes are known also "F1" (0..1) in "in" (base classes), "out" (novel classes) and "overall", and
            "F1_unknown" in "out" (novel classes that the detector does not know); F1 is over all pictures. Scores of
            a domain without pictures are left out, so is F1 of classes that no reference names.
        image_ids: N picture ids, in the order of all arrays.
        cider, rouge: float64 [N], CIDEr times 100, ROUGE-L times 100.
        named: bool [N, C], which classes each caption names; None without classes.
        per_class: see `vivo.metrics.f1.object_f1`; {} without classes.
        spice, meteor: float64 [N] times 100; None where there is none.
        missing: why "SPICE" or "METEOR" could not be had, of those that were asked for.
        bleu_counts, meteor_statistics: float64 [N, 10] and [N, 23], what BLEU and METEOR of any part come from
            (`vivo.metrics.bleu.bleu_of_sums`, `vivo.metrics.meteor.score_sums`).
    """

    table: dict[str, dict[str, float]]
    image_ids: list[str]
    cider: np.ndarray
    rouge: np.ndarray
    named: np.ndarray | None = None
    per_class: dict[str, Any] = field(default_factory=dict)
    spice: np.ndarray | None = None
    meteor: np.ndarray | None = None
    missing: dict[str, str] = field(default_factory=dict)
    bleu_counts: np.ndarray | None = None
    meteor_statistics: np.ndarray | None = None

    def per_picture(self) -> dict[str, dict[str, float]]:
        """{id: {"CIDEr", "ROUGE_L" and, where there are, "SPICE", "METEOR"}}, all times 100."""
        columns = {"CIDEr": self.cider, "ROUGE_L": self.rouge, "SPICE": self.spice, "METEOR": self.meteor}
        known = {metric: values.tolist() for metric, values in columns.items() if values is not None}
        return {
            image_id: {metric: values[number] for metric, values in known.items()}
            for number, image_id in enumerate(self.image_ids)
        }


class SplitScorer:
    """The references of a split, prepared once for many sets of captions.

    Args:
        examples: pictures with references and, for scores by domain, domains ("" in all: overall only).
        classes: for F1 of named objects.
        frequencies: CIDEr's stored document frequencies; None: those of the split's references, as papers have it.
        meteor, spice: these scores too, where they can be had.

    Attributes:
        truth: bool [N, C], which classes the references of each picture name; None without classes.
        domains: N domains.

    Raises:
        UserError: a picture without references; without stored frequencies, fewer than two pictures, or pictures
            whose references all have the same n-grams: CIDEr of any caption would be 0.
    """

    def __init__(
        self,
        examples: Sequence[CaptionExample],
        classes: Sequence[NamedClass] | None = None,
        frequencies: DocumentFrequencies | None = None,
        meteor: Meteor | None = None,
        spice: Spice | None = None,
    ) -> None:
        for example in examples:
            if not example.captions:
                raise UserError(f"picture {example.image_id} has no reference captions; it cannot be scored")
        self.image_ids = [example.image_id for example in examples]
        self.domains = [example.domain for example in examples]
        self.classes = classes
        # One stream of captions in the order of the pictures, as pycocoevalcap sends them to its tokeniser.
        flat = iter(ptb_tokenize_all([caption for example in examples for caption in example.captions]))
        tokens = [[next(flat) for _ in example.captions] for example in examples]
        ngrams = ReferenceNgrams(tokens, places=frequencies is not None)
        self._cider = CiderD(ngrams, frequencies)
        if not self._cider.informative:
            raise UserError(
                f"CIDEr of these {len(examples)} pictures is 0 by definition: their references have all n-grams in"
                " common; score more pictures or give stored frequencies (--document-frequencies)"
            )
        self._meteor, self._spice = meteor, spice
        self._texts = [[" ".join(caption) for caption in captions] for captions in tokens]
        self._bleu = CorpusBleu(ngrams)
        self._finder = ClassFinder(classes) if classes is not None else None
        self.truth = self._finder.mentions(tokens) if self._finder else None

    def members(self, part: str) -> np.ndarray:
        """Indices of the pictures of "in", "near", "out" or "overall"."""
        domain = PARTS[part]
        return np.array([n for n, of in enumerate(self.domains) if domain is None or of == domain], dtype=np.int64)

    def score(self, predictions: Mapping[str, str]) -> Scores:
        """Score one caption for each picture of the split.

        Raises:
            UserError: pictures without a caption, or captions of pictures that the split does not have.
        """
        check_same_pictures(predictions, self.image_ids)
        tokens = ptb_tokenize_all([predictions[image_id] for image_id in self.image_ids])
        texts = [" ".join(caption) for caption in tokens]
        cider, rouge = 100 * self._cider.score(tokens), 100 * rouge_l(texts, self._texts)
        counts = self._bleu.counts(tokens)
        table: dict[str, dict[str, float]] = {}
        result = Scores(table, self.image_ids, cider, rouge, bleu_counts=counts)
        parts = {part: members for part in PARTS if len(members := self.members(part))}
        meteor = self._add_java_scores(result, texts, parts)
        for part, members in parts.items():
            row = {"CIDEr": float(cider[members].mean())}
            if result.spice is not None:
                row["SPICE"] = float(result.spice[members].mean())
            if meteor is not None:
                row["METEOR"] = meteor[part]
            row["ROUGE_L"] = float(rouge[members].mean())
            row |= {f"BLEU-{n}": 100 * score for n, score in enumerate(bleu(counts[members]), 1)}
            table[part] = {**row, "pictures": len(members)}
        if self._finder is not None and self.truth is not None and self.classes is not None:
            result.named = self._finder.mentions([[caption] for caption in tokens])
            f1 = f1_table(result.named, self.truth, self.classes)
            result.per_class = f1["per_class"]
            for group, (part, key) in F1_PLACES.items():
                if f1[group] is not None:
                    table.setdefault(part, {})[key] = f1[group]
        return result

    def _add_java_scores(
        self, result: Scores, texts: Sequence[str], parts: Mapping[str, np.ndarray]
    ) -> dict[str, float] | None:
        """SPICE and METEOR into `result`, or why not; METEOR (times 100) of each part, None where there is none."""
        if self._spice is not None:
            try:
                result.spice = 100 * self._spice.score(texts, self._texts)
            except JavaScoreError as error:
                result.missing["SPICE"] = str(error)
        if self._meteor is None:
            return None
        try:
            found = self._meteor.score(texts, self._texts, {part: of.tolist() for part, of in parts.items()})
        except JavaScoreError as error:
            result.missing["METEOR"] = str(error)
            return None
        result.meteor, result.meteor_statistics = 100 * found.per_picture, found.statistics
        return {part: 100 * score for part, score in found.groups.items()}


def domains_note(sizes: Mapping[str, float], partition: str = "") -> str:
    """What must stand beside scores by domain; "" where there is nothing to say.

    Args:
        sizes: pictures of each part ("in", "near", "out"). partition: the file that the domains come from; "": they
            are those of the captions file.
    """
    domains = {part: int(sizes.get(part, 0)) for part in PUBLIC_SIZES}
    if partition:
        shown = " / ".join(f"{size:,}" for size in domains.values())
        compares = "as many as the server's" if domains == SERVER_SIZES else "not the server's 648 / 2,938 / 914"
        return f"in / near / out are those of {partition} ({shown} pictures: {compares})."
    return PARTITION_NOTE if domains == PUBLIC_SIZES else ""


def score_predictions(
    predictions: Mapping[str, str],
    examples: Sequence[CaptionExample],
    classes: Sequence[NamedClass] | None = None,
) -> Scores:
    """Score one set of captions; `SplitScorer` saves time for several.

    Raises:
        UserError: see `SplitScorer`.
    """
    return SplitScorer(examples, classes).score(predictions)


def score_by_domain(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], domains: Mapping[str, str]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """(scores by "in", "near", "out", "overall"; scores by picture id), both as `Scores` describes them.

    Args:
        predictions: caption by picture id.
        references: captions by picture id.
        domains: "in-domain", "near-domain" or "out-domain" by picture id; {} for overall alone.

    Raises:
        UserError: see `SplitScorer`.
    """
    examples = [CaptionExample(i, "", list(texts), domains.get(i, "")) for i, texts in references.items()]
    scores = score_predictions(predictions, examples)
    return scores.table, scores.per_picture()


def check_same_pictures(predictions: Mapping[str, str], image_ids: Sequence[str]) -> None:
    """Predictions must be there for all pictures of the split and for no other: a score over some is no score.

    Raises:
        UserError: naming some of the pictures.
    """
    missing = [image_id for image_id in image_ids if image_id not in predictions]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(image_ids):,} pictures have no prediction (first: {', '.join(missing[:3])}); "
            "caption the whole split"
        )
    known = set(image_ids)
    if len(known) != len(image_ids):
        raise UserError("the references list a picture twice")
    unknown = [image_id for image_id in predictions if image_id not in known]
    if unknown:
        raise UserError(
            f"{len(unknown):,} predictions are of pictures that the references do not have "
            f"(first: {', '.join(unknown[:3])}); are they of another split?"
        )
