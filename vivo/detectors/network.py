"""The network of the embedded detector: a small Faster R-CNN on the frozen maps of Lite0.

                      pixels [B, 3, 224, 224]
                        | Lite0Maps (frozen), standardise
      stride 8 (40)       stride 16 (112)      stride 32 (320)
         |    \\_______________ | _______________/    |
         |                 ProposalNeck                |
         |              [B, N, 14, 14]                 |
         |       torchvision's RegionProposalNetwork   |
         |        (class-agnostic objectness)          |
         |                      | boxes                |
         '----- RoIAlign 6x6 -- 4x4 -- 2x2 ------------'      RegionPool
                        | [R, P]
                  MLP -> embedding [R, E] -> objectness, box, class, colour      GlyphRoIHeads

It differs from torchvision's `FasterRCNN` in what novel objects and slow machines need:
 * objectness is a sigmoid of its own and not 1 - p(background) of the class softmax, and there is one box
   a region and not one a class: both treat an object of a class never seen like any other object;
 * classes are the named ones and, behind them, the distractors: unnamed classes that only make the
   embedding richer and keep an unknown object from being squeezed into the nearest named class;
 * a second head says the colour of a region (as bottom-up attention's detector learned attributes beside
   classes), so that the embedding keeps what captions mention;
 * regions are pooled from the frozen maps and not from the neck. So the proposal network and the region heads are
   trained one after the other, as in the first Faster R-CNN paper, and pooled vectors are computed once: a
   step over 512 regions takes 0.1 s on one core. Pooling 7 x 7 from a trained 128-channel map, everything
   trained together, took 2.8 s a step of 32 pictures and needed more steps than a coffee break has.

Notation: B pictures, R regions, N neck channels, P pooled size, E embedding size, K object classes. Boxes are
x1 y1 x2 y2 in pixels of the square input.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image, roi_align

from vivo.detectors.lite0 import MAP_CHANNELS

INPUT_SIZE = 224
"""Side of the square input in pixels."""

# Objects of the world have a longest side of 45 to 120 pixels; bigger anchors are for other people's pictures.
ANCHOR_SIZES = (40, 64, 96, 144)
ANCHOR_RATIOS = (0.6, 1.0, 1.6)

POOLS = {8: 6, 16: 4, 32: 2}
"""Cells a side of RoIAlign, by stride: an object of 90 pixels covers about 11, 6 and 3 places of the maps."""
POOLED_SIZE = sum(MAP_CHANNELS[s] * cells**2 for s, cells in POOLS.items())
MEAN_SIZE = sum(MAP_CHANNELS.values())


class Standardise(nn.Module):
    """Each channel of each map minus its mean, by its standard deviation over training pictures.

    The channels differ a hundredfold in size; the layers on top learn faster from equal ones.
    """

    def __init__(self) -> None:
        super().__init__()
        for stride, count in MAP_CHANNELS.items():
            self.register_buffer(f"mean{stride}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"std{stride}", torch.ones(1, count, 1, 1))

    def measure(self, maps: dict[int, Tensor]) -> None:
        """Take the statistics of a sample of maps."""
        for stride, tensor in maps.items():
            getattr(self, f"mean{stride}").copy_(tensor.float().mean((0, 2, 3), keepdim=True))
            getattr(self, f"std{stride}").copy_(tensor.float().std((0, 2, 3), keepdim=True).clamp(min=1e-3))

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Maps by stride -> the same in float32, contiguous (RoIAlign wants that)."""
        return {
            stride: ((tensor.float() - getattr(self, f"mean{stride}")) / getattr(self, f"std{stride}")).contiguous()
            for stride, tensor in maps.items()
        }


