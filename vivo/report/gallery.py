"""Which pictures the page shows, in which order, and what one card says.

The order is an argument (where VIVO wins, where it loses, the rest), so nothing is picked by hand or by
score: each group is thinned evenly over the order in which the pictures come, and the page says how many
of how many it shows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vivo.report.highlight import ClassFinder, MarkedCaption, mark_caption
from vivo.report.records import GalleryPicture, RowResult

MOST_BOXES = 12  # drawn on one picture; regions come sorted, more would hide the picture
BOX_COLORS = 6  # box-0 .. box-5 of the page's CSS
DOMAINS = {"in-domain": "in", "near-domain": "near", "out-domain": "out"}
# Shares of the gallery for the first two groups; what a group leaves unused goes to those after it.
OURS_SHARE, BASELINE_SHARE = 0.5, 0.2


@dataclass
class Box:
    """One region, in percent of the picture; `label` is "" for a region without a name."""

    x: float
    y: float
    width: float
    height: float
    label: str
    score: float
    style: str  # CSS class: a colour for every label of the picture, "box-unnamed" without one
    show_label: bool
    label_inside: bool  # where there is no room above the box
    label_from_right: bool  # where there is no room to the right


@dataclass
class CaptionLine:
    """What one row says about one picture."""

    row: str
    role: str  # "ours" | "baseline" | "other"
    marked: MarkedCaption


@dataclass
class Card:
    """A picture as the template shows it."""

    number: int
    picture: GalleryPicture
    domain: str
    outcome: str
    gained: list[str]
    boxes: list[Box]
    boxes_left_out: int
    tags: list[str]
    unnamed: int
    first: list[CaptionLine]
    more: list[CaptionLine]
    search: str
    image: str = ""  # data URI, filled in when the size of the page is known; an address on the pages of all pictures
    told: str = ""  # a figure of the picture, on the pages of all pictures


@dataclass
class Group:
    """One section of the gallery: the cards shown and how many pictures there are in all."""

    key: str
    cards: list[Card]
    total: int


def outcome(picture: GalleryPicture, ours: str, baseline: str) -> str:
    """ "ours" | "baseline" (only that one names something), "both", "neither", or "plain" (no novel object)."""
    if not picture.novel_objects:
        return "plain"
    by_ours, by_baseline = set(picture.named.get(ours, ())), set(picture.named.get(baseline, ()))
    if not by_ours and not by_baseline:
        return "neither"
    if by_ours > by_baseline:
        return "ours"
    return "baseline" if by_baseline > by_ours else "both"


def spread(items: Sequence, most: int) -> list:
    """At most `most` items at even distances, in their order; the same choice on every run."""
    if len(items) <= most:
        return list(items)
    return [items[int((index + 0.5) * len(items) / most)] for index in range(most)]


def choose(
    pictures: Sequence[GalleryPicture], most: int, ours: str, baseline: str
) -> list[tuple[str, list[GalleryPicture], int]]:
    """The groups (key, pictures to show, pictures there are) in the page's order, `most` pictures together."""
    by_outcome: dict[str, list[GalleryPicture]] = {"ours": [], "baseline": [], "rest": []}
    for picture in pictures:
        key = outcome(picture, ours, baseline)
        by_outcome[key if key in by_outcome else "rest"].append(picture)
    groups = list(by_outcome.values())
    takes = [0, 0, 0]
    for index, share in enumerate((OURS_SHARE, BASELINE_SHARE, 1.0)):
        takes[index] = min(len(groups[index]), math.ceil(most * share), most - sum(takes))
    for index, group in enumerate(groups):  # what a group has left unused
        takes[index] += min(len(group) - takes[index], most - sum(takes))
    wins = spread(by_outcome["ours"], takes[0])
    # Detector-unknown objects first: they are what tags alone cannot explain.
    gained = {id(p): set(p.named.get(ours, ())) - set(p.named.get(baseline, ())) for p in wins}
    wins.sort(key=lambda p: not gained[id(p)] & set(p.unknown_objects))
    return [
        ("ours", wins, len(by_outcome["ours"])),
        ("baseline", spread(by_outcome["baseline"], takes[1]), len(by_outcome["baseline"])),
        ("rest", _even_by_domain(by_outcome["rest"], takes[2]), len(by_outcome["rest"])),
    ]


