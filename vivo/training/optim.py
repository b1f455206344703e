"""The optimizer and its groups of parameters."""

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from vivo.config import OptimConfig

ENCODER = "encoder."
"""How the parameters of an image encoder begin, which have a rate and a decay of their own."""


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; matrices decay, biases and norms do not; frozen parameters are left out.

    Each group's "scale" is what the run's rate is multiplied by; the first group's is 1.
    """
    decay = optim.weight_decay if optim.encoder_decay is None else optim.encoder_decay
    parts = {False: (1.0, optim.weight_decay), True: (optim.encoder_rate, decay)}
    groups: list[dict[str, Any]] = []
    for of_encoder, (scale, weight_decay) in parts.items():
        own = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith(ENCODER) == of_encoder]
        groups += [
            {"params": [p for p in own if p.dim() >= 2], "weight_decay": weight_decay, "scale": scale},
            {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0, "scale": scale},
        ]
    groups = [group for n, group in enumerate(groups) if n == 0 or group["params"]]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def states_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What the optimizer remembers of each parameter after its first update."""
    defaults = optimizer.defaults
    if "momentum" in defaults:
        return ("momentum_buffer",) if defaults["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq")


def describe_parameters(model: nn.Module) -> str:
    """One line: how many parameters decay, do not decay, are frozen."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = sum(p.numel() for p in trained if p.dim() >= 2)
    rest = sum(p.numel() for p in trained if p.dim() < 2)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return f"{decay / 1e6:.2f}M with decay, {rest / 1e6:.2f}M without, {frozen / 1e6:.2f}M frozen"


def name_parameters(model: nn.Module) -> list[str]:
    """Two lines: the names of the parameters that do not decay, and of those that are frozen."""
    names = [name for name, _ in model.named_parameters()]
    plain = {name for name, p in model.named_parameters() if p.requires_grad and p.dim() < 2}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return [
        f"{what}: {', '.join(_patterns(names, group)) or 'none'}"
        for what, group in (("without decay", plain), ("frozen", frozen))
    ]


def _patterns(names: Collection[str], group: Collection[str]) -> list[str]:
    """The names in `group`, in the order of `names`: the same one of all layers as one, "layers.*.qkv.bias"; where
    only some layers have theirs in it, each by its own name."""

    def pattern(name: str) -> str:
        return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)

    partly = {pattern(name) for name in names if name not in group}
    return list(dict.fromkeys(name if pattern(name) in partly else pattern(name) for name in names if name in group))
