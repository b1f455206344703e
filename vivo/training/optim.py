"""AdamW and a learning rate that is a function of the step: no scheduler object, no state to resume."""

import math

import torch
from torch import nn

from vivo.config import OptimConfig


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """The rate of update number `step` (from 0) of `steps`: linear warm-up, then the schedule's fall."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    if optim.schedule == "linear":
        return optim.lr * (1.0 - done)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1.0 + math.cos(math.pi * done))
    return optim.lr


def total_steps(optim: OptimConfig, examples: int) -> int:
    """`optim.steps`, or the number of global batches in `optim.epochs` passes, rounded up."""
    return optim.steps or math.ceil(optim.epochs * examples / optim.batch_size)


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, biases and norms do not; frozen parameters are left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def describe_parameters(model: nn.Module) -> str:
    """One line: how many parameters decay, do not decay, are frozen."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = sum(p.numel() for p in trained if p.dim() >= 2)
    rest = sum(p.numel() for p in trained if p.dim() < 2)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return f"{decay / 1e6:.2f}M with decay, {rest / 1e6:.2f}M without, {frozen / 1e6:.2f}M frozen"
