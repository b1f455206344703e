"""The interface of azure-cognitiveservices-vision-computervision: /vision/v2.0 to v3.2.

POST describe, analyze, tag, detect; GET models
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from vivo.serve.describer import Description, Scored, Wanted
from vivo.serve.pictures import Picture
from vivo.serve.problems import invalid
from vivo.serve.service import Service, v3_file
from vivo.serve.shapes import Analyzed, Described, Detected, Models, Tagged
from vivo.serve.wire import (
    MODEL_VERSION,
    PICTURE_BODY,
    Version,
    check_language,
    checked_features,
    listed,
    objects,
    rectangle,
    responses,
    rounded,
    tag_bodies,
)

FEATURES = {"description": "description", "tags": "tags", "objects": "objects"}
FOREIGN = ("categories", "faces", "imagetype", "color", "adult", "brands")
EXCLUDED = ("celebrities", "landmarks")

Language = Annotated[str, Query(max_length=20)]
Excluded = Annotated[str | None, Query(alias="descriptionExclude", max_length=200)]
ModelVersion = Annotated[str, Query(alias="model-version", pattern=MODEL_VERSION)]


def v3_routes(service: Service) -> APIRouter:
    """The routes, answered by `service`."""
    router = APIRouter(prefix="/vision/{version}", tags=["computer vision v2.0 to v3.2"])
    file = v3_file(service.settings)
    post: dict[str, Any] = {"openapi_extra": PICTURE_BODY, "response_model": None}

    async def read(request: Request, wanted: Wanted) -> tuple[Description, Picture]:
        return await service.describe(request, file, wanted)

    def answer(request: Request, version: str, picture: Picture, found: dict[str, Any]) -> dict[str, Any]:
        metadata = {"width": picture.width, "height": picture.height, "format": picture.format}
        found |= {"requestId": request.state.request_id, "metadata": metadata}
        return found | ({"modelVersion": service.describer.version} if version == "v3.2" else {})

    @router.post("/describe", responses=responses(Described, flat=True), **post)
    async def describe(
        request: Request,
        version: Version,
        candidates: Annotated[int, Query(alias="maxCandidates", ge=1, le=1000)] = 1,
        language: Language = "en",
        excluded: Excluded = None,
        model_version: ModelVersion = "latest",
    ) -> dict[str, Any]:
        """Captions, best first, and tags; no captions where the model is not sure enough."""
        check_language(language)
        _check_excluded(excluded)
        description, picture = await read(request, Wanted())
        body = description_body(description, service.shown(description)[:candidates])
        return answer(request, version, picture, {"description": body})

    @router.post("/analyze", responses=responses(Analyzed, flat=True), **post)
    async def analyze(
        request: Request,
        version: Version,
        features: Annotated[str, Query(alias="visualFeatures", max_length=200)] = "Categories",
        details: Annotated[str | None, Query(max_length=200)] = None,
        language: Language = "en",
        excluded: Excluded = None,
        model_version: ModelVersion = "latest",
    ) -> dict[str, Any]:
        """Description, Tags and Objects, as asked."""
        check_language(language)
        _check_excluded(excluded)
        wanted = checked_features(features or "Categories", FEATURES, FOREIGN, "visualFeatures")
        if listed(details):
            raise invalid("InvalidDetails", "This service knows no celebrities and no landmarks.")
        description, picture = await read(request, Wanted(captions="description" in wanted))
        found: dict[str, Any] = {}
        if "description" in wanted:
            found["description"] = description_body(description, service.shown(description)[:1])
        if "tags" in wanted:
            found["tags"] = tag_bodies(description.tags)
        if "objects" in wanted:
            found["objects"] = object_bodies(description, picture)
        return answer(request, version, picture, found)

    @router.post("/tag", responses=responses(Tagged, flat=True), **post)
    async def tag(
        request: Request, version: Version, language: Language = "en", model_version: ModelVersion = "latest"
    ) -> dict[str, Any]:
        """Tags, the surest first."""
        check_language(language)
        description, picture = await read(request, Wanted(captions=False))
        return answer(request, version, picture, {"tags": tag_bodies(description.tags)})

    @router.post("/detect", responses=responses(Detected, flat=True), **post)
    async def detect(request: Request, version: Version, model_version: ModelVersion = "latest") -> dict[str, Any]:
        """Objects with their boxes."""
        description, picture = await read(request, Wanted(captions=False))
        return answer(request, version, picture, {"objects": object_bodies(description, picture)})

    @router.get("/models", responses=responses(Models, flat=True), response_model=None)
    async def models(version: Version) -> dict[str, Any]:
        """The domain-specific models: there are none."""
        return {"models": []}

    return router


def description_body(description: Description, captions: list[Scored]) -> dict[str, Any]:
    """Tags and captions as "description" has them."""
    return {
        "tags": [tag.text for tag in description.tags],
        "captions": [{"text": one.text, "confidence": rounded(one.confidence)} for one in captions],
    }


def object_bodies(description: Description, picture: Picture) -> list[dict[str, Any]]:
    return [
        {"rectangle": rectangle(one.box, picture), "object": one.tag, "confidence": rounded(one.score)}
        for one in objects(description)
    ]


def _check_excluded(values: str | None) -> None:
    """Celebrities and landmarks are never in our captions, so leaving them out is easy; other values are wrong."""
    if any(value.lower() not in EXCLUDED for value in listed(values)):
        raise invalid("BadArgument", "descriptionExclude takes Celebrities and Landmarks.")
