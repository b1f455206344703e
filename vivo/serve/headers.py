"""What a picture file says of itself: its sides, and what decoding it would cost. Nothing is decoded or allocated.

Pillow's own `open` is no such thing (for a WebP it makes room for the whole picture), so the few bytes that matter are
read here. What a file says may be a lie: the decode process (`decoder.py`) looks again, under a limit of memory.
"""

import struct
from dataclasses import dataclass

from vivo.serve.problems import Problem, invalid
from vivo.serve.settings import Settings

MOST_SEGMENTS = 4096  # of a JPEG; real files have some dozens
MOST_BLOCKS = 20_000  # of a PNG or GIF: each is a turn of a loop in Pillow, all together a tenth of a second
MOST_SCANS = 200  # of a JPEG: each costs a pass over the whole picture, and one can be a few bytes
MOST_SCANNED = 1_000_000_000  # scans x pixels of a JPEG: the usual ten scans of a progressive one of 100 megapixels
TURN = 160  # passes over a pixel that take as long as a turn of a loop in Python: a microsecond
MOST_CODED = 4  # bytes a pixel or row of a BMP in run lengths; a writer that is no good takes two
SMALL_WORK = 16_000_000  # pixels x passes: up to here, about a tenth of a second
LARGEST_SIDE = 2048  # of what detectors are given
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: what libjpeg reads
_KINDS = bytes(255 if byte == 255 else 0 if byte == 0 or 0xD0 <= byte <= 0xD7 else 1 for byte in range(256))
_MARKER = b"\xff\x01"  # in those, among a scan's data: no stuffing, no restart, no filling