def _even_by_domain(pictures: Sequence[GalleryPicture], most: int) -> list[GalleryPicture]:
    """Equal numbers of every domain as far as they last, one of each in turn."""
    domains: dict[str, list[GalleryPicture]] = {}
    for picture in pictures:
        domains.setdefault(picture.domain, []).append(picture)
    takes = dict.fromkeys(domains, 0)
    left = min(most, len(pictures))
    while left:
        for domain, members in domains.items():
            if left and takes[domain] < len(members):
                takes[domain] += 1
                left -= 1
    queues = [spread(members, takes[domain]) for domain, members in sorted(domains.items())]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def boxes_of(picture: GalleryPicture, most: int = MOST_BOXES) -> list[Box]:
    """The first regions in percent of the picture; a label that would cover another one is not written out, nor is
    one behind the first `MOST_BOXES`."""
    colors = {label: index for index, label in enumerate(dict.fromkeys(filter(None, picture.labels)))}
    taken: list[tuple[float, float, float, float]] = []
    boxes = []
    regions = list(zip(picture.boxes, picture.labels, picture.scores, strict=True))
    for number, ((x1, y1, x2, y2), label, score) in enumerate(regions[:most]):
        x, y = 100 * float(x1) / picture.width, 100 * float(y1) / picture.height
        width = 100 * float(x2 - x1) / picture.width
        height = 100 * float(y2 - y1) / picture.height
        # Sizes of letters in percent of a card about 380 pixels wide: only to see whether labels collide.
        text_width = 1.9 * len(label or "unnamed") + 3
        inside, from_right = y < 6, x + text_width > 99
        text_x = x + width - text_width if from_right else x
        text_y = y if inside else y - 6
        area = (text_x, text_y, text_x + text_width, text_y + 6)
        free = all(area[0] >= o[2] or o[0] >= area[2] or area[1] >= o[3] or o[1] >= area[3] for o in taken)
        free = free and number < MOST_BOXES
        if free:
            taken.append(area)
        boxes.append(
            Box(
                x,
                y,
                width,
                height,
                label,
                float(score),
                style=f"box-{colors[label] % BOX_COLORS}" if label else "box-unnamed",
                show_label=free and bool(colors),  # a grid names no cell: nothing to tell apart
                label_inside=inside,
                label_from_right=from_right,
            )
        )
    return boxes


def make_card(
    number: int,
    picture: GalleryPicture,
    rows: Sequence[RowResult],
    ours: str,
    baseline: str,
    finder: ClassFinder,
) -> Card:
    """Everything that the template says about one picture, but the picture itself."""
    in_references = finder.classes(picture.references) | set(picture.novel_objects)

    def line(row: str, role: str) -> CaptionLine:
        return caption_line(picture, row, role, in_references, finder)

    roles = {ours: "ours", baseline: "baseline"}
    order = [row.name for row in rows if row.name in picture.captions]
    order += [name for name in picture.captions if name not in order]
    told = picture.tags is not None
    tags = list(picture.tags) if told else list(dict.fromkeys(filter(None, picture.labels)))
    gained = [n for n in picture.named.get(ours, []) if n not in picture.named.get(baseline, [])]
    return Card(
        number=number,
        picture=picture,
        domain=DOMAINS.get(picture.domain, "other"),
        outcome=outcome(picture, ours, baseline),
        gained=gained,
        boxes=boxes_of(picture),
        boxes_left_out=max(0, len(picture.boxes) - MOST_BOXES),
        tags=tags,
        unnamed=0 if told else sum(not label for label in picture.labels),
        first=[line(name, roles[name]) for name in (ours, baseline) if name in picture.captions],
        more=[line(name, "other") for name in order if name not in roles],
        search="|".join(sorted({*in_references, *tags})).lower(),
    )


def strip_card(
    number: int, picture: GalleryPicture, rows: Mapping[str, str], finder: ClassFinder, image: str, told: str
) -> Card:
    """A card of the pages that show all pictures.

    Args:
        number: the picture's place among the page's data.
        rows: what is shown of each row's name -> its role.
    """
    in_references = finder.classes(picture.references) | set(picture.novel_objects)
    lines = [caption_line(picture, row, role, in_references, finder) for row, role in rows.items()]
    if len(lines) == 1:
        lines[0].row = ""  # nobody to tell it from
    card = make_card(number, picture, [], "", "", finder)
    return replace(card, first=lines, more=[], image=image, told=told)


def caption_line(
    picture: GalleryPicture, row: str, role: str, in_references: set[str], finder: ClassFinder
) -> CaptionLine:
    """What one row says, with its marks."""
    named = picture.named.get(row, [])
    return CaptionLine(
        row, role, mark_caption(picture.captions[row], picture.novel_objects, named, in_references, finder)
    )


def make_groups(
    pictures: Sequence[GalleryPicture],
    rows: Sequence[RowResult],
    most: int,
    ours: str,
    baseline: str,
    word_forms: Mapping[str, Sequence[str]] | None,
) -> list[Group]:
    """The whole gallery without pixels."""
    names = {name for picture in pictures for name in (*picture.novel_objects, *picture.labels) if name}
    finder = ClassFinder(names, word_forms)
    groups = []
    number = 0
    for key, shown, total in choose(pictures, most, ours, baseline):
        cards = []
        for picture in shown:
            number += 1
            cards.append(make_card(number, picture, rows, ours, baseline, finder))
        groups.append(Group(key, cards, total))
    return groups
