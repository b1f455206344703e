"""What a page's script is told of each picture (pictures_page.js), as plain values for JSON.

Everything about a picture is in the page, but for its pixels: they are files beside it, read when they are looked at.

    {"id", "domain": "in" | "near" | "out" | "other", "image": address or "", "size": [width, height],
     "regions": [[x, y, width, height in percent, label, score, flags]], "tags", "novel", "unknown", "references",
     "captions": [{"text", "marks": [[start, end, "hit" | "wrong"]], "named", "missed", "elsewhere",
                   "scores": {metric: x}, "trace",
                   "words": [[start, end, log-probability, [fall without each region], [[tag, fall]],
                              fall without all regions, fall without all tags]]}]}

One caption for each of the page's rows, in their order. Flags of a region: `SHOW_LABEL`, `LABEL_INSIDE`,
`LABEL_RIGHT`, `FIRST` (drawn before anybody asks for more), added up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vivo.report.gallery import DOMAINS, MOST_BOXES, boxes_of
from vivo.report.highlight import ClassFinder, mark_caption
from vivo.report.page import finite, plain_text
from vivo.report.records import EvaluatedPicture

SHOW_LABEL, LABEL_INSIDE, LABEL_RIGHT, FIRST = 1, 2, 4, 8


def picture_data(picture: EvaluatedPicture, rows: Sequence[str], finder: ClassFinder, image: str) -> dict[str, Any]:
    """One entry; `image` is the address of its pixels, "" without."""
    in_references = finder.classes(picture.references) | set(picture.novel_objects)
    return {
        "id": plain_text(picture.image_id),
        "domain": DOMAINS.get(picture.domain, "other"),
        "image": image,
        "size": [picture.width, picture.height],
        "regions": region_data(picture),
        "tags": list(map(plain_text, picture.tags or [])),
        "novel": list(picture.novel_objects),
        "unknown": list(picture.unknown_objects),
        "references": list(map(plain_text, picture.references)),
        "captions": [caption_data(picture, row, in_references, finder) for row in rows],
    }


def region_data(picture: EvaluatedPicture) -> list[list[Any]]:
    """Its regions, with the labels that have room."""
    found = []
    for number, box in enumerate(boxes_of(picture, len(picture.boxes))):
        shown = box.show_label and bool(box.label)  # where all are listed, names say enough
        flags = SHOW_LABEL * shown | LABEL_INSIDE * box.label_inside | LABEL_RIGHT * box.label_from_right
        flags |= FIRST * (number < MOST_BOXES)
        edges = [round(x, 1) for x in (box.x, box.y, box.width, box.height)]
        found.append([*edges, plain_text(box.label), round(box.score, 2), flags])
    return found


def caption_data(picture: EvaluatedPicture, row: str, in_references: set[str], finder: ClassFinder) -> dict[str, Any]:
    """What one row says about the picture."""
    text, named = plain_text(picture.captions[row]), picture.named.get(row, [])
    marked = mark_caption(text, picture.novel_objects, named, in_references, finder)
    marks, place = [], 0
    for segment in marked.segments:
        if segment.kind:
            marks.append([place, place + len(segment.text), segment.kind])
        place += len(segment.text)
    entry = {
        "text": text,
        "marks": utf16(text, marks),
        "named": list(named),
        "missed": marked.missed,
        "elsewhere": marked.named_elsewhere,
        "scores": {name: round(value, 1) for name, value in finite(picture.metrics.get(row, {})).items()},
    }
    if picture.evidence.get(row):
        words = [
            [
                word.start,
                word.end,
                _number(word.log_probability),
                list(map(_number, word.regions)),
                [[plain_text(tag), _number(fall)] for tag, fall in word.tags],
                _number(word.without_regions),
                _number(word.without_tags),
            ]
            for word in picture.evidence[row]
        ]
        entry["words"] = utf16(text, words)
    if picture.traces.get(row):
        entry["trace"] = trace_data(picture.traces[row], picture)
    return entry


def trace_data(trace: Mapping[str, Any], picture: EvaluatedPicture) -> dict[str, Any]:
    """What the page shows of a constraint trace; "region" is the place of a constraint's box among the picture's
    regions, -1 where it is none of them (`decode.constraint_regions`)."""
    boxes = [[round(float(x), 1) for x in box] for box in picture.boxes]
    return {
        "needed": trace["needed"],
        "satisfied": trace["satisfied"],
        "fell_back": trace["fell_back"],
        "constraints": [
            {key: constraint[key] for key in ("name", "detected", "score", "satisfied", "written")}
            | {"region": boxes.index(constraint["box"]) if constraint["box"] in boxes else -1}
            for constraint in trace["constraints"]
        ],
        "left_out": [{key: left[key] for key in ("name", "score", "reason")} for left in trace["left_out"]],
    }


def utf16(text: str, spans: list[list[Any]]) -> list[list[Any]]:
    """Spans [start, end, ...] of Python's characters as JavaScript counts them: an emoji is two there."""
    if text.isascii():
        return spans
    places = [0]
    for character in text:
        places.append(places[-1] + (2 if ord(character) > 0xFFFF else 1))
    return [[places[start], places[end], *rest] for start, end, *rest in spans]


def _number(value: float) -> float:
    return round(value, 2) + 0.0  # no "-0.0"
