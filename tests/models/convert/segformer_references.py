"""SegFormer as NVlabs and as MMSegmentation build it, in plain torch: their names of tensors and their arithmetic.

Written from the papers' formulas and the names in the official files; heads are 1, 2, 5, 8 and reductions 8, 4, 2, 1.
Modules hold their LayerNorms with the official epsilons: `eps` of the one inside patch embeddings and reductions, and
of those in blocks and at the end of stages.
"""

import torch
import torch.nn.functional as F
from torch import nn

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


def to_map(tokens, size):
    return tokens.transpose(1, 2).unflatten(2, size)


def to_tokens(feature_map):
    return feature_map.flatten(2).transpose(1, 2)


def named(**modules):
    """A module that only holds others under these names."""
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


def randomize(module, seed=0):
    """Values of trained size for all parameters and statistics, so that every single tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.5, 0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                tensor.add_(1)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
    return module.eval()


class NvlabsEncoder(nn.Module):
    def __init__(self, widths, depths, eps=(1e-5, 1e-6)):
        super().__init__()
        before = 3
        for n, (width, depth, reduction) in enumerate(zip(widths, depths, REDUCTIONS, strict=True), 1):
            kernel, stride = (7, 4) if n == 1 else (3, 2)
            self.add_module(
                f"patch_embed{n}",
                named(proj=nn.Conv2d(before, width, kernel, stride, kernel // 2), norm=nn.LayerNorm(width, eps[0])),
            )
            self.add_module(f"block{n}", nn.ModuleList(self.block(width, reduction, eps) for _ in range(depth)))
            self.add_module(f"norm{n}", nn.LayerNorm(width, eps[1]))
            before = width

    @staticmethod
    def block(width, reduction, eps):
        attention = named(q=nn.Linear(width, width), kv=nn.Linear(width, 2 * width), proj=nn.Linear(width, width))
        if reduction > 1:
            attention.sr, attention.norm = nn.Conv2d(width, width, reduction, reduction), nn.LayerNorm(width, eps[0])
        inner = 4 * width
        depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        mlp = named(fc1=nn.Linear(width, inner), dwconv=named(dwconv=depthwise), fc2=nn.Linear(inner, width))
        return named(norm1=nn.LayerNorm(width, eps[1]), attn=attention, norm2=nn.LayerNorm(width, eps[1]), mlp=mlp)

    def forward(self, x):
        outputs = []
        for n, heads in enumerate(HEADS, 1):
            patch = getattr(self, f"patch_embed{n}")
            x = patch.proj(x)
            size = x.shape[2:]
            x = patch.norm(to_tokens(x))
            for block in getattr(self, f"block{n}"):
                y = block.norm1(x)
                x = x + self.attend(block.attn, y, size, heads)
                y = block.mlp.fc1(block.norm2(x))
                y = to_tokens(block.mlp.dwconv.dwconv(to_map(y, size)))
                x = x + block.mlp.fc2(F.gelu(y))
            x = to_map(getattr(self, f"norm{n}")(x), size)
            outputs.append(x)
        return outputs

    @staticmethod
    def attend(attention, x, size, heads):
        reduced = attention.norm(to_tokens(attention.sr(to_map(x, size)))) if hasattr(attention, "sr") else x
        key, value = attention.kv(reduced).chunk(2, dim=-1)
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (attention.q(x), key, value))
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        return attention.proj((weights @ v).transpose(1, 2).flatten(2))


class NvlabsHead(nn.Module):
    def __init__(self, widths, channels, num_labels):
        super().__init__()
        self.conv_seg = nn.Conv2d(128, num_labels, 1)  # never used
        for n, width in enumerate(widths, 1):
            self.add_module(f"linear_c{n}", named(proj=nn.Linear(width, channels)))
        fuse = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.linear_fuse = named(conv=fuse, bn=nn.BatchNorm2d(channels))
        self.linear_pred = nn.Conv2d(channels, num_labels, 1)

    def forward(self, stages):
        maps = []
        for n, stage in reversed(list(enumerate(stages, 1))):
            projected = to_map(getattr(self, f"linear_c{n}").proj(to_tokens(stage)), stage.shape[2:])
            maps.append(F.interpolate(projected, size=stages[0].shape[2:], mode="bilinear", align_corners=False))
        return self.linear_pred(self.linear_fuse.bn(self.linear_fuse.conv(torch.cat(maps, 1))).relu())


class MmsegEncoder(nn.Module):
    def __init__(self, widths, depths, eps=(1e-6, 1e-6)):
        super().__init__()
        self.layers, before = nn.ModuleList(), 3
        for n, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            kernel, stride = (7, 4) if n == 0 else (3, 2)
            projection = nn.Conv2d(before, width, kernel, stride, kernel // 2)
            patch = named(projection=projection, norm=nn.LayerNorm(width, eps[0]))
            blocks = nn.ModuleList(self.block(width, HEADS[n], REDUCTIONS[n], eps) for _ in range(depth))
            self.layers.append(nn.ModuleList([patch, blocks, nn.LayerNorm(width, eps[1])]))
            before = width

    @staticmethod
    def block(width, heads, reduction, eps):
        attention = named(attn=nn.MultiheadAttention(width, heads))
        if reduction > 1:
            attention.sr, attention.norm = nn.Conv2d(width, width, reduction, reduction), nn.LayerNorm(width, eps[0])
        inner = 4 * width
        layers = nn.Sequential(
            nn.Conv2d(width, inner, 1),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Conv2d(inner, width, 1),
            nn.Dropout(0.0),
        )
        norms = {f"norm{n}": nn.LayerNorm(width, eps[1]) for n in (1, 2)}
        return named(attn=attention, ffn=named(layers=layers), **norms)

    def forward(self, x):
        outputs = []
        for patch, blocks, norm in self.layers:
            x = patch.projection(x)
            size = x.shape[2:]
            x = patch.norm(to_tokens(x))
            for block in blocks:
                y = block.norm1(x)
                attention = block.attn
                z = attention.norm(to_tokens(attention.sr(to_map(y, size)))) if hasattr(attention, "sr") else y
                y, z = y.transpose(0, 1), z.transpose(0, 1)  # torch's attention wants tokens first
                x = x + attention.attn(y, z, z)[0].transpose(0, 1)
                x = x + to_tokens(block.ffn.layers(to_map(block.norm2(x), size)))
            x = to_map(norm(x), size)
            outputs.append(x)
        return outputs


class MmsegHead(nn.Module):
    def __init__(self, widths, channels, num_labels):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, num_labels, 1)
        self.convs = nn.ModuleList(self.module(width, channels) for width in widths)
        self.fusion_conv = self.module(4 * channels, channels)

    @staticmethod
    def module(width, channels):
        return named(conv=nn.Conv2d(width, channels, 1, bias=False), bn=nn.BatchNorm2d(channels))

    def forward(self, stages):
        maps = []
        for module, stage in zip(self.convs, stages, strict=True):
            activated = module.bn(module.conv(stage)).relu()
            maps.append(F.interpolate(activated, size=stages[0].shape[2:], mode="bilinear", align_corners=False))
        return self.conv_seg(self.fusion_conv.bn(self.fusion_conv.conv(torch.cat(maps, 1))).relu())


class Segmentor(nn.Module):
    """`backbone`, `decode_head` and, as in the report's B2, an auxiliary head that prediction doesn't use."""

    def __init__(self, backbone, decode_head, auxiliary_channels=None):
        super().__init__()
        self.backbone, self.decode_head = backbone, decode_head
        if auxiliary_channels:
            convs = nn.Sequential(MmsegHead.module(auxiliary_channels, 8))
            self.auxiliary_head = named(conv_seg=nn.Conv2d(8, 19, 1), convs=convs)

    def forward(self, x):
        return self.decode_head(self.backbone(x))
