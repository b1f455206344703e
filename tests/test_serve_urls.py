"""Pictures by address: what is public, and each way to make a server reach into its own network."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from picture_server import PictureServer

from vivo.serve.addresses import METADATA, is_allowed
from vivo.serve.body import Memory, Share
from vivo.serve.fetch import ascii_host, fetch_picture, resolve, split_url
from vivo.serve.problems import Problem, invalid
from vivo.serve.settings import Settings

LOOPBACK = (ip_network("127.0.0.0/8"),)
OPEN = Settings(checkpoint=None, urls=True, url_networks=LOOPBACK, url_seconds=2.0)
PUBLIC = Settings(checkpoint=None, urls=True, url_seconds=2.0)


def fetch(url: str, settings: Settings = OPEN, most: int = 1000) -> bytes:
    share = Share(Memory(10_000_000))
    return asyncio.run(fetch_picture(url, most, settings, share, invalid("InvalidImageSize", "too large")))


def refused(url: str, settings: Settings = OPEN, most: int = 1000) -> Problem:
    with pytest.raises(Problem) as found:
        fetch(url, settings, most)
    assert found.value.status == 400
    return found.value


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "::ffff:168.63.129.16",
    ],
)  # fmt: skip
def test_addresses_that_are_never_public(address: str) -> None:
    assert not is_allowed(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_allowed(ip_address(address))


def test_networks_allow_what_lies_in_them_and_metadata_never() -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd12::/32"))
    assert is_allowed(ip_address("10.1.2.3"), networks) and is_allowed(ip_address("fd12::5"), networks)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), networks)
    assert not is_allowed(ip_address("10.2.0.1"), networks) and not is_allowed(ip_address("fd13::5"), networks)
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert all(is_allowed(ip_address(a), everything) for a in ("10.0.0.1", "127.0.0.1", "::1", "fe80::1"))
    assert not any(is_allowed(a, everything) for a in METADATA)
    assert not any(is_allowed(ip_address(a), everything) for a in ("fd20:ce::254", "169.254.0.23", "fe80::a9fe:a9fe"))
    assert not is_allowed(ip_address("::ffff:169.254.169.254"), everything)


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_no_way_of_writing_a_private_address_is_public(address) -> None:
    ways = (f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}", str(address))
    assert not any(is_allowed(ip_address(way)) for way in ways)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0",
     "①②⑦.0.0.1", "127.0.0.1.", "LOCALHOST"],
)  # fmt: skip
def test_every_spelling_of_loopback_is_refused_before_a_connection(host: str) -> None:
    with PictureServer({"/p": b"secret"}) as server:
        problem = refused(f"http://{host}:{server.port}/p", PUBLIC)
        assert problem.inner == "InvalidImageUrl" and server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "ftp://127.0.0.1/p", "file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http:///p", "//host/p",
        "http://user:pass@127.0.0.1/", "http://127.0.0.1@evil.example/", "http://127.0.0.1:0/", "http://127.0.0.1:99999/",
        "http://127.0.0.1/\r\nX: y", "http://127.0.0.1\\@evil.example/", "http://[::1/", "http://a b/", "data:,x",
        "http://127.0.0.1/" + "a" * 5000, "http://exa\tmple.org/", "http://.../", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    problem = refused(url)
    assert problem.inner == "InvalidImageUrl" and "badly formatted" in problem.message


@given(st.text(max_size=60))
@example("\xa0")  # IDNA makes a space of it
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h/{text}"):
        try:
            parts = split_url(url)
        except Problem as problem:
            assert problem.inner == "InvalidImageUrl"
        else:
            assert re.fullmatch(r"[\w.:-]+", ascii_host(parts.hostname), re.ASCII)
            assert parts.scheme in ("http", "https") and not re.search(r"[\s\\]", url)


def test_off_unless_enabled() -> None:
    assert "takes no image URLs" in refused("http://93.184.216.34/p", Settings(checkpoint=None)).message


def redirect(to: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return status, {"Location": to}, b""


def test_pictures_and_redirects_that_are_allowed() -> None:
    answers = {"/p": b"picture", "/301": redirect("/p", 301), "/308": redirect("p?a=b#c", 308), "/2": redirect("/301")}
    with PictureServer(answers) as server:
        assert [
            fetch(f"{server.url}{path}") for path in ("/p", "/301", "/308", "/2", "/p?q=ä b".replace(" ", "%20"))
        ] == [b"picture"] * 5
        path, headers = server.asked[0]
        assert path == "/p" and headers["Host"] == f"127.0.0.1:{server.port}"
        assert "Cookie" not in headers and headers["Accept-Encoding"] == "identity"
        assert server.asked[-1][0] == "/p?q=%C3%A4%20b"


def test_each_redirect_is_checked() -> None:
    """The first server is allowed; where it leads to is not, though the same machine answers there."""
    only_here = Settings(checkpoint=None, urls=True, url_networks=(ip_network("127.0.0.1/32"),), url_seconds=2.0)
    with PictureServer({"/p": b"secret"}, "127.0.0.2") as inner:
        answers = {
            "/other": redirect(f"{inner.url}/p"), "/meta": redirect("http://169.254.169.254/latest/meta-data/"),
            "/file": redirect("file:///etc/passwd"), "/six": redirect("http://[::1]/"), "/bad": redirect("http://a b/"),
            "/open": redirect("http://[::1/"), "/slash": redirect(f"//127.0.0.2:{inner.port}/p"),
        }  # fmt: skip
        with PictureServer(answers) as outer:
            assert {refused(f"{outer.url}{path}", only_here).inner for path in answers} == {"InvalidImageUrl"}
        assert fetch(f"{inner.url}/p") == b"secret"  # it does answer
        assert len(inner.asked) == 1


def test_redirects_end() -> None:
    with PictureServer({"/loop": redirect("/loop")}) as server:
        assert "too many redirects" in refused(f"{server.url}/loop").message
        assert len(server.asked) == 4


def names(monkeypatch: pytest.MonkeyPatch, answers: Callable[[str, int], list[str]]) -> list[str]:
    """A name server of our own; returns the list of what it is asked."""
    asked: list[str] = []

    async def getaddrinfo(self, host, port, **_):
        asked.append(host)
        found = answers(host, len(asked))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is allowed, every later one leads to the secret. There is no later question."""
    only_here = Settings(checkpoint=None, urls=True, url_networks=(ip_network("127.0.0.1/32"),), url_seconds=2.0)
    with PictureServer({"/p": b"picture"}) as server:
        asked = names(monkeypatch, lambda host, count: ["127.0.0.1"] if count == 1 else ["127.0.0.2"])
        assert fetch(f"http://rebind.example:{server.port}/p", only_here) == b"picture"
        assert asked.count("rebind.example") == 1 and server.asked[0][1]["Host"] == f"rebind.example:{server.port}"
        target = f"http://rebind.example:{server.port}/p"
        assert refused(target, only_here).inner == "InvalidImageUrl"  # the second fetch gets the second answer
        assert len(server.asked) == 1


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, lambda host, count: ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(Problem, match="no such host"):
        asyncio.run(resolve("http://mixed.example/", PUBLIC))
    names(monkeypatch, lambda host, count: ["93.184.216.34"])
    found = asyncio.run(resolve("https://bücher.example/p?a=1", PUBLIC))
    assert (found.address, found.host, found.port) == ("93.184.216.34", "xn--bcher-kva.example", 443)


