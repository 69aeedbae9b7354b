import pytest
import torch

from hf_urbanseg.losses._pixels import count_class_pixels, upsample_logits


def test_upsample_logits__hand_computed():
    # Half-pixel centres: outputs lie at 1/4 and 3/4 between the two inputs, the outer ones are held.
    logits = torch.tensor([[[[0.0, 4.0]]]])
    assert upsample_logits(logits, (1, 4)).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("size", [(2, 2), (5, 7)])
def test_upsample_logits__at_least_single_precision(given, expected, size):
    assert upsample_logits(torch.zeros(1, 3, 2, 2, dtype=given), size).dtype == expected


def test_upsample_logits__same_size_is_untouched():
    logits = torch.randn(2, 3, 5, 7)
    assert upsample_logits(logits, torch.Size((5, 7))) is logits


def test_count_class_pixels__hand_computed():
    labels = torch.tensor([[0, 0, 2], [255, 2, 2]])
    counts = count_class_pixels(labels, 4, 255)
    assert counts.tolist() == [2, 0, 3, 0]
    assert counts.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_count_class_pixels__any_integer_type(dtype):
    labels = torch.tensor([0, 18, 255, 255], dtype=dtype)
    assert count_class_pixels(labels, 19, 255).sum() == 2


def test_count_class_pixels__nothing_labelled():
    assert count_class_pixels(torch.full((2, 3), 255), 19, 255).tolist() == [0] * 19
    assert count_class_pixels(torch.zeros(0, dtype=torch.int64), 19, 255).tolist() == [0] * 19


@pytest.mark.parametrize("wrong", [-1, -100, 19, 254, 256, 1000])
def test_count_class_pixels__refuses_what_is_no_class(wrong):
    labels = torch.tensor([0, 18, 255, wrong])
    with pytest.raises(ValueError, match=r"expected labels of 0\.\.18 or 255; found \[") as caught:
        count_class_pixels(labels, 19, 255)
    assert f"[{wrong}]" in str(caught.value)
