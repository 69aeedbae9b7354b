import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.losses import _blocks
from hf_urbanseg.losses._blocks import build_blocks, keep_full_precision

# (N, C, h, w), (H, W): whole and odd factors, one axis only, none, down, single rows and columns.
SIZES = [
    ((2, 3, 8, 10), (32, 40)),
    ((1, 2, 94, 5), (375, 21)),
    ((2, 4, 7, 311), (26, 1242)),
    ((1, 3, 6, 9), (6, 30)),
    ((1, 3, 6, 9), (25, 9)),
    ((2, 3, 5, 7), (5, 7)),
    ((1, 2, 20, 30), (7, 11)),
    ((3, 2, 1, 6), (1, 24)),
    ((1, 2, 1, 1), (13, 9)),
    ((1, 1, 3, 1), (1, 1)),
]


@pytest.fixture(params=["rows", "few rows", "images"])
def cut(request, monkeypatch):
    """Every way to cut: the CPU's, the same with blocks of two rows and small products, and that of other devices."""
    if request.param == "few rows":
        monkeypatch.setattr(_blocks, "ROWS", 3)
        monkeypatch.setattr(_blocks, "COLUMNS", 5)
        return lambda logits, size: set_block(monkeypatch, 2 * logits.shape[1] * size[1]) or build_blocks(logits, size)
    if request.param == "images":
        monkeypatch.setattr(_blocks, "DEVICE_BLOCK", 2000)
        monkeypatch.setattr(_blocks, "_build_row_blocks", _blocks._build_image_blocks)
    return build_blocks


def set_block(monkeypatch, elements):
    monkeypatch.setattr(_blocks, "CPU_BLOCK", elements)


def join(blocks, shape):
    """(N, C, H, W) from blocks, every pixel by exactly one of them."""
    result, seen = torch.full(shape, torch.nan, dtype=torch.float64), torch.zeros(shape[0], *shape[2:])
    for block in blocks:
        logits = block.upsample()
        axis = 1 if logits.ndim == 4 else 0
        result.movedim(1, -1)[block.where] = logits.movedim(1, -1).double()
        assert axis == 1 or len(logits) == block.where[1].stop - block.where[1].start
        seen[block.where] += 1
    assert (seen == 1).all()
    return result


@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_upsample__blocks_together_are_torchs_own(cut, shape, size, dtype):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).double()
    found = join(cut(logits, size), (*shape[:2], *size))
    # Other than in `interpolate`, rows and columns are rounded one after the other.
    assert float((found - expected).abs().max()) < (1e-14 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_transpose__sum_over_blocks_is_torchs_own_backward(cut, shape, size, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    above = torch.randn((*shape[:2], *size), generator=generator, dtype=dtype)
    F.interpolate(logits, size, mode="bilinear", align_corners=False).backward(above)
    gradient = torch.zeros_like(logits)
    for block in cut(logits, size):
        part = above.movedim(1, -1)[block.where].movedim(-1, 1).contiguous()
        block.add(block.transpose(part), gradient)
    scale = logits.grad.abs().max()
    assert float((gradient - logits.grad).abs().max() / scale) < (1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_upsample__half_precision_is_raised_first(cut, dtype):
    logits = torch.randn(2, 3, 8, 10).to(dtype)
    expected = F.interpolate(logits.float(), (31, 40), mode="bilinear", align_corners=False)
    assert {block.upsample().dtype for block in cut(logits, (31, 40))} == {torch.float32}
    torch.testing.assert_close(join(cut(logits, (31, 40)), (2, 3, 31, 40)), expected.double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(8, 10), (8, 40), (32, 10), (32, 40)])
def test_upsample__is_the_callers_to_overwrite(cut, size):
    logits = torch.randn(2, 3, 8, 10)
    before = logits.clone()
    for block in cut(logits, size):
        block.upsample().fill_(7)
    assert torch.equal(logits, before)


def test_build_blocks__no_larger_than_said():
    blocks = build_blocks(torch.zeros(2, 19, 92, 92), (368, 368))
    sizes = [block.upsample().numel() for block in blocks]
    assert len(sizes) > 8
    assert max(sizes) <= _blocks.CPU_BLOCK
    assert min(max(sizes[:-1]), _blocks.CPU_BLOCK) > _blocks.CPU_BLOCK / 2


def test_build_blocks__a_row_is_the_least(monkeypatch):
    set_block(monkeypatch, 1)
    assert len(build_blocks(torch.zeros(2, 3, 4, 4), (9, 16))) == 18


def test_build_blocks__on_a_device_as_many_images_as_fit(monkeypatch):
    logits = torch.zeros(5, 3, 4, 4)
    for fit, lengths in ((1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])):
        monkeypatch.setattr(_blocks, "DEVICE_BLOCK", fit * 3 * 8 * 8)
        blocks = _blocks._build_image_blocks(logits, (8, 8))
        assert [len(block.upsample()) for block in blocks] == lengths


@pytest.fixture
def _restored_precision():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_restored_precision")
def test_keep_full_precision__for_a_while_only():
    matmul = torch.backends.mkldnn.matmul
    torch.set_float32_matmul_precision("medium")
    assert matmul.fp32_precision == "bf16"
    with keep_full_precision():
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "bf16"
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("_restored_precision")
def test_keep_full_precision__also_put_back_after_an_error():
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(ZeroDivisionError), keep_full_precision():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
