"""One request from its first byte to its description, whatever the wire format: key, body, picture, model."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from vivo.serve.batching import Batcher, Job
from vivo.serve.body import Memory, Share, read_body, share_of, wait_until_gone
from vivo.serve.decoding import Decoding
from vivo.serve.describer import Describer, Description, Scored, Wanted
from vivo.serve.fetch import fetch_picture
from vivo.serve.headers import read_header
from vivo.serve.keys import Keys
from vivo.serve.metrics import Metrics
from vivo.serve.pictures import Picture
from vivo.serve.problems import Problem, invalid, not_allowed
from vivo.serve.settings import Settings

LARGEST_JSON = 64 * 1024


@dataclass(frozen=True)
class PictureFile:
    """How large a picture file may be, and what is said of a larger one."""

    most: int
    too_large: Callable[[], Problem]


def v3_file(settings: Settings) -> PictureFile:
    """Of the v2.0 to v3.2 interfaces."""
    message = f"The image size is not allowed to be zero or larger than {settings.v3_bytes} bytes."
    return PictureFile(settings.v3_bytes, lambda: invalid("InvalidImageSize", message))


def v4_file(settings: Settings) -> PictureFile:
    """Of Image Analysis 4.0, which gives no inner code here."""
    message = f"The image size is not allowed to be zero or larger than {settings.v4_bytes} bytes."
    return PictureFile(settings.v4_bytes, lambda: Problem(400, "InvalidRequest", message))


class Service:
    """What all requests of a process share."""

    def __init__(self, settings: Settings, describer: Describer) -> None:
        self.settings, self.describer = settings, describer
        self.keys, self.memory, self.metrics = Keys(settings.keys), Memory(settings.memory_bytes), Metrics()
        self.batcher = Batcher(
            describer.describe, settings.batch, settings.batch_seconds, settings.queue, self.metrics.batch
        )
        self.decoding = Decoding(settings, max(2, min(8, os.cpu_count() or 2)))
        if not _several():
            self.metrics.waiting.set_function(lambda: self.batcher.waiting)
            self.metrics.decoding.set_function(lambda: self.decoding.waiting)
            self.metrics.memory.set_function(lambda: self.memory.held)
        threshold = settings.threshold
        self.threshold = describer.threshold if threshold is None else threshold

    async def start(self) -> None:
        self.batcher.start()
        await self.decoding.start()

    async def stop(self) -> None:
        """Finish what waits for the model; what waits to be decoded has nobody left who asks for it."""
        await self.decoding.stop()
        self.batcher.stop()

    # ---------------------------------------------------------------- one request

    def check_caller(self, request: Request, key: str | None) -> None:
        """Raises: Problem, 401 without a right key; 421 where there are no keys and the name is not ours."""
        if self.keys:
            name = self.keys.name_of(key or "")
            if not name:
                raise not_allowed()
            request.state.fields["key"] = name
        self.check_host(request)

    def check_host(self, request: Request) -> None:
        """Raises: Problem, 421, where there are no keys and the name is not ours: see `Settings.hosts`."""
        if self.keys:
            return
        host = request.headers.get("host", "")
        if not host.endswith("]"):
            host = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
        if host.lower().removesuffix(".") not in self.settings.hosts:
            raise Problem(421, "InvalidRequest", "This service without keys answers only on loopback names.")

    async def describe(self, request: Request, file: PictureFile, wanted: Wanted) -> tuple[Description, Picture]:
        """Read the request's picture and describe it.

        Raises:
            Problem: whatever is wrong. ClientDisconnect: nobody waits for the answer any more.
        """
        try:
            return await self._describe(request, file, wanted)
        finally:
            if _several():
                self._set_gauges()

    async def _describe(self, request: Request, file: PictureFile, wanted: Wanted) -> tuple[Description, Picture]:
        self.batcher.check_room(self.settings.large_queue)  # it may be large, which nobody knows yet
        async with share_of(self.memory) as share:
            data = await self._picture_bytes(request, file, share)
            if not data:
                raise file.too_large()
            self.metrics.bytes.inc(len(data))
            work = self._described(request, data, wanted, share)
            del data
            description, picture, job = await _unless_gone(request, asyncio.ensure_future(work))
        fields = request.state.fields
        self.metrics.waited.observe(job.waited)
        fields |= {"queue_seconds": round(job.waited, 4), "model_seconds": round(job.worked, 4), "batch": job.together}
        return description, picture

    async def _described(
        self, request: Request, data: bytes, wanted: Wanted, share: Share
    ) -> tuple[Description, Picture, Job]:
        """From the file on: decoding, then the model."""
        header = read_header(data, self.settings)
        extra = self.settings.large_queue if header.is_large else 0
        self.batcher.check_room(extra)
        try:
            async with asyncio.timeout(self.settings.wait_seconds):
                picture = await self.decoding.decode(data, share, header)
        except TimeoutError:
            raise Problem(
                503, "ServiceUnavailable", "The picture was not decoded in time.", "Timeout", retry_after=5
            ) from None
        request.state.fields |= {
            "bytes": len(data), "format": picture.format, "width": picture.width, "height": picture.height
        }  # fmt: skip
        share.give(len(data))
        del data
        description, job = await self.batcher.describe(picture, wanted, self.settings.wait_seconds, extra)
        return description, picture, job

    def _set_gauges(self) -> None:
        """What several processes write into files, whenever a request ends."""
        self.metrics.waiting.set(self.batcher.waiting)
        self.metrics.decoding.set(self.decoding.waiting)
        self.metrics.memory.set(self.memory.held)

    def shown(self, description: Description) -> list[Scored]:
        """The captions that are sure enough; none, where the first is not."""
        captions = [caption for caption in description.captions if caption.confidence >= self.threshold]
        if description.captions and not captions:
            self.metrics.withheld.inc()
        return captions

    async def _picture_bytes(self, request: Request, file: PictureFile, share: Share) -> bytes:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        seconds = self.settings.body_seconds
        if kind == "application/octet-stream" or kind.startswith("image/"):
            return await read_body(request, file.most, seconds, share, file.too_large())
        if kind != "application/json":
            await _drained(request, seconds)
            supported = "application/octet-stream, image/* or application/json"
            raise Problem(415, "InvalidRequest", f"Supported media types: {supported}.", "UnsupportedMediaType")
        too_long = invalid("BadArgument", f"The JSON body is larger than {LARGEST_JSON} bytes.")
        body = await read_body(request, LARGEST_JSON, seconds, share, too_long)
        url = url_of(body)
        share.give(len(body))
        return await fetch_picture(url, file.most, self.settings, share, file.too_large())


def url_of(body: bytes) -> str:
    """The address in {"url": ...}.

    Raises:
        Problem: no such JSON.
    """
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("BadArgument", "The body is not valid JSON.") from None
    if not isinstance(content, dict) or not isinstance(content.get("url"), str):
        raise invalid("BadArgument", 'The body must be a JSON object with the image URL: {"url": "https://..."}.')
    return content["url"]


async def _drained(request: Request, seconds: float) -> None:
    """Read on to the end of a small body that nobody wants: a client that is sending reads no answer."""
    nobody = Share(Memory(LARGEST_JSON))
    with suppress(Problem):
        await read_body(request, LARGEST_JSON, seconds, nobody, invalid("BadArgument", ""))


async def _unless_gone(request: Request, work: asyncio.Future) -> Any:
    """The work's result; it is given up when the client closes the connection."""
    gone = asyncio.ensure_future(wait_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


def _several() -> bool:
    """Whether several processes share their metrics, which then cannot be read at the moment of asking."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ
