"""Decoding is bounded: what a header says decides, large pictures wait for themselves, and a decoder can be stopped."""

import asyncio
import os
import re
import resource
import signal
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hostile import empty_webp, many_scans, many_scans_of_one_colour, run_lengths, saved
from PIL import Image

from vivo.serve.body import Memory, Share
from vivo.serve.decoder import SPARE
from vivo.serve.decoding import Decoding
from vivo.serve.headers import next_marker, read_header
from vivo.serve.pictures import Picture, read_picture
from vivo.serve.problems import Problem
from vivo.serve.settings import Settings

SETTINGS = Settings(checkpoint=Path())


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_headers_are_read_as_pillow_reads_them(kind: str) -> None:
    for size in ((64, 80), (301, 77)):
        for options in {"JPEG": [{}, {"progressive": True}], "WEBP": [{}, {"lossless": True}]}.get(kind, [{}]):
            data = saved(noise(*size), kind, **options)
            header = read_header(data, SETTINGS)
            assert (header.kind, header.width, header.height) == (kind, *size)
            assert header.scans == (data.count(b"\xff\xda") if options == {"progressive": True} else 1)
    exif = Image.Exif()
    exif[274] = 6  # makes the extended kind of WebP, and a JPEG with another segment
    found = read_header(saved(noise(64, 80), kind, exif=exif), SETTINGS)
    assert (found.width, found.height) == (64, 80)


def test_what_would_cost_too_much_is_refused_by_its_header() -> None:
    for data, said in (
        (empty_webp(15_900, 6_200), "MiB to decode"),
        (many_scans(3_000, 2_000, 190), "too many scans for its size"),
        (many_scans_of_one_colour(3_000, 2_000, 190), "too many scans for its size"),
        (many_scans_of_one_colour(4_000, 3_900, 5_000), "damaged"),  # 50 kB that took ten seconds
        (many_scans_of_one_colour(400, 300, 300), "more than 200 scans"),
        (b"\xff\xd8" + b"\xff" * 20_000_000, "damaged"),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 5_000_000, "damaged"),  # segments without end
    ):
        with pytest.raises(Problem, match=said) as refused:
            read_header(data, SETTINGS)
        assert refused.value.status == 400
    small = replace(SETTINGS, memory_bytes=64 * 1024**2)
    with pytest.raises(Problem, match="32 MiB"):
        read_header(empty_webp(2000, 1000), small)
    assert read_header(empty_webp(1000, 1000), small).kind == "WEBP"


def test_large_are_those_that_take_long() -> None:
    large = {
        name: read_header(data, SETTINGS).is_large
        for name, data in {
            "12 MP JPEG": saved(Image.new("L", (4000, 3000)), "JPEG"),
            "4 MP PNG": saved(Image.new("L", (2000, 2000)), "PNG"),
            "9 MP PNG": saved(Image.new("L", (3000, 3000)), "PNG"),
            "9 MP WebP": empty_webp(3000, 3000),
            "2 MP JPEG of 190 scans": many_scans(2000, 1000, 190),
            "2 MP baseline JPEG of 190 scans": many_scans_of_one_colour(2000, 1000, 190),
        }.items()
    }
    scans = ["2 MP JPEG of 190 scans", "2 MP baseline JPEG of 190 scans"]
    assert [name for name, one in large.items() if one] == ["9 MP PNG", "9 MP WebP", *scans]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restartnext_marker_rows": 1}])
def test_scans_are_those_of_the_picture_and_not_of_what_lies_behind_it(options: dict) -> None:
    """Phones put a second picture or a film behind the end; a comment that looks like the end hides nothing."""
    data = saved(noise(300, 200), "JPEG", **options)
    scans = data.count(b"\xff\xda")
    assert scans == (10 if "progressive" in options else 1)
    assert read_header(data + data + b"film \xff\xda" * 500, SETTINGS).scans == scans
    place = data.index(b"\xff\xda")
    hidden = data[:place] + b"\xff\xfe\0\x06\xff\xd9\xff\xda" + b"garbage \xff\xff" + data[place:]
    assert read_header(hidden, SETTINGS).scans == scans
    assert read_header(data[:-2], SETTINGS).scans == scans  # and no end


def test_a_file_of_nothing_but_its_blocks_is_damaged() -> None:
    """Twelve bytes are a chunk of a PNG, three an extension of a GIF, one is skipped: Pillow looks at each."""
    png, gif = saved(noise(64, 80), "PNG"), saved(Image.new("P", (64, 80)), "GIF", comment=b"by hand " * 100)
    first, table = png.index(b"IDAT") - 4, 13 + 3 * 2 ** ((gif[10] & 7) + 1) * (gif[10] >> 7)
    chunk = struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd"))
    for whole, place, block in (
        (png, first, chunk),
        (png, len(png) - 12, chunk),
        (gif, table, b"\x21\xfe\0"),
        (gif, table, b"\x21\xfe\1a\0"),
        (gif, table, b"\1"),
    ):
        few, many = (whole[:place] + block * count + whole[place:] for count in (100, 20_000))
        assert read_picture(few, SETTINGS).height == 80
        with pytest.raises(Problem, match="damaged"):
            read_header(many, SETTINGS)
    one = gif[:table] + b"\x21\xfe" + b"\1a" * 20_000 + b"\0" + gif[table:]  # an extension of many parts
    with pytest.raises(Problem, match="damaged"):
        read_header(one, SETTINGS)


@pytest.mark.parametrize("kind", [1, 2])
def test_run_lengths_that_add_nothing_are_damaged_and_many_are_large(kind: int) -> None:
    """Pillow decodes them in Python: two bytes are a turn of its loop, whether they give a pixel or not."""
    rows = b"".join(bytes([64, 16 * row + row % 16]) + b"\0\0" for row in range(16)) * 4
    pixel_by_pixel = (b"\1\x55" * 64 + b"\0\0") * 64  # the longest that somebody may write
    for good in (rows, pixel_by_pixel, rows + b"\0\1" + b"behind the end" * 1000):
        data = run_lengths(64, 64, good, kind)
        header = read_header(data, SETTINGS)
        assert (header.kind, header.width, header.height, header.is_large) == ("BMP", 64, 64, False)
        assert read_picture(data, SETTINGS).height == 64
    seen = read_picture(run_lengths(64, 64, rows, kind), SETTINGS).image
    assert seen.getpixel((0, 63))[0] == 0 and seen.getpixel((63, 61))[0] == (0x22 if kind == 1 else 2)
    for nothing in (b"\0\0", b"\1\7", b"\0\2\0\0"):
        with pytest.raises(Problem, match="damaged"):
            read_header(run_lengths(60, 60, nothing * 50_000, kind), SETTINGS)
    wide = run_lengths(1000, 1000, (b"\1\7" * 1000 + b"\0\0") * 1000, kind)
    assert read_header(wide, SETTINGS).is_large
    assert not read_header(saved(noise(1000, 1000), "BMP"), SETTINGS).is_large


def testnext_markers_of_a_jpeg_are_found_as_an_expression_finds_them() -> None:
    """Near and far, behind filling, stuffing and restarts, at every edge of what is looked at together."""
    random = np.random.default_rng(0)
    pattern = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
    for length in (0, 1, 254, 255, 256, 257, 767, 768, 5_000, 300_000):
        for quiet in (b"\xff", b"\xff\0", b"\xff\xd0", b"\0", b"a"):
            data = (quiet * length)[:length] + b"\xff" + random.choice([b"\xda", b"\xd9", b"\x01"]) + b"\xff" * 9
            for place in (0, length // 2):
                assert next_marker(data, place) == pattern.search(data, place).start()
            assert next_marker(data[: length + 1], 0) == -1
    drawn = random.choice(np.array([0, 1, 0xD0, 0xD7, 0xD8, 0xFF], np.uint8), 20_000).tobytes()
    found, place = [], 0
    while (place := next_marker(drawn, place)) >= 0:
        found.append(place)
        place += 2
    assert found == [match.start() for match in pattern.finditer(drawn)]


def share() -> Share:
    return Share(Memory(SETTINGS.memory_bytes))


def run(go, settings: Settings = SETTINGS):
    """`go` with a decoding stage of its own."""

    async def all_of_it():
        decoding = Decoding(settings, 1)
        await decoding.start()
        try:
            return await go(decoding)
        finally:
            await decoding.stop()

    return asyncio.run(all_of_it())


SMALL, LARGE = saved(noise(64, 80), "PNG"), saved(Image.new("L", (2400, 2000)), "PNG")


def test_decoding_takes_no_more_memory_than_was_counted() -> None:
    turned, clear = Image.Exif(), Image.new("P", (5000, 5000), 1)
    turned[274] = 6
    files = [
        empty_webp(4_500, 4_500),
        saved(clear, "PNG", transparency=1, exif=turned),
        saved(Image.new("CMYK", (5000, 5000)), "JPEG", exif=turned),
        saved(Image.new("RGB", (5000, 5000)), "JPEG", progressive=True, subsampling=0),
        many_scans_of_one_colour(5000, 5000, 5),
    ]

    async def peak(decoding: Decoding, data: bytes) -> int:
        taken = share()
        process = await decoding.large.decoders[0].start()
        await decoding.large.decoders[0].decode(SMALL)
        before = peak_of(process.pid)
        header = read_header(data, SETTINGS)
        picture = await decoding.large.decode(data, header, taken)
        assert taken.held == picture.memory == 4 * picture.image.width * picture.image.height
        assert peak_of(process.pid) - before <= header.memory + 2 * len(data)
        return header.memory

    for data in files:
        assert run(lambda decoding, data=data: peak(decoding, data)) <= SETTINGS.most_decoded


def peak_of(pid: int) -> int:
    """Bytes of memory that a process had at most."""
    return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])


def test_a_file_that_lies_is_stopped_by_the_processes_own_limit() -> None:
    """A GIF whose first frame is larger than its screen."""
    data = bytearray(saved(Image.new("P", (15_000, 6_000)), "GIF"))
    data[6:10] = struct.pack("<HH", 60, 60)

    async def go(decoding: Decoding) -> tuple[str, Picture]:
        with pytest.raises(Problem) as refused:
            await decoding.decode(bytes(data), share())
        return refused.value.inner, await decoding.decode(SMALL, share())

    inner, picture = run(go)
    assert inner in ("InvalidImageFormat", "InvalidImageSize") and picture.width == 64


def test_what_a_process_may_take_is_what_was_counted_for_this_picture() -> None:
    async def room(decoding: Decoding, data: bytes) -> int:
        header = read_header(data, SETTINGS)
        process = await decoding.large.decoders[0].start()
        await decoding.large.decode(data, header, share())
        size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        return resource.prlimit(process.pid, resource.RLIMIT_AS)[0] - size - header.memory - 2 * len(data)

    async def go(decoding: Decoding) -> list[int]:
        return [await room(decoding, data) for data in (SMALL, LARGE, SMALL)]

    assert all(0 < spare < 2 * SPARE for spare in run(go))


def test_one_that_takes_too_long_is_stopped_and_the_next_is_decoded() -> None:
    long = many_scans(2_500, 2_000, 190)

    async def go(decoding: Decoding) -> Picture:
        lane = decoding.large
        first, lane.seconds = await lane.decoders[0].start(), 0.01
        with pytest.raises(Problem, match="more than 0.01 s") as late:
            await decoding.decode(long, share())
        assert late.value.inner == "InvalidImageSize" and await first.wait() == -9
        lane.seconds = 10.0
        return await lane.decode(SMALL, read_header(SMALL, SETTINGS), share())

    async def next_one(decoding: Decoding) -> Picture:
        lane = decoding.large
        task = asyncio.create_task(decoding.decode(long, share()))
        while lane.decoders[0] in lane.idle:
            await asyncio.sleep(0)
        task.cancel()  # its client has left: the large lane's process is stopped, and another one is there for the next
        with pytest.raises(asyncio.CancelledError):
            await task
        return await lane.decode(SMALL, read_header(SMALL, SETTINGS), share())

    assert run(go).height == 80
    assert run(next_one).width == 64


