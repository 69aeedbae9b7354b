import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_urbanseg.data.teacher_cache import (
    SCORES_FILE,
    TEACHER_FILE,
    TeacherCache,
    compress_scores,
    expand_scores,
    is_teacher_cache,
    write_teacher_cache,
)
from hf_urbanseg.data.transforms import View, build_train_transforms, seed_transforms
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.losses.distillation import DISTILLATION_LOSSES

NAMES = ["road", "sky", "car", "person", "bus", "train"]
ABOUT = {"name": "a teacher", "classes": NAMES, "parameters": 7}
FRAMES = {"one": "a" * 64, "two": "b" * 64, "three": "c" * 64}


def draw_scores(count=6, size=(12, 20), seed=0):
    return 3 * torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "cache"
    frames = ((name, digest, draw_scores(seed=i)) for i, (name, digest) in enumerate(FRAMES.items()))
    write_teacher_cache(path, frames, ABOUT, bits=16)
    return path


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("top_k", [1, 3, 5, 6, 9, None])
@pytest.mark.parametrize("confidence", [0.1, 3.0, 20.0])
def test_compress_scores__come_back(bits, top_k, confidence):
    scores = confidence * draw_scores()
    scores[1, 0], scores[3, 0] = 200.0, 200.0  # two that are equally good, and all others far below
    found = compress_scores(scores, top_k, bits)
    restored = torch.from_numpy(expand_scores(found, 6))
    kept = min(top_k or 6, 6)
    order = scores.topk(kept, dim=0).indices
    exact, stored = ((one.max(0).values - one).gather(0, order) for one in (scores, restored))
    # Half a step of the square's side, and a whole one where that is less.
    side = 64**0.5 / (2**bits - 1)
    exact = exact.clamp(max=64)
    assert ((exact - stored).abs() <= side * exact.sqrt() + 1.01 * side**2 + 1e-4).all()
    assert (restored.max(0).values - scores.max(0).values).abs().max() < 0.07  # float16, of up to 200
    best = restored.argmax(0)
    assert (scores.gather(0, best[None])[0] == scores.max(0).values).all()
    if kept < 6:  # the others share what is left
        rest = [one.logsumexp(0) - one.gather(0, order).logsumexp(0) for one in (scores, restored)]
        assert (rest[0] - rest[1]).abs().max() < (0.1 if bits == 8 else 1e-3)
    size = found.best.nbytes + found.classes.nbytes + found.below.nbytes
    assert size == 12 * 20 * (2 + (6 * bits // 8 if kept == 6 else kept * (1 + bits // 8)))


@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (16, 1e-3)])
@pytest.mark.parametrize("kind", ["soft", "cwd"])
def test_compress_scores__a_sure_teacher_teaches_the_same_at_high_temperatures(kind, bits, most):
    generator = torch.Generator().manual_seed(0)
    teacher, logits = torch.randn(2, 6, 12, 20, generator=generator), torch.randn(2, 6, 12, 20, generator=generator)
    teacher.scatter_add_(1, torch.randint(0, 6, (2, 1, 12, 20), generator=generator), torch.full((2, 1, 12, 20), 20.0))
    labels = torch.randint(0, 6, (2, 48, 80), generator=generator)
    loss = DISTILLATION_LOSSES[kind](6, range(6), 4.0)
    restored = torch.stack([torch.from_numpy(expand_scores(compress_scores(one, None, bits), 6)) for one in teacher])
    expected, found = (loss(logits, labels, teacher=one) for one in (teacher, restored))
    assert expected > 0.5
    assert abs(found - expected) < most * expected


def test_cut__whole_frame_is_what_the_teacher_said(folder):
    cache = TeacherCache(folder, NAMES, FRAMES)
    for index in range(3):
        found = cache.cut(index, View((48, 80), 0, 0, False, (48, 80)), (48, 80))
        assert found.shape == (6, 12, 20)
        expected = draw_scores(seed=index)
        distance = (found - found.amax(0)).float() - (expected - expected.amax(0))
        assert distance.abs().max() < 0.02  # float16, of up to 16


def test_cut__mirrored(folder):
    cache = TeacherCache(folder, NAMES, FRAMES)
    plain, mirrored = (cache.cut(0, View((48, 80), 0, 0, flip, (48, 80)), (48, 80)) for flip in (False, True))
    assert torch.equal(plain.flip(2), mirrored)