class ProposalNeck(nn.Module):
    """Standardised maps of three strides -> one map [B, N, S/16, S/16] to look for objects in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.from8 = nn.Conv2d(MAP_CHANNELS[8], channels, 2, stride=2)
        self.from16 = nn.Conv2d(MAP_CHANNELS[16], channels, 1)
        self.from32 = nn.Conv2d(MAP_CHANNELS[32], channels, 1)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        coarse = F.interpolate(self.from32(maps[32]), scale_factor=2, mode="bilinear", align_corners=False)
        return F.relu(self.from8(maps[8]) + self.from16(maps[16]) + coarse)


class RegionPool(nn.Module):
    """RoIAlign on each standardised map: boxes (B tensors [R, 4]) -> [sum of R, P]; no weights."""

    def forward(self, maps: dict[int, Tensor], boxes: list[Tensor]) -> Tensor:
        pooled = [
            roi_align(maps[s], boxes, cells, spatial_scale=1 / s, sampling_ratio=2, aligned=True).flatten(1)
            for s, cells in POOLS.items()
        ]
        return torch.cat(pooled, dim=1)

    @staticmethod
    def means(pooled: Tensor) -> Tensor:
        """[R, P] -> mean of each channel over the cells [R, 472]: what the backbone saw, in short."""
        parts = pooled.split([MAP_CHANNELS[s] * cells**2 for s, cells in POOLS.items()], dim=1)
        return torch.cat(
            [part.unflatten(1, (MAP_CHANNELS[s], -1)).mean(2) for s, part in zip(POOLS, parts, strict=True)], dim=1
        )


class RegionMLP(nn.Module):
    """Pooled regions [R, P] -> embeddings [R, E], the first part of the features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(POOLED_SIZE, size)
        self.second = nn.Linear(size, size)
        self.dropout = nn.Dropout(0.1)  # 0.4 cost 4 points of a linear probe on unknown classes

    def forward(self, pooled: Tensor) -> Tensor:
        return self.second(self.dropout(F.relu(self.first(self.dropout(pooled)))))


class CosineClassifier(nn.Module):
    """Embeddings [R, E] -> logits [R, K]: 16 times the cosine to each class's direction.

    Against a plain linear layer, all else equal: a linear probe of the embedding names unknown classes
    in 94 instead of 91 % of cases, nearest class means in 91 instead of 86 %, and at the same rate of
    wrong labels on unknown objects 88 instead of 83 % of known ones get theirs. Label smoothing gained nothing.
    """

    SCALE = 16.0

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, size) / size**0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.SCALE * F.linear(F.normalize(embeddings), F.normalize(self.weight))


class RegionPredictor(nn.Module):
    """Embeddings [R, E] -> {"objectness": [R], "deltas": [R, 4], "classes": [R, K], "colours": [R, colours]}."""

    def __init__(self, size: int, classes: int, colours: int) -> None:
        super().__init__()
        self.objectness = nn.Linear(size, 1)
        self.deltas = nn.Linear(size, 4)
        self.classes = CosineClassifier(size, classes)
        self.colours = nn.Linear(size, colours)

    def forward(self, embeddings: Tensor) -> dict[str, Tensor]:
        return {
            "objectness": self.objectness(embeddings).squeeze(-1),
            "deltas": self.deltas(embeddings),
            "classes": self.classes(embeddings),
            "colours": self.colours(embeddings),
        }


