"""The one exception that users are meant to read, and how programs show it.

A `UserError` says in one line what is wrong, where, and how to mend it. Every command
(`vivo ...`, `pretrain/*.py`, `finetune/*.py`, `eval/*.py`) wraps its `main` in `exits_cleanly`:
the line goes to stderr and the exit status is 2. Anything else is a bug of ours and keeps
its traceback.
"""

import functools
import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """Bad input, configuration or environment: what, where, the fix; one line."""


def exits_cleanly(
    main: Callable[[Sequence[str] | None], int | None],
) -> Callable[[Sequence[str] | None], int]:
    """Wrap `main(argv)`: a `UserError` becomes one line on stderr and exit status 2, Ctrl-C 130."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            return 130

    return wrapped
