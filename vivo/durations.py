"""How long something lasts in a run: "800 steps", "3 epochs", "1.7e6 examples", "5 percent" of the run."""

import math
import re
from dataclasses import dataclass

UNITS = ("steps", "epochs", "examples", "percent")
LONGEST = 1e15
"""The largest amount: more than any machine can do, and small enough to count with."""


@dataclass(frozen=True)
class Duration:
    """An amount of one of `UNITS`. A step is an update, an epoch a pass over the training pictures."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"

    def times(self, factor: float) -> "Duration":
        """So many times as long; steps are rounded up."""
        amount = round(self.amount * factor, 6)
        return Duration(math.ceil(amount) if self.unit == "steps" else amount, self.unit)

    def steps(self, batch_size: int, examples: int, whole: int | None = None) -> int:
        """As updates, rounded up.

        Args:
            batch_size: pictures of an update. examples: pictures of an epoch.
            whole: updates of the whole run, for percent.

        Raises:
            ValueError: percent without `whole`.
        """
        if self.unit == "steps":
            exact = self.amount
        elif self.unit == "percent":
            if whole is None:
                raise ValueError("percent of what? the length of the run itself cannot be in percent")
            exact = self.amount / 100 * whole
        else:
            exact = self.amount * (examples if self.unit == "epochs" else 1) / batch_size
        return math.ceil(round(exact, 6))  # 10 percent of 30 is 3.0000000000000004


def parse_duration(text: str) -> Duration:
    """Read "<amount> <unit>"; "" is 0 steps. A unit may stand in the singular, and without the space, as in "800steps".

    Raises:
        ValueError: with what is wrong, in words that can follow the name of a field.
    """
    if not text.strip():
        return Duration(0.0, "steps")
    found = re.fullmatch(r"\s*(\d[\d_]*\.?\d*(?:[eE]\+?\d+)?)\s*([a-z]+?)s?\s*", text)
    units = {name.rstrip("s"): name for name in UNITS}
    if not found or found[2] not in units:
        raise ValueError(f"{text!r} is no duration; write an amount and one of {', '.join(UNITS)}, as in '800 steps'")
    number = float(found[1])
    if number > LONGEST:
        raise ValueError(f"{text!r} is longer than any run; {LONGEST:g} is the most")
    duration = Duration(number, units[found[2]])
    if duration.unit == "steps" and number != int(number):
        raise ValueError(f"{text!r}: there are no parts of a step")
    if duration.unit == "percent" and number > 100:
        raise ValueError(f"{text!r} is more than the whole")
    return duration