@dataclass(frozen=True)
class Header:
    """What was read.

    Attributes:
        kind: Pillow's name. width, height: as stored, in pixels. scans: of a JPEG; otherwise 1.
        buffered: a JPEG in several scans, progressive or not: all its coefficients are kept until the last.
        coded: bytes of a BMP in run lengths, which Pillow decodes in Python; otherwise 0.
    """

    kind: str
    width: int
    height: int
    scans: int = 1
    buffered: bool = False
    coded: int = 0

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def memory(self) -> int:
        """Bytes that decoding takes at most, beside the file; measured (tests/test_serve_decoding.py holds it).

        WebP: Pillow's reader keeps two canvases, a copy and the picture. JPEG: decoded at a reduced scale, but the
        coefficients of one in several scans are all kept. Everything else: four bytes a pixel and a copy in bands.
        """
        side = max(self.width, self.height)
        if self.kind == "WEBP":
            decoded = 17 * self.pixels
        elif self.kind == "JPEG":
            decoded = 5 * self.pixels // self.draft**2 + (8 * self.pixels if self.buffered else 0)
        else:
            decoded = 5 * self.pixels
        factor = -(-side // LARGEST_SIDE)
        return decoded + 12 * self.pixels // factor**2 + 4 * 1024 * 1024  # the reduced one, turned, and its bytes

    @property
    def draft(self) -> int:
        """By what a JPEG is reduced while it is decoded: libjpeg leaves out frequencies that nobody will see."""
        return max(n for n in (1, 2, 4, 8) if n == 1 or max(self.width, self.height) >= n * LARGEST_SIDE)

    @property
    def work(self) -> int:
        """Passes over the pixels, in those of a plain JPEG."""
        if self.coded:  # a turn for two bytes, and a short one for a pixel
            return TURN * (self.coded // 2 + self.pixels // 10)
        return self.pixels * (self.scans if self.kind == "JPEG" else 4)

    @property
    def is_large(self) -> bool:
        return self.work > SMALL_WORK


def read_header(data: bytes, settings: Settings) -> Header:
    """The header of a picture that may be decoded.

    Raises:
        Problem: nothing there, no picture, one that is too small, or too large in pixels, scans or memory.
    """
    if not data:
        raise invalid("InvalidImageFormat", "Input data is not a valid image: it is empty.")
    try:
        header = _parsed(data)
    except (struct.error, IndexError, ValueError):
        raise damaged() from None
    if header is None:
        known = "JPEG, PNG, GIF, BMP and WebP"
        raise invalid("InvalidImageFormat", f"Input data is not a valid image; {known} are supported.")
    check_sides(header.width, header.height, settings)
    if header.scans > MOST_SCANS:
        raise invalid("InvalidImageFormat", f"The JPEG image has more than {MOST_SCANS} scans.")
    if header.scans * header.pixels > MOST_SCANNED:
        most = MOST_SCANNED // 1_000_000
        raise invalid("InvalidImageSize", f"The JPEG image has too many scans for its size: {most} million pixels.")
    if header.memory > settings.most_decoded:
        most = settings.most_decoded // 1024**2
        raise invalid("InvalidImageSize", f"The image would take more than {most} MiB to decode.")
    return header


def check_sides(width: int, height: int, settings: Settings) -> None:
    """Raises: Problem, where a side is too short or too long, or the pixels are too many."""
    if min(width, height) < settings.least_side or max(width, height) > settings.greatest_side:
        raise invalid(
            "InvalidImageSize",
            f"The image dimension is not allowed to be smaller than {settings.least_side}"
            f" and larger than {settings.greatest_side}.",
        )
    if width * height > settings.most_pixels:
        raise too_large(settings)


def too_large(settings: Settings) -> Problem:
    return invalid(
        "InvalidImageSize", f"The image has too many pixels: {settings.most_pixels // 1_000_000} megapixels at most."
    )


def damaged() -> Problem:
    return invalid("InvalidImageFormat", "Input data is not a valid image: it is damaged or truncated.")


def _parsed(data: bytes) -> Header | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if data[12:16] != b"IHDR":
            raise ValueError
        _walk_png(data)
        return Header("PNG", *struct.unpack_from(">II", data, 16))
    if data.startswith((b"GIF87a", b"GIF89a")):
        _walk_gif(data)
        return Header("GIF", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"BM"):
        if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
            return Header("BMP", *struct.unpack_from("<HH", data, 18))
        return _bmp(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _bmp(data: bytes) -> Header:
    """Raises: ValueError, where run lengths are more than its pixels can need; 20 MB of empty ones took ten seconds."""
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    coded = len(data) if compression in (1, 2) else 0
    if coded > MOST_CODED * (abs(width) + 1) * abs(height) + 64 * 1024:  # colours, and what may lie behind the end
        raise ValueError
    return Header("BMP", width, abs(height), coded=coded)


def _walk_png(data: bytes) -> None:
    """Raises: ValueError, where there are too many chunks; 20 MB of empty ones took eight seconds."""
    place = 8
    for _ in range(MOST_BLOCKS):
        if data[place + 4 : place + 8] in (b"IEND", b""):  # the second: truncated, as decoding will show
            return
        place += 12 + int.from_bytes(data[place : place + 4])
    raise ValueError


def _walk_gif(data: bytes) -> None:
    """Raises: ValueError, where too many blocks stand before the first frame."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    blocks = 0
    while data[place : place + 1] not in (b",", b";", b""):  # a frame, the end, truncated
        blocks += 1
        if data[place] == 0x21:  # an extension: its kind, then parts with their length, the last of length 0
            place += 2
            while place < len(data) and data[place] and blocks < MOST_BLOCKS:
                blocks += 1
                place += 1 + data[place]
        place += 1
        if blocks >= MOST_BLOCKS:
            raise ValueError


def _jpeg(data: bytes) -> Header:
    place = 2
    for number in range(MOST_SEGMENTS):
        if data[place + 1] == 0xFF:  # filling; each byte of it counts as a segment
            place += 1
            continue
        if data[place] != 0xFF:
            raise ValueError
        marker = data[place + 1]
        place += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no content
            continue
        length = struct.unpack_from(">H", data, place)[0]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            scans = max(1, _scans(data, place + length, MOST_SEGMENTS - number))
            return Header("JPEG", width, height, scans, marker == 0xC2 or scans > 1)
        if marker in (0xD9, 0xDA) or 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ValueError  # a picture without a frame, or a kind that nobody writes
        place += length
    raise ValueError


def _scans(data: bytes, place: int, segments: int) -> int:
    """Scans from a frame on to the picture's end, found as libjpeg finds them; what lies behind the end (phones put
    other pictures and films there) is none of it. Of a file that is not progressive, too: an empty scan of one colour
    is eight bytes, and costs a pass over the picture."""
    count = 0
    for _ in range(segments):
        found = next_marker(data, place)
        if found < 0 or data[found + 1] == 0xD9:
            return count
        place = found + 2
        if data[found + 1] == 0xDA:
            count += 1
        if data[found + 1] not in (0x01, 0xD8):
            place += struct.unpack_from(">H", data, place)[0]
    raise ValueError


def next_marker(data: bytes, place: int) -> int:
    """Where the next marker is; -1: nowhere. 20 MB of filling take a regular expression a third of a second."""
    length = 256  # and then more and more: markers may be near each other or far apart
    while place < len(data):
        found = data[place : place + length + 1].translate(_KINDS).find(_MARKER)
        if found >= 0:
            return place + found
        place, length = place + length, min(2 * length, 256 * 1024)
    return -1


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        wide, high = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        if len(data) < 30:
            raise ValueError
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        wide, high = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        wide, high = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError
    return Header("WEBP", wide, high)
