"""One set of captions with all that is known of it, gathered from the files of an evaluation.

    evaluation = read_evaluation("predictions.json", "nocaps_val_captions.json", "classes.json", scores="scores.json")
    evaluation.table["overall"]["CIDEr"], evaluation.intervals["out"]["CIDEr"], evaluation.per_picture["7"]["CIDEr"]

Scores are taken from eval/score.py's files where these are given, which may have metrics that are not computed here;
otherwise they are made.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vivo.data.coco import read_json
from vivo.data.nocaps import WorldClass, read_classes, read_nocaps
from vivo.data.partition import with_partition
from vivo.data.predictions import constraints_path, read_header, read_predictions
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.bleu import CorpusBleu, bleu_of_sums
from vivo.metrics.bootstrap import MacroF1, MeanScore, SumScore, bootstrap
from vivo.metrics.f1 import class_groups
from vivo.metrics.human import kept_human_record
from vivo.metrics.ngrams import ORDERS
from vivo.metrics.nocaps import F1_PLACES, PARTS, check_same_pictures, domains_note, score_predictions
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder
from vivo.report.page import finite

Table = dict[str, dict[str, float]]
RESAMPLES = 1000
_TRACE = ("caption", "needed", "satisfied", "fell_back", "constraints", "left_out")


@dataclass
class Evaluation:
    """One set of captions and their references.

    Attributes:
        examples: N pictures with references, in the order of all lists.
        captions: by picture id.
        table: part -> metric -> score, as `vivo.metrics.nocaps.Scores.table`.
        per_picture: picture id -> metric -> score.
        tokens, reference_tokens: N captions, N lists of references, as the metrics read them.
        classes: for the F1 of named objects; [] without.
        named, truth: bool [N, C], which classes a caption and any reference of a picture name.
        per_class: class -> its counts, precision, recall and F1; {} without classes.
        header: of the predictions (`vivo.data.predictions.read_header`).
        traces: picture id -> a line of predictions.constraints.jsonl; {} without.
        intervals: nested as the table, 95 % (low, high), where a metric is a mean over pictures or an F1.
        notes: what the scores by domain do and do not compare with.
        missing: metric -> why it could not be had, of those that eval/score.py was asked for.
        human: part -> metric -> score of the reference captions themselves; {} where nobody has computed it.
    """

    examples: list[CaptionExample]
    captions: dict[str, str]
    table: Table
    per_picture: dict[str, dict[str, float]]
    tokens: list[list[str]]
    reference_tokens: list[list[list[str]]]
    classes: list[WorldClass]
    named: np.ndarray
    truth: np.ndarray
    per_class: dict[str, Any]
    header: dict[str, Any]
    traces: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    human: Table = field(default_factory=dict)

    def members(self, part: str) -> np.ndarray:
        """Places of the pictures of "in", "near", "out" or "overall"."""
        domain = PARTS[part]
        inside = [n for n, e in enumerate(self.examples) if domain is None or e.domain == domain]
        return np.array(inside, dtype=np.int64)

    def scores_of(self, metric: str) -> np.ndarray | None:
        """float64 [N]; None unless every picture has the score."""
        found = [self.per_picture[e.image_id].get(metric) for e in self.examples]
        return None if None in found else np.array(found, dtype=np.float64)


def read_evaluation(
    predictions: str | Path,
    references: str | Path,
    classes: str | Path | None = None,
    scores: str | Path | None = None,
    partition: str | Path | None = None,
    human: bool = True,
) -> Evaluation:
    """Read predictions and references and what lies beside them; score them unless there are `scores` of eval/score.py.

    Args:
        human: score the references themselves, too (once for a captions file, seconds), where there are no `scores`.

    Raises:
        UserError: a file is not what it should be, or they do not belong together.
    """
    captions = read_predictions(predictions)
    examples = read_nocaps(references)
    if partition:
        examples = with_partition(examples, partition)
    known = read_classes(classes) if classes else []
    check_same_pictures(captions, [e.image_id for e in examples])
    flat = iter(ptb_tokenize_all([text for e in examples for text in e.captions]))
    reference_tokens = [[next(flat) for _ in e.captions] for e in examples]
    tokens = ptb_tokenize_all([captions[e.image_id] for e in examples])
    if scores:
        stored = read_scores(Path(scores), captions)
    else:
        made = score_predictions(captions, examples, known or None)
        sizes = {part: row.get("pictures", 0) for part, row in made.table.items()}
        note = domains_note(sizes, str(partition or ""))
        stored = StoredScores(made.table, made.per_picture(), made.per_class, [note] if note else [])
        if human and all(len(example.captions) > 1 for example in examples):
            stored.human = human_means(kept_human_record(examples))
    finder = ClassFinder(known)
    found = Evaluation(
        examples,
        captions,
        stored.table,
        stored.per_picture,
        tokens,
        reference_tokens,
        known,
        finder.mentions([[caption] for caption in tokens]),
        finder.mentions(reference_tokens),
        stored.per_class,
        read_header(predictions),
        read_traces(constraints_path(predictions), captions),
        notes=stored.notes,
        missing=stored.missing,
        human=stored.human,
    )
    for part, row in stored.table.items():
        if "pictures" in row and row["pictures"] != len(found.members(part)):
            raise UserError(
                f"{scores}: scores of {int(row['pictures']):,} pictures as {part!r}, of which {partition or references}"
                f" has {len(found.members(part)):,}; give the --partition that eval/score.py had"
            )
    found.intervals = make_intervals(found)
    return found


@dataclass
class StoredScores:
    """What eval/score.py knows of one set of captions; attributes as of `Evaluation`."""

    table: Table
    per_picture: dict[str, dict[str, float]]
    per_class: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    human: Table = field(default_factory=dict)


def read_scores(path: Path, captions: Mapping[str, str]) -> StoredScores:
    """eval/score.py's `--out` and the file of pictures beside it.

    Raises:
        UserError: not such files, or of other captions.
    """
    content = read_json(path)
    parts = {part: content[part] for part in PARTS if part in content} if isinstance(content, dict) else {}
    if "overall" not in parts or not all(isinstance(row, dict) for row in parts.values()):
        raise UserError(f'{path}: no scores under "overall"; give what eval/score.py --out has written')
    beside = path.with_name(f"{path.stem}.pictures.json")
    pictures = read_json(beside)
    if not isinstance(pictures, dict) or not all(isinstance(row, dict) for row in pictures.values()):
        raise UserError(f"{beside}: expected scores by picture id; score again with eval/score.py")
    for image_id, caption in captions.items():
        scored = pictures.get(image_id, {}).get("caption")
        if scored is not None and " ".join(str(scored).split()) == caption:
            continue
        what = "has no score of" if scored is None else "is of other captions: that of"
        raise UserError(f"{beside}: {what} picture {image_id}; score these predictions, or leave out --scores")
    about, human = _object(content, "about"), _object(content, "human")
    return StoredScores(
        {part: finite(row) for part, row in parts.items()},
        {image_id: finite(pictures[image_id]) for image_id in captions},
        _object(content, "per_class"),
        [about["domains"]] if isinstance(about.get("domains"), str) else [],
        {str(metric): str(why) for metric, why in _object(about, "missing").items()},
        human_means(human),
    )


def human_means(record: Mapping[str, Any]) -> Table:
    """part -> metric -> score of a `vivo.metrics.human.human_record`, as far as it is one."""
    return {
        part: finite({metric: value[0] for metric, value in row.items() if isinstance(value, list) and value})
        for part, row in _object(record, "mean").items()
        if isinstance(row, dict)
    }


def _object(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; {} without one: older files have fewer."""
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def read_traces(path: Path, captions: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Constraint traces by picture id; {} without the file.

    Raises:
        UserError: a line is no trace, or tells of another caption: the file is of an earlier run.
    """
    if not path.is_file():
        return {}
    traces: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            trace = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); remove the file or predict again") from error
        if not isinstance(trace, dict) or not all(key in trace for key in ("image_id", *_TRACE)):
            raise UserError(f"{path}, line {number}: no constraint trace (docs/decoding.md); remove the file")
        image_id = str(trace["image_id"])
        if captions.get(image_id) != " ".join(str(trace["caption"]).split()):
            raise UserError(
                f"{path}, line {number}: tells of another caption of picture {image_id} than the predictions beside it;"
                " it is of another run: predict again, or remove it"
            )
        traces[image_id] = trace
    return traces


def make_intervals(evaluation: Evaluation) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % bootstrap intervals over pictures of all means of per-picture scores, of BLEU, and of F1."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    metrics = list(dict.fromkeys(name for row in evaluation.per_picture.values() for name in row))
    for part, row in evaluation.table.items():
        members = evaluation.members(part)
        for metric in metrics:
            scores = evaluation.scores_of(metric)
            # METEOR is no mean over pictures.
            if metric not in row or scores is None or not len(members):
                continue
            if abs(scores[members].mean() - row[metric]) < 1e-6:
                _, low, high = bootstrap(MeanScore(scores[members]), RESAMPLES)
                found.setdefault(part, {})[metric] = (low, high)
    counts = CorpusBleu(evaluation.reference_tokens).counts(evaluation.tokens)
    for part, row in evaluation.table.items():
        members = evaluation.members(part)
        for n in range(ORDERS):
            if f"BLEU-{n + 1}" in row and len(members):
                statistic = SumScore(counts[members], partial(_bleu, order=n))
                _, low, high = bootstrap(statistic, RESAMPLES)
                found.setdefault(part, {})[f"BLEU-{n + 1}"] = (low, high)
    for group, of_group in class_groups(evaluation.classes).items() if evaluation.classes else ():
        part, metric = F1_PLACES[group]
        if metric in evaluation.table.get(part, {}) and evaluation.truth[:, of_group].any():
            statistic = MacroF1(evaluation.named, evaluation.truth, of_group)
            _, low, high = bootstrap(statistic, RESAMPLES)
            found.setdefault(part, {})[metric] = (low, high)
    return found


def _bleu(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU-(order + 1) times 100."""
    return 100 * bleu_of_sums(sums)[..., order]


def worst_first(evaluation: Evaluation) -> list[str]:
    """Picture ids by CIDEr, equal ones by ROUGE-L, then in the order of the references."""
    scores = evaluation.per_picture

    def key(image_id: str) -> Sequence[float]:
        return scores[image_id].get("CIDEr", 0.0), scores[image_id].get("ROUGE_L", 0.0)

    return sorted((e.image_id for e in evaluation.examples), key=key)
