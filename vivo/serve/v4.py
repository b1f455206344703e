"""The interface of azure-ai-vision-imageanalysis: Image Analysis 4.0, `imageanalysis:analyze`."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from vivo.serve.describer import WHOLE, Description, Scored, Wanted
from vivo.serve.pictures import Picture
from vivo.serve.problems import Problem
from vivo.serve.service import Service, v4_file
from vivo.serve.shapes import ImageAnalysis
from vivo.serve.wire import (
    MODEL_VERSION,
    PICTURE_BODY,
    check_language,
    checked_features,
    objects,
    rectangle,
    responses,
    rounded,
    tag_bodies,
)

FEATURES = {"caption": "caption", "densecaptions": "denseCaptions", "tags": "tags", "objects": "objects"}
FOREIGN = ("people", "read", "smartcrops")
NEUTRAL = {
    "man": "person", "woman": "person", "men": "people", "women": "people", "boy": "child", "girl": "child",
    "boys": "children", "girls": "children", "gentleman": "person", "lady": "person", "gentlemen": "people",
    "ladies": "people", "guy": "person", "guys": "people", "his": "their", "her": "their",
}  # fmt: skip


def v4_routes(service: Service) -> APIRouter:
    """The one route, answered by `service`."""
    router = APIRouter(prefix="/computervision", tags=["Image Analysis 4.0"])
    file = v4_file(service.settings)

    @router.post(
        "/imageanalysis:analyze",
        responses=responses(ImageAnalysis),
        openapi_extra=PICTURE_BODY,
        response_model=None,
    )
    async def analyze(
        request: Request,
        api_version: Annotated[str, Query(alias="api-version", pattern=r"^\d{4}-\d{2}-\d{2}(-preview)?$")],
        features: Annotated[str, Query(max_length=200)],
        language: Annotated[str, Query(max_length=20)] = "en",
        neutral: Annotated[bool, Query(alias="gender-neutral-caption")] = False,
        model_version: Annotated[str, Query(alias="model-version", pattern=MODEL_VERSION)] = "latest",
    ) -> dict[str, Any]:
        """Caption, dense captions, tags and objects, as asked."""
        check_language(language)
        wanted = checked_features(features, FEATURES, FOREIGN, "features")
        if not wanted:
            raise Problem(400, "InvalidArgument", "'features' must name at least one feature.", "BadArgument")
        dense = "denseCaptions" in wanted
        asked = Wanted(captions=dense or "caption" in wanted, dense=dense)
        description, picture = await service.describe(request, file, asked)
        best = service.shown(description)[:1]
        found: dict[str, Any] = {
            "modelVersion": service.describer.version,
            "metadata": {"width": picture.width, "height": picture.height},
        }
        if "caption" in wanted and best:
            found["captionResult"] = _caption(best[0], neutral)
        if dense:
            found["denseCaptionsResult"] = {"values": _dense(description, picture, best, service.threshold, neutral)}
        if "tags" in wanted:
            found["tagsResult"] = {"values": tag_bodies(description.tags)}
        if "objects" in wanted:
            found["objectsResult"] = {"values": _objects(description, picture)}
        return found

    return router


def neutral_words(text: str) -> str:
    """The caption without words for men and women, as "gender-neutral-caption" asks."""
    return re.sub(r"[a-z]+", lambda word: NEUTRAL.get(word.group(), word.group()), text)


def _caption(one: Scored, neutral: bool) -> dict[str, Any]:
    return {"text": neutral_words(one.text) if neutral else one.text, "confidence": rounded(one.confidence)}


def _dense(
    description: Description, picture: Picture, best: list[Scored], threshold: float, neutral: bool
) -> list[dict[str, Any]]:
    """The whole picture's caption, then those of regions, by falling confidence."""
    parts = [(WHOLE, caption) for caption in best]
    sure = [r for r in description.regions if r.caption is not None and r.caption.confidence >= threshold]
    parts += [(r.box, r.caption) for r in sorted(sure, key=lambda r: -r.caption.confidence)]
    return [{**_caption(one, neutral), "boundingBox": rectangle(box, picture)} for box, one in parts]


def _objects(description: Description, picture: Picture) -> list[dict[str, Any]]:
    return [
        {
            "boundingBox": rectangle(one.box, picture),
            "tags": [{"name": one.tag, "confidence": rounded(one.score)}],
        }
        for one in objects(description)
    ]
