"""Give a captioner's confidences a meaning: P(every object that a caption names is in the picture).

    python eval/calibrate.py --checkpoint runs/demo/vivo --captions W/nocaps/nocaps_val_captions.json \\
        --pictures W/nocaps/images --classes W/classes.json --boxes W/nocaps/validation-annotations-bbox.csv

Each picture is captioned (all captions of the beam count), the objects that its captions name are looked up in the
boxes, labels or reference captions, and a logistic regression over facts of the captions (`vivo.calibration`) is fitted
on one half of the pictures and checked on the other: expected calibration error over ten bins, and a reliability plot.
Written: CHECKPOINT/calibration.json, which `vivo serve` reads, and with --out a table and the plot. --check fits
nothing and checks the checkpoint's own file on all the pictures.

**Use validation pictures, neither of training nor of the test.**
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivo.calibration import (
    Bin,
    Calibration,
    at_most_the_first,
    best_threshold,
    expected_calibration_error,
    facts,
    fit,
    reliability,
)
from vivo.data.class_lists import read_class_list
from vivo.data.nocaps import WorldClass, read_nocaps
from vivo.data.picture_labels import names_of_pictures, read_picture_boxes, read_picture_labels
from vivo.data.types import CaptionExample
from vivo.detectors.pictures import picture_file
from vivo.errors import UserError
from vivo.files import atomic_write_json, atomic_write_text, writable_folder
from vivo.metrics.hallucination import count_mentions
from vivo.metrics.object_truth import Truth, ancestors_matrix, truth_of_annotations, truth_of_captions
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder
from vivo.program import exits_cleanly, whole_number
from vivo.progress import progress_of

BATCH = 16


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, caption, judge, fit, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="captioner folder")
    parser.add_argument("--captions", required=True, metavar="FILE", help="captions file in nocaps or COCO format")
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="its picture files")
    parser.add_argument("--classes", required=True, help="classes.json, or Open Images' class descriptions (CSV)")
    parser.add_argument("--hierarchy", help="of the class descriptions (JSON): a dog is an animal")
    parser.add_argument("--boxes", help="boxes of the pictures (Open Images' CSV); else labels, else the references")
    parser.add_argument("--labels", help="image-level labels of the pictures (Open Images' CSV)")
    parser.add_argument("--beam", type=whole_number(1), default=5, help="as the service's; default: 5")
    parser.add_argument("--limit", type=whole_number(4), metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--withhold", type=float, default=0.1, metavar="P",
        help="threshold of a service: withheld captions would be right at most so often; default: 0.1",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="fit nothing; check the calibration that is there")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for reliability.json and reliability.svg")
    arguments = parser.parse_args(argv)
    known = Calibration.from_folder(arguments.checkpoint) if arguments.check else None
    if arguments.check and known is None:
        raise UserError(f"{arguments.checkpoint}: no calibration.json in it to check; leave --check out to make it")
    examples = read_nocaps(arguments.captions)[: arguments.limit]
    classes = read_class_list(arguments.classes, arguments.hierarchy)
    truth = read_truth(arguments, examples, classes)
    found = captioned(arguments, examples, classes, truth)

    calibration, checked = known, found.judged
    if not arguments.check:
        half = np.array([_is_checked(examples[n].image_id) for n in found.picture])
        fitted, checked = found.judged & ~half, found.judged & half
        if not fitted.any() or not checked.any():
            raise UserError(f"{arguments.captions}: too few pictures to fit on one half and check on the other")
        calibration = fit(found.rows[fitted], found.right[fitted])
        confidence = calibration.probabilities(found.rows)[fitted]
        calibration.threshold = best_threshold(confidence, found.right[fitted], arguments.withhold)
    confidence, right = found.as_served(calibration.probabilities(found.rows))[checked], found.right[checked]
    bins = reliability(confidence, right)
    first = found.first[checked]
    of_first = reliability(confidence[first], right[first])
    shown = confidence[first] >= calibration.threshold
    facts_found = {
        "pictures": len(set(found.picture[checked].tolist())),
        "captions": int(checked.sum()),
        "right": round(float(right.mean()), 4),
        "expected calibration error": round(expected_calibration_error(bins), 4),
        "of the best captions alone": round(expected_calibration_error(of_first), 4),
        "Brier score": round(float(((confidence - right) ** 2).mean()), 4),
        "Brier score of the mean": round(float(right.mean() * (1 - right.mean())), 4),
        "best captions withheld": round(float(1 - shown.mean()), 4),
        "best captions that are right": round(float(right[first].mean()), 4),
        "of those that are shown": round(float(right[first][shown].mean()), 4) if shown.any() else None,
        "beam": arguments.beam,
    }
    if not arguments.check:
        calibration.notes = {"checked on": facts_found, "fitted on captions": int(fitted.sum())}
        calibration.save(arguments.checkpoint)
    print("confidence  right   captions")
    for one in bins:
        print(f"     {one.confidence:.3f}  {one.right:.3f}  {one.count:9,}")
    for name, value in facts_found.items():
        print(f"{name}: {value}")
    print(f"threshold: {calibration.threshold:.4f}")
    if arguments.out is not None:
        folder = writable_folder(arguments.out)
        as_rows = [[one.count, round(one.confidence, 4), round(one.right, 4)] for one in bins]
        atomic_write_json(folder / "reliability.json", {"bins": as_rows, **facts_found})
        atomic_write_text(folder / "reliability.svg", reliability_plot(bins, facts_found["expected calibration error"]))


def _is_checked(image_id: str) -> bool:
    """Which half a picture belongs to: by its id, since the order of a file may follow what the pictures show."""
    return hashlib.sha256(image_id.encode()).digest()[0] % 2 == 1


def read_truth(
    arguments: argparse.Namespace, examples: Sequence[CaptionExample], classes: Sequence[WorldClass]
) -> Truth:
    """What is in the pictures, by the best source that was given."""
    image_ids = [example.image_id for example in examples]
    if arguments.boxes or arguments.labels:
        names = names_of_pictures(arguments.captions)
    if arguments.boxes:
        boxes = read_picture_boxes(arguments.boxes, names)
        present = {image_id: {box.mid for box in of_picture} for image_id, of_picture in boxes.boxes.items()}
        return truth_of_annotations(present, {}, boxes.known, image_ids, classes)
    if arguments.labels:
        labels = read_picture_labels(arguments.labels, names)
        return truth_of_annotations(labels.present, labels.absent, labels.known, image_ids, classes, verified=True)
    named = ClassFinder(classes).mentions([ptb_tokenize_all(example.captions) for example in examples])
    return truth_of_captions(named, ancestors_matrix(classes))


@dataclass(frozen=True)
class Found:
    """All captions of all pictures, N of them, in order.

    Attributes:
        rows: float [N, F], their facts.
        right: bool [N], whether every object that it names is there.
        judged: bool [N], whether it names any object, and the truth can judge all of them.
        picture: int [N], the number of the picture.
        first: bool [N], whether it is the best of its picture.
    """

    rows: np.ndarray
    right: np.ndarray
    judged: np.ndarray
    picture: np.ndarray
    first: np.ndarray

    def as_served(self, probabilities: np.ndarray) -> np.ndarray:
        """float [N], as a service gives them."""
        starts = np.flatnonzero(self.first)
        return np.concatenate([at_most_the_first(part) for part in np.split(probabilities, starts[1:])])


def captioned(
    arguments: argparse.Namespace,
    examples: Sequence[CaptionExample],
    classes: Sequence[WorldClass],
    truth: Truth,
) -> Found:
    """Caption the pictures and judge what the captions name."""
    from vivo.captioner import Captioner

    captioner, finder = Captioner.from_pretrained(arguments.checkpoint), ClassFinder(classes)
    files = [picture_file(arguments.pictures, e.image_id, e.file_name, "--pictures") for e in examples]
    rows: list[tuple[list[float], bool, bool, int, bool]] = []
    with progress_of("captions", len(files)) as update:
        for number, found in enumerate(captioner.caption_files(files, beam=arguments.beam, batch_size=BATCH)):
            if found.problem:
                raise UserError(found.problem)
            mentions = [finder.find_mentions(t) for t in ptb_tokenize_all([c.text for c in found.captions])]
            of_picture = Truth(*(m[[number] * len(mentions)] for m in (truth.present, truth.implied, truth.judged)))
            wrong, judged = count_mentions(mentions, of_picture)
            for place, (caption, said) in enumerate(zip(found.captions, mentions, strict=True)):
                known = len(said) > 0 and int(judged[place]) == len(said)
                rows.append((facts(caption), bool(wrong[place] == 0), known, number, place == 0))
            update(number + 1, number + 1)
    if not any(known for _, _, known, _, _ in rows):
        raise UserError(f"{arguments.classes}: no caption names any of its classes; calibration needs some that do")
    return Found(*(np.array(column) for column in zip(*rows, strict=True)))


def reliability_plot(bins: Sequence[Bin], error: float) -> str:
    """An SVG: the share of right captions over their confidence; the diagonal is a confidence that comes true."""
    size, edge, most = 320, 44, max(one.count for one in bins)

    def at(x: float, y: float) -> tuple[float, float]:
        return edge + x * size, edge / 2 + (1 - y) * size

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size + 1.5 * edge:.0f} {size + 1.5 * edge:.0f}"'
        ' font-family="sans-serif" font-size="11" role="img">',
        f"<title>Reliability: expected calibration error {error:.3f}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, bottom), (left, y) = at(tick, 0), at(0, tick)
        lines.append(f'<path d="M{left:.1f} {y:.1f}h{size}M{x:.1f} {bottom:.1f}v-{size}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{tick:g}</text>')
        lines.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for one in bins:
        x, y = at(one.confidence, one.count / most * 0.25)
        bottom = at(0, 0)[1]
        lines.append(f'<rect x="{x - 9:.1f}" y="{y:.1f}" width="18" height="{bottom - y:.1f}" fill="#c9d6e6"/>')
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    lines.append(f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#888" stroke-dasharray="4 4"/>')
    points = [at(one.confidence, one.right) for one in bins]
    lines.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="#1a5"/>')
    lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1a5"/>' for x, y in points]
    middle, bottom = edge + size / 2, size + 1.5 * edge - 8
    lines.append(f'<text x="{middle}" y="{bottom}" text-anchor="middle">confidence (bars: captions)</text>')
    lines.append(f'<text transform="translate(12 {edge / 2 + size / 2}) rotate(-90)" text-anchor="middle">right</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    sys.exit(main())
