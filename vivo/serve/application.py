"""The application: routes, errors in the shape that the asked interface has, and the frame around every request."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivo import __version__
from vivo.serve.describer import Describer
from vivo.serve.page_api import api_routes, facts_route, page_routes
from vivo.serve.problems import Problem, not_allowed
from vivo.serve.service import Service
from vivo.serve.settings import Settings
from vivo.serve.shapes import Health
from vivo.serve.v3 import v3_routes
from vivo.serve.v4 import v4_routes

KEY_HEADER = "Ocp-Apim-Subscription-Key"
logger = logging.getLogger("vivo.serve")


def application(settings: Settings, describer: Describer | None = None) -> ASGIApp:
    """The ASGI application of one process.

    Args:
        describer: a loaded one; None: it is loaded here.
    """
    service = Service(settings, describer or Describer(settings.checkpoint, settings.device, settings.beam))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="vivo", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Captions, tags and regions of pictures: docs/service.md",
    )  # fmt: skip
    scheme = APIKeyHeader(name=KEY_HEADER, auto_error=False)

    async def caller(request: Request, key: str | None = Security(scheme)) -> None:
        service.check_caller(request, key)

    guarded = [Depends(caller)]
    app.include_router(v3_routes(service), dependencies=guarded)
    app.include_router(v4_routes(service), dependencies=guarded)
    app.include_router(api_routes(service), dependencies=guarded)
    app.include_router(facts_route(service))
    app.include_router(page_routes())
    _add_probes(app, service)
    _add_errors(app)
    app.state.service = service
    return Frame(app, service)


def _add_probes(app: FastAPI, service: Service) -> None:
    """/healthz, /readyz and /metrics, for those who run the service."""

    @app.get("/healthz", responses={200: {"model": Health}}, response_model=None, tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    ready = {200: {"model": Health}, 503: {"model": Health}}

    @app.get("/readyz", responses=ready, response_model=None, tags=["operation"])
    async def readyz() -> Response:
        """The model works and the queue has room."""
        if not service.batcher.healthy:
            return JSONResponse({"status": "the model does not work"}, 503)
        if service.batcher.waiting >= service.settings.queue:
            return JSONResponse({"status": "the queue is full"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        """For Prometheus; with a key (also as `Authorization: Bearer KEY`), where there are keys."""
        bearer = request.headers.get("authorization", "")
        given = request.headers.get(KEY_HEADER) or bearer.removeprefix("Bearer ")
        service.check_host(request)
        if service.keys and not service.keys.name_of(given):
            raise not_allowed()
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    """Every error in the interface's own shape."""

    def answer(request: Request, problem: Problem) -> Response:
        request.state.fields["code"] = problem.inner or problem.code
        if problem.__cause__ is not None:
            request.state.fields["cause"] = type(problem.__cause__).__name__
        flat = re.match(r"/vision/v(2\.\d|3\.[01])/", request.url.path)
        body = problem.flat(request.state.request_id) if flat else problem.nested()
        return JSONResponse(body, problem.status, problem.headers())

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid_argument(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where, name = first["loc"][0], str(first["loc"][-1])
        if where == "path":
            return answer(request, Problem(404, "404", "Resource not found"))
        message = f"The value of '{name}' is missing or wrong."
        return answer(request, Problem(400, "InvalidArgument", message, "BadArgument"))

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        said = "Method not allowed" if error.status_code == 405 else "Resource not found"
        found = answer(request, Problem(error.status_code, str(error.status_code), said))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        request.state.fields["code"] = "ClientClosedRequest"
        return Response(status_code=499)  # nobody reads it; the log does

    @app.exception_handler(Exception)
    async def bug(request: Request, _: Exception) -> Response:
        message = "The service failed; its log says why."
        return answer(request, Problem(500, "InternalServerError", message, "InternalServerError"))


class Frame:
    """Around every request: one slash for several in a row, an id, the time it takes, a line in the log, metrics.

    What the client said of itself or of its picture is never logged: no address, no caption, no key.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service, self.active = app, service, 0

    def _refused(self, scope: Scope, operation: str) -> Problem | None:
        """A body whose end two headers tell differently; whatever comes when too much is there already."""
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:  # a proxy before us may have believed the other one
            return Problem(
                400, "InvalidRequest", "Content-Length and Transfer-Encoding exclude each other.", close=True
            )
        if operation != "probe" and self.active > self.service.settings.connections:
            return Problem(503, "ServiceUnavailable", "Too many requests.", retry_after=2, close=True)
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["path"] = re.sub("/{2,}", "/", scope["path"])
        scope.pop("raw_path", None)  # it would name the path as it was
        request_id, fields = str(uuid.uuid4()), {}
        scope.setdefault("state", {}).update(request_id=request_id, fields=fields)
        metrics, begun, status = self.service.metrics, time.perf_counter(), 500

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_COMMON, (b"apim-request-id", request_id.encode())]
            await send(message)

        operation = operation_of(scope["method"], scope["path"])
        metrics.active.inc()
        self.active += 1
        try:
            refused = self._refused(scope, operation)
            if refused is not None:
                fields["code"] = refused.code
                await JSONResponse(refused.nested(), refused.status, refused.headers())(scope, receive, framed)
            elif scope["method"] == "HEAD":  # as GET; uvicorn leaves the body out
                await self.app({**scope, "method": "GET"}, receive, framed)
            else:
                await self.app(scope, receive, framed)
        except asyncio.CancelledError:  # the time to finish after SIGTERM is over
            fields["code"] = "Stopping"
            if status == 500:  # nothing of an answer has gone out
                late = Problem(503, "ServiceUnavailable", "The service is stopping.", "", retry_after=5, close=True)
                await JSONResponse(late.nested(), late.status, late.headers())(scope, receive, framed)
        finally:
            self.active -= 1
            metrics.active.dec()
            seconds = time.perf_counter() - begun
            metrics.requests.labels(operation, str(status), fields.get("code", "")).inc()
            metrics.seconds.labels(operation).observe(seconds)
            if operation != "probe":
                _log(request_id, operation, status, seconds, fields)


_COMMON = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


def operation_of(method: str, path: str) -> str:
    """A name from a short list, whatever the path: metrics must not grow with what strangers ask for."""
    if path in ("/healthz", "/readyz", "/metrics"):
        return "probe"
    known: list[tuple[str, Callable[[re.Match], str]]] = [
        (r"/vision/(v2\.[01]|v3\.[012])/(describe|analyze|tag|detect|models)", lambda m: f"{m[1]} {m[2]}"),
        (r"/computervision/imageanalysis:analyze", lambda m: "4.0 analyze"),
        (r"/api/(describe|service)", lambda m: f"page {m[1]}"),
        (r"/(page/.*)?", lambda m: "page"),
    ]
    for pattern, name in known:
        found = re.fullmatch(pattern, path)
        if found and method in ("GET", "HEAD", "POST"):
            return name(found)
    return "other"


def _log(request_id: str, operation: str, status: int, seconds: float, fields: dict[str, Any]) -> None:
    line = {"request": request_id, "operation": operation, "status": status, "seconds": round(seconds, 4), **fields}
    logger.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra={"fields": line})
