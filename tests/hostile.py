"""Pictures that are small as files and large in every other way."""

import io
import struct

from PIL import Image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def empty_webp(width: int, height: int) -> bytes:
    """38 bytes that are a lossless WebP of one colour, of any size; at 98 megapixels decoding takes 1.5 GB."""
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    body = b"VP8L\x11\0\0\0\x2f" + bits + bytes.fromhex("07d0842634a1ff8188e87f0000")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes a row, is there again and again."""
    data = saved(Image.new("L", (width, height)), "JPEG", progressive=True)
    place = data.rindex(b"\xff\xda")
    return data[:place] + data[place:-2] * (scans - data.count(b"\xff\xda") + 1) + b"\xff\xd9"


def many_scans_of_one_colour(width: int, height: int, scans: int) -> bytes:
    """A baseline JPEG, not progressive, in scans of one colour each that have no data, the first of them repeated."""
    data = saved(Image.new("RGB", (width, height)), "JPEG", subsampling=0)

    def scan(colour: int, tables: int) -> bytes:
        return b"\xff\xda\0\x08\x01" + bytes([colour, tables]) + b"\0\x3f\0"

    colours = scan(1, 0x00) * (scans - 2) + scan(2, 0x11) + scan(3, 0x11)
    return data[: data.index(b"\xff\xda")] + colours + b"\xff\xd9"


def run_lengths(width: int, height: int, data: bytes, kind: int = 1) -> bytes:
    """A BMP in run lengths of 8 (kind 1) or 4 bits a pixel, grey."""
    colours = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 // kind, kind, len(data), 0, 0, 256 // kind**4, 0)
    colours = colours[: 4 * 256 // kind**4]
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + len(colours)) + head + colours + data
