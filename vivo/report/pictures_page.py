"""What the pages have in common that show every picture: the page of an evaluation and that of a comparison.

4,500 pictures are one page of some megabytes: their captions, regions and references stand in it as data, the script
draws the cards of one page of 24 at a time, and the pixels are files beside it that a browser reads when they come into
view. So it opens from a disk, without a server, and the page without its folder still has everything but the pixels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vivo.report.gallery import DOMAINS, Card, strip_card
from vivo.report.highlight import ClassFinder
from vivo.report.page import Page, json_in_page, plain_text
from vivo.report.picture_data import picture_data
from vivo.report.records import EvaluatedPicture

STRIP = 6
"""Pictures of each end of the page's order that stand above the others, also where no script runs."""
PART_NAMES = {"in": "in-domain", "near": "near-domain", "out": "out-domain", "overall": "overall"}
Choices = Sequence[tuple[str, str]]
"""(value, what it is called) of a filter; "" is none."""


@dataclass
class Tile:
    """One headline figure."""

    label: str
    value: str
    between: str = ""  # its interval, or its share


def render_pictures_page(
    template: str,
    title: str,
    summary: str,
    rows: Mapping[str, str],
    pictures: Sequence[EvaluatedPicture],
    images: Mapping[str, str],
    finder: ClassFinder,
    order: Sequence[int],
    told: Callable[[EvaluatedPicture], str],
    outcomes: Choices,
    orders: Choices,
    constraints: Choices,
    provenance: Mapping[str, str],
    **more: Any,
) -> str:
    """The page as text.

    Args:
        template: one that extends pictures_page.html.j2.
        rows: name -> role ("ours", "baseline", "other") of the captions that each picture has.
        images: image id -> address of its pixels; see `vivo.report.pictures`.
        finder: of the classes whose words are marked in captions.
        order: places of the pictures, those that stand first first.
        told: a figure of a picture, in a few words.
        outcomes, orders, constraints: of the filters; pictures_page.js knows what they mean.
        provenance: what made the captions and the page: the footer.
        more: what the template alone wants.
    """
    most = min(STRIP, len(order) // 2)

    def cards(places: Sequence[int]) -> list[Card]:
        return [
            strip_card(n, pictures[n], rows, finder, images.get(pictures[n].image_id, ""), told(pictures[n]))
            for n in places
        ]

    page = Page(template, ["base.css", "pictures_page.css"], ["address.js", "picture_view.js", "pictures_page.js"])
    data = {
        "rows": [{"name": name if len(rows) > 1 else "", "role": role} for name, role in rows.items()],
        "order": list(order),
        "pictures": [picture_data(p, list(rows), finder, images.get(p.image_id, "")) for p in pictures],
    }
    return page.render(
        title=plain_text(title),
        summary=plain_text(summary),
        first=cards(order[:most]),
        last=cards(order[::-1][:most]),
        domains=count_domains(pictures),
        objects=object_choices(pictures),
        outcomes=outcomes,
        orders=orders,
        constraints=constraints,
        with_boxes=any(picture.boxes for picture in pictures),
        provenance={plain_text(key): plain_text(value) for key, value in provenance.items()},
        data=json_in_page(data),
        **more,
    )


def count_domains(pictures: Sequence[EvaluatedPicture]) -> dict[str, int]:
    """Domain -> pictures, in the usual order; {} where pictures have none."""
    counts = Counter(DOMAINS.get(picture.domain, "other") for picture in pictures)
    return {key: counts[key] for key in ("in", "near", "out", "other") if counts[key]}


def object_choices(pictures: Sequence[EvaluatedPicture]) -> list[tuple[str, str]]:
    """Novel objects with their numbers of pictures, for the filter; [] where nothing is known of them."""
    counts = Counter(name for picture in pictures for name in picture.novel_objects)
    return [("", "all"), *((name, f"{name} ({counts[name]:,})") for name in sorted(counts))] if counts else []