def test_cut__resized_as_torch_does(folder):
    """Up and down, where the whole frame is the crop."""
    cache = TeacherCache(folder, NAMES, FRAMES)
    source = cache.cut(0, View((48, 80), 0, 0, False, (48, 80)), (48, 80)).float()
    for size in ((96, 160), (24, 40), (52, 76)):
        found = cache.cut(0, View(size, 0, 0, False, size), size)
        grid = tuple(-(-side // 4) for side in size)
        expected = F.interpolate(source[None], grid, mode="bilinear", align_corners=False)[0]
        assert (found.float() - expected).abs().max() < 0.02


@pytest.mark.parametrize("seed", range(12))
def test_cut__follows_the_image_through_the_augmentations(tmp_path, seed):
    """A frame whose colours are its coordinates, and a teacher who says the coordinates of each place."""
    height, width = 180, 240
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    label = np.random.default_rng(seed).integers(0, 6, (height, width), np.uint8)
    rows, columns = np.mgrid[:45, :60] * 4 + 1.5
    scores = torch.from_numpy(np.stack([0 * rows + 1000, rows, columns])).float()
    # The first is the best everywhere.
    scores = torch.stack([0 * scores[0], -scores[1] / 20, -scores[2] / 20])
    write_teacher_cache(tmp_path / "cache", [("one", "a", scores)], ABOUT | {"classes": NAMES[:3]}, bits=16)
    cache = TeacherCache(tmp_path / "cache", NAMES[:3], {"one": "a"})
    crop = (100, 200)  # the narrower ones are padded
    transforms = build_train_transforms(crop, ["0.4-1.6"], photometric=False)
    seed_transforms(transforms, (seed, 1, 2))
    sample = transforms(image=image, mask=label)
    found = cache.cut(0, sample["view"], crop).float() * -20
    assert found.shape == (3, 25, 50)
    extent = sample["view"].extent
    # Of the image, the mean of the two pixels in the middle of each place.
    seen = F.avg_pool2d(torch.from_numpy(sample["image"][:2]).float()[:, 1:, 1:], 2, 4)
    seen = seen[:, : (extent[0] - 3) // 4, : (extent[1] - 3) // 4]
    difference = (found[1:, : seen.shape[1], : seen.shape[2]] - seen).abs()
    inner = (seen[0] > 3) & (seen[0] < height - 4) & (seen[1] > 3) & (seen[1] < width - 4)  # the ends are repeated
    assert inner.sum() > 100
    assert difference[:, inner].max() < 1.0  # of a pixel; resizing bytes rounds


def test_cut__classes_by_name_not_by_position(folder):
    cache = TeacherCache(folder, ["truck", "Bus", "sky", "road"], FRAMES)
    assert cache.taught == (1, 2, 3)
    view = View((48, 80), 0, 0, False, (48, 80))
    everything = TeacherCache(folder, NAMES, FRAMES).cut(1, view, (48, 80))
    assert torch.equal(cache.cut(1, view, (48, 80)), everything[[4, 1, 0]])


def test_teacher_cache__frames_in_the_order_of_the_split_and_through_a_pickle(folder):
    view = View((48, 80), 0, 0, False, (48, 80))
    whole = TeacherCache(folder, NAMES, FRAMES)
    part = pickle.loads(pickle.dumps(TeacherCache(folder, NAMES, {"three": "c" * 64, "one": "a" * 64})))
    for index, there in enumerate((2, 0)):
        assert torch.equal(part.cut(index, view, (48, 80)), whole.cut(there, view, (48, 80)))


def test_teacher_cache__refuses_other_frames_and_classes(folder):
    with pytest.raises(DataError, match="none of `four` and 1 others"):
        TeacherCache(folder, NAMES, FRAMES | {"four": "d", "five": "e"})
    with pytest.raises(DataError, match="scores of the image `two` with SHA-256 dddd"):
        TeacherCache(folder, NAMES, FRAMES | {"two": "d" * 64})
    with pytest.raises(ConfigError, match="classes of the data's"):
        TeacherCache(folder, ["tree"], FRAMES)


def test_teacher_cache__refuses_damage(folder, tmp_path):
    def damage(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(DataError) as caught:
            TeacherCache(copy, NAMES, FRAMES)
        return str(caught.value)

    def flip(copy):
        content = bytearray((copy / SCORES_FILE).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / SCORES_FILE).write_bytes(content)

    def describe(**content):
        return lambda copy: (copy / TEACHER_FILE).write_text(json.dumps(content))

    assert "found others" in damage(flip)
    assert not is_teacher_cache(folder.parent)
    assert is_teacher_cache(folder)
    (folder.parent / TEACHER_FILE).touch()
    assert not is_teacher_cache(folder.parent)
    assert "found others" in damage(lambda copy: (copy / SCORES_FILE).write_bytes(b""))
    content = json.loads((folder / TEACHER_FILE).read_text())
    for name in ("name", "classes", "parameters", "bits", "top_k", "sha256"):
        less = {key: value for key, value in content.items() if key != name}
        assert "the description of a teacher's scores" in damage(describe(**less))
        assert "the description of a teacher's scores" in damage(describe(**content | {name: 3.5}))
    assert "the description of a teacher's scores" in damage(describe(**content | {"bits": 4}))
    assert "scores as it describes them" in damage(describe(**content | {"bits": 8}))
    assert "scores as it describes them" in damage(describe(**content | {"classes": NAMES[:3]}))
    assert "scores as it describes them" in damage(describe(**content | {"top_k": 3}))


def test_write_teacher_cache__whole_or_not_at_all(tmp_path):
    def break_off():
        yield "one", "a", draw_scores()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_teacher_cache(tmp_path / "cache", break_off(), ABOUT)
    assert not any(tmp_path.iterdir())
