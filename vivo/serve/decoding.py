"""Decoding, bounded: pictures wait for one of a few decode processes (`decoder.py`), small and large ones apart.

admission    by the header: sides, pixels, scans, memory (`headers.py`); nothing is decoded for what is refused
waiting      a bounded number a lane, else 429; a client that leaves leaves the queue
lanes        small pictures never wait behind large ones, which are decoded one at a time and at a low priority
memory       what decoding takes is counted in `--memory-mb` before it begins, and is what the process may take
time         a process that takes too long is killed; its client alone is told so
"""

import asyncio
import json
import os
import struct
import sys
from contextlib import suppress

from PIL import Image

from vivo.serve.body import Share
from vivo.serve.headers import Header, read_header
from vivo.serve.pictures import Picture
from vivo.serve.problems import busy, invalid
from vivo.serve.settings import Settings


class Decoder:
    """One decode process; started when it is first needed, and again after it was killed."""

    def __init__(self, settings: Settings, nice: int) -> None:
        limits = ("least_side", "greatest_side", "most_pixels", "memory_bytes", "v4_bytes")
        self._options = json.dumps({name: getattr(settings, name) for name in limits} | {"nice": nice})
        self._process: asyncio.subprocess.Process | None = None
        self._killed: list[asyncio.subprocess.Process] = []

    async def start(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vivo.serve.decoder", self._options,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        return self._process

    async def decode(self, data: bytes) -> Picture:
        """Raises: Problem, where the picture is wrong. Whatever else ends this must be followed by `kill`."""
        process = await self.start()
        try:
            process.stdin.write(struct.pack(">I", len(data)))
            process.stdin.write(data)
            (length,) = struct.unpack(">I", await process.stdout.readexactly(4))
            content = await process.stdout.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:  # it died: of its memory limit, or a decoder's bug
            self.kill()
            raise invalid("InvalidImageFormat", "Input data is not a valid image: it cannot be decoded.") from error
        line, _, pixels = content.partition(b"\n")
        said = json.loads(line)
        if "inner" in said:
            raise invalid(said["inner"], said["message"])
        image = Image.frombytes("RGB", tuple(said["size"]), pixels)
        return Picture(image, said["width"], said["height"], said["format"], len(data))

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._killed = [one for one in self._killed if one.returncode is None] + [self._process]
            self._process = None

    async def stop(self) -> None:
        self.kill()
        for process in self._killed:
            await process.communicate()  # to the end of its pipes


class Lane:
    """Pictures that wait for the same few processes.

    Args:
        most: that may wait. patient: whether a picture whose client has left is decoded to its end, because that is
            sooner done than starting a process again.
    """

    def __init__(self, decoders: list[Decoder], most: int, seconds: float, patient: bool) -> None:
        self.decoders, self.idle, self._most, self.seconds = decoders, list(decoders), most, seconds
        self._patient = patient
        self._slots = asyncio.Semaphore(len(decoders))
        self.waiting = 0

    async def decode(self, data: bytes, header: Header, share: Share) -> Picture:
        """The picture, when its turn has come.

        Raises:
            Problem: 429 where as many wait as may.
        """
        if self._slots.locked() and self.waiting >= self._most:
            raise busy("too many pictures are waiting to be decoded", retry_after=2)
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            share.take(header.memory)
            decoder = self.idle.pop()
            try:
                return await self._with(decoder, data)
            finally:
                self.idle.append(decoder)
                share.give(header.memory)
        finally:
            self._slots.release()

    async def _with(self, decoder: Decoder, data: bytes) -> Picture:
        work = asyncio.ensure_future(decoder.decode(data))
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.shield(work)
        except TimeoutError:
            said = f"The image takes more than {self.seconds:g} s to decode."
            raise invalid("InvalidImageSize", said) from None
        except asyncio.CancelledError:
            if self._patient:
                await asyncio.wait({work}, timeout=self.seconds)
            raise
        finally:
            if not work.done():
                work.cancel()
                decoder.kill()
            elif not work.cancelled():
                work.exception()  # seen, whether somebody waits for it or not


class Decoding:
    """Both lanes.

    Args:
        processes: for small pictures; large ones have one of their own.
    """

    def __init__(self, settings: Settings, processes: int) -> None:
        self._settings = settings
        small = [Decoder(settings, 0) for _ in range(processes)]
        self.small = Lane(small, settings.queue, settings.decode_seconds, patient=True)
        self.large = Lane([Decoder(settings, 10)], settings.large_queue, settings.decode_seconds, patient=False)

    async def start(self) -> None:
        """So that the first picture need not wait for it."""
        await asyncio.gather(*(decoder.start() for decoder in self._all()))

    async def stop(self) -> None:
        for decoder in self._all():
            await decoder.stop()

    @property
    def waiting(self) -> int:
        return self.small.waiting + self.large.waiting

    async def decode(self, data: bytes, share: Share) -> Picture:
        """The picture of a file.

        Raises:
            Problem: no picture, or one that cannot or may not be decoded; 429 where too many wait or memory is used up.
        """
        header = read_header(data, self._settings)
        lane = self.large if header.is_large else self.small
        return await lane.decode(data, header, share)

    def _all(self) -> list[Decoder]:
        return [*self.small.decoders, *self.large.decoders]
