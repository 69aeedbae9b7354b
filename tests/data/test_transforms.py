import random
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.data.transforms import (
    BalancedRandomCrop,
    PhotometricDistortion,
    RandomScale,
    Scale,
    TrainTransforms,
    build_train_transforms,
    count_pixels,
    parse_scales,
    seed_transforms,
)
from hf_urbanseg.errors import ConfigError

REPORT_SCALES = ["187x621", "281x931", "375x1242", "469x1552", "562x1863", "656x2173"]
# What MMCV's rescale_size gives for a 375x1242 frame: int(side * ratio + 0.5), ratio = the smaller of both.
REPORT_SIZES = [(187, 619), (281, 931), (375, 1242), (469, 1552), (562, 1861), (656, 2173)]


def build_street(seed=0, size=(60, 96), classes=6):
    """Noise whose green channel tells the label, so that geometry can be checked after any transform."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.repeat(rng.integers(0, classes, (size[0] // 6, size[1] // 6)), 6, 0), 6, 1).astype(np.uint8)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[..., 1] = 40 * label
    return image, label


def run(transform, seed, image, label):
    compose = transform if isinstance(transform, A.Compose) else A.Compose([transform])
    seed_transforms(compose, (seed,))
    sample = compose(image=image, mask=label)
    if isinstance(compose, TrainTransforms):  # what the model sees, colours last
        names = {"pixel_values": "image", "labels": "mask", "extent": "extent"}
        batch = normalize_batch(collate_train([{key: torch.from_numpy(sample[name]) for key, name in names.items()}]))
        return batch["pixel_values"][0].permute(1, 2, 0).numpy(), batch["labels"][0].numpy()
    return sample["image"], sample["mask"]


# Scales


def test_parse_scales__each_form():
    assert parse_scales(["375x1242", "0.75", ".5-2.0", 1]) == [
        Scale(box=(375, 1242)), Scale(ratios=(0.75, 0.75)), Scale(ratios=(0.5, 2.0)), Scale(ratios=(1.0, 1.0)),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "big", "0x100", "0", "2.0-0.5", "-1", "1.0-", "10x20x30", "1,5", "nan"])
def test_parse_scales__refuses(text):
    with pytest.raises(ConfigError) as caught:
        parse_scales(["1.0", text])
    assert f"found `{text}`" in str(caught.value)


def test_parse_scales__refuses_nothing():
    with pytest.raises(ConfigError, match="at least one training scale"):
        parse_scales([])


@pytest.mark.parametrize(("text", "size"), list(zip(REPORT_SCALES, REPORT_SIZES, strict=True)))
def test_random_scale__the_reports_boxes_keep_the_aspect_ratio_as_mmcv_rounds(text, size):
    image, label = np.zeros((375, 1242, 3), np.uint8), np.zeros((375, 1242), np.uint8)
    scaled, mask = run(RandomScale(parse_scales([text])), 0, image, label)
    assert scaled.shape[:2] == mask.shape == size
    box = tuple(map(int, text.split("x")))
    assert max(abs(a - b) for a, b in zip(size, box, strict=True)) <= 2


@pytest.mark.parametrize("shape", [(370, 1224), (376, 1241), (1242, 375)])
def test_random_scale__a_box_is_for_the_long_and_the_short_side(shape):
    scaled, _ = run(
        RandomScale(parse_scales(["187x621"])), 0, np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    )
    ratio = min(621 / max(shape), 187 / min(shape))
    assert scaled.shape[:2] == tuple(int(side * ratio + 0.5) for side in shape)


def test_random_scale__ratios():
    image, label = build_street(size=(60, 96))
    assert run(RandomScale(parse_scales(["0.75"])), 0, image, label)[0].shape == (45, 72, 3)
    heights = [run(RandomScale(parse_scales(["0.5-2.0"])), seed, image, label)[1].shape[0] for seed in range(300)]
    assert (min(heights), max(heights)) == (pytest.approx(30, abs=2), pytest.approx(120, abs=2))
    assert np.mean(heights) == pytest.approx(75, abs=5)  # uniform in the ratio


def test_random_scale__ratios_of_what_fits_a_base():
    """As if the picture had been resized to fit before, in one step; a box is the same with and without."""
    image, label = np.zeros((1024, 2048, 3), np.uint8), np.zeros((1024, 2048), np.uint8)
    for text, size in (("1.0", (375, 750)), ("0.5", (188, 375)), ("187x621", (187, 374))):
        assert run(RandomScale(parse_scales([text]), base=(375, 1242)), 0, image, label)[1].shape == size


def test_random_scale__six_scales_are_equally_likely():
    image, label = np.zeros((38, 124, 3), np.uint8), np.zeros((38, 124), np.uint8)
    transform = A.Compose([RandomScale(parse_scales(["0.5", "0.75", "1.0", "1.25", "1.5", "1.75"]))])
    counts = Counter(run(transform, seed, image, label)[1].shape for seed in range(1800))
    assert len(counts) == 6
    # 300 each, standard deviation 16.
    assert all(abs(count - 300) < 65 for count in counts.values()), counts


def test_random_scale__labels_are_never_interpolated():
    image, label = build_street()
    label[label == 3] = 255
    for seed in range(30):
        _, mask = run(RandomScale(parse_scales(["0.5-2.0"])), seed, image, label)
        assert set(np.unique(mask)) <= set(np.unique(label))


def test_random_scale__image_is_bilinear():
    image = np.tile(np.array([0, 200], np.uint8)[None, :, None], (2, 1, 3))
    scaled, _ = run(RandomScale(parse_scales(["2.0"])), 0, image, np.zeros((2, 2), np.uint8))
    assert scaled[0, :, 0].tolist() == [0, 50, 150, 200]


# Crop


def is_accepted(window, share=0.75):
    counts = np.bincount(window.ravel(), minlength=256)[:255]
    return (counts > 0).sum() > 1 and counts.max() < share * counts.sum()


def build_band(width=2000):
    """A label that is one class but for a narrow band: about one crop of five passes the rule."""
    label = np.zeros((32, width), np.uint8)
    label[:, 900:1100] = 1
    label[:, 890:910] = 255
    return label


def test_balanced_crop__accepts_by_the_rule_far_more_often_than_chance():
    label = build_band()
    image = np.zeros((*label.shape, 3), np.uint8)
    with_rule, without = A.Compose([BalancedRandomCrop((32, 200))]), A.Compose([BalancedRandomCrop((32, 200), 1.0)])
    share = [np.mean([is_accepted(run(t, s, image, label)[1]) for s in range(300)]) for t in (with_rule, without)]
    chance = share[1]
    assert 0.08 < chance < 0.2
    # Eleven draws in all, and the last is taken unseen if ten were refused.
    assert share[0] == pytest.approx(1 - (1 - chance) ** 11, abs=0.1)


def test_balanced_crop__accepted_crops_have_two_classes_and_none_over_the_share():
    label = build_band()
    image = np.zeros((*label.shape, 3), np.uint8)
    crop = A.Compose([BalancedRandomCrop((32, 200), redraws=10_000)])
    for seed in range(60):
        mask = run(crop, seed, image, label)[1]
        labelled = mask[mask != 255]
        assert len(np.unique(labelled)) > 1
        assert np.bincount(labelled).max() / labelled.size < 0.75


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize(("share", "draws"), [(0.75, 11), (1.0, 1)])
def test_balanced_crop__gives_up_after_ten_redraws(monkeypatch, fill, share, draws):
    drawn = []
    draw = BalancedRandomCrop._draw
    monkeypatch.setattr(BalancedRandomCrop, "_draw", lambda self, *size: drawn.append(size) or draw(self, *size))
    label = np.full((64, 64), fill, np.uint8)
    _, mask = run(BalancedRandomCrop((32, 48), share), 0, np.zeros((64, 64, 3), np.uint8), label)
    assert len(drawn) == draws
    assert mask.shape == (32, 48)


def test_balanced_crop__exactly_at_the_share_is_refused():
    # Every window shows three quarters of class 0: the rule is "below", so all draws are used up.
    label = np.zeros((4, 64), np.uint8)
    label[0] = 1
    crop = BalancedRandomCrop((4, 32))
    drawn = []
    original = crop._draw
    crop._draw = lambda *size: drawn.append(1) or original(*size)
    run(crop, 0, np.zeros((4, 64, 3), np.uint8), label)
    assert len(drawn) == 11


def test_balanced_crop__every_place_is_reached():
    image, label = np.zeros((5, 7, 3), np.uint8), np.arange(35, dtype=np.uint8).reshape(5, 7)
    crop = A.Compose([BalancedRandomCrop((3, 4))])
    corners = Counter(int(run(crop, seed, image, label)[1][0, 0]) for seed in range(600))
    assert set(corners) == {7 * top + left for top in range(3) for left in range(4)}
    assert max(corners.values()) < 2.5 * min(corners.values())


@pytest.mark.parametrize("min_pixels", [1, 100])
def test_balanced_crop__of_a_class_is_any_window_that_shows_enough_with_equal_chances(min_pixels):
    """Against all windows, counted one by one."""
    label = np.arange(16 * 40).reshape(16, 40).astype(np.uint8) % 100 + 100
    label[8:10, 20:23] = label[12, 26] = 7
    enough = min(min_pixels, 4)  # half of seven
    windows = [(top, left) for top in range(16 - 4) for left in range(40 - 8)]
    expected = {(t, le) for t, le in windows if (label[t : t + 5, le : le + 9] == 7).sum() >= enough}
    compose, found = A.Compose([BalancedRandomCrop((5, 9))], save_applied_params=True), Counter()
    for seed in range(3000):
        seed_transforms(compose, (seed,))
        sample = compose(image=np.zeros((16, 40, 3), np.uint8), mask=label, wanted=(7, min_pixels))
        assert (sample["mask"] == 7).sum() >= enough
        found[tuple(side.start for side in sample["applied_transforms"][0][1]["window"])] += 1
    assert found.keys() == expected
    assert chisquare(list(found.values())).pvalue > 0.01


def test_balanced_crop__of_a_class_that_no_window_shows_enough_of_or_that_is_not_there():
    image, label = build_street(size=(30, 120), classes=5)
    label[:, ::30] = 9  # four columns of 30 rows
    for wanted, shown in (((9, 70), 40), ((77, 1), 0)):
        compose = A.Compose([BalancedRandomCrop((20, 33))])
        seed_transforms(compose, (1,))
        mask = compose(image=image, mask=label, wanted=wanted)["mask"]
        assert mask.shape == (20, 33)
        assert (mask == 9).sum() >= shown


@pytest.mark.parametrize("enough", [1, 30, 200])
def test_balanced_crop__of_a_class_is_the_first_of_a_hundred_that_shows_enough_else_the_one_that_shows_most(enough):
    label = np.zeros((30, 90), np.uint8)
    label[::7, 3::11] = label[20:26, 60:66] = 7
    found = (label == 7)[:29, 3:81]  # its bounding box
    for seed in range(40):
        crop, random = BalancedRandomCrop((12, 20)), np.random.default_rng(seed)
        crop.random_generator = np.random.default_rng(seed)
        window = crop._build_draw(label, 7, enough)()
        tops, lefts = random.integers(0, 19, 100), random.integers(0, 71, 100)
        counts = [(label[top : top + 12, left : left + 20] == 7).sum() for top, left in zip(tops, lefts, strict=True)]
        place = np.minimum(counts, min(enough, (found.sum() + 1) // 2)).argmax()
        assert [side.start for side in window] == [tops[place], lefts[place]]


def test_count_pixels__of_a_window_as_numpy_counts():
    label = build_street()[1][3:50, 7:90]
    assert np.array_equal(count_pixels(label), np.bincount(label.ravel(), minlength=256))


def test_balanced_crop__image_and_label_share_the_window():
    image, label = build_street()
    for seed in range(20):
        cropped, mask = run(BalancedRandomCrop((24, 30)), seed, image, label)
        assert np.array_equal(cropped[..., 1], 40 * mask)


def test_balanced_crop__small_images_stay_whole():
    image, label = build_street(size=(30, 36))
    cropped, mask = run(BalancedRandomCrop((48, 64)), 0, image, label)
    assert np.array_equal(cropped, image)
    assert np.array_equal(mask, label)


# Photometric distortion


def convert(image, factor=1.0, shift=0.0):
    """MMSegmentation's step: float arithmetic, clip, truncate to 8 bits."""
    return np.clip(image.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def distort(image, shift, contrast_first, contrast, saturation, hue):
    """`PhotoMetricDistortion` in floats, step by step, for given draws."""
    if shift is not None:
        image = convert(image, shift=shift)
    if contrast_first and contrast is not None:
        image = convert(image, contrast)
    if saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = convert(hsv[..., 1], saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and contrast is not None:
        image = convert(image, contrast)
    return image


def draw_params(count, seed=0):
    transform = PhotometricDistortion()
    compose = A.Compose([transform])
    draws = []
    for number in range(count):
        seed_transforms(compose, (seed, number))
        draws.append(transform.get_params())
    return transform, draws


def test_photometric_distortion__equals_the_reference():
    transform, draws = draw_params(150)
    image, _ = build_street(3)
    alone, together = [], []
    for draw in draws:
        difference = np.abs(transform.apply(image, **draw).astype(int) - distort(image, **draw))
        both = draw["saturation"] is not None and draw["hue"] is not None
        (together if both else alone).append((difference.max(), difference.mean()))
    assert len(alone) > 80
    assert len(together) > 20
    assert max(worst for worst, _ in alone) <= 1
    # The reference rounds to 8-bit HSV twice here.
    assert max(worst for worst, _ in together) <= 4
    assert max(mean for _, mean in together) < 0.5


def test_photometric_distortion__ranges_and_odds():
    _, draws = draw_params(2000)
    for name, low, high in (("shift", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -18, 18)):
        values = [draw[name] for draw in draws if draw[name] is not None]
        assert len(values) / 2000 == pytest.approx(0.5, abs=0.05), name
        assert low <= min(values) < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < max(values) <= high, name
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low)), name
    assert np.mean([draw["contrast_first"] for draw in draws]) == pytest.approx(0.5, abs=0.05)
    assert {draw["hue"] for draw in draws} == {None, *range(-18, 19)}


