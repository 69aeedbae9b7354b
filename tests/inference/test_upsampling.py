import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.inference.upsampling import find_best_class, source_span, upsample_argmax, upsample_block

torch.set_num_threads(1)


def _logits(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_upsample_argmax__hand_computed_row():
    # 2 -> 4 columns with free corners: weights of the right pixel are 0, 1/4, 3/4, 1.
    logits = torch.tensor([[[[0.0, 0.0]], [[-1.0, 2.0]]]])  # class 1 is -1, -0.25, 1.25, 2
    (train_ids,) = upsample_argmax(logits, [(1, 4)])
    assert train_ids.tolist() == [[0, 0, 1, 1]]
    assert train_ids.dtype == torch.int64


def test_upsample_argmax__half_precision_logits_are_compared_in_fp32():
    logits = _logits(2, 5, 8, 8, dtype=torch.bfloat16)
    found = upsample_argmax(logits, [(31, 17), (64, 64)])
    expected = upsample_argmax(logits.float(), [(31, 17), (64, 64)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_upsample_argmax__needs_a_size_per_image():
    with pytest.raises(ValueError, match="shorter than"):
        upsample_argmax(torch.zeros(2, 3, 4, 4), [(8, 8)])


def test_find_best_class__is_argmax_and_the_first_of_equals():
    scores = torch.randint(0, 4, (19, 40, 50), generator=torch.Generator().manual_seed(0)).float()
    expected = scores.numpy().argmax(0)
    assert ((scores == scores.amax(0)).sum(0) > 1).float().mean() > 0.9  # several are best
    assert find_best_class(scores).tolist() == expected.tolist()


def test_upsample_block__hand_computed_row():
    logits = torch.tensor([[[-1.0, 2.0]]])
    assert upsample_block(logits, (1, 4), (0, 1), (0, 4)).tolist() == [[[-1.0, -0.25, 1.25, 2.0]]]
    assert upsample_block(logits, (1, 4), (0, 1), (2, 3)).tolist() == [[[1.25]]]


@pytest.mark.parametrize("size", [(8, 12), (31, 47), (5, 90), (3, 4), (8, 40), (1, 1), (200, 12)])
def test_upsample_block__blocks_are_parts_of_interpolate(size):
    logits = _logits(3, 8, 12)
    whole = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    for top in range(0, size[0], 7):
        for left in range(0, size[1], 10):
            rows, columns = (top, min(top + 7, size[0])), (left, min(left + 10, size[1]))
            block = upsample_block(logits, size, rows, columns)
            torch.testing.assert_close(block, whole[:, slice(*rows), slice(*columns)], rtol=0, atol=1e-12)


def test_upsample_block__needs_only_the_source_span():
    logits, size, rows, columns = _logits(3, 20, 30), (47, 101), (13, 21), (50, 77)
    (top, bottom), (left, right) = source_span(20, 47, rows), source_span(30, 101, columns)
    assert (bottom - top, right - left) < (8, 12)
    part = logits[:, top:bottom, left:right]
    found = upsample_block(part, size, rows, columns, (20, 30), (top, left))
    assert torch.equal(found, upsample_block(logits, size, rows, columns))


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_upsample_block__computes_in_fp32_or_better(dtype, expected):
    logits = _logits(2, 4, 4, dtype=dtype)
    block = upsample_block(logits, (9, 9), (0, 9), (0, 9))
    assert block.dtype == expected
    assert torch.equal(block, upsample_block(logits.to(expected), (9, 9), (0, 9), (0, 9)))


def test_source_span__same_size_is_the_span_itself():
    assert source_span(50, 50, (7, 9)) == (7, 9)
    assert source_span(2, 4, (0, 1)) == (0, 2)  # torch reads a second pixel too, with weight 0
