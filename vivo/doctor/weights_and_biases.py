"""W&B: logged in, reachable, and able to write a run without either. Optional: metrics.jsonl is written always."""

import netrc
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from vivo.doctor.finding import Finding, first_line, ok, warning

DEFAULT = "https://api.wandb.ai"
OFFLINE_RUN = (
    "import sys, wandb; run = wandb.init(mode='offline', project='vivo-doctor', dir=sys.argv[1]); "
    "run.log({'a': 1}); run.finish()"
)


def check_wandb() -> Iterator[Finding]:
    """Three lines: log-in, network, offline."""
    address = os.environ.get("WANDB_BASE_URL", DEFAULT)
    host = urlsplit(address).hostname or ""
    if _has_key(host):
        yield ok("W&B log-in", f"a key for {host}")
    else:
        yield warning("W&B log-in", f"no key for {host}", "wandb login; or tracking.wandb=offline, which needs none")
    yield check_reachable(address)
    yield check_offline()


def check_reachable(address: str, seconds: float = 5.0) -> Finding:
    """Whether a connection to the server (or to the proxy before it) can be opened."""
    variable = f"{urlsplit(address).scheme}_proxy"
    parts = urlsplit(os.environ.get(variable) or os.environ.get(variable.upper()) or address)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
    except OSError as error:
        fix = "tracking.wandb=offline here, and `wandb sync` (or `vivo sync`) from a machine with a network"
        return warning("W&B network", f"{parts.hostname}:{port} cannot be reached ({first_line(error)})", fix)
    return ok("W&B network", f"{parts.hostname}:{port} answers")


def check_offline() -> Finding:
    """A whole run in offline mode, in a process and a folder of its own."""
    fix = "pip install --force-reinstall wandb; until then tracking.wandb=disabled, metrics.jsonl has everything"
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", OFFLINE_RUN, folder],
                capture_output=True,
                text=True,
                timeout=120,
                env=os.environ | {"WANDB_SILENT": "true", "WANDB_MODE": "offline"},
                cwd=folder,
            )
            written = list(Path(folder).glob("wandb/offline-run-*/*.wandb"))
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning("W&B offline", f"no run can be written ({first_line(error)})", fix)
    if done.returncode or not written:
        last = (done.stderr.strip().splitlines() or ["nothing was written"])[-1]
        return warning("W&B offline", f"no run can be written ({last})", fix)
    return ok("W&B offline", "a run was written")


def _has_key(host: str) -> bool:
    """Whether a key is in the environment or in the netrc file; its value is of no interest."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in map(os.path.expanduser, files):
        try:
            if Path(file).is_file() and host in netrc.netrc(file).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
