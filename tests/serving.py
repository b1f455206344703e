"""`vivo serve` as a process of its own on a free port, and a tiny captioner for it to serve."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "0123456789abcdef0123456789abcdef"
OTHER_KEY = "fedcba9876543210fedcba9876543210"


def make_captioner(folder: Path) -> Path:
    """A captioner folder: a random model on the features of the embedded detector. A folder that has one stays."""
    import torch

    from vivo.captioner import Captioner
    from vivo.data.regions import fingerprint_of
    from vivo.data.text import load_tokenizer
    from vivo.detectors.base import load_detector
    from vivo.model_config import VivoConfig
    from vivo.modeling import VivoForCaptioning
    from vivo.weights import bert_folder

    if (folder / "config.json").is_file():
        return folder
    detector = load_detector("embedded")
    torch.manual_seed(0)
    config = VivoConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        feature_size=detector.feature_size,
        region_fingerprint=fingerprint_of(detector.fingerprint()),
        training_stage="captions",
    )
    model = VivoForCaptioning(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    Captioner(model, load_tokenizer(bert_folder("minilm")), detector).save_pretrained(folder, license="mit")
    return folder


@dataclass
class Server:
    """A running service.

    Attributes:
        url: as http://127.0.0.1:40123. log: what it wrote to stderr, JSON lines among it.
    """

    url: str
    process: subprocess.Popen
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def lines(self) -> list[dict]:
        """The requests of its log."""
        texts = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, texts) if line["message"] == "request"]

    def line_of(self, request_id: str) -> dict:
        """A request's line, which is written a moment after its answer has gone out."""
        for _ in range(100):
            for line in self.lines():
                if line["request"] == request_id:
                    return line
            self.ask("/healthz")
        raise AssertionError(f"no line of {request_id}")

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/octet-stream", **headers: str):
        """(status, headers, body) of a GET, or of a POST with a body."""
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": kind, **headers})
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def describe(self, body: bytes, path: str = "/vision/v3.2/describe", key: str = KEY, **headers: str):
        """(status, JSON) of a POST of a picture."""
        status, _, content = self.ask(path, body, **{"Ocp-Apim-Subscription-Key": key, **headers})
        return status, json.loads(content)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def running(folder: Path, work: Path, *options: str, keys: bool = True) -> Iterator[Server]:
    """`vivo serve` of a captioner folder on a free port of loopback, until the block ends.

    Args:
        work: folder for the key file and the log.
    """
    key_file, log = work / "keys.txt", work / "serve.log"
    key_file.write_text(f"# two keys\n{KEY}\n{OTHER_KEY}\n")
    asked = ["--key-file", str(key_file)] if keys else ["--no-key"]
    command = [sys.executable, "-m", "vivo.cli", "serve", "--checkpoint", str(folder), "--port", "0", *asked, *options]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "LANG": "C"})
        try:
            first = process.stdout.readline().decode()
            if not first.startswith("vivo serve: http://"):
                process.wait(30)
                raise AssertionError(f"it did not start: {first}{log.read_text()}")
            yield Server(first.split()[-1], process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            process.stdout.close()
