"""All checks in order, printed as lines or JSON; the exit status says whether training can run."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict

from vivo.doctor.all_reduce import GRACE, check_all_reduce, launched
from vivo.doctor.finding import FAILURE, OK, WARNING, Finding, failure, first_line
from vivo.doctor.java import check_java
from vivo.doctor.machine import check_machine
from vivo.doctor.packages import check_python, check_torchvision, check_versions
from vivo.doctor.weights_and_biases import check_wandb

SIGNS = {OK: "ok", WARNING: "warning", FAILURE: "FAILURE"}


def run_doctor(distributed: bool, as_json: bool, processes: int | None, seconds: float, timeout: float | None) -> int:
    """`vivo doctor`. Returns 1 where something that training needs fails, else 0.

    Under a launcher each node's first process looks at its machine: rank 0 prints everything, the others what
    is wrong, on stderr, with their host's name.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    local = int(os.environ.get("LOCAL_RANK", "0")) == 0
    findings = []
    for finding in _findings(local, distributed, processes, seconds, timeout or seconds + GRACE):
        findings.append(finding)
        if first and not as_json:
            _print(finding)
        elif not first and finding.status == FAILURE:
            print(f"{socket.gethostname()}: {finding.name}: {finding.found}: {finding.fix}", file=sys.stderr)
    counts = {status: sum(f.status == status for f in findings) for status in SIGNS}
    if first and as_json:
        print(json.dumps({"ok": not counts[FAILURE], "checks": [asdict(f) for f in findings]}, indent=2))
    elif first:
        print(_verdict(counts))
    return 1 if counts[FAILURE] else 0


def _findings(
    local: bool, distributed: bool, processes: int | None, seconds: float, timeout: float
) -> Iterator[Finding]:
    """Every check; one that breaks down itself is a failure and does not hide the others."""
    if launched():  # first, so that no process waits at the rendezvous for one that looks at its machine
        yield check_all_reduce(seconds, timeout, processes)
    if local:
        yield check_python()
        for group in (check_versions, check_torchvision, check_machine, check_java, check_wandb):
            try:
                found = group()
                yield from [found] if isinstance(found, Finding) else found
            except Exception as error:  # a package that breaks at import can raise anything
                yield failure(group.__name__, f"the check broke down: {first_line(error)}", "see the lines above")
    if distributed and not launched():
        yield check_all_reduce(seconds, timeout, processes)


def _print(finding: Finding) -> None:
    print(f"{SIGNS[finding.status]:<8} {finding.name:<18} {finding.found}", flush=True)
    if finding.fix:
        print(f"{'':<8} {'':<18} -> {finding.fix}", flush=True)


def _verdict(counts: dict[str, int]) -> str:
    if counts[FAILURE]:
        return f"training cannot run here: {counts[FAILURE]} failures, {counts[WARNING]} warnings"
    return f"ready to train; {counts[WARNING]} warnings" if counts[WARNING] else "ready to train"
