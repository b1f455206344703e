"""Who may attend to whom, in one place.

The sequence of fine-tuning and inference has three parts: caption C, tags T, regions R.
Rows look, columns are looked at (Hu et al. 2021, Fig. 2b; Oscar's `CaptionTensorizer`):

              C (caption)          T (tags)   R (regions)
    C   earlier tokens + itself       all         all
    T            none                 all         all
    R            none                 all         all

Pre-training has no caption: tags and regions see each other in both directions (Fig. 2a).
Tags and regions are the *context*: since they never see the caption, they are encoded once
per picture and every caption, beam or query of that picture reads the same keys and values.

The caption part is more general than a triangle, because several captions of one picture, the
beams of a search, or a [MASK] query per position ("dense" supervision) may share one row of a
batch. Each text element then carries four things, and one rule covers all cases:

    group     which caption (or beam) it belongs to
    position  its place in that caption, 0 is [CLS]
    query     True for a [MASK] query: it looks, and nobody else looks at it
    valid     False for padding

    a sees b  iff  valid(b), group(a) == group(b), and
                   b is a itself, or b is no query and position(b) < position(a)

Example, one caption of three tokens with dense queries (t = true token, q = query):

          t0 t1 t2 q1 q2
     t0    x  .  .  .  .
     t1    x  x  .  .  .
     t2    x  x  x  .  .
     q1    x  .  .  x  .      q1 predicts t1 from t0, exactly as greedy decoding will
     q2    x  x  .  .  x
"""

import torch
from torch import Tensor


def text_attention_mask(
    position: Tensor, valid: Tensor, group: Tensor | None = None, query: Tensor | None = None
) -> Tensor:
    """The caption part of the mask, from the rule above.

    Args:
        position: int [B, L], place of each element in its caption.
        valid: bool [B, L], False for padding.
        group: int [B, L], caption or beam of each element; one group where None.
        query: bool [B, L], True for [MASK] queries; no queries where None.

    Returns:
        bool [B, L, L], True where row may look at column. Every row sees itself, padding too:
        a softmax over nothing is NaN.
    """
    length = position.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=position.device)
    earlier = position[:, None, :] < position[:, :, None]
    if group is not None:
        earlier = earlier & (group[:, None, :] == group[:, :, None])
    visible = valid if query is None else valid & ~query
    return (earlier & visible[:, None, :]) | itself


def joint_attention_mask(text_mask: Tensor, context_mask: Tensor) -> Tensor:
    """The whole picture of the docstring's table, for one sequence [C, T, R].

    The model never builds it (it encodes context and caption apart, which is exact); tests compare
    against it and `vivo` draws it.

    Args:
        text_mask: bool [B, C, C] from `text_attention_mask`.
        context_mask: bool [B, S], S = T + R, False for padding.

    Returns:
        bool [B, C + S, C + S].
    """
    batch, captions, _ = text_mask.shape
    size = context_mask.shape[1]
    mask = torch.zeros(batch, captions + size, captions + size, dtype=torch.bool, device=text_mask.device)
    mask[:, :captions, :captions] = text_mask
    mask[:, :, captions:] = context_mask[:, None, :]
    return mask | torch.eye(captions + size, dtype=torch.bool, device=mask.device)
