"""The options of `vivo serve`; nothing of the service itself is imported before it is run."""

import argparse
from pathlib import Path

from vivo.errors import UserError
from vivo.program import whole_number


def add_serve(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The verb and its options."""
    verb = verbs.add_parser("serve", help="captions over HTTP, for Azure's clients and for people (docs/service.md)")
    verb.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="as runs/demo/vivo of the demo")
    verb.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; 0.0.0.0: everywhere")
    verb.add_argument("--port", type=whole_number(0), default=8000, help="default: 8000; 0: any free one, printed")
    verb.add_argument("--key-file", type=Path, metavar="FILE", help="subscription keys, one a line")
    verb.add_argument("--no-key", action="store_true", help="everybody on this machine may ask; only on loopback")
    verb.add_argument("--device", help="cpu or cuda; default: a GPU where there is one")
    verb.add_argument("--workers", type=whole_number(1), default=1, metavar="N", help="processes, each with the model")
    verb.add_argument("--beam", type=whole_number(1), default=5, metavar="N", help="width of search; default: 5")
    verb.add_argument("--threshold", type=float, metavar="P", help="least confidence; default: the calibrated one")
    verb.add_argument("--batch", type=whole_number(1), default=16, metavar="N", help="pictures read together at most")
    verb.add_argument("--max-wait-ms", type=float, default=10.0, metavar="MS", help="wait for others; default: 10")
    verb.add_argument("--queue", type=whole_number(1), default=64, metavar="N", help="pictures that may wait; else 429")
    verb.add_argument("--memory-mb", type=int, default=1024, metavar="MB", help="of files and pixels; else 429")
    verb.add_argument("--body-seconds", type=float, default=30.0, metavar="S", help="for sending a picture")
    verb.add_argument("--drain-seconds", type=float, default=30.0, metavar="S", help="to finish after SIGTERM")
    verb.add_argument("--allow-urls", action="store_true", help="fetch pictures from public http(s) addresses")
    verb.add_argument(
        "--allow-url-network", action="append", default=[], metavar="CIDR", help="and from this private network"
    )
    verb.set_defaults(run=serve)


def serve(arguments: argparse.Namespace) -> int:
    """`vivo serve`: captions over HTTP, as Azure's clients ask for them, and a page."""
    if not arguments.checkpoint.is_dir():
        raise UserError(f"{arguments.checkpoint}: no such folder; --checkpoint takes one such as runs/demo/vivo")
    try:
        from vivo.serve.command import serve as run
    except ImportError as error:
        if (error.name or "").startswith("vivo"):
            raise
        raise UserError(f"vivo serve needs the package {error.name}: pip install 'vivo[serve]'") from None
    return run(arguments)
