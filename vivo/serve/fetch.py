"""Fetching a picture from an address that a client gave, without becoming its arm into our network (SSRF).

A name is resolved once, every address that it has is checked (`vivo.serve.addresses`), and the connection goes to a
checked address, so that a second answer of the name server changes nothing. Each redirect is a new address with the
same checks. The client is small and our own, over h11, because clients that resolve by themselves, follow redirects by
themselves or honour proxies of the environment are what such attacks use.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import h11

from vivo import __version__
from vivo.serve.addresses import is_allowed
from vivo.serve.body import Share
from vivo.serve.problems import Problem, invalid
from vivo.serve.settings import Settings

LONGEST = 4096  # characters of an address
_SAFE = "/:?#[]@!$&'()*+,;=%~"


@dataclass(frozen=True)
class Target:
    """A checked address: where to connect and what to ask for."""

    scheme: str
    host: str
    port: int
    path: str
    address: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


async def fetch_picture(url: str, most: int, settings: Settings, share: Share, too_large: Problem) -> bytes:
    """The bytes at `url`.

    Raises:
        Problem: addresses are off, malformed or not allowed; no picture came in time; it is too large.
    """
    if not settings.urls:
        raise invalid("InvalidImageUrl", "This service takes no image URLs; send the image itself.")
    try:
        async with asyncio.timeout(settings.url_seconds):
            for _ in range(settings.url_redirects + 1):
                target = await resolve(url, settings)
                answer = await _get(target, most, share, too_large)
                if isinstance(answer, bytes):
                    return answer
                following = urljoin(url, answer)
                if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                    raise _unreachable("it leads from https to another scheme")
                url = following
    except TimeoutError:
        raise invalid("Timeout", "The image URL did not answer in time.") from None
    except (OSError, ValueError, h11.RemoteProtocolError, h11.LocalProtocolError):  # a ValueError: of urljoin
        raise _unreachable("no answer") from None
    raise _unreachable("too many redirects")


def split_url(url: str) -> SplitResult:
    """Parts of an http(s) address.

    Raises:
        Problem: it is none, or has a user name, or a character that has no place in one.
    """
    try:
        if len(url) > LONGEST or any(ord(c) <= 32 or ord(c) == 127 or c == "\\" or c.isspace() for c in url):
            raise ValueError
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.port == 0:
            raise ValueError
        ascii_host(parts.hostname)
    except ValueError:  # also ports out of range, brackets without an end, names that IDNA refuses
        raise invalid("InvalidImageUrl", "Image URL is badly formatted.") from None
    return parts


def ascii_host(name: str) -> str:
    """A host as it is asked for: an IPv6 address, or a name that IDNA has made plain.

    Raises:
        ValueError: it is neither.
    """
    if ":" in name:
        return str(ip_address(name))
    host = name.encode("idna").decode()
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host):  # IDNA lets spaces of other scripts become spaces
        raise ValueError(name)
    return host


async def resolve(url: str, settings: Settings) -> Target:
    """`url` with an address that may be connected to.

    Raises:
        Problem: a bad URL, a name without an address, any address that is not allowed.
    """
    parts = split_url(url)
    host = ascii_host(parts.hostname)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _unreachable("no such host") from None
    addresses = [str(entry[4][0]).split("%")[0] for entry in found]
    check_addresses(addresses, settings)
    path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return Target(parts.scheme, host, port, path, addresses[0])


def check_addresses(addresses: Sequence[str], settings: Settings) -> None:
    """All or nothing: a name with one private address is not tried at its public one.

    Raises:
        Problem: the same text as for a name that does not exist, so that nobody can map our network with it.
    """
    if not addresses or not all(is_allowed(ip_address(one), settings.url_networks) for one in addresses):
        raise _unreachable("no such host")


async def _get(target: Target, most: int, share: Share, too_large: Problem) -> bytes | str:
    """The body, or where a redirect leads."""
    secure = ssl.create_default_context() if target.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        target.address, target.port, ssl=secure, server_hostname=target.host if secure else None
    )
    try:
        return await _exchange(reader, writer, target, most, share, too_large)
    finally:
        writer.transport.abort()  # nothing is left to say, and a server that is slow to close would hold us


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, most: int, share: Share,
    too_large: Problem,
) -> bytes | str:  # fmt: skip
    connection = h11.Connection(h11.CLIENT)
    headers = [
        ("Host", target.authority),
        ("User-Agent", f"vivo/{__version__}"),
        ("Accept", "image/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    writer.write(connection.send(h11.Request(method="GET", target=target.path, headers=headers)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    parts: list[bytes] = []
    count = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            said = {name.lower(): value.decode("latin-1") for name, value in event.headers}
            if event.status_code in (301, 302, 303, 307, 308) and b"location" in said:
                return said[b"location"]
            if event.status_code != 200:
                raise _unreachable(f"status {event.status_code}")
            if said.get(b"content-encoding", "identity") != "identity":
                raise _unreachable("its content is encoded")
            if said.get(b"content-length", "").isdigit() and int(said[b"content-length"]) > most:
                raise too_large
        elif isinstance(event, h11.Data):
            count += len(event.data)
            if count > most:
                raise too_large
            share.take(len(event.data))
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return b"".join(parts)
        elif isinstance(event, h11.ConnectionClosed):
            raise _unreachable("the connection ended early")


def _unreachable(why: str) -> Problem:
    return invalid("InvalidImageUrl", f"Image URL is not accessible ({why}).")
