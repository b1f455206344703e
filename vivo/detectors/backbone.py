"""Image networks of timm by name, with weights that a user brings: what grids and picture encoders are made of.

    network, mean, std = open_backbone("inception_v3", weights="inception_v3.safetensors")
    features = map_of(network, normalised(pixels, mean, std))      # [B, F, m, m]

"tf_efficientnet_lite0/4" is the network up to its fourth stage of blocks. Without weights of one's own there are those
of EfficientNet-Lite0, which pip brings (vivo/detectors/lite0.py).

Notation: B pictures, S side of the input in pixels, m side of the feature map, F feature size.
"""

import inspect
import math
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vivo.detectors import lite0
from vivo.detectors.weight_files import fill, read_weights
from vivo.errors import UserError

LITE0 = "tf_efficientnet_lite0"
HEAD_NAMES = ("classifier.", "head.", "fc.", "head_dist.", "last_linear.", "classif.", "AuxLogits.")
"""Where timm's models keep classifiers, which nobody here has a use for."""
HUB, RANDOM = "hub", "random"


def open_backbone(
    name: str, weights: str = "", sha256: str = "", who: str = "grid"
) -> tuple[nn.Module, list[float], list[float]]:
    """A network without classifier, and the mean and deviation of the pixels 0..255 that it was trained on.

    Args:
        name: of a timm model, "/n" behind it for its first n stages.
        weights: a file (`vivo.detectors.weight_files`); "" those of Lite0 that pip brings; "hub" downloads timm's;
            "random" leaves what PyTorch's generator gave, see `settle_norms`.
        sha256: of the file, which a pickle needs. who: for messages.

    Raises:
        UserError: no such model, no weights, weights that do not fit, a network that cannot be cut.
    """
    plain, _, stages = name.partition("/")
    packaged = plain == LITE0 and not weights
    if not weights and not packaged:
        raise UserError(
            f"{who}: no weights for {plain}: add weights=FILE.safetensors, or weights=hub to download"
            " timm's (docs/detectors.md)"
        )
    network = untrained(plain, pretrained=weights == HUB, who=who)
    if packaged:
        lite0.copy_weights(network, lite0.package_weights())
    elif weights == RANDOM:
        settle_norms(network)
    elif weights != HUB:
        tensors = read_weights(weights, sha256)
        body = {key: t for key, t in tensors.items() if not key.startswith(HEAD_NAMES)}
        own = set(network.state_dict())
        body |= {key: t for key, t in tensors.items() if key in own}  # a head's norm may belong to the body
        fill(network, body, str(weights))
    mean, std = pixel_scaling(network, plain, packaged)
    return (_first_stages(network, name, stages, who) if stages else network), mean, std


@torch.no_grad()
def settle_norms(network: nn.Module, pictures: int = 8) -> None:
    """Give the batch norms of a random network the statistics of some pictures of coloured patches, drawn from
    PyTorch's generator: with those that they begin with, the maps of many layers overflow or vanish."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    size = network.default_cfg["input_size"][-1]
    patches = torch.nn.functional.interpolate(2 * torch.randn(pictures, 3, 12, 12), size=(size, size), mode="bilinear")
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    network.train()
    network.forward_features(patches)
    network.eval()
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before


def pixel_scaling(network: nn.Module, name: str, packaged: bool = False) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels 0..255, by channel, that a timm model wants."""
    if packaged and name == LITE0:
        return [127.0] * 3, [128.0] * 3
    import timm  # here: whoever imports transformers' auto classes imports this module

    pixels = timm.data.resolve_data_config({}, model=network)
    return [255 * m for m in pixels["mean"]], [255 * s for s in pixels["std"]]


def untrained(name: str, pretrained: bool = False, who: str = "grid") -> nn.Module:
    """timm's model without classifier, cut where the name says so; with `pretrained` its weights are downloaded."""
    import timm

    plain, _, stages = name.partition("/")
    if not timm.is_model(plain):
        raise UserError(f"{who}: timm {timm.__version__} has no model {plain!r}; timm.list_models() names them")
    try:
        try:
            network = timm.create_model(plain, pretrained=pretrained, num_classes=0, dynamic_img_size=True).eval()
        except TypeError:  # only vision transformers have to be told that sizes differ
            network = timm.create_model(plain, pretrained=pretrained, num_classes=0).eval()
    except Exception as error:  # whatever hub, network and cache raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{who}: {plain} cannot be made ({reason}); bring the weights by weights=FILE") from None
    return _first_stages(network, name, stages, who) if stages else network


def _first_stages(network: nn.Module, name: str, stages: str, who: str) -> nn.Module:
    """The first stages of blocks of a network, in place; what stood behind them goes."""
    cut = getattr(network, "prune_intermediate_layers", None)
    if cut is None or "extra_blocks" not in inspect.signature(cut).parameters:
        raise UserError(f"{who}: {name}: this network cannot be cut after a stage; leave /{stages} out")
    most = len(network.blocks)
    if not stages.isdecimal() or not 1 <= int(stages) <= most:
        raise UserError(f"{who}: {name}: its blocks have {most} stages; write /1 to /{most}")
    cut([int(stages)], extra_blocks=True)
    return network


def map_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """Scaled pixels [B, 3, S, S] -> the last feature map [B, F, m, m], whatever the network calls its output."""
    out = network.forward_features(inputs)
    if out.ndim == 3:  # a vision transformer's tokens
        out = out[:, getattr(network, "num_prefix_tokens", 0) :].transpose(1, 2)
        side = math.isqrt(out.shape[2])
        return out.unflatten(2, (side, out.shape[2] // side))
    return out if out.shape[1] == network.num_features else out.permute(0, 3, 1, 2)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 RGB [B, 3, S, S] -> float32 (pixels - mean) / std, channels last.

    Args:
        mean, std: float32 [3], of the pixels 0..255, on the device of `pixels`.
    """
    inputs = pixels.contiguous(memory_format=torch.channels_last).float()
    # By whole rows [S * 3]: subtracting [3, 1, 1] from pixels that lie channels-last takes PyTorch twice the time.
    side = inputs.shape[-1]
    rows = inputs.permute(0, 2, 3, 1).view(len(inputs), -1, side * 3)
    rows.sub_(mean.repeat(side)).div_(std.repeat(side))
    return inputs


def squares(pictures: Sequence[Image.Image], size: int, pool: Executor | None = None) -> Tensor:
    """RGB pictures -> uint8 [B, 3, S, S]; squashed, not cropped: nothing is lost at the edges. In threads of `pool`."""

    def squashed(picture: Image.Image) -> np.ndarray:
        if picture.size != (size, size):
            # reducing_gap: big photographs are first shrunk by an integer factor, several times faster
            picture = picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return np.asarray(picture)

    arrays = list(pool.map(squashed, pictures) if pool else map(squashed, pictures))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