def test_size_time_and_honesty() -> None:
    given_up = threading.Event()

    def slow(handler) -> None:  # a byte now and then, for ever
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"x")
            if given_up.wait(0.1):
                break

    def endless(handler) -> None:  # no length, no end
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 1000)

    def short(handler) -> None:  # ends before it said
        handler.send_response(200)
        handler.send_header("Content-Length", "500")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.close_connection = True

    answers = {
        "/slow": slow, "/endless": endless, "/short": short, "/big": b"x" * 2000, "/fits": b"x" * 1000,
        "/gzip": (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"), "/gone": (404, {}, b""), "/error": (500, {}, b""),
        "/nowhere": (302, {}, b""),
    }  # fmt: skip
    with PictureServer(answers) as server:
        inner = {path: refused(f"{server.url}{path}").inner for path in answers if path != "/fits"}
        given_up.set()
        assert inner.pop("/slow") == "Timeout"
        assert (inner.pop("/endless"), inner.pop("/big")) == ("InvalidImageSize", "InvalidImageSize")
        assert set(inner.values()) == {"InvalidImageUrl"} and len(inner) == 5
        assert fetch(f"{server.url}/fits") == b"x" * 1000
    assert refused(f"{server.url}/fits").inner == "InvalidImageUrl"  # nobody listens any more


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with PictureServer({"/p": b"picture"}) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert fetch(f"{server.url}/p") == b"picture"
