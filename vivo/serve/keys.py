"""Who may ask: subscription keys from a file, compared in constant time."""

import hashlib
import hmac
from pathlib import Path

from vivo.errors import UserError

LEAST_LENGTH = 16


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file: one a line; empty lines and lines that begin with # are none.

    Raises:
        UserError: no file, no key, a key that is short or that a header cannot carry.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --key-file takes a text file, one key a line") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    for number, key in enumerate(keys, 1):
        if len(key) < LEAST_LENGTH or not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"{path}: key {number} must have {LEAST_LENGTH} or more ASCII characters and no space;"
                " make one with: python -c 'import secrets; print(secrets.token_hex(16))'"
            )
    if not keys:
        raise UserError(f"{path}: no key in it; write one a line, or start with --no-key on loopback")
    return tuple(keys)


class Keys:
    """The keys that are right, kept as digests: equal lengths, and none that a log could print."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, given: str) -> str:
        """A short name for logs of a right key, "" for a wrong one. Takes as long for every key."""
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        right = 0
        for known in self._digests:  # no early end
            right |= hmac.compare_digest(digest, known)
        return digest.hex()[:8] if right else ""