def test_large_pictures_wait_for_themselves_and_those_who_leave_are_forgotten() -> None:
    async def go(decoding: Decoding) -> None:
        long, memory = many_scans(2_500, 2_000, 190), Memory(SETTINGS.memory_bytes)
        tasks = [asyncio.create_task(decoding.decode(long, Share(memory))) for _ in range(5)]
        await asyncio.sleep(0)
        assert decoding.large.waiting == 4 and decoding.small.waiting == 0
        assert memory.held == read_header(long, SETTINGS).memory  # of the one that is being decoded
        for _ in range(3):
            assert (await decoding.decode(SMALL, share())).width == 64
        assert not any(task.done() for task in tasks)
        more = [asyncio.create_task(decoding.decode(long, Share(memory))) for _ in range(SETTINGS.large_queue)]
        refused = await asyncio.wait(more, return_when=asyncio.FIRST_EXCEPTION)
        assert [task.exception().status for task in refused[0]] == [429] * 4 and decoding.large.waiting == 8
        for task in (*tasks, *more):
            task.cancel()
        await asyncio.gather(*tasks, *more, return_exceptions=True)
        assert decoding.large.waiting == 0 and memory.held == 0
        assert (await decoding.decode(SMALL, share())).width == 64

    run(go)


def test_a_busy_machine_makes_a_picture_late_and_not_too_large() -> None:
    """What is limited is time of a processor: the process is stopped, as if others had them all, for longer."""

    async def go(decoding: Decoding) -> tuple[Picture, int]:
        lane, looked = decoding.large, 0
        decoder, header = lane.decoders[0], read_header(SMALL, SETTINGS)
        pid, used = (await decoder.start()).pid, decoder.used
        await lane.decode(SMALL, header, share())

        def looking() -> float:
            nonlocal looked
            looked += 1
            if looked == 3:  # when it begins, before it is waited for, and when the time is over
                os.kill(pid, signal.SIGCONT)
            return used()

        os.kill(pid, signal.SIGSTOP)
        decoder.used, lane.seconds = looking, 0.2
        picture = await lane.decode(SMALL, header, share())
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)  # as those of small ones
        return picture, looked

    picture, looked = run(go)
    assert picture.width == 64 and looked >= 3


def test_a_large_picture_gets_the_memory_that_comes_free_before_anybody_newer() -> None:
    async def go(decoding: Decoding) -> None:
        header = read_header(LARGE, SETTINGS)
        memory = Memory(header.memory + 100)
        others, mine = Share(memory), Share(memory)
        others.take(250)
        for leaves in (True, False):
            task = asyncio.create_task(decoding.decode(LARGE, mine))
            while memory.held == 250 and not task.done():
                await asyncio.sleep(0)
            others.give(50)
            with pytest.raises(Problem, match="memory"):
                others.take(1)
            if leaves:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert mine.held == 0 and memory.held == 200
                others.take(50)
        assert not task.done()
        others.give(100)
        picture = await task
        assert (picture.large, picture.width, mine.held, memory.held) == (True, 2400, picture.memory, mine.held + 100)
        others.take(1)

    run(go)


@pytest.mark.parametrize("mebibytes", [64, 100, 256, 1024])
def test_those_who_wait_to_be_decoded_leave_memory_for_the_first_of_them(mebibytes: int) -> None:
    settings = replace(SETTINGS, memory_bytes=mebibytes * 1024**2)
    lane = Decoding(settings, 1).large
    assert lane.most <= settings.large_queue
    assert (lane.most + 1) * settings.v4_bytes + settings.most_decoded <= settings.memory_bytes
