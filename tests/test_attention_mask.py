"""Who sees whom, as tables."""

import torch

from vivo.attention_mask import joint_attention_mask, text_attention_mask


def table(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def test_caption_is_a_triangle_and_padding_is_unseen():
    mask = text_attention_mask(torch.tensor([[0, 1, 2, 0]]), torch.tensor([[True, True, True, False]]))
    assert table(mask[0]) == ["x...", "xx..", "xxx.", "...x"]


def test_dense_queries_see_true_tokens_to_their_left():
    position = torch.tensor([[0, 1, 2, 1, 2, 3]])
    query = torch.tensor([[False] * 3 + [True] * 3])
    mask = text_attention_mask(position, torch.ones(1, 6, dtype=torch.bool), query=query)
    assert table(mask[0]) == ["x.....", "xx....", "xxx...", "x..x..", "xx..x.", "xxx..x"]


def test_captions_of_one_picture_do_not_see_each_other():
    position = torch.tensor([[0, 1, 0, 1]])
    group = torch.tensor([[0, 0, 1, 1]])
    mask = text_attention_mask(position, torch.ones(1, 4, dtype=torch.bool), group)
    assert table(mask[0]) == ["x...", "xx..", "..x.", "..xx"]


def test_joint_mask_is_the_table_of_the_paper():
    text = text_attention_mask(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    mask = joint_attention_mask(text, torch.tensor([[True, True, False]]))
    # caption sees caption triangle and context; context never sees the caption; nobody sees padding
    assert table(mask[0]) == ["x.xx.", "xxxx.", "..xx.", "..xx.", "..xxx"]
