import pytest

from hf_urbanseg.data.transforms import parse_scales
from hf_urbanseg.models.sizes import choose_crop_size, choose_eval_size, choose_train_scales, explain_misfit
from hf_urbanseg.options.config import AugmentationArguments
from hf_urbanseg.options.recipe import load_recipe, recipe_names


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({(375, 1242): 9, (370, 1226): 3}, (384, 1248)),
        ({(370, 1226): 9, (375, 1242): 3}, (384, 1216)),
        ({(1024, 2048): 1}, (1024, 2048)),
        ({(360, 480): 1}, (352, 480)),  # 360 is 11.25 x 32
        ({(368, 368): 1}, (384, 384)),  # half-way goes up
        # The nearest, 32x64, is a third wider; 32x32 of the next is a square of what is four times as wide.
        ({(40, 60): 1}, (64, 96)),
        ({(5, 20): 1}, (32, 128)),
        ({(3000, 4000): 1}, (1248, 1664)),  # 2 million pixels
    ],
)
def test_choose_eval_size__commonest_brought_to_multiples_of_32(sizes, expected):
    assert choose_eval_size(sizes) == expected


def test_choose_eval_size__a_tie_does_not_depend_on_the_order():
    sizes = {(64, 96): 2, (96, 128): 2}
    assert choose_eval_size(sizes) == choose_eval_size(dict(reversed(sizes.items())))


@pytest.mark.parametrize(
    "size", [(40, 60), (60, 40), (5, 20), (360, 480), (375, 1242), (3000, 4000), (1, 3000), (8192, 8192), (1, 1)]
)
def test_augmentation_arguments_fit__what_is_chosen_by_the_data_suits_them(size):
    sizes = {size: 2, (300, 300): 1}
    left_open = AugmentationArguments(train_scales=None, crop_size=None).fit(sizes)
    ratios = [scale.find_ratios(size) for scale in parse_scales(left_open.train_scales)]
    assert all(0 < side <= 368 for side in left_open.crop_size)
    assert explain_misfit(choose_eval_size(sizes), ratios, sizes) is None
    assert (left_open.crop_size, left_open.train_scales) == (choose_crop_size(sizes), choose_train_scales(sizes))
    set_by_somebody = AugmentationArguments(train_scales=["0.5"], crop_size=[64, 32])
    assert set_by_somebody.fit(sizes) == set_by_somebody


def explain(recipe: dict, size: tuple[int, int]) -> str | None:
    ratios = [scale.find_ratios(size) for scale in parse_scales(recipe["train_scales"])]
    return explain_misfit(tuple(recipe["eval_size"]), ratios, {size: 3, (1, 1): 1})


def test_explain_misfit__recipes_for_kitti_are_silent_on_it_and_speak_up_elsewhere():
    """Its frames have four sizes; half of them is what the ladder's smallest networks see."""
    asked, kitti = 0, ((375, 1242), (370, 1224), (374, 1238), (376, 1241))
    for name in recipe_names():
        for size in ("tiny", "b0", "b2", "b5"):
            recipe = load_recipe(name, size, any_size=True)
            if recipe.get("eval_size"):
                assert [explain(recipe, one) for one in kitti] == [None] * 4
                assert "stretches them by 150%" in explain(recipe, (360, 480))
                asked += 1
    assert asked > 20


@pytest.mark.parametrize(
    ("size", "eval_size", "scales", "said"),
    [
        ((360, 480), [384, 1280], ["375x1242"], "`eval_size` 384x1280 stretches them by 150%; |`--eval_size 352 480`"),
        ((360, 480), [320, 480], ["1.0"], "stretches them by 12%; |`--eval_size 352 480`"),
        ((360, 480), [96, 128], ["0.25"], "has 0.073 times the pixels of 352x480|`--eval_size 352 480` and `--train_"),
        ((750, 1000), [768, 1024], ["94x125"], "show them at 0.12 to 0.12 of their size, not at 1; |_scales 0.51 0.77"),
        ((360, 480), [352, 480], ["0.7-1.0"], None),
        ((40, 60), [64, 96], ["1.0", "2.0"], None),
        ((20, 30), [32, 64], ["2.0"], "stretches them by 33%"),
        ((16, 32), [32, 64], ["2"], None),
    ],
)
def test_explain_misfit__shape_area_and_scale(size, eval_size, scales, said):
    line = explain({"eval_size": eval_size, "train_scales": scales}, size)
    assert line is None if said is None else all(part in line for part in said.split("|")), line
