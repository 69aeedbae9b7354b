import torch

from hf_urbanseg.models.convert.keys import (
    Rule,
    encoder_rules,
    mmsegmentation_decoder_rules,
    nvlabs_decoder_rules,
)


def rules_by_file(layout):
    rules = encoder_rules(layout, [1, 1, 1, 2])
    assert len({rule.file for rule in rules}) == len(rules)
    hub = [name for rule in rules for name in rule.hub]
    assert len(set(hub)) == len(hub)
    return {rule.file: rule for rule in rules}


def test_encoder_rules__nvlabs():
    rules = rules_by_file("nvlabs")
    assert len(rules) == 4 * 4 + 4 * 2 + 3 * 20 + 2 * 16
    attention = "stages.1.blocks.0.attention."
    assert rules["patch_embed4.norm.bias"].hub == ("stages.3.patch_embeddings.layer_norm.bias",)
    assert rules["block2.0.attn.kv.weight"].hub == (f"{attention}k_proj.weight", f"{attention}v_proj.weight")
    assert rules["block2.0.attn.sr.weight"].hub == (f"{attention}sequence_reduction.sequence_reduction.weight",)
    assert rules["block4.1.mlp.dwconv.dwconv.bias"].hub == ("stages.3.blocks.1.mlp.dwconv.dwconv.bias",)
    assert rules["norm3.weight"].hub == ("stages.2.layer_norm.weight",)
    assert not any(rule.as_conv for rule in rules.values())
    assert "block4.0.attn.sr.weight" not in rules


def test_encoder_rules__mmsegmentation():
    rules = rules_by_file("mmsegmentation")
    assert len(rules) == 4 * 4 + 4 * 2 + 3 * 18 + 2 * 14
    names = tuple(f"stages.3.blocks.1.attention.{letter}_proj.bias" for letter in "qkv")
    assert rules["layers.3.1.1.attn.attn.in_proj_bias"].hub == names
    assert rules["layers.0.0.projection.weight"].hub == ("stages.0.patch_embeddings.proj.weight",)
    assert rules["layers.2.2.weight"].hub == ("stages.2.layer_norm.weight",)
    convolutions = {name for name, rule in rules.items() if rule.as_conv}
    assert len(convolutions) == 2 * 5
    assert "layers.0.1.0.ffn.layers.4.weight" in convolutions


def test_nvlabs_decoder_rules__only_projections_are_convolutions():
    assert not any(rule.as_conv for rule in nvlabs_decoder_rules())
    convolutions = [rule.file for rule in nvlabs_decoder_rules(projections_as_conv=True) if rule.as_conv]
    assert convolutions == [f"linear_c{stage}.proj.weight" for stage in (1, 2, 3, 4)]


def test_mmsegmentation_decoder_rules__one_to_one():
    rules = {rule.file: rule for rule in mmsegmentation_decoder_rules()}
    assert len(rules) == 5 * 6 + 2
    assert all(len(rule.hub) == 1 and not rule.as_conv for rule in rules.values())
    assert len({rule.hub for rule in rules.values()}) == len(rules)
    assert rules["convs.3.bn.running_var"].hub == ("linear_c.3.batch_norm.running_var",)
    assert rules["conv_seg.bias"].hub == ("classifier.bias",)


def test_rule__both_directions():
    rule = Rule("qkv", ("q", "k", "v"), as_conv=True)
    hub = {name: torch.randn(2, 3) for name in "qkv"}
    tensor = rule.to_file(hub)
    assert tensor.shape == (6, 3, 1, 1)
    assert torch.equal(tensor[2:4, :, 0, 0], hub["k"])
    assert all(torch.equal(part, hub[name]) for name, part in rule.to_hub(tensor))
    scalar = torch.tensor(5)
    assert dict(Rule("n", ("m",)).to_hub(scalar)) == {"m": scalar}
