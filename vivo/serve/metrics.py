"""What a service tells Prometheus (GET /metrics), and the one line of JSON that a request leaves in the log.

With several processes (`--workers`) their numbers are added up through files in PROMETHEUS_MULTIPROC_DIR, which the
command sets.
"""

import json
import logging
import os
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The numbers of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter(
            "vivo_requests_total", "By operation, status and error code", ["operation", "status", "code"], **own
        )
        self.seconds = Histogram(
            "vivo_request_seconds", "From the first byte to the answer", ["operation"], buckets=SECONDS, **own
        )
        self.waited = Histogram("vivo_queue_seconds", "In the queue before the model", buckets=SECONDS, **own)
        self.worked = Histogram("vivo_model_seconds", "Of the model, a batch", buckets=SECONDS, **own)
        self.together = Histogram("vivo_batch_pictures", "Pictures of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self.failed = Counter("vivo_model_failures_total", "Pictures that the model failed with", **own)
        self.bytes = Counter("vivo_picture_bytes_total", "Bytes of pictures that were read", **own)
        self.withheld = Counter("vivo_captions_withheld_total", "Pictures without a sure caption", **own)
        live = {**own, "multiprocess_mode": "livesum"}
        self.active = Gauge("vivo_requests_active", "Requests that are being answered", **live)
        self.waiting = Gauge("vivo_queue_pictures", "Pictures that wait for the model", **live)
        self.decoding = Gauge("vivo_decode_queue_pictures", "Pictures that wait to be decoded", **live)
        self.memory = Gauge("vivo_request_memory_bytes", "Files and pixels of requests", **live)

    def batch(self, pictures: int, seconds: float, failed: int) -> None:
        """One batch of the model."""
        self.together.observe(pictures)
        self.worked.observe(seconds)
        if failed:
            self.failed.inc(failed)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        all_processes = CollectorRegistry()
        multiprocess.MultiProcessCollector(all_processes)
        return generate_latest(all_processes)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, message, and the fields that were given with it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr() -> None:
    """Send what the service and uvicorn log to stderr, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("vivo.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ([handler] if name != "uvicorn.error" else []), name == "uvicorn.error"
        logger.setLevel(logging.INFO)
