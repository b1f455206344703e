"""The image encoder of Show and Tell: any network of timm, frozen or trained, pixels in, one vector out.

In the published recipe it is first frozen, so that its outputs can be computed once (`ImageEncoder.detector` fills a
RegionStore with them), and later trained with the rest. Its weights have timm's names under `network.`.

Notation: B pictures, S side of the input in pixels, F feature size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivo.detectors.backbone import map_of, normalised, untrained
from vivo.detectors.whole import WholePictureDetector, WholeSettings
from vivo.show_and_tell.model_config import ShowAndTellConfig


class ImageEncoder(nn.Module):
    """uint8 pixels [B, 3, S, S] -> [B, F], the mean of the last feature map; dropout behind it by option.

    A frozen encoder stays in evaluation mode; so do the batch norms of a trained one with `batch_norm: frozen`.
    """

    def __init__(self, config: ShowAndTellConfig):
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # timm computes while it builds, which transformers' empty "meta" tensors do not
            self.network = untrained(config.encoder, who=config.model_type).to(memory_format=torch.channels_last)
        self.folded = False
        self._scaling: tuple[Tensor, ...] | None = None
        self.requires_grad_(not config.encoder_frozen)

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Dropout and the statistics of a batch only where they are wanted."""
        frozen = self.config.encoder_frozen
        super().train(mode and not frozen)
        if self.config.batch_norm == "frozen":
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> float32 [B, F]."""
        self.fold()
        if self._scaling is None or self._scaling[0].device != pixels.device:  # once: a copy waits for a GPU
            config = self.config
            self._scaling = tuple(torch.tensor(v, device=pixels.device) for v in (config.pixel_mean, config.pixel_std))
        features = map_of(self.network, normalised(pixels, *self._scaling)).float().mean((2, 3))
        return F.dropout(features, self.config.encoder_dropout, self.training)

    def fold(self) -> None:
        """The same function with less work (vivo/detectors/folding.py), once; not before the first pictures come,
        when the weights are there."""
        if self.folded:
            return
        from vivo.detectors.folding import fold  # it needs timm, which takes seconds to import

        self.folded = True
        size = self.config.picture_size
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", enabled=False):
            fold(self.network, lambda network: map_of(network.float(), noise))

    def detector(self) -> WholePictureDetector:
        """The encoder as it is now, as a detector whose regions are its outputs."""
        c = self.config
        plain = untrained(c.encoder, who=c.model_type)
        plain.load_state_dict(self.network.state_dict())
        settings = WholeSettings(c.encoder, c.picture_size, c.picture_resize)
        return WholePictureDetector(settings, plain, c.pixel_mean, c.pixel_std)
