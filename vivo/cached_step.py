"""The model under a search: VIVO's step functions (vivo/decoding/search.py), with keys and values cached.

Tags and regions are encoded once per picture and shared by all its beams: the K beams of a picture stand side by side
in the length dimension, kept apart by the mask, so the context is not copied for each of them. A step costs two
positions a beam: the last token, whose keys and values are kept, and a [MASK] behind it, whose output is the next token
(Hu et al. 2021, Fig. 2c).

B pictures, K beams, P kept tokens, V word pieces
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vivo.caching import TextCache

if TYPE_CHECKING:
    from vivo.modeling import Context, VivoForCaptioning


class CachedStep:
    """A step function (vivo/decoding/search.py) over one batch of pictures.

    The kept tokens of all beams stand in one cache in the order in which they were written, and each beam has
    the list of those that are its own: to reorder beams is to reorder these lists.

    Args:
        context: of B pictures. room: kept and new elements that the cache has room for without growing.
    """

    def __init__(self, model: "VivoForCaptioning", context: "Context", room: int = 0):
        self.model, self.context = model, context
        self.cache = TextCache(context, room)
        self.place = 0  # position of the last token
        # bool [B, K, P]: which kept tokens each beam has written
        self.own = torch.zeros(context.mask.shape[0], 1, 0, dtype=torch.bool, device=context.mask.device)

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int64 [B, K], int64 [B, K] -> float32 [B, K, V]."""
        pictures, beams = tokens.shape
        earlier = self.own.gather(1, parents[..., None].expand(-1, -1, self.cache.kept))
        ids = torch.cat([tokens, torch.full_like(tokens, self.model.config.mask_token_id)], dim=1)
        positions = torch.full_like(ids, self.place)
        positions[:, beams:] += 1
        itself = torch.eye(beams, dtype=torch.bool, device=ids.device).expand(pictures, -1, -1)
        self.own = torch.cat([earlier, itself], dim=2)
        # rows: last tokens, then [MASK]s; columns: kept tokens, last tokens, [MASK]s
        of_tokens = torch.cat([self.own, torch.zeros_like(itself)], dim=2)
        mask = torch.cat([of_tokens, torch.cat([self.own, itself], dim=2)], dim=1)
        log_p = self._log_p(ids, positions, mask)
        self.cache.keep(beams)  # the last tokens; [MASK] is written over
        self.place += 1
        return log_p

    def _log_p(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """int64 [B, 2 K] twice, bool [B, 2 K, P + 2 K] -> float32 [B, K, V] at the [MASK]s."""
        pictures, beams = ids.shape[0], ids.shape[1] // 2
        asked = torch.arange(pictures * 2 * beams, device=ids.device).view(pictures, 2, beams)[:, 1].flatten()
        hidden = self.model.vivo.encode_text(self.context, ids, positions, mask, self.cache, wanted=asked)
        return self.model.logits(hidden).float().log_softmax(dim=-1).view(pictures, beams, -1)


class GraphedStep(CachedStep):
    """The same on a GPU, from the third call of as many beams on as a CUDA graph: a step is some
    300 small kernels, and to start them takes the CPU longer than the GPU needs to run them.

    The graph reads all of the cache, kept or not, under a mask of fixed width.

    Args:
        step: what it takes over, before its first call.
        captured: False runs the same function of fixed shapes without a graph (for a CPU, and tests).
    """

    def __init__(self, step: CachedStep, captured: bool = True):
        self.__dict__.update(vars(step))
        self.captured = captured
        self.beams = 0  # of the call before
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.found: Tensor | None = None

    @staticmethod
    def fits(step: CachedStep) -> bool:
        """On a GPU, but not under autocast: the graph would hold the weights' 16-bit copies, which others share."""
        return step.context.mask.is_cuda and not torch.is_autocast_enabled("cuda")

    def _log_p(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        cache = self.cache
        same, self.beams = ids.shape[1] == self.beams, ids.shape[1]
        width = mask.shape[2]
        if not same or width > cache.room:
            self.given = self.graph = self.found = None
            return super()._log_p(ids, positions, mask)
        place = torch.arange(cache.kept, cache.kept + self.beams, device=ids.device)
        if self.given is None:
            wide = torch.zeros(*mask.shape[:2], cache.room, dtype=torch.bool, device=mask.device)
            self.given = (ids.clone(), positions.clone(), wide, place)
        for kept, new in zip(self.given, (ids, positions, None, place), strict=True):
            if new is not None:
                kept.copy_(new)
        self.given[2][:, :, :width] = mask
        cache.place = self.given[3]
        try:
            if self.found is None or not self.captured:  # the first of these shapes: kernels are chosen
                self.found = super()._log_p(*self.given[:3])
                return self.found
            if self.graph is None:
                self.graph = self._capture()
            self.graph.replay()
            return self.found.clone()
        finally:
            cache.place = None

    def _capture(self) -> torch.cuda.CUDAGraph:
        """By hand: torch.cuda.graph collects garbage and empties PyTorch's store of memory first, at each batch."""
        graph, stream, here = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.found = super()._log_p(*self.given[:3])
            finally:
                graph.capture_end()
        here.wait_stream(stream)
        return graph
