"""The network of the embedded detector: a small Faster R-CNN on the frozen maps of Lite0.

                  pixels [B, 3, 224, 224]
                    | Lite0Maps (frozen)
      stride 8 (40)   stride 16 (112)   stride 32 (320)
                    | Neck: standardise, 1x1 convolutions, sum at stride 8
                 fine [B, N, 28, 28]
                    | mean of 2 x 2 -> torchvision's RegionProposalNetwork (class-agnostic objectness)
              proposals (boxes)
                    | GlyphRoIHeads: RoIAlign 7 x 7 -> MLP -> embedding -> heads
   objectness, one box, class logits, colour logits

It differs from torchvision's `FasterRCNN` in what novel objects need:
 * objectness is a sigmoid of its own and not 1 - p(background) of the class softmax, and there is one box
   a region and not one a class: both treat an object of a class never seen like any other object;
 * classes are the named ones and, behind them, the distractors: unnamed classes that only make the
   embedding richer and keep an unknown object from being squeezed into the nearest named class;
 * a second head says the colour of a region (as bottom-up attention's detector learned attributes beside
   classes), so that the embedding keeps what captions mention.

Notation: B pictures, R regions, N neck channels, E embedding size, K object classes. Boxes are x1 y1 x2 y2 in
pixels of the square input.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align

from vivo.detectors.lite0 import MAP_CHANNELS

INPUT_SIZE = 224
"""Side of the square input in pixels."""

# Objects of the world have a longest side of 45 to 120 pixels; bigger anchors are for other people's pictures.
ANCHOR_SIZES = (40, 64, 96, 144)
ANCHOR_RATIOS = (0.6, 1.0, 1.6)
POOLED_CHANNELS = MAP_CHANNELS[16] + MAP_CHANNELS[32]


class Neck(nn.Module):
    """Maps of three strides -> one map [B, N, S/8, S/8].

    `means` and `stds` of each channel come from the training pictures (see `set_statistics`). They also
    give the pooled part of the region features unit variance, which a linear layer on top is grateful for.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict({str(s): nn.Conv2d(c, channels, 1) for s, c in MAP_CHANNELS.items()})
        for stride, count in MAP_CHANNELS.items():
            self.register_buffer(f"mean{stride}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"std{stride}", torch.ones(1, count, 1, 1))

    def set_statistics(self, maps: dict[int, Tensor]) -> None:
        """Take mean and standard deviation of every channel from a sample of maps."""
        for stride, tensor in maps.items():
            getattr(self, f"mean{stride}").copy_(tensor.float().mean((0, 2, 3), keepdim=True))
            getattr(self, f"std{stride}").copy_(tensor.float().std((0, 2, 3), keepdim=True).clamp(min=1e-3))

    def standardise(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Each channel minus its mean, by its standard deviation; float32, contiguous (RoIAlign wants that)."""
        return {
            stride: ((tensor.float() - getattr(self, f"mean{stride}")) / getattr(self, f"std{stride}")).contiguous()
            for stride, tensor in maps.items()
        }

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Standardised maps by stride -> [B, N, S/8, S/8]."""
        total = self.lateral["8"](maps[8])
        for stride in (16, 32):
            lateral = self.lateral[str(stride)](maps[stride])
            total = total + F.interpolate(lateral, size=total.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(total)


class RegionMLP(nn.Module):
    """RoIAligned maps [R, N, P, P] -> embeddings [R, E] (after ReLU), the first part of the features."""

    def __init__(self, channels: int, pool: int, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels * pool * pool, size)
        self.second = nn.Linear(size, size)

    def forward(self, pooled: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(pooled.flatten(1)))))


class RegionPredictor(nn.Module):
    """Embeddings [R, E] -> {"objectness": [R], "deltas": [R, 4], "classes": [R, K], "colours": [R, colours]}."""

    def __init__(self, size: int, classes: int, colours: int) -> None:
        super().__init__()
        self.objectness = nn.Linear(size, 1)
        self.deltas = nn.Linear(size, 4)
        self.classes = nn.Linear(size, classes)
        self.colours = nn.Linear(size, colours)

    def forward(self, embeddings: Tensor) -> dict[str, Tensor]:
        return {
            "objectness": self.objectness(embeddings).squeeze(-1),
            "deltas": self.deltas(embeddings),
            "classes": self.classes(embeddings),
            "colours": self.colours(embeddings),
        }


class GlyphRoIHeads(RoIHeads):
    """torchvision's RoIHeads (matching, sampling, box coding, RoIAlign) with own losses and own inference."""

    def losses(self, fine: Tensor, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Training losses.

        Args:
            fine: [B, N, S/8, S/8] of the neck.
            proposals: B tensors [*, 4].
            targets: B dicts of "boxes" [G, 4], "labels" int64 [G] in 1..K (0 is torchvision's background) and
                "colours" int64 [G].

        Returns:
            Scalars "objectness", "box", "class", "colour"; the last two over regions that are objects.
        """
        proposals, matched, labels, deltas = self.select_training_samples(list(proposals), targets)
        said = self.box_predictor(self.embed(fine, proposals))
        label = torch.cat(labels)
        is_object = label > 0
        # A picture without objects has no colours to choose from; its regions are all background anyway.
        colour = torch.cat([
            t["colours"][m] if len(t["colours"]) else m for t, m in zip(targets, matched, strict=True)
        ])
        count = max(int(is_object.sum()), 1)
        box = F.smooth_l1_loss(said["deltas"][is_object], torch.cat(deltas)[is_object], beta=1 / 9, reduction="sum")
        return {
            "objectness": F.binary_cross_entropy_with_logits(said["objectness"], is_object.float()),
            "box": box / count,
            "class": F.cross_entropy(said["classes"][is_object], label[is_object] - 1, reduction="sum") / count,
            "colour": F.cross_entropy(said["colours"][is_object], colour[is_object], reduction="sum") / count,
        }

    def embed(self, fine: Tensor, boxes: list[Tensor]) -> Tensor:
        """Embeddings [sum of R, E] of given boxes (B tensors [R, 4])."""
        shapes = [(INPUT_SIZE, INPUT_SIZE)] * len(boxes)
        return self.box_head(self.box_roi_pool({"fine": fine}, boxes, shapes))

    def refine(self, fine: Tensor, proposals: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals -> (boxes, clipped: B tensors [R, 4]; objectness in 0..1: B tensors [R])."""
        counts = [len(p) for p in proposals]
        said = self.box_predictor(self.embed(fine, proposals))
        boxes = self.box_coder.decode(said["deltas"], proposals)[:, 0]
        boxes = clip_boxes_to_image(boxes, (INPUT_SIZE, INPUT_SIZE))
        return list(boxes.split(counts)), list(said["objectness"].sigmoid().split(counts))


class EmbeddedNetwork(nn.Module):
    """Neck, proposals and region heads: everything that is trained (the backbone is beside it, frozen).

    Args:
        classes: K, named classes first, then the unnamed ones.
        colours: number of colours, "none" included.
        channels: N. embedding: E.
    """

    def __init__(self, classes: int, colours: int, channels: int = 128, embedding: int = 512, pool: int = 7) -> None:
        super().__init__()
        anchors = AnchorGenerator((ANCHOR_SIZES,), (ANCHOR_RATIOS,))
        per_place = anchors.num_anchors_per_location()[0]
        self.neck = Neck(channels)
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(channels, per_place),
            fg_iou_thresh=0.6,
            bg_iou_thresh=0.3,
            batch_size_per_image=64,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 300, "testing": 150},
            post_nms_top_n={"training": 48, "testing": 24},
            nms_thresh=0.7,
        )
        self.heads = GlyphRoIHeads(
            MultiScaleRoIAlign(["fine"], output_size=pool, sampling_ratio=2),
            RegionMLP(channels, pool, embedding),
            RegionPredictor(embedding, classes, colours),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=16,
            positive_fraction=0.5,
            bbox_reg_weights=None,
            score_thresh=0.0,  # this one and the next two belong to torchvision's own inference, not used
            nms_thresh=0.5,
            detections_per_img=10,
        )

    def losses(self, maps: dict[int, Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses of proposals and regions from the backbone's maps; see `GlyphRoIHeads.losses` for targets."""
        fine = self.neck(self.neck.standardise(maps))
        proposals, losses = self.rpn(self._images(fine), {"coarse": F.avg_pool2d(fine, 2)}, targets)
        return losses | self.heads.losses(fine, proposals, targets)

    def propose(self, maps: dict[int, Tensor]) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor], Tensor]:
        """Maps -> boxes (B tensors [R, 4]), objectness (B tensors [R]), standardised maps, fine map."""
        standard = self.neck.standardise(maps)
        fine = self.neck(standard)
        proposals, _ = self.rpn(self._images(fine), {"coarse": F.avg_pool2d(fine, 2)})
        boxes, objectness = self.heads.refine(fine, proposals)
        return boxes, objectness, standard, fine

    def describe(self, standard: dict[int, Tensor], fine: Tensor, boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        """What is inside of given boxes (B tensors [R, 4]).

        Returns:
            "features" [sum of R, E + pooled channels], "classes" softmax [sum of R, K], "objectness" in 0..1 and
            "colours" logits.
        """
        boxes = list(boxes)
        embedding = self.heads.embed(fine, boxes)
        said = self.heads.box_predictor(embedding)
        pooled = [
            roi_align(standard[s], boxes, 3, spatial_scale=1 / s, sampling_ratio=2, aligned=True).mean((2, 3))
            for s in (16, 32)
        ]
        return {
            "features": torch.cat([embedding, *pooled], dim=1),
            "classes": said["classes"].softmax(-1),
            "objectness": said["objectness"].sigmoid(),
            "colours": said["colours"],
        }

    @staticmethod
    def _images(fine: Tensor) -> ImageList:
        """The proposal network only asks pictures for their sizes: an empty view says them."""
        count = len(fine)
        shape = (INPUT_SIZE, INPUT_SIZE)
        return ImageList(fine.new_empty(1).expand(count, 3, *shape), [shape] * count)
