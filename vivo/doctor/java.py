"""Java, which METEOR and SPICE need, and the two on one caption. Optional: all other scores are computed without."""

from collections.abc import Callable, Iterator

from vivo.doctor.finding import Finding, ok, warning
from vivo.metrics.java import JavaScoreError, find_java
from vivo.metrics.meteor import Meteor
from vivo.metrics.spice import Spice

# A caption and a reference, whose scores are anything but 0.
CAPTION, REFERENCE = "a brown dog runs on the grass", "a dog is running on the grass"
METEOR_LIMIT, SPICE_LIMIT = 120.0, 600.0


def check_java() -> Iterator[Finding]:
    """Java; then METEOR and SPICE, each run on one caption (5 s; SPICE reads its parser first)."""
    try:
        yield ok("java", find_java().shown)
    except JavaScoreError as error:
        yield warning("java", error.found.removeprefix("java is "), f"for METEOR and SPICE: {error.fix}")
    yield check_meteor()
    yield check_spice()


def check_meteor(limit: float = METEOR_LIMIT) -> Finding:
    """METEOR of one caption."""
    return _tried("METEOR", lambda: Meteor(limit).score([CAPTION], [[REFERENCE]], {}).per_picture[0])


def check_spice(limit: float = SPICE_LIMIT) -> Finding:
    """SPICE of one caption, where its files are there: $VIVO_SPICE, or where pycocoevalcap looks for them."""
    return _tried("SPICE", lambda: Spice(limit=limit).score([CAPTION], [[REFERENCE]])[0])


def _tried(name: str, score: Callable[[], float]) -> Finding:
    try:
        found = score()
    except JavaScoreError as error:
        return warning(name, error.found, error.fix)
    if not 0 < found <= 1:
        return warning(name, f"a good caption scores {found}", "install pycocoevalcap again, and the files of SPICE")
    return ok(name, f"a caption scored: {100 * found:.1f}")
