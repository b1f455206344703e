"""Decoding, bounded: pictures wait for one of a few decode processes (`decoder.py`), small and large ones apart.

admission    by the header: sides, pixels, scans, memory (`headers.py`); nothing is decoded for what is refused
waiting      a bounded number a lane, else 429; a client that leaves leaves the queue
lanes        small pictures never wait behind large ones, which are decoded one at a time, so on one core at most
memory       what decoding takes is counted in `--memory-mb` before it begins, and is what the process may take
time         a process that works for too long is killed; its client alone is told so

Large pictures get on however many small ones there are. Their process has the priority of every other; what it may
take is time of its processor, so that a busy machine makes a picture late and not too large; the first of them is
given the next memory that comes free; and the model's queue has places for them alone (`Batcher.describe`).
"""

import asyncio
import json
import os
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from vivo.serve.body import Share
from vivo.serve.headers import Header, read_header
from vivo.serve.pictures import Picture
from vivo.serve.problems import busy, invalid
from vivo.serve.settings import Settings


class Decoder:
    """One decode process; started when it is first needed, and again after it was killed."""

    def __init__(self, settings: Settings) -> None:
        limits = ("least_side", "greatest_side", "most_pixels", "memory_bytes", "v4_bytes")
        self._options = json.dumps({name: getattr(settings, name) for name in limits})
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
        return Picture(image, said["width"], said["height"], said["format"], said["large"])

    def used(self) -> float:
        """Seconds of a processor that its process has had."""
        if sys.platform != "linux":
            return time.monotonic()
        try:
            said = Path(f"/proc/{self._process.pid}/stat").read_text() if self._process is not None else ""
            return sum(map(int, said.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        except OSError:  # it is gone; the next one begins with nothing
            return 0.0

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
        most: that may wait. seconds: of a processor that a picture may take.
        large: whether its pictures are. A large one waits for memory where a small one is refused, and is given up
            when its client leaves; a small one is sooner done than a process started again.
    """

    def __init__(self, decoders: list[Decoder], most: int, seconds: float, large: bool) -> None:
        self.decoders, self.idle, self.most, self.seconds = decoders, list(decoders), most, seconds
        self._large = large
        self._slots = asyncio.Semaphore(len(decoders))
        self.waiting = 0

    async def decode(self, data: bytes, header: Header, share: Share) -> Picture:
        """The picture, when its turn has come; its pixels stay counted in `share`.

        Raises:
            Problem: 429 where as many wait as may, or memory is used up.
        """
        if self._slots.locked() and self.waiting >= self.most:
            raise busy("too many pictures are waiting to be decoded", retry_after=2)
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            if self._large:
                await share.claim(header.memory)
            else:
                share.take(header.memory)
            decoder, kept = self.idle.pop(), 0
            try:
                picture = await self._with(decoder, data)
                kept = picture.memory  # never given back in between: another could take it
                return picture
            finally:
                self.idle.append(decoder)
                share.give(header.memory - kept)
        finally:
            self._slots.release()

    async def _with(self, decoder: Decoder, data: bytes) -> Picture:
        work, begun = asyncio.ensure_future(decoder.decode(data)), decoder.used()
        try:
            while (left := begun + self.seconds - decoder.used()) > 0:
                await asyncio.wait({work}, timeout=max(left, 0.02))  # no sooner can it have used that up
                if work.done():
                    return work.result()
            raise invalid("InvalidImageSize", f"The image takes more than {self.seconds:g} s to decode.")
        except asyncio.CancelledError:
            if not self._large:
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
        small = [Decoder(settings) for _ in range(processes)]
        self.small = Lane(small, settings.queue, settings.decode_seconds, large=False)
        # The files of those that wait, and of the one that they wait for, never keep it from its half of the memory.
        most = min(settings.large_queue, max(0, settings.most_decoded // settings.v4_bytes - 1))
        self.large = Lane([Decoder(settings)], most, settings.decode_seconds, large=True)

    async def start(self) -> None:
        """So that the first picture need not wait for it."""
        await asyncio.gather(*(decoder.start() for decoder in self._all()))

    async def stop(self) -> None:
        for decoder in self._all():
            await decoder.stop()

    @property
    def waiting(self) -> int:
        return self.small.waiting + self.large.waiting

    async def decode(self, data: bytes, share: Share, header: Header | None = None) -> Picture:
        """The picture of a file.

        Args:
            header: its own, where it has been read.

        Raises:
            Problem: no picture, or one that cannot or may not be decoded; 429 where too many wait or memory is used up.
        """
        header = header or read_header(data, self._settings)
        lane = self.large if header.is_large else self.small
        return await lane.decode(data, header, share)

    def _all(self) -> list[Decoder]:
        return [*self.small.decoders, *self.large.decoders]
