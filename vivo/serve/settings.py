"""All that `vivo serve` can be told, in one place."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """What a service does and where it stops.

    Attributes:
        checkpoint: captioner folder. device: of the model ("cpu", "cuda"); None: a GPU where there is one.
        keys: subscription keys; none: everybody may ask (`vivo serve` allows that on loopback alone).
        hosts: where there are no keys, the names by which the service may be called: a page of another site that
            points its own name at this machine (DNS rebinding) is refused.
        beam: width of the search, hence how many captions a picture has at most.
        threshold: confidence below which there is no caption; None: the checkpoint's calibrated one.
        urls: whether pictures may be given as http(s) addresses.
        url_networks: private networks whose addresses are allowed all the same.
        url_seconds, url_redirects: limits of one download.
        v3_bytes, v4_bytes: largest picture file of the v2.1 to v3.2 interface, and of Image Analysis 4.0.
        least_side, greatest_side, most_pixels: of pictures.
        batch, batch_seconds: pictures that the model reads together at most, and how long the first of them waits.
        queue: pictures that may wait for the model; more are refused with 429.
        large_queue: large pictures that may wait to be decoded, and places for them alone in the model's queue.
        decode_seconds: of a processor, for one picture; then it is given up.
        memory_bytes: files and pixels of all requests together, and what decoding takes; more are refused with 429.
        body_seconds: for sending a request's body, and for reading an answer. header_seconds: for its first line and
            headers.
        wait_seconds: to be decoded, and for the model; later a request is given up.
        drain_seconds: for the requests that are there when the service is told to stop.
        connections: open at a time; more are answered 503.
    """

    checkpoint: Path
    device: str | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    beam: int = 5
    threshold: float | None = None
    urls: bool = False
    url_networks: tuple[IPv4Network | IPv6Network, ...] = field(default=())
    url_seconds: float = 10.0
    url_redirects: int = 3
    v3_bytes: int = 4 * MEBIBYTE
    v4_bytes: int = 20 * MEBIBYTE
    least_side: int = 50
    greatest_side: int = 16_000
    most_pixels: int = 100_000_000
    batch: int = 16
    batch_seconds: float = 0.01
    queue: int = 64
    large_queue: int = 8
    decode_seconds: float = 10.0
    memory_bytes: int = 1024 * MEBIBYTE
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    wait_seconds: float = 60.0
    drain_seconds: float = 30.0
    connections: int = 1000

    @property
    def most_decoded(self) -> int:
        """Bytes that decoding one picture may take: half, so that a large one leaves room for small ones."""
        return self.memory_bytes // 2
