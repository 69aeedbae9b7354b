import torch

from hf_urbanseg.files import hash_file
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.memory_format import lay_out_depthwise


def test_lay_out_depthwise__of_one_image_nothing_is_copied():
    """Then the map that the convolution makes is in the tokens' own memory format."""
    model, image, strides = build_random_model("tiny", CITYSCAPES).eval(), torch.randn(1, 3, 64, 96), []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            module.register_forward_hook(lambda module, args, output: strides.append(output.stride(1)))
    before = model(pixel_values=image).logits
    assert set(strides) != {1}  # else torch sees it by itself, and this module can go
    strides.clear()
    lay_out_depthwise(model)
    torch.testing.assert_close(model(pixel_values=image).logits, before, rtol=0, atol=1e-6)
    assert set(strides) == {1}


def test_lay_out_depthwise__the_same_function_gradients_and_files(tmp_path):
    torch.manual_seed(0)
    model = build_random_model("tiny", CITYSCAPES).double().eval()
    image, found = torch.randn(1, 3, 64, 96, dtype=torch.float64), []
    for name in ("before", "after"):
        model.zero_grad()
        torch.manual_seed(1)
        logits = model(pixel_values=image).logits
        logits.square().mean().backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
        model.save_pretrained(tmp_path / name)
        lay_out_depthwise(model)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    files = [hash_file(tmp_path / name / "model.safetensors") for name in ("before", "after")]
    assert files[0] == files[1]
