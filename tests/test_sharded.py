"""FSDP2 on two gloo processes: sharded parameters give the updates, checkpoints and models of one process.

On a CPU accelerate turns FSDP into DDP in silence, so `fully_shard` is called here as its plugin calls it; through
accelerate it needs GPUs (not verified).
"""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from launching import free_port
from safetensors.torch import load_file
from test_engine import loss_of, tag_batch
from test_modeling import small_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vivo.config import OptimConfig
from vivo.modeling import VivoForTagPretraining
from vivo.training.averages import Averages
from vivo.training.checkpoint import gathered, load_checkpoint, open_checkpoint, save_checkpoint
from vivo.training.gradients import accumulate
from vivo.training.optim import build_optimizer


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        """Nothing to save."""


def updates(model, optimizer, averages, first: int, last: int, rank: int, world: int) -> list[float]:
    """Updates with clipping; each process has its rows of the same global batch. Returns the gradient norms."""
    accelerator = Accelerator(cpu=True)
    norms = []
    for step in range(first, last):
        batch = tag_batch(3) if world == 1 else split_batch(rank)
        accumulate(accelerator, model, loss_of, [batch])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        norms.append(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        optimizer.step()
        optimizer.zero_grad()
        averages.update(step + 1)
    return norms


def split_batch(rank: int) -> dict:
    """Rows 0 and 1 of the global batch on the first process, row 2 on the second."""
    whole = tag_batch(3)
    rows = slice(0, 2) if rank == 0 else slice(2, 3)
    names = ("slot_index", "target_ids", "group_slots", "group_size")
    part = {k: v[rows] for k, v in whole.items() if k not in names}
    width = whole["tag_ids"].shape[1]
    chosen = slice(0, 2) if rank == 0 else slice(2, 3)
    part["slot_index"] = whole["slot_index"][chosen] - (0 if rank == 0 else 2 * width)
    part["target_ids"] = whole["target_ids"][chosen]
    part["group_slots"] = torch.tensor([[[0], [1]]] if rank == 0 else [[[0]]])
    part["group_size"] = whole["group_size"][rank : rank + 1]
    return part


def build(seed: int = 0):
    model = small_model(VivoForTagPretraining, seed, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    return model, OptimConfig(lr=0.01, weight_decay=0.1, eps=1e-4)  # eps: the bias of keys has no gradient but rounding


def process(rank: int, port: int, folder: str) -> None:
    """Four updates on two processes; a checkpoint after two, read into another model, which does the others again."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2",
                   "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out = Path(folder)

    def sharded(seed: int):
        model, optim = build(seed)
        for layer in model.vivo.layers:
            fully_shard(layer)
        fully_shard(model)
        optimizer = build_optimizer(model, optim)
        return model, optimizer, Averages(model, 0.9)

    model, optimizer, averages = sharded(0)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    norms = updates(model, optimizer, averages, 0, 2, rank, 2)
    save_checkpoint(out / "checkpoints", 2, model, NoTokenizer(), optimizer, averages, 1, {}, {}, rank == 0)
    dist.barrier()
    norms += updates(model, optimizer, averages, 2, 4, rank, 2)
    first = gathered(model.state_dict())
    model, optimizer, averages = sharded(1)
    load_checkpoint(out / "checkpoints" / "step_00000002", model, optimizer, averages)
    found = updates(model, optimizer, averages, 2, 4, rank, 2)
    assert norms[2:] == found, (norms, found)
    again = gathered(model.state_dict())
    assert all(torch.equal(first[name], again[name]) for name in first)
    averaged = gathered(averages.tensors)
    if rank == 0:
        torch.save = None  # nothing here may be a pickle
        from safetensors.torch import save_file

        save_file(again, out / "sharded.safetensors")
        save_file(averaged, out / "averaged.safetensors")
        (out / "norms.json").write_text(json.dumps(norms))
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_parameters_learn_as_whole_ones(tmp_path: Path):
    model, optim = build()
    optimizer, averages = build_optimizer(model, optim), Averages(model, 0.9)
    norms = updates(model, optimizer, averages, 0, 4, 0, 1)
    mp.spawn(process, (free_port(), str(tmp_path)), nprocs=2)
    assert json.loads((tmp_path / "norms.json").read_text()) == pytest.approx(norms, rel=1e-4)
    for name, value in load_file(tmp_path / "sharded.safetensors").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)
    for name, value in load_file(tmp_path / "averaged.safetensors").items():
        torch.testing.assert_close(value, averages.tensors[name], rtol=1e-3, atol=1e-5, msg=name)
    assert open_checkpoint(tmp_path / "checkpoints" / "step_00000002").step == 2
    # what sharded processes saved, one process reads
    model, optim = build(1)
    optimizer, averages = build_optimizer(model, optim), Averages(model, 0.9)
    load_checkpoint(tmp_path / "checkpoints" / "step_00000002", model, optimizer, averages)
    assert updates(model, optimizer, averages, 2, 4, 0, 1) == pytest.approx(norms[2:], rel=1e-4)
