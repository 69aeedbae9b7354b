"""SegFormer's encoder with the same weights, written so that runtimes see its channels and need not turn its maps.

transformers goes between tokens (N, h w, C) and maps (N, C, h, w) by a transposition and a view to sizes that are all
read from the input. Over free sizes OpenVINO then doesn't know the channels, on which int8 depends (2026.4 fails), and
it copies every map twice. As a permutation of (N, h, w, C) it is how convolutions keep their maps anyway.
"""

from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import (
    SegformerMixMLP,
    SegformerOverlapPatchEmbeddings,
    SegformerSequenceReduction,
    SegformerStage,
)


def _to_maps(tokens: Tensor, height: int, width: int, channels: int) -> Tensor:
    return tokens.reshape(tokens.shape[0], height, width, channels).permute(0, 3, 1, 2)


def _to_tokens(maps: Tensor, channels: int) -> Tensor:
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, channels)


class _PatchEmbeddings(SegformerOverlapPatchEmbeddings):
    def forward(self, pixel_values):
        maps = self.proj(pixel_values)
        return self.layer_norm(_to_tokens(maps, self.proj.out_channels)), maps.shape[2], maps.shape[3]


class _SequenceReduction(SegformerSequenceReduction):
    def forward(self, hidden_states, height, width):
        channels = self.sequence_reduction.in_channels
        maps = self.sequence_reduction(_to_maps(hidden_states, height, width, channels))
        return self.layer_norm(_to_tokens(maps, channels))


class _MixMLP(SegformerMixMLP):
    """Its linear layers as convolutions: the wide maps between them are never turned, the narrow ones twice."""

    def forward(self, hidden_states, height, width):
        channels = self.fc1.in_channels
        maps = self.fc1(_to_maps(hidden_states, height, width, channels))
        return _to_tokens(self.fc2(self.activation_fn(self.dwconv.dwconv(maps))), channels)


class _Stage(SegformerStage):
    def forward(self, hidden_states, **kwargs):
        hidden_states, height, width = self.patch_embeddings(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, height, width, **kwargs)
        hidden_states = self.layer_norm(hidden_states)
        channels = self.patch_embeddings.proj.out_channels
        return _to_maps(hidden_states, height, width, channels) if self.reshape else hidden_states


def apply_exported_encoder(model: nn.Module) -> None:
    """Makes the layers of a stock SegFormer go between tokens and maps as said above; it can predict, no more."""
    classes = {one.__base__: one for one in (_PatchEmbeddings, _SequenceReduction, _MixMLP, _Stage)}
    for module in [*model.modules()]:
        module.__class__ = classes.get(type(module), type(module))
        if isinstance(module, _MixMLP):
            module.fc1, module.fc2 = _as_convolution(module.fc1), _as_convolution(module.fc2)


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    layer = nn.Conv2d(linear.in_features, linear.out_features, 1)
    layer.weight, layer.bias = nn.Parameter(linear.weight[:, :, None, None]), linear.bias
    return layer
