"""What the wire formats share: how a route is described in OpenAPI, how tags, boxes and confidences are written."""

from typing import Any, Literal

from pydantic import BaseModel

from vivo.serve.describer import Box, Description, Region, Scored, is_whole
from vivo.serve.pictures import Picture
from vivo.serve.problems import Problem, invalid
from vivo.serve.shapes import FlatError, ImageUrl, NestedError

Version = Literal["v2.0", "v2.1", "v3.0", "v3.1", "v3.2"]
"""The interfaces of the older client; those before v3.2 want flat errors."""

MODEL_VERSION = r"^(latest|\d{4}-\d{2}-\d{2})(-preview)?$"
OVERLAP = 0.7  # of two boxes of one tag, above which the worse is the same object

PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": ImageUrl.model_json_schema()},
        },
    }
}
"""For routes that read a picture; `openapi_extra` of FastAPI."""


def responses(model: type[BaseModel], flat: bool = False) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that reads a picture."""
    error = {"model": NestedError | FlatError if flat else NestedError}
    said = {
        400: "The picture, its address or an argument is wrong",
        401: "No right key",
        404: "No such resource",
        408: "The request was not sent in time",
        415: "Not a media type that pictures come in",
        421: "A service without keys, asked by another name than loopback",
        429: "Too many requests; Retry-After says when",
        500: "The model failed with this picture",
        503: "Not in time, or stopping",
    }
    return {200: {"model": model}, **{status: {**error, "description": text} for status, text in said.items()}}


def check_language(language: str) -> None:
    """Raises: Problem, unless it is English."""
    if language.lower() != "en":
        raise invalid("NotSupportedLanguage", "The language is not supported; this model writes English (en).")


def listed(values: str | None) -> list[str]:
    """Comma-separated values without blanks."""
    return [value.strip() for value in (values or "").split(",") if value.strip()]


def checked_features(values: str | None, known: dict[str, str], foreign: tuple[str, ...], parameter: str) -> list[str]:
    """The features that are asked for, by our names.

    Args:
        known: lower-case name -> ours. foreign: lower-case names that the interface has and this service has not.

    Raises:
        Problem: one of the latter; an unknown one.
    """
    found = []
    for value in listed(values):
        if value.lower() in known:
            found.append(known[value.lower()])
        elif value.lower() in foreign:
            raise invalid("NotSupportedVisualFeature", f"The feature '{value}' is not supported by this service.")
        else:
            raise Problem(400, "InvalidArgument", f"The value of '{parameter}' has an unknown feature.", "BadArgument")
    return found


def rounded(confidence: float) -> float:
    return round(confidence, 4)


def tag_bodies(tags: list[Scored]) -> list[dict[str, Any]]:
    return [{"name": tag.text, "confidence": rounded(tag.confidence)} for tag in tags]


def rectangle(box: Box, picture: Picture) -> dict[str, int]:
    """x, y, w, h in pixels of the whole picture."""
    x1, y1 = round(box[0] * picture.width), round(box[1] * picture.height)
    x2, y2 = round(box[2] * picture.width), round(box[3] * picture.height)
    return {"x": x1, "y": y1, "w": max(0, x2 - x1), "h": max(0, y2 - y1)}


def objects(description: Description) -> list[Region]:
    """Regions with a tag, the best first, each object once."""
    found: list[Region] = []
    for region in sorted(description.regions, key=lambda one: -one.score):
        same = (other for other in found if other.tag == region.tag)
        if region.tag and not is_whole(region.box) and all(_overlap(region.box, o.box) < OVERLAP for o in same):
            found.append(region)
    return found


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / max(areas - shared, 1e-9)
