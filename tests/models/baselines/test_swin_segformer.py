import pytest
import torch
import torch.nn.functional as F
from baseline_models import SWIN, Weights, build, draw_images, measure_spread, resize
from transformers import SwinBackbone, SwinConfig

from hf_urbanseg.models.baselines.swin_segformer import SwinSegformerConfig, SwinSegformerForSemanticSegmentation

WINDOW = SWIN["window_size"]
# The names of the Hub's files, whatever this version of transformers calls them.
HUB_NAMES = {
    "backbone.swin.": "backbone.",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.relative_position_bias.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class SwinWeights(Weights):
    def __init__(self, module, training=False):
        super().__init__(module, training)
        for old, new in HUB_NAMES.items():
            self.tensors = {name.replace(old, new): one for name, one in self.tensors.items()}

    def linear(self, name, x):
        product = x @ self.tensors[f"{name}.weight"].T
        return product + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else product

    def layer_norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def compute_maps(weights, images):
    """Liu et al. 2021; tokens are (N, h, w, C), and windows that are not full are padded, as in MMSegmentation."""
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % 4, 0, -height % 4))
    x = weights.conv("backbone.embeddings.patch_embeddings.projection", images, stride=4).movedim(1, -1)
    x, maps = weights.layer_norm("backbone.embeddings.norm", x), []
    for stage, (depth, heads) in enumerate(zip(SWIN["depths"], SWIN["num_heads"], strict=True)):
        name = f"backbone.encoder.layers.{stage}"
        for n in range(depth):
            block = f"{name}.blocks.{n}"
            attended = attend(
                weights, f"{block}.attention", weights.layer_norm(f"{block}.layernorm_before", x), heads, n % 2
            )
            x = x + attended
            hidden = weights.linear(f"{block}.intermediate.dense", weights.layer_norm(f"{block}.layernorm_after", x))
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
            x = x + weights.linear(f"{block}.output.dense", hidden)
        maps.append(weights.layer_norm(f"backbone.hidden_states_norms.stage{stage + 1}", x).movedim(-1, 1))
        if stage < 3:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
            x = weights.linear(f"{name}.downsample.reduction", weights.layer_norm(f"{name}.downsample.norm", x))
    return maps


def attend(weights, name, x, heads, shifted):
    """Attention in windows, one at a time; a shifted one sees only tokens that came from the same side of the edge."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    rows, columns = (torch.arange(side) for side in x.shape[1:3])
    shift = WINDOW // 2 if shifted else 0
    rows, columns = rows.roll(-shift), columns.roll(-shift)
    out = torch.empty_like(x)
    for top in range(0, len(rows), WINDOW):
        for left in range(0, len(columns), WINDOW):
            chosen = torch.cartesian_prod(rows[top : top + WINDOW], columns[left : left + WINDOW])
            # Behind the shift, the first rows of the image follow its last in the last window.
            wrapped = torch.stack(
                [
                    (chosen[:, 0] < shift) & (top + WINDOW == len(rows)),
                    (chosen[:, 1] < shift) & (left + WINDOW == len(columns)),
                ],
                dim=-1,
            )
            hidden = attend_all(weights, name, x[:, chosen[:, 0], chosen[:, 1]], heads, wrapped)
            out[:, chosen[:, 0], chosen[:, 1]] = hidden
    return out[:, :height, :width]


def attend_all(weights, name, tokens, heads, wrapped):
    query, key, value = (
        weights.linear(f"{name}.self.{kind}", tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
        for kind in ("query", "key", "value")
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
    offsets = places[:, None] - places[None] + WINDOW - 1
    table = weights.tensors[f"{name}.self.relative_position_bias_table"]
    scores = scores + table[offsets[..., 0] * (2 * WINDOW - 1) + offsets[..., 1]].movedim(-1, 0)
    apart = (wrapped[:, None] != wrapped[None]).any(-1)
    hidden = scores.masked_fill(apart, -torch.inf).softmax(-1) @ value
    return weights.linear(f"{name}.output.dense", hidden.transpose(1, 2).flatten(-2))


def compute_logits(weights, maps):
    """Xie et al. 2021, the coarsest projection first."""
    size = maps[0].shape[2:]
    projected = [
        resize(weights.linear(f"decode_head.linear_projections.{n}.proj", one.movedim(1, -1)).movedim(-1, 1), size)
        for n, one in enumerate(maps)
    ]
    hidden = weights.conv("decode_head.linear_fuse", torch.cat(projected[::-1], dim=1))
    return weights.conv("decode_head.classifier", weights.norm("decode_head.batch_norm", hidden).clamp(min=0))


@pytest.mark.parametrize(
    "size", [(96, 96), (61, 90), (9, 5)]
)  # in windows of 12 pixels, 24, ...; padded; less than one
def test_swin_segformer__logits_of_the_reference(size):
    model = build("swin_segformer").double()
    images = draw_images(2, 3, *size, dtype=torch.float64)
    weights = SwinWeights(model)
    with torch.no_grad():
        maps = compute_maps(weights, images)
        expected = compute_logits(weights, maps)
        outputs = model(images, output_hidden_states=True)
    for one, two in zip(outputs.hidden_states, maps, strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() < 1e-12 * two.abs().max()
    assert measure_spread(expected) > 0.1
    assert outputs.logits.shape == (2, 19, -(-size[0] // 4), -(-size[1] // 4))
    assert (outputs.logits - expected).abs().max() < 1e-12


def test_swin_segformer__widths_of_the_report():
    config = SwinSegformerConfig(num_labels=19)
    assert (config.embed_dim, config.depths, config.num_heads) == (96, (2, 2, 6, 2), (3, 6, 12, 24))
    with torch.device("meta"):
        model = SwinSegformerForSemanticSegmentation(config)
    assert model.feature_channels == (96, 192, 384, 768)
    assert [one.proj.weight.shape for one in model.decode_head.linear_projections] == [
        (512, 96), (512, 192), (512, 384), (512, 768),
    ]  # fmt: skip
    assert model.decode_head.linear_fuse.weight.shape == (512, 2048, 1, 1)
    assert model.decode_head.dropout.p == 0.1


def test_swin_segformer__every_map_whatever_the_file_asks_for():
    # The Hub's configurations ask for the last stage alone.
    config = SwinSegformerConfig(**SWIN, out_features=None, out_indices=[4])
    assert config.out_features == ["stage1", "stage2", "stage3", "stage4"]


def test_swin_segformer__attends_as_stock_does():
    # One fused operation wherever transformers' own Swin has it.
    stock = SwinBackbone(SwinConfig(**SWIN))
    assert build("swin_segformer").config._attn_implementation == stock.config._attn_implementation