class GlyphRoIHeads(RoIHeads):
    """torchvision's RoIHeads (matching, sampling, box coding) with own losses and own inference.

    Features are standardised over training regions: a linear layer on top of them starts out well.
    """

    def __init__(self, *args: Any, embedding: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("feature_mean", torch.zeros(embedding + MEAN_SIZE))
        self.register_buffer("feature_std", torch.ones(embedding + MEAN_SIZE))

    def measure_features(self, pooled: Tensor) -> None:
        """Take mean and standard deviation of the features from pooled regions [R, P]."""
        with torch.no_grad():
            raw = torch.cat([self._raw_features(part, self.box_head(part)) for part in pooled.float().split(512)])
        self.feature_mean.copy_(raw.mean(0))
        self.feature_std.copy_(raw.std(0).clamp(min=1e-3))

    def _raw_features(self, pooled: Tensor, embedding: Tensor) -> Tensor:
        return torch.cat([embedding, self.box_roi_pool.means(pooled)], dim=1)

    def sample(
        self, maps: dict[int, Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Regions to train on, sampled from proposals and the true boxes (torchvision adds those).

        Args:
            maps: standardised, by stride.
            proposals: B tensors [*, 4].
            targets: B dicts of "boxes" [G, 4], "labels" int64 [G] in 1..K (0 is torchvision's background) and
                "colours" int64 [G]; G >= 1.

        Returns:
            "pooled" [R, P], "labels" int64 [R] (0: no object), "colours" int64 [R], "deltas" [R, 4].
        """
        boxes, matched, labels, deltas = self.select_training_samples(list(proposals), targets)
        return {
            "pooled": self.box_roi_pool(maps, boxes),
            "labels": torch.cat(labels),
            "colours": torch.cat([t["colours"][m] for t, m in zip(targets, matched, strict=True)]),
            "deltas": torch.cat(deltas),
        }

    def losses(self, pooled: Tensor, labels: Tensor, colours: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        """Scalars "objectness", "box", "class", "colour" from what `sample` gave; the last three over objects."""
        said = self.box_predictor(self.box_head(pooled))
        is_object = labels > 0
        return {
            "objectness": F.binary_cross_entropy_with_logits(said["objectness"], is_object.float()),
            "box": F.smooth_l1_loss(said["deltas"][is_object], deltas[is_object], beta=1 / 9) * 4,  # sum over x y w h
            "class": F.cross_entropy(said["classes"][is_object], labels[is_object] - 1),
            "colour": F.cross_entropy(said["colours"][is_object], colours[is_object]),
        }

    def refine(self, maps: dict[int, Tensor], proposals: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals -> (boxes, clipped: B tensors [R, 4]; objectness in 0..1: B tensors [R])."""
        counts = [len(p) for p in proposals]
        said = self.box_predictor(self.box_head(self.box_roi_pool(maps, proposals)))
        boxes = self.box_coder.decode(said["deltas"], proposals)[:, 0]
        boxes = clip_boxes_to_image(boxes, (INPUT_SIZE, INPUT_SIZE))
        return list(boxes.split(counts)), list(said["objectness"].sigmoid().split(counts))

    def describe(self, maps: dict[int, Tensor], boxes: list[Tensor]) -> dict[str, Tensor]:
        """What is inside of given boxes (B tensors [R, 4]).

        Returns:
            "features" [sum of R, E + 472], "classes" probabilities [sum of R, K], "objectness" in 0..1 [sum of R]
            and "colours" logits.
        """
        pooled = self.box_roi_pool(maps, boxes)
        embedding = self.box_head(pooled)
        said = self.box_predictor(embedding)
        return {
            "features": (self._raw_features(pooled, embedding) - self.feature_mean) / self.feature_std,
            "classes": said["classes"].softmax(-1),
            "objectness": said["objectness"].sigmoid(),
            "colours": said["colours"],
        }


class EmbeddedNetwork(nn.Module):
    """Everything that is trained (the backbone is beside it, frozen).

    Args:
        classes: K, named classes first, then the unnamed ones.
        colours: number of colours, "none" included.
        channels: N. embedding: E.
    """

    def __init__(self, classes: int, colours: int, channels: int = 128, embedding: int = 512) -> None:
        super().__init__()
        anchors = AnchorGenerator((ANCHOR_SIZES,), (ANCHOR_RATIOS,))
        self.standardise = Standardise()
        self.neck = ProposalNeck(channels)
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.6,
            bg_iou_thresh=0.3,
            batch_size_per_image=64,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 150, "testing": 150},
            post_nms_top_n={"training": 24, "testing": 20},
            nms_thresh=0.7,
        )
        self.heads = GlyphRoIHeads(
            RegionPool(),
            RegionMLP(embedding),
            RegionPredictor(embedding, classes, colours),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=12,
            positive_fraction=0.65,
            bbox_reg_weights=None,
            score_thresh=0.0,  # this one and the next two belong to torchvision's own inference, not used
            nms_thresh=0.5,
            detections_per_img=10,
            embedding=embedding,
        )

    def propose(
        self, maps: dict[int, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Standardised maps -> proposals (B tensors [R, 4]) and, in training mode with targets, losses."""
        coarse = self.neck(maps)
        # The proposal network only asks pictures for their sizes: an empty view says them.
        shape = (INPUT_SIZE, INPUT_SIZE)
        images = ImageList(coarse.new_empty(1).expand(len(coarse), 3, *shape), [shape] * len(coarse))
        return self.rpn(images, {"coarse": coarse}, targets)
