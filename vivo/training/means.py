"""From the sums that a loss returns to what the log says, each per its own unit."""

from collections.abc import Mapping


def means(sums: Mapping[str, float], pictures: int) -> dict[str, float]:
    """Each sum per supervised token, or per picture where its name ends in "_pictures" or "_per_picture".

    Args:
        sums: over some updates; "count" is the number of tokens. Where a run has two kinds of updates, "KIND/..." are
            the sums of one kind, and "KIND/count" and "KIND/pictures" what they are divided by.
        pictures: of all these updates.

    Returns:
        The means, without the counts they were divided by, and without "_per_picture".
    """
    found = {}
    for name, value in sums.items():
        kind, slash, what = name.rpartition("/")
        if what not in ("count", "pictures"):
            per_picture = what.endswith(("_pictures", "_per_picture"))
            unit = sums.get(f"{kind}/pictures", pictures) if per_picture else sums[f"{kind}{slash}count"]
            found[name.removesuffix("_per_picture")] = value / max(1.0, unit)
    return found
