"""Products of few rows against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from test_modeling import small_context, small_model

import vivo.few_rows
from vivo.cached_step import CachedStep
from vivo.few_rows import FEWEST, MOST, Linear


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(vivo.few_rows, "LARGE", 24 * 7)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("outputs", [7, 12, 40])
@pytest.mark.parametrize("rows", [1, FEWEST - 1, FEWEST, 11, 80, MOST, MOST + 1])
def test_few_rows_give_what_all_rows_give(threads, count: int, outputs: int, rows: int):
    threads(count)
    linear, x = Linear(24, outputs), torch.randn(rows, 24)
    with torch.no_grad():
        found = linear(x)
    expected = F.linear(x, linear.weight, linear.bias).detach()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous() == (not FEWEST <= rows <= MOST)  # few come out column by column


def test_what_is_not_plain_float32_without_gradients_goes_the_usual_way():
    linear, x = Linear(24, 16), torch.randn(10, 24)
    assert linear(x).is_contiguous() and linear(x).requires_grad
    with torch.no_grad():
        assert not linear(x).is_contiguous() and Linear(24, 6)(x).is_contiguous()  # large and small weights
        assert linear(x.view(2, 5, 24)).is_contiguous()
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x).is_contiguous() and linear(x).dtype == torch.bfloat16
        assert linear.to(torch.bfloat16)(x.to(torch.bfloat16)).is_contiguous()


def test_a_step_of_few_rows_gives_what_the_usual_product_gives(monkeypatch):
    model, context = small_model(), small_context()
    steps = []
    for fewest in (FEWEST, MOST + 1):  # the second: never few
        monkeypatch.setattr(vivo.few_rows, "FEWEST", fewest)
        with torch.inference_mode():
            step = CachedStep(model, model.encode_pictures(context), 40)
            tokens, parents = torch.tensor([[7, 8, 9], [5, 5, 6], [10, 11, 12]]), torch.zeros(3, 3, dtype=torch.int64)
            steps.append([step(tokens, parents), step(tokens + 1, parents + torch.tensor([2, 0, 1]))])
    for few, usual in zip(*steps, strict=True):
        torch.testing.assert_close(few, usual, rtol=1e-5, atol=1e-5)
