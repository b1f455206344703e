"""The decode process: pictures in on stdin, pixels out on stdout, one after another, until stdin ends.

    in     length (4 bytes, big-endian), the file
    out    length (4 bytes), a line of JSON, pixels (RGB) where there are any

A process of its own, because a decoder cannot be told to stop, and because what it takes of memory can be limited
from outside (RLIMIT_AS): a picture that is worse than its header said costs its sender an error, and nobody else.
"""

import json
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from vivo.serve.headers import read_header
from vivo.serve.pictures import quieten_pillow, read_picture
from vivo.serve.problems import Problem
from vivo.serve.settings import Settings

SPARE = 64 * 1024 * 1024  # address space beside what `Header.memory` counts: the file twice, stacks, libraries' own


def main() -> None:
    """Serve one parent; the first argument are settings, as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    settings = Settings(checkpoint=Path(), **json.loads(sys.argv[1]))
    quieten_pillow()
    while (data := receive(sys.stdin.buffer)) is not None:
        sys.stdout.buffer.write(answer(data, settings))
        sys.stdout.buffer.flush()


def answer(data: bytes, settings: Settings) -> bytes:
    """What is written for a file."""
    pixels = b""
    try:
        _limit_memory(read_header(data, settings).memory + 2 * len(data) + SPARE)
        found = read_picture(data, settings)
        said = {"width": found.width, "height": found.height, "format": found.format, "large": found.large}
        said["size"] = found.image.size
        pixels = found.image.tobytes()
    except Problem as problem:
        cause = type(problem.__cause__).__name__ if problem.__cause__ else ""
        said = {"inner": problem.inner, "message": problem.message, "cause": cause}
    except MemoryError:
        said = {"inner": "InvalidImageSize", "message": "The image takes too much memory to decode.", "cause": ""}
    line = json.dumps(said).encode() + b"\n"
    return struct.pack(">I", len(line) + len(pixels)) + line + pixels


def receive(stream: BinaryIO) -> bytes | None:
    """A file; None: the end."""
    length = stream.read(4)
    if len(length) < 4:
        return None
    (count,) = struct.unpack(">I", length)
    data = stream.read(count)
    return data if len(data) == count else None


def _limit_memory(more: int) -> None:
    """Let the process grow by so much and no more, until the next picture is counted."""
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux: the header's word is what there is
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more if most < 0 else min(now + more, most), most))


if __name__ == "__main__":
    main()
