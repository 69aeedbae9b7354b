"""Baselines small enough for tests, and what their layers compute, written out."""

import torch
import torch.nn.functional as F
from segformer_references import randomize
from torch import nn

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model

RESNET = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 2]}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 3, "drop_path_rate": 0.0}
PLAIN = {"hidden_sizes": [4, 6, 8, 10], "bottleneck_channels": 12}
SMALL = {
    "transposed": ("encoder_decoder", "tiny", PLAIN),
    "unpooling": ("encoder_decoder", "tiny_unpooling", PLAIN),
    "unet": ("unet", "tiny", {"hidden_sizes": [4, 6, 8, 10, 12]}),
    "deeplabv3plus": ("deeplabv3plus", "tiny", {**RESNET, "head_dilations": (1, 2, 3)}),
    "pspnet": ("pspnet", "tiny", {**RESNET, "layer_type": "bottleneck"}),
    "swin_segformer": ("swin_segformer", "tiny", {**SWIN, "decoder_hidden_size": 16}),
}
"""One or more of each family: architecture, size, fields of the configuration."""


def build(name, label_space=CITYSCAPES, **fields):
    """In evaluation mode, with weights and statistics of which each matters."""
    architecture, size, small = SMALL[name]
    model = randomize(build_random_model(size, label_space, architecture, **{**small, **fields}), seed=4)
    return calibrate(model, draw_images(2, 3, 64, 64))


@torch.no_grad()
def calibrate(module, *inputs):
    """Brings statistics near to those of the inputs: of random ones, little is left behind a few rectifiers."""
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    module.train()(*inputs)
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean.add_(0.1 * norm.running_var.sqrt())
        norm.running_var.mul_(1.2)
    return module.eval()


def measure_spread(x):
    """Standard deviation over images and places, of the middle channel: some lie behind a rectifier that is shut."""
    return x.movedim(1, 0).flatten(1).std(-1).median()


def draw_images(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Weights:
    """Layers with the tensors of a module, by name; `training` takes the statistics of the batch."""

    def __init__(self, module, training=False):
        parameters = {name: one.detach().clone().requires_grad_() for name, one in module.named_parameters()}
        self.tensors, self.training = {**dict(module.named_buffers()), **parameters}, training

    def conv(self, name, x, **options):
        return F.conv2d(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"), **options)

    def norm(self, name, x):
        weight, bias, mean, variance = (
            self.tensors[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias", "running_mean", "running_var")
        )
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)
            variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def block(self, name, x, **options):
        return self.norm(f"{name}.batch_norm", self.conv(f"{name}.conv", x, **options)).clamp(min=0)

    def separable(self, name, x, dilation=1):
        options = {"padding": dilation, "dilation": dilation, "groups": x.shape[1]}
        return self.block(f"{name}.1", self.block(f"{name}.0", x, **options))


def resize(x, size, align_corners=False):
    """Bilinear: along each side, a matrix of the weights."""
    rows, columns = (_weigh(after, before, align_corners) for after, before in zip(size, x.shape[2:], strict=True))
    return torch.einsum("yh,nchw,xw->ncyx", rows.to(x), x, columns.to(x))


def _weigh(after, before, align_corners):
    weights = torch.zeros(after, before, dtype=torch.float64)
    for position in range(after):
        if align_corners:
            source = position * (before - 1) / max(after - 1, 1)
        else:
            source = max((position + 0.5) * before / after - 0.5, 0)
        low = min(int(source), before - 1)
        weights[position, low] += 1 - (source - low)
        weights[position, min(low + 1, before - 1)] += source - low
    return weights
