"""A novel-object benchmark from captioned pictures: which picture goes where, and the proof that nothing leaks.

Hu et al. 2021 pre-train on Open Images, fine-tune on COCO and evaluate on nocaps. From one captioned set and
a list of held-out objects the same three sets are made:

    fine-tuning    pictures that no caption of theirs betrays: none contains a held-out word
    pre-training   image-tag pairs: all pictures but the evaluation's (or those alone that left fine-tuning)
    evaluation     in-domain: base objects alone; near: base and held-out ones; out: held-out ones alone

Two files with the same content are one picture under two ids: both stay in training, together. Evaluation
pictures are drawn from pictures without a twin. All choices come from the seed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vivo.data.nocaps import WorldClass
from vivo.data.types import CaptionExample
from vivo.errors import UserError


@dataclass(frozen=True)
class SplitPlan:
    """How much of what.

    Attributes:
        evaluation: evaluation pictures that show held-out objects, in all.
        evaluation_each: of them, at least so many for each object.
        pairs_each: pre-training pairs that each held-out object keeps, at least.
        in_domain: evaluation pictures that show none.
        validation: pictures that show none, for validation while training.
        agree: captions of a picture that must name a base object before it counts as shown (domains only).
    """

    seed: int = 0
    evaluation: int = 200
    evaluation_each: int = 10
    pairs_each: int = 30
    in_domain: int = 100
    validation: int = 0
    agree: int = 2


@dataclass(frozen=True)
class NovelSplit:
    """Indices of pictures (int64, ascending) and the domain of each evaluation picture."""

    pairs: np.ndarray
    finetuning: np.ndarray
    validation: np.ndarray
    evaluation: np.ndarray
    domains: list[str]


class HeldOutWords:
    """Finds held-out words in raw text, wherever they stand: also in "dog-like", "hot dog" and "dog's"."""

    def __init__(self, novel: Sequence[WorldClass]) -> None:
        forms = sorted({form.lower() for entry in novel for form in (entry.name, *entry.forms)}, key=len, reverse=True)
        words = "|".join(r"[\s-]+".join(map(re.escape, form.split())) for form in forms)
        self._pattern = re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.IGNORECASE)

    def first(self, text: str) -> str | None:
        """The first held-out word of a caption, None if there is none."""
        found = self._pattern.search(text)
        return found[0] if found else None


def choose_split(
    naming: np.ndarray,
    tagged: np.ndarray,
    betrayed: np.ndarray,
    scenery: np.ndarray,
    twins: np.ndarray,
    classes: Sequence[WorldClass],
    plan: SplitPlan,
    pairs: str = "all",
) -> NovelSplit:
    """Decide where every picture goes.

    Args:
        naming: int [N, C], captions of the picture that name the class.
        tagged: bool [N, C], the tags that the picture would have in pre-training.
        betrayed: bool [N], a caption contains a held-out word in any way (see `HeldOutWords`).
        scenery: bool [C], classes that do not count for domains.
        twins: int [N], equal numbers for pictures of equal content.
        classes: C classes; role "novel" marks the held-out ones.
        pairs: "all" pictures that have tags, or those "apart" from fine-tuning.

    Raises:
        UserError: the pictures do not suffice; naming objects, numbers found and wanted, and the options.
    """
    novel = np.array([entry.role == "novel" for entry in classes])
    names = [entry.name for entry in classes if entry.role == "novel"]
    shown = naming > 0
    _, unit, members = np.unique(twins, return_inverse=True, return_counts=True)
    alone = members[unit] == 1
    # what one of the twins betrays, the other does not learn
    betrayed = (betrayed | shown[:, novel].any(axis=1)).astype(np.int64)
    betrayed = np.bincount(unit, betrayed, len(members))[unit] > 0
    random = np.random.default_rng(plan.seed)
    novel_places = _choose_novel(shown[:, novel], tagged[:, novel], alone, names, random, plan)
    base_shown = ((naming >= plan.agree) & ~novel & ~scenery).any(axis=1)
    # tags that were given may know of a held-out object that no caption names
    free = np.flatnonzero(~betrayed & ~tagged[:, novel].any(axis=1) & base_shown & alone)
    wanted = plan.in_domain + plan.validation
    if len(free) < wanted:
        raise UserError(
            f"{wanted} in-domain pictures are wanted for evaluation and validation, but only {len(free)} show base"
            " objects and no held-out one; lower --in-domain or --validation, or hold out fewer objects"
        )
    free = random.permutation(free)[:wanted]
    in_domain, validation = free[: plan.in_domain], np.sort(free[plan.in_domain :])
    domain = np.where(betrayed, np.where(base_shown, "near-domain", "out-domain"), "in-domain")
    evaluation = np.sort(np.concatenate([novel_places, in_domain]))
    training = np.ones(len(naming), dtype=bool)
    training[evaluation] = training[validation] = False
    finetuning = np.flatnonzero(training & ~betrayed)
    if not len(finetuning):
        raise UserError("no picture is left for fine-tuning: every caption contains a held-out word; hold out fewer")
    if pairs == "apart":
        training &= betrayed
    return NovelSplit(
        np.flatnonzero(training & tagged.any(axis=1)), finetuning, validation, evaluation, domain[evaluation].tolist()
    )


def _choose_novel(
    shown: np.ndarray,
    tagged: np.ndarray,
    alone: np.ndarray,
    names: Sequence[str],
    random: np.random.Generator,
    plan: SplitPlan,
) -> np.ndarray:
    """Evaluation pictures of held-out objects: the minimum of each object first, rare objects before frequent
    ones, then any until there are enough; no object loses its pre-training pairs."""
    pictures = shown.sum(axis=0)
    needed = plan.pairs_each + plan.evaluation_each
    if few := [f"{name} ({count})" for name, count in zip(names, pictures, strict=True) if count < needed]:
        raise UserError(
            f"too few pictures name {', '.join(few)}: {needed} are needed ({plan.pairs_each} pre-training pairs and"
            f" {plan.evaluation_each} evaluation pictures); choose others (--suggest) or lower --min-pairs or"
            " --min-evaluation-each"
        )
    left, have = tagged.sum(axis=0), np.zeros(len(names), dtype=np.int64)
    order = random.permutation(np.flatnonzero(shown.any(axis=1) & alone))
    chosen: dict[int, None] = {}

    def take(place: int) -> bool:
        if place in chosen or (left - tagged[place] < plan.pairs_each)[tagged[place]].any():
            return False
        chosen[place] = None
        left[:] -= tagged[place]
        have[:] += shown[place]
        return True

    for one in np.argsort(pictures, kind="stable"):
        for place in order[shown[order, one]]:
            if have[one] >= plan.evaluation_each:
                break
            take(int(place))
        if have[one] < plan.evaluation_each or left[one] < plan.pairs_each:
            raise UserError(
                f"{names[one]}: the {int(pictures[one])} pictures that name it give {int(have[one])} evaluation"
                f" pictures and {int(left[one])} pre-training pairs, {plan.evaluation_each} and {plan.pairs_each} are"
                " wanted (pictures may show other held-out objects too, or exist twice); choose others (--suggest) or"
                " lower --min-evaluation-each or --min-pairs"
            )
    for place in order:
        if len(chosen) >= plan.evaluation:
            break
        take(int(place))
    if len(chosen) < plan.evaluation:
        raise UserError(
            f"{plan.evaluation} evaluation pictures with held-out objects are wanted, {len(chosen)} can be had when"
            f" each object keeps {plan.pairs_each} pre-training pairs; hold out more or more frequent objects"
            " (--suggest), or lower --evaluation or --min-pairs"
        )
    return np.array(sorted(chosen), dtype=np.int64)


def check_no_leak(
    training: Sequence[CaptionExample],
    pair_ids: Sequence[str],
    evaluation: Sequence[CaptionExample],
    novel: Sequence[WorldClass],
    hashes: dict[str, str],
) -> None:
    """What a novel-object benchmark must keep, checked on what is written.

    Args:
        training: captioned pictures that are trained or validated on.
        pair_ids: pictures of the image-tag pairs.
        evaluation: pictures that are scored.
        hashes: content hash of every picture, by id.

    Raises:
        UserError: an evaluation picture in a training set, by id or by content; a held-out word in a training
            caption; tags beside training captions; a picture without a hash.
    """
    known = {example.image_id for example in evaluation}
    everything = dict.fromkeys((*known, *pair_ids, *(example.image_id for example in training)))
    unhashed = [image_id for image_id in everything if image_id not in hashes]
    if unhashed:
        raise UserError(f"picture {unhashed[0]} has no content hash ({len(unhashed)} have none); make the split again")
    contents = {hashes[image_id]: image_id for image_id in known}
    for kind, ids in (("pre-training pairs", pair_ids), ("captions", [example.image_id for example in training])):
        for image_id in ids:
            if image_id in known:
                raise UserError(f"leak: evaluation picture {image_id} is among the {kind}; make the split again")
            if hashes[image_id] in contents:
                twin = contents[hashes[image_id]]
                raise UserError(
                    f"leak: picture {image_id} among the {kind} has the content of evaluation picture {twin};"
                    " make the split again"
                )
    words = HeldOutWords(novel)
    for example in training:
        for caption in example.captions:
            if word := words.first(caption):
                raise UserError(
                    f"leak: {word!r} is held out, but stands in a training caption of picture {example.image_id}:"
                    f" {caption!r}; make the split again"
                )
        if example.tags:
            raise UserError(
                f"leak: the training captions of picture {example.image_id} come with tags"
                f" ({', '.join(example.tags[:3])}); tags come from a detector or tagger there"
            )
