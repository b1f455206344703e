"""`vivo serve`: from its options to processes that listen.

One process is the model, its thread and an event loop. `--workers N` are N such processes on one socket, each with the
model; one that dies is started again. SIGTERM: no new connections, what is there is answered, then the end with exit
status 0.
"""

import argparse
import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from vivo.errors import UserError
from vivo.serve.connections import PatientProtocol, allow_connections
from vivo.serve.keys import read_keys
from vivo.serve.pictures import quieten_pillow
from vivo.serve.settings import Settings


def serve(arguments: argparse.Namespace) -> int:
    """Run until told to stop."""
    settings = settings_of(arguments)
    _check_device(settings.device)
    listening = _listen(arguments.host, arguments.port)
    if arguments.workers > 1:
        folder = tempfile.mkdtemp(prefix="vivo-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before prometheus_client is imported anywhere
    from vivo.serve.metrics import log_to_stderr

    log_to_stderr()
    quieten_pillow()
    _warn(settings)
    config = _configuration(partial(worker, settings), settings, arguments.workers)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if arguments.workers > 1:
        _check_checkpoint(settings)
        print(f"vivo serve: http://{shown}:{port}", flush=True)
        Multiprocess(config, sockets=[listening]).run()
        return 0
    from vivo.serve.application import application

    config.app, config.factory = application(settings), False  # here, so that what is wrong with it is one line
    print(f"vivo serve: http://{shown}:{port}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn sends itself the signal again when it is done
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def worker(settings: Settings):
    """The application of one of several processes, made in that process."""
    from vivo.program import set_cpu_defaults
    from vivo.serve.application import application
    from vivo.serve.metrics import log_to_stderr

    PatientProtocol.settings = settings  # what the parent set of a class is not handed on
    set_cpu_defaults()
    log_to_stderr()
    quieten_pillow()
    return application(settings)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings from options.

    Raises:
        UserError: no keys and no --no-key, --no-key beyond loopback, options that contradict each other.
    """
    if (arguments.key_file is None) == (not arguments.no_key):
        raise UserError("vivo serve: give --key-file FILE (one key a line), or --no-key on loopback; not both")
    if arguments.no_key and not _is_loopback(arguments.host):
        raise UserError(f"--no-key: only on loopback (--host 127.0.0.1), not on {arguments.host}; give --key-file FILE")
    networks = tuple(map(_network, arguments.allow_url_network))
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold}: must be from 0 to 1")
    if not 0 <= arguments.max_wait_ms <= 10_000 or arguments.memory_mb < 64:
        raise UserError("--max-wait-ms must be from 0 to 10000, --memory-mb 64 or more")
    if not (0 < arguments.body_seconds <= 3600 and 0 < arguments.drain_seconds <= 3600):  # nan is neither
        raise UserError("--body-seconds and --drain-seconds must be above 0, up to 3600")
    if arguments.port > 65535:
        raise UserError(f"--port {arguments.port}: must be from 0 to 65535")
    return Settings(
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        keys=() if arguments.no_key else read_keys(arguments.key_file),
        hosts=(*Settings.hosts, arguments.host),  # which may be 127.0.0.2
        beam=arguments.beam,
        threshold=arguments.threshold,
        urls=arguments.allow_urls or bool(networks),
        url_networks=networks,
        batch=arguments.batch,
        batch_seconds=arguments.max_wait_ms / 1000,
        queue=arguments.queue,
        memory_bytes=arguments.memory_mb * 1024 * 1024,
        body_seconds=arguments.body_seconds,
        drain_seconds=arguments.drain_seconds,
    )


def _configuration(make, settings: Settings, workers: int) -> uvicorn.Config:
    PatientProtocol.settings = settings
    allow_connections(settings.connections)
    return uvicorn.Config(
        make,
        factory=True,
        workers=workers,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        timeout_worker_healthcheck=30,
        h11_max_incomplete_event_size=64 * 1024,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _network(text: str):
    try:
        return ip_network(text)
    except ValueError as error:
        raise UserError(f"--allow-url-network {text}: {error}; give a network as 10.1.2.0/24") from None


def _check_device(name: str | None) -> None:
    """Raises: UserError, where PyTorch has no such device."""
    if name is None:
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):  # the second: PyTorch without CUDA
        raise UserError(f"--device {name}: there is none here; give cpu, or cuda where there is a GPU") from None


def _check_checkpoint(settings: Settings) -> None:
    """What would be wrong in every worker is said once, here, and not by each of them for ever."""
    from vivo.serve.describer import Describer

    Describer(settings.checkpoint, "cpu", settings.beam)


def _warn(settings: Settings) -> None:
    """What whoever starts the service should know."""
    if settings.url_networks:
        names = ", ".join(map(str, settings.url_networks))
        print(f"warning: pictures are fetched from {names} for whoever has a key", file=sys.stderr)
    if not (Path(settings.checkpoint) / "calibration.json").is_file() and settings.threshold is None:
        print(
            f"warning: {settings.checkpoint} is not calibrated (eval/calibrate.py): confidences are mean probabilities"
            " of tokens, and no caption is withheld",
            file=sys.stderr,
        )
