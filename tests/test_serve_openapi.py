"""What the OpenAPI description allows, tried by schemathesis; each answer must be one that it describes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving import KEY, running

CASES = int(os.environ.get("VIVO_SCHEMATHESIS_CASES", "5"))  # of each operation, beside those that cover its parameters


@pytest.mark.slow
def test_every_answer_is_as_described(tiny_captioner: Path, tmp_path: Path) -> None:
    with running(tiny_captioner, tmp_path, "--beam", "1") as server:
        described = json.loads(server.ask("/openapi.json")[2])
        program = Path(sys.executable).with_name("schemathesis")
        # Bytes at random are a valid body by any description and no picture, so refusing them is no failure.
        command = [
            program, "run", f"{server.url}/openapi.json", "-H", f"Ocp-Apim-Subscription-Key: {KEY}",
            "--phases", "examples,coverage,fuzzing", "--max-examples", str(CASES), "--seed", "1",
            "--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=900,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )  # fmt: skip
        print(done.stdout[-2000:])
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        operations = [(path, method) for path, of in described["paths"].items() for method in of]
        assert f"Tested: {len(operations)}" in done.stdout and len(operations) == 10
        passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert passed and passed[1] == passed[2] and int(passed[1]) >= 100
        assert "Traceback" not in server.log.read_text()
        assert server.ask("/readyz")[0] == 200
