"""How programs run: one-line errors, and PyTorch's settings on CPU.

Every command (`vivo ...`, `pretrain/*.py`, `finetune/*.py`, `eval/*.py`) wraps its `main` in
`exits_cleanly` and imports PyTorch inside it. Importing the library changes nothing in the process.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence

from vivo.errors import UserError


def exits_cleanly(
    main: Callable[[Sequence[str] | None], int | None],
) -> Callable[[Sequence[str] | None], int]:
    """Wrap `main(argv)`: a `UserError` becomes one line on stderr and exit status 2, Ctrl-C 130."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        set_cpu_defaults()
        try:
            return main(argv) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            return 130

    return wrapped


def whole_number(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `least` on."""

    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {text}")
        return number

    parse.__name__ = "whole number"  # argparse names the type in its message
    return parse


def set_cpu_defaults() -> None:
    """Two environment variables that PyTorch reads when it is loaded; what is already set stays.

    OMP_WAIT_POLICY: threads that wait for one another do not spin. On a machine that others use too, spinning
    made one picture's detection take 1,000 ms instead of 13.
    THP_MEM_ALLOC_ENABLE: large tensors lie on large pages. Getting small ones from the system, over and over,
    took a sixth of a training step of the world.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
