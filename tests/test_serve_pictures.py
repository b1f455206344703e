"""From bytes to pictures: every kind that is taken, every limit, and whatever else somebody may send."""

import io
import struct
import zlib

import numpy as np
import pytest
from hostile import saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vivo.serve.headers import LARGEST_SIDE
from vivo.serve.pictures import Picture, quieten_pillow, read_picture
from vivo.serve.problems import Problem
from vivo.serve.settings import Settings

SETTINGS = Settings(checkpoint=None)


def pixels(width: int = 64, height: int = 80) -> Image.Image:
    """Red to the right, green downwards: where up is can be seen in every corner."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], axis=-1).astype(np.uint8))


def read(data: bytes) -> Picture:
    return read_picture(data, SETTINGS)


def difference(found: Image.Image, expected: Image.Image) -> float:
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected.convert("RGB"), np.float64)).mean())


@pytest.mark.parametrize(
    ("kind", "options", "name", "tolerance"),
    [
        ("PNG", {}, "Png", 0.0),
        ("BMP", {}, "Bmp", 0.0),
        ("WEBP", {"lossless": True}, "Webp", 0.0),
        ("JPEG", {"quality": 95}, "Jpeg", 3.0),
        ("JPEG", {"quality": 95, "progressive": True}, "Jpeg", 3.0),
        ("GIF", {}, "Gif", 12.0),
    ],
)
def test_formats_by_content(kind: str, options: dict, name: str, tolerance: float) -> None:
    data = saved(pixels(), kind, **options)
    found = read(data)
    assert (found.format, found.width, found.height) == (name, 64, 80)
    assert found.image.mode == "RGB" and difference(found.image, pixels()) <= tolerance
    found.image.load()  # the file is closed; nothing is read late


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_turn_of_exif_is_applied(turn: int, kind: str) -> None:
    back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[turn]  # fmt: skip
    stored = pixels() if back is None else pixels().transpose(back)
    exif = Image.Exif()
    exif[274] = turn
    found = read(saved(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert (found.width, found.height) == found.image.size == (64, 80)
    assert difference(found.image, pixels()) < 5


def test_colours_that_are_not_rgb() -> None:
    grey = pixels().convert("L")
    assert difference(read(saved(grey, "PNG")).image, grey) == 0
    assert difference(read(saved(grey, "JPEG", quality=95)).image, grey) < 3
    palette = pixels().quantize(64)
    assert difference(read(saved(palette, "PNG")).image, palette) == 0
    assert difference(read(saved(pixels().convert("CMYK"), "JPEG", quality=95)).image, pixels()) < 6
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    assert difference(read(saved(deep, "PNG")).image, grey) <= 1
    bits = grey.point(lambda value: 255 * (value > 128)).convert("1")
    assert difference(read(saved(bits, "PNG")).image, bits) == 0
    clear = pixels().convert("RGBA")
    clear.putalpha(0)
    assert difference(read(saved(clear, "PNG")).image, Image.new("RGB", (64, 80), "white")) == 0
    one = saved(Image.new("RGB", (64, 80), (1, 2, 3)), "PNG", transparency=(1, 2, 3))  # one colour that is clear
    assert read(one).image.getpixel((0, 0)) == (255, 255, 255)
    hidden = palette.copy()  # a palette's transparent entry
    hidden.info["transparency"] = hidden.getpixel((0, 0))
    assert read(saved(hidden, "PNG", transparency=hidden.getpixel((0, 0)))).image.getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (60, 60), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        found = read(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
        assert difference(found.image, frames[0]) < 3, kind


def problem_of(data: bytes, options: Settings = SETTINGS) -> Problem:
    with pytest.raises(Problem) as found:
        read_picture(data, options)
    assert found.value.status == 400 and found.value.code == "InvalidRequest"
    return found.value


@pytest.mark.parametrize(("size", "fits"), [((50, 50), True), ((49, 200), False), ((200, 49), False)])
def test_least_side(size: tuple[int, int], fits: bool) -> None:
    data = saved(pixels(*size), "PNG")
    if fits:
        assert read(data).width == 50
    else:
        assert problem_of(data).inner == "InvalidImageSize"


def test_greatest_side_is_refused_and_just_below_is_made_smaller() -> None:
    assert problem_of(saved(Image.new("1", (16_001, 60)), "PNG")).inner == "InvalidImageSize"
    found = read(saved(Image.new("L", (16_000, 60), 77), "PNG"))
    assert (found.width, found.height) == (16_000, 60) and max(found.image.size) <= LARGEST_SIDE
    assert found.image.getpixel((5, 5)) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_are_made_smaller_and_keep_their_turn(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    stored = pixels(2400, 3000).transpose(Image.Transpose.ROTATE_90)
    found = read(saved(stored, kind, exif=exif))
    assert (found.width, found.height) == (2400, 3000) and max(found.image.size) <= LARGEST_SIDE
    assert found.image.height / found.image.width == pytest.approx(1.25, abs=0.01)
    assert difference(found.image, pixels(*found.image.size)) < 3


def png_of(width: int, height: int, content: bytes) -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header() -> None:
    """Each would take seconds and gigabytes to decode; the sides are in range."""
    assert problem_of(png_of(15_000, 15_000, b"")).inner == "InvalidImageSize"  # over Pillow's own bound
    assert problem_of(png_of(10_001, 10_000, b"")).inner == "InvalidImageSize"  # below it, over ours
    bomb = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(bomb, "PNG")  # 256 megapixels in some kilobytes
    assert len(bomb.getvalue()) < 100_000 and problem_of(bomb.getvalue()).inner == "InvalidImageSize"
    scans = saved(pixels(), "JPEG", progressive=True)
    place = scans.rindex(b"\xff\xda")
    assert "scans" in problem_of(scans[:place] + scans[place:-2] * 250 + b"\xff\xd9").message
    text = zlib.compress(b"A" * 80_000_000, 9)  # 80 MB of comment in a picture of one pixel's worth
    packed = struct.pack(">I", len(text) + 5) + b"zTXt" + b"abc\0\0" + text
    packed += struct.pack(">I", zlib.crc32(b"zTXtabc\0\0" + text))
    assert problem_of(png_of(64, 64, packed)).inner == "InvalidImageFormat"


def test_what_is_no_picture() -> None:
    for data in (
        b"",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe",
        b"II*\0",
    ):
        assert problem_of(data).inner == "InvalidImageFormat"
    assert problem_of(saved(pixels(), "TIFF")).inner == "InvalidImageFormat"  # Pillow would read it


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_truncated_file_is_an_error_and_never_half_a_picture(kind: str) -> None:
    data = saved(pixels(200, 200), kind)
    for share in (0.1, 0.5, 0.9):
        assert problem_of(data[: int(len(data) * share)]).inner in ("InvalidImageFormat", "InvalidImageSize")


WHOLE = [saved(pixels(), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")]
WHOLE.append(saved(pixels().quantize(16), "PNG"))
WHOLE.append(saved(pixels().convert("CMYK"), "JPEG"))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0.05, 1.0),
    st.binary(max_size=20),
)
def test_damage_anywhere_is_a_picture_or_the_documented_error(
    data: bytes, changes: list[tuple[float, int]], kept: float, added: bytes
) -> None:
    quieten_pillow()
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * len(data))] = value
    try:
        found = read(bytes(damaged[: int(kept * len(data))]) + added)
    except Problem as problem:
        assert problem.inner in ("InvalidImageFormat", "InvalidImageSize")
    else:
        assert found.image.mode == "RGB" and max(found.image.size) <= LARGEST_SIDE
        assert 50 <= min(found.width, found.height) <= max(found.width, found.height) <= 16_000


BEGINNINGS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8 "]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=300))
def test_anything_is_refused_in_our_words(first: bytes, rest: bytes) -> None:
    assert problem_of(first + rest).inner in ("InvalidImageFormat", "InvalidImageSize")