def test_photometric_distortion__steps_are_independent():
    _, draws = draw_params(2000)
    taken = np.array(
        [[draw[name] is not None for name in ("shift", "contrast", "saturation", "hue")] for draw in draws]
    )
    correlation = np.corrcoef(np.column_stack([taken, [draw["contrast_first"] for draw in draws]]).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.1


@pytest.mark.parametrize("name", ["shift", "contrast", "saturation", "hue"])
def test_photometric_distortion__hand_computed_single_steps(name):
    # One pixel: brightness + 32 clips, contrast 1.5 truncates, saturation 0 is grey, a third of the hue circle rotates.
    pixel = np.array([[[240, 21, 21]]], np.uint8)
    draws = {"shift": 32.0, "contrast": 1.5, "saturation": 0.0, "hue": 60}
    expected = {"shift": [255, 53, 53], "contrast": [255, 31, 31], "saturation": [240] * 3, "hue": [21, 240, 21]}
    nothing = dict.fromkeys(draws) | {"contrast_first": True}
    assert PhotometricDistortion().apply(pixel, **nothing | {name: draws[name]})[0, 0].tolist() == expected[name]


# The chain


def test_build_train_transforms__the_reports_order():
    chain = build_train_transforms((368, 368), REPORT_SCALES)
    names = [type(transform).__name__ for transform in chain.transforms]
    assert names == ["RandomScale", "BalancedRandomCrop", "HorizontalFlip", "PhotometricDistortion"]
    plain = build_train_transforms((64, 64), ["1.0"], photometric=False)
    assert [type(transform).__name__ for transform in plain.transforms] == names[:3]
    assert chain.transforms[1].max_class_share == 0.75
    assert chain.transforms[1].redraws == 10
    assert chain.transforms[2].p == 0.5
    # Steps that draw their own odds must always be asked.
    assert [chain.transforms[k].p for k in (0, 1, 3)] == [1.0] * 3


def test_train_transforms__bytes_in_planes_padding_and_extent():
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.integers(0, 19, (40, 50), np.uint8)
    sample = TrainTransforms([A.HorizontalFlip(p=1.0)], (48, 64))(image=image, mask=label)
    assert (sample["image"].dtype, sample["mask"].dtype) == (np.uint8, np.uint8)
    assert np.array_equal(sample["image"][:, :40, :50], image[:, ::-1].transpose(2, 0, 1))
    assert np.array_equal(sample["mask"][:40, :50], label[:, ::-1])
    assert sample["extent"].tolist() == [40, 50]
    assert (sample["mask"][40:] == 255).all()
    assert (sample["mask"][:, 50:] == 255).all()


@pytest.mark.parametrize("size", [(39, 64), (64, 49)])
def test_train_transforms__refuses_what_it_cannot_pad(size):
    with pytest.raises(ValueError, match="broadcast"):
        TrainTransforms([], size)(image=np.zeros((40, 50, 3), np.uint8), mask=np.zeros((40, 50), np.uint8))


def test_build_train_transforms__padding_is_the_mean_colour_and_void_never_class_0():
    image, label = np.full((20, 30, 3), 200, np.uint8), np.zeros((20, 30), np.uint8)
    chain = build_train_transforms((32, 48), ["1.0"], flip=0.0, photometric=False)
    pixels, mask = run(chain, 0, image, label)
    assert pixels.shape == (32, 48, 3)
    assert (pixels.dtype, mask.dtype) == (np.float32, np.int64)
    outside = np.ones((32, 48), bool)
    outside[:20, :30] = False  # the image is at the top left
    assert (pixels[outside] == 0.0).all()
    assert (mask[outside] == 255).all()
    assert (mask[~outside] == 0).all()
    expected = [(200 - 123.675) / 58.395, (200 - 116.28) / 57.12, (200 - 103.53) / 57.375]
    np.testing.assert_allclose(pixels[~outside], np.tile(expected, (600, 1)), atol=1e-5)


def test_build_train_transforms__flip_mirrors_image_and_label_together():
    image, label = build_street(5, size=(48, 48))
    plain = build_train_transforms((48, 48), ["1.0"], flip=0.0, photometric=False)
    flipped = build_train_transforms((48, 48), ["1.0"], flip=1.0, photometric=False)
    (a, mask_a), (b, mask_b) = run(plain, 0, image, label), run(flipped, 0, image, label)
    assert np.array_equal(a[:, ::-1], b)
    assert np.array_equal(mask_a[:, ::-1], mask_b)
    assert not np.array_equal(a, b)


def test_build_train_transforms__image_and_label_stay_aligned():
    # The green channel is 40 x label: after scaling up by a whole number, crop, flip and padding it must still be.
    image, label = build_street(6, size=(24, 36))
    image[...] = image[..., 1:2]
    chain = build_train_transforms((64, 64), ["1.0"], photometric=False)
    for seed in range(20):
        pixels, mask = run(chain, seed, image, label)
        inside = mask != 255
        assert inside.sum() == 24 * 36
        np.testing.assert_allclose(pixels[inside][:, 1] * 57.12 + 116.28, 40.0 * mask[inside], atol=0.01)


# Independence of the draws


def scale_and_flip(seeder, seeds=2000):
    """How often each (scale, flip) came up."""
    image, label = np.zeros((4, 8, 3), np.uint8), np.tile(np.arange(8, dtype=np.uint8), (4, 1))
    scales = RandomScale(parse_scales(["1", "2", "3", "4", "5", "6"]))
    compose = A.Compose([scales, A.HorizontalFlip(p=0.5)])
    table = np.zeros((6, 2))
    for seed in range(seeds):
        seeder(compose, seed)
        mask = compose(image=image, mask=label)["mask"]
        table[mask.shape[0] // 4 - 1, int(mask[0, 0] == 7)] += 1
    return table


def chi_square(table) -> float:
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


def test_seed_transforms__scale_and_flip_are_independent():
    table = scale_and_flip(lambda compose, seed: seed_transforms(compose, (0, 0, seed)))
    # 5 degrees of freedom: 20.5 is exceeded once in a thousand tables.
    assert chi_square(table) < 20.5, table
    assert table.sum(0)[1] == pytest.approx(1000, abs=120)


def test_seed_transforms__same_seed_same_sample_any_part_of_it_another():
    image, label = build_street(7)
    chain = build_train_transforms((32, 32), ["0.5-2.0"])

    def sample(*seed):
        seed_transforms(chain, seed)
        return chain(image=image, mask=label)["image"].tobytes()

    first = sample(1, 2, 3)
    assert sample(1, 2, 4) != first
    assert sample(1, 3, 3) != first
    assert sample(2, 2, 3) != first
    assert sample(3, 2, 1) != first
    assert sample(1, 2, 3) == first


def test_seed_transforms__global_random_state_has_no_influence():
    image, label = build_street(8)
    chain = build_train_transforms((32, 32), ["0.5-2.0"])
    results = []
    for outside in (1, 2):
        random.seed(outside)
        np.random.seed(outside)
        results.append(run(chain, 5, image, label)[0])
        after = random.random(), np.random.random()
        random.seed(outside)
        np.random.seed(outside)
        assert after == (random.random(), np.random.random())
    assert np.array_equal(*results)


def test_build_train_transforms__further_channels_move_with_the_image_and_keep_their_colours():
    image, label = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8), np.zeros((60, 90), np.uint8)
    label[:, 45:] = 1
    for seed in range(6):
        crops = []
        for photometric in (True, False):
            chain = build_train_transforms((40, 50), ["0.5", "1.5"], photometric=photometric)
            seed_transforms(chain, (seed,))
            crops.append(chain(image=np.dstack([image, image, image[..., 0]]), mask=label)["image"])
        changed, plain = crops
        np.testing.assert_array_equal(plain[3:], plain[[0, 1, 2, 0]])
        np.testing.assert_array_equal(changed[3:], plain[3:])
