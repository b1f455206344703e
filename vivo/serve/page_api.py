"""The page's own interface: what it shows in one answer (docs/service.md), and the page's files."""

from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vivo.serve.describer import Wanted
from vivo.serve.pictures import FORMATS
from vivo.serve.problems import Problem
from vivo.serve.service import Service, v4_file
from vivo.serve.shapes import NestedError, PageDescription, ServiceFacts
from vivo.serve.wire import PICTURE_BODY, responses, rounded, tag_bodies

KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json",
}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from any other host, no inline script or style; pictures that the page holds itself are blob:."""
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def api_routes(service: Service) -> APIRouter:
    """POST /api/describe."""
    router = APIRouter(prefix="/api", tags=["page"])
    file = v4_file(service.settings)

    @router.post("/describe", responses=responses(PageDescription), openapi_extra=PICTURE_BODY, response_model=None)
    async def describe(
        request: Request,
        words: Annotated[bool, Query(description="also what each word hangs on, which costs time")] = True,
    ) -> dict[str, Any]:
        """Everything that the page shows of one picture."""
        description, picture = await service.describe(request, file, Wanted(words=words))
        captions = [{"text": one.text, "confidence": rounded(one.confidence)} for one in service.shown(description)]
        return {
            "requestId": request.state.request_id,
            "model": _model(service),
            "picture": {"width": picture.width, "height": picture.height, "format": picture.format},
            "threshold": rounded(service.threshold),
            "caption": captions[0] if captions else None,
            "alternatives": captions[1:],
            "tags": tag_bodies(description.tags),
            "regions": [
                {"box": [rounded(side) for side in one.box], "tag": one.tag, "score": rounded(one.score)}
                for one in description.regions
            ],
            "words": [
                {
                    "text": captions[0]["text"][word.start : word.end],
                    "start": word.start,
                    "end": word.end,
                    "probability": rounded(word.probability),
                    "regions": [rounded(share) for share in word.regions],
                }
                for word in (description.words if captions else [])
            ],
        }

    return router


def facts_route(service: Service) -> APIRouter:
    """GET /api/service, without a key: what the page must know before it asks for one."""
    router = APIRouter(prefix="/api", tags=["page"])

    @router.get("/service", responses={200: {"model": ServiceFacts}, 421: {"model": NestedError}}, response_model=None)
    async def facts(request: Request) -> dict[str, Any]:
        """What this service is and takes."""
        service.check_host(request)
        return {
            "model": _model(service),
            "keyNeeded": bool(service.keys),
            "urls": service.settings.urls,
            "threshold": rounded(service.threshold),
            "maxBytes": service.settings.v4_bytes,
            "formats": sorted(FORMATS.values()),
        }

    return router


def page_routes() -> APIRouter:
    """The files of `page/`, read once; `/` is index.html."""
    router = APIRouter(include_in_schema=False)
    entries = files("vivo.serve").joinpath("page").iterdir()
    served = {
        entry.name: (entry.read_bytes(), KINDS[kind])
        for entry in entries
        if (kind := PurePath(entry.name).suffix) in KINDS
    }

    @router.get("/")
    async def index() -> Response:
        return _file("index.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        return _file(name)

    def _file(name: str) -> Response:
        if name not in served:
            raise Problem(404, "404", "Resource not found")
        content, kind = served[name]
        return Response(content, media_type=kind, headers=PAGE_HEADERS)

    return router


def _model(service: Service) -> dict[str, Any]:
    name = service.settings.checkpoint.resolve().name
    return {"name": name, "version": service.describer.version, "calibrated": service.describer.calibration is not None}
