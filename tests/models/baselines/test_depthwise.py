import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.models.baselines.depthwise import DepthwiseConv2d


@pytest.mark.parametrize("size", [(7, 9), (1, 4), (2, 3), (13, 26)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 12])
def test_depthwise_conv__output_and_gradients_of_torchs(dilation, size):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(5, dilation).double().train()
    x = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 5, *size, dtype=torch.float64)
    results = []
    for compute in (conv, lambda x: F.conv2d(x, conv.weight, padding=dilation, dilation=dilation, groups=5)):
        out = compute(x)
        results.append([out, *torch.autograd.grad(out, [x, conv.weight], grad)])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-12
    assert results[0][0].abs().max() > 0.1


def test_depthwise_conv__autocast_and_channels_last():
    torch.manual_seed(0)
    conv = DepthwiseConv2d(5, 4).train()
    x = torch.randn(3, 5, 9, 9)
    out = conv(x)
    torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last)), out)
    with torch.autocast("cpu", torch.bfloat16):
        half = conv(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), out, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(conv.eval()(x), out)
