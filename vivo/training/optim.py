"""AdamW and its groups of parameters."""

import torch
from torch import nn

from vivo.config import OptimConfig


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
