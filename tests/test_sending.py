"""Batches that loader processes send: what arrives is what was made, bit for bit."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vivo.data.collate import CaptionCollator, Limits, TagCollator
from vivo.data.sampler import StepBatches
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.training.loading import micro_batches
from vivo.training.nonfinite import load_batch, save_batch
from vivo.training.sending import Sending
from vivo.weights import bert_folder

NAMES = ["dog", "cat", "hot dog", "teddy bear", "cow", "umbrella"]
LIMITS = Limits(max_regions=5, max_tag_tokens=8, max_caption_tokens=12, tag_position_offset=12)


class Pictures(torch.utils.data.Dataset):
    """Nine pictures with 1 to 7 regions, 0 to 5 tags, and these hints or captions."""

    def __init__(self, texts: list[str]):
        self.texts = texts

    def __len__(self) -> int:
        return 9

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        epoch, index = key
        rng, count = np.random.default_rng(index), 1 + index % 7
        features = rng.standard_normal((count, 3)).astype(np.float16)
        regions = Regions(rng.random((count, 4), np.float32), features, [""] * count, np.ones(count), 20, 10)
        return epoch, f"picture {index}", NAMES[: index % 6], self.texts, regions


def same(one: dict, other: dict) -> bool:
    """Keys in order, types, shapes, bits."""
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype and other[key].is_contiguous(), key
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key
    return True


def descriptors() -> int:
    """How many of batches this process holds."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found += "memfd:batch" in os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.mark.parametrize("kind", ["tags", "captions"])
def test_two_loader_processes_send_what_one_process_makes(kind: str):
    tokenizer = load_tokenizer(bert_folder("minilm"))
    competing = torch.arange(len(tokenizer))
    if kind == "tags":
        collator = TagCollator(tokenizer, LIMITS, 0, 0.2, 0.9, 0, 0.5, 0.1, competing, windows=True)
    else:
        collator = CaptionCollator(tokenizer, LIMITS, 0, "dense", 0.15, 2, 0.3, competing)
    data = Pictures(["a cow", "a hot dog"])

    def batches(workers: int):
        return micro_batches(data, StepBatches(9, 4, 0, 0, 6), collator, workers)

    held = descriptors()
    for number, (sent, made) in enumerate(zip(batches(2), batches(0), strict=True)):
        assert same(made, sent) and number < 6
        sent["tag_ids"].zero_()  # nobody else's memory
    del sent, made
    assert number == 5 and descriptors() == held


def odd(examples: list[int]) -> dict:
    """What today's collators do not make, but torch would send."""
    return {
        "none": torch.zeros(3, 0, dtype=torch.int64),
        "one": torch.tensor(2.5, dtype=torch.bfloat16),
        "turned": torch.arange(6).view(2, 3).t(),
        "pair": (1, "two"),
        "empty": torch.zeros(0, 4),
        "worker": os.getpid(),
    }


def test_empty_scalar_turned_and_foreign_values_arrive():
    (sent,) = DataLoader(range(2), 2, collate_fn=Sending(odd), num_workers=1)
    assert sent.pop("worker") != os.getpid()
    made = Sending(odd)([])
    assert made.pop("worker") == os.getpid()
    assert same(made, sent)


def nothing(examples: list[int]) -> dict:
    return {"empty": torch.zeros(2, 0)}


def test_a_batch_without_a_byte_arrives():
    (sent,) = DataLoader(range(2), 2, collate_fn=Sending(nothing), num_workers=1)
    assert sent["empty"].shape == (2, 0)


def test_a_container_with_little_shared_memory_is_enough():
    """8 MB through a /dev/shm of 64 kB, where torch's own way has no space left."""
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    program = (
        "import torch\n"
        "from torch.utils.data import DataLoader\n"
        "from vivo.training.sending import Sending\n"
        "fives = Sending(lambda _: {'fives': torch.full((2, 1000, 1000), 5.0)})\n"
        "print(*[int(batch['fives'].sum()) for batch in DataLoader(range(4), 2, collate_fn=fives, num_workers=1)])\n"
    )
    done = subprocess.run([*small, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "10000000 10000000\n"), done.stderr


def test_a_batch_that_was_sent_can_be_saved(tmp_path: Path):
    """Its tensors share one memory, which safetensors refuses where they overlap."""
    collator = TagCollator(load_tokenizer(bert_folder("minilm")), LIMITS, 0, 0.5, 0.5, 0)
    (sent,) = micro_batches(Pictures([]), StepBatches(9, 4, 0, 0, 1), collator, 1)
    save_batch(tmp_path / "batch.safetensors", sent)
    saved = load_batch(tmp_path / "batch.safetensors")
    assert saved.keys() == sent.keys() and same(sent, {key: saved[key] for key in sent})
    torch.save(sent, tmp_path / "batch.pt")
    assert same(sent, torch.load(tmp_path / "batch.pt"))


def forbidden(name: str) -> int:
    raise PermissionError(f"{name}: not here")


def test_where_such_files_are_forbidden_torch_sends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "memfd_create", forbidden)  # a loader process is a fork of this one
    (sent,) = DataLoader(range(2), 2, collate_fn=Sending(odd), num_workers=1)
    assert sent.pop("worker") != os.getpid()
    made = odd([])
    assert made.pop("worker") == os.getpid() and list(sent) == list(made)
    assert all(torch.equal(sent[key], value) for key, value in made.items() if isinstance(value, torch.Tensor))
