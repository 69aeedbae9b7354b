from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from run_options import ALL, fails, parse
from transformers import TrainingArguments

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.recipe import load_recipe, recipe_names
from hf_urbanseg.options.training_arguments import resolve_recipe

FOLDER = Path(__file__).parents[2] / "hf_urbanseg" / "recipes"


def test_parse_arguments__recipe_wins_over_defaults_and_command_line_over_recipe():
    recipe = {"learning_rate": 2e-4, "max_steps": 77, "init": "random", "crop_size": [64, 96], "photometric": False}
    model, augmentation, _, args = parse("--max_steps", 5, "--crop_size", 128, 160, recipe=recipe)
    assert (args.learning_rate, args.max_steps) == (2e-4, 5)
    assert (model.init, model.size) == ("random", "b0")
    assert (augmentation.crop_size, augmentation.photometric, augmentation.flip) == ([128, 160], False, 0.5)


def test_parse_arguments__null_and_empty_lists_of_a_recipe():
    model, _, loss, args = parse(recipe={"eval_size": None, "add_losses": [], "save_total_limit": None})
    assert (model.eval_size, loss.add_losses, args.save_total_limit) == (None, [], None)


def test_parse_arguments__a_number_that_yaml_takes_for_text():
    assert yaml.safe_load("1e-4") == "1e-4"  # YAML 1.1 wants 1.0e-4
    assert parse(recipe={"learning_rate": "1e-4"})[-1].learning_rate == 1e-4


def test_parse_arguments__dictionaries_and_lists_of_stock_options():
    recipe = {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}, "report_to": ["tensorboard"]}
    args = parse(recipe=recipe)[-1]
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert args.report_to == ["tensorboard"]
    assert parse()[-1].report_to == []
    assert parse("--report_to", "tensorboard", "wandb")[-1].report_to == ["tensorboard", "wandb"]


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (
            {"learning_rat": 1},
            "mine.yaml: expected known recipe keys; found `learning_rat`; did you mean `learning_rate`.",
        ),
        ({"crop-size": 1}, "mine.yaml: expected known recipe keys; found `crop-size`; did you mean `crop_size`."),
        ({"qqqq": 1}, "mine.yaml: expected known recipe keys; found `qqqq`; remove it."),
        ({7: 1}, "mine.yaml: expected known recipe keys; found `7`; remove it."),
    ],
)
def test_parse_arguments__unknown_recipe_key(recipe, line):
    assert fails(recipe=recipe) == line


@pytest.mark.parametrize("key", ["reduce_labels", "do_reduce_labels"])
@pytest.mark.parametrize("value", [True, False])
def test_parse_arguments__reduce_labels_is_refused_with_the_way_out(key, value):
    line = fails(recipe={key: value})
    assert line.startswith(f"mine.yaml: expected label ids mapped by a label space; found `{key}`")
    assert "`void`" in line


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ({"max_steps": "many"}, "'many'"),
        ({"max_steps": 1.5}, "'1.5'"),
        ({"max_steps": True}, "'True'"),
        ({"max_steps": [1, 2]}, "2"),
        ({"learning_rate": {}}, "'{}'"),
        ({"photometric": "maybe"}, "maybe"),
        ({"crop_size": [368, "x"]}, "'x'"),
        ({"init": "zeros"}, "'zeros'"),
        ({"loss": "tversky"}, "'tversky'"),
        ({"normalizer": "mean"}, "'mean'"),
    ],
)
def test_parse_arguments__wrong_type_in_a_recipe_names_the_file_and_the_value(recipe, word):
    line = fails(recipe=recipe)
    assert line.startswith("mine.yaml: expected valid options; found ")
    assert next(iter(recipe)) in line or word == "2"
    assert word in line


def test_parse_arguments__wrong_value_on_the_command_line_is_not_blamed_on_the_recipe():
    assert fails("--max_steps", "many", recipe={"seed": 3}).startswith("expected valid options; found ")


@pytest.mark.parametrize("words", [("--bogus", "3"), ("--lr", "3"), ("stray",)])
def test_parse_arguments__unknown_option(words):
    assert words[0] in fails(*words)


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("--lss", "did you mean `--loss`"),
        ("--learning-rat=3", "did you mean `--learning_rate`"),
        ("--num_train_epoch", "did you mean `--num_train_epochs`"),  # of stock transformers
        ("--qqqq", "see `--help`"),
    ],
)
def test_parse_arguments__a_mistyped_option_names_the_nearest(word, fix):
    assert fails(word, "3") == f"expected known options; found `{word}`; {fix}."


def test_parse_arguments__options_of_python_win_over_the_recipe():
    recipe = {"model_name_or_path": "nvidia/mit-b0", "max_steps": 5, "flip": 0.1}
    options = {"model_name_or_path": None, "max_steps": 7, "train_scales": [0.5, "1.0"], "output_dir": Path("runs/x")}
    arguments = parse_arguments(ALL, ["--seed", "3"], recipe, "mine.yaml", options)
    model, augmentation, args = arguments[2], arguments[3], arguments[-1]
    assert (model.model_name_or_path, args.max_steps, args.seed, args.output_dir) == (None, 7, 3, "runs/x")
    assert (augmentation.flip, augmentation.train_scales) == (0.1, ["0.5", "1.0"])
    for wrong, line in (
        ({"max_step": 3}, "expected known options; found `max_step`; did you mean `max_steps`."),
        ({"max_steps": "many"}, "expected valid options; found argument --max_steps"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_arguments(ALL, [], recipe, "mine.yaml", wrong)
        assert str(caught.value).startswith(line)  # the recipe is not blamed


@pytest.mark.parametrize("flag", [("--learning", "3"), ("--over",)])
def test_parse_arguments__no_abbreviations(flag):
    # A later option with the same beginning would change what they mean.
    assert flag[0] in fails(*flag)


@pytest.mark.parametrize("name", recipe_names())
def test_load_recipe__every_shipped_recipe_parses(name):
    recipe = load_recipe(name)
    model, augmentation, _, args = parse(recipe=recipe)
    assert args.max_steps == recipe["max_steps"]
    assert args.learning_rate == recipe["learning_rate"]
    assert augmentation.train_scales == recipe["train_scales"]
    assert model.model_name_or_path == recipe.get("model_name_or_path")
    # The size stands in the folder, so that runs of several sizes don't meet.
    assert args.output_dir in (
        f"runs/{name}",
        f"runs/{name}".replace("ladder/", "ladder/b0_"),
        f"runs/{name}_{model.size}",
        "runs/segformer_b0_kitti",
    )
    assert args.save_steps % args.eval_steps == 0


def test_recipe_names__the_four():
    assert set(recipe_names()) >= {"demo", "segformer_b0_kitti", "segformer_b2_kitti", "segformer_b5_kitti"}


@pytest.mark.parametrize(
    ("name", "steps", "batch", "warmup"),
    [
        ("segformer_b0_kitti", 10_000, 8, 1500),
        ("segformer_b2_kitti", 20_000, 8, 1500),
        ("segformer_b5_kitti", 20_000, 2, 5000),
    ],
)
def test_load_recipe__values_of_the_report(name, steps, batch, warmup):
    recipe = load_recipe(name)
    assert (recipe["max_steps"], recipe["per_device_train_batch_size"], recipe["warmup_steps"]) == (
        steps, batch, warmup,
    )  # fmt: skip
    assert recipe["train_scales"] == ["187x621", "281x931", "375x1242", "469x1552", "562x1863", "656x2173"]
    assert recipe["crop_size"] == [368, 368]
    assert recipe["class_weights"] == "inverse_log"
    assert (recipe["learning_rate"], recipe["head_lr_multiplier"], recipe["weight_decay"]) == (1e-5, 10.0, 0.01)


def test_load_recipe__a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("max_steps: 3  # short\nsize: b1\n", encoding="utf-8")
    assert load_recipe(str(path)) == {"max_steps": 3, "size": "b1"}


@pytest.mark.parametrize(
    ("content", "word"),
    [("a: [1", "a recipe file in YAML"), ("- a\n- b\n", "found list"), ("", "found NoneType"), (b"\xff", "YAML")],
)
def test_load_recipe__refuses_what_is_no_mapping(tmp_path, content, word):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: expected ")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_recipe__a_line_that_is_no_yaml_is_named_and_not_shown(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("size: b0\nhub_token: [Opaque-Pass-Word\nmax_steps: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did not find expected|expected ',' or '\]'") as caught:
        load_recipe(str(path))
    assert "in line 3, column 10" in str(caught.value)
    assert "Opaque" not in str(caught.value)


def test_load_recipe__unknown_name_lists_the_known():
    with pytest.raises(ConfigError) as caught:
        load_recipe("segformer_b9_kitti")
    assert "demo, own_data, pretrain_camvid_tiny, pretrain_tiny_streets, segformer_b0_kitti" in str(caught.value)
    assert "`segformer_b9_kitti`" in str(caught.value)


def test_load_recipe__missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(str(tmp_path / "mine.yaml"))


def write(folder: Path, **recipes: str) -> None:
    for name, content in recipes.items():
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")


def load_fails(name_or_path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(name_or_path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_load_recipe__own_keys_win_over_the_base(tmp_path):
    write(
        tmp_path,
        first="max_steps: 3\nsize: b1\nseed: 5\n",
        second="base: first.yaml\nsize: b2\n",
        third="seed: null\nbase: second.yaml\nflip: 0.0\n",
    )
    assert load_recipe(str(tmp_path / "third.yaml")) == {"max_steps": 3, "size": "b2", "seed": None, "flip": 0.0}


def test_load_recipe__a_base_is_found_from_its_own_file(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path, common="max_steps: 3\n")
    write(tmp_path / "deep", mine="base: ../common.yaml\n", beside="base: mine.yaml\n")
    monkeypatch.chdir(tmp_path.parent)
    assert load_recipe(str(tmp_path / "deep" / "beside.yaml")) == {"max_steps": 3}


def test_load_recipe__a_base_inside_the_package(tmp_path):
    write(tmp_path, mine="base: demo\nmax_steps: 7\n")
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe("demo") | {"max_steps": 7}


def test_load_recipe__two_ways_to_one_base_are_no_circle(tmp_path):
    # The second file has the name of a recipe in the package that it has as base.
    write(tmp_path, demo="base: demo\nmax_steps: 7\n")
    assert load_recipe(str(tmp_path / "demo.yaml"))["max_steps"] == 7


@pytest.mark.parametrize("first", ["a", "b", "c"])
def test_load_recipe__circle_of_bases_names_the_file(tmp_path, first):
    write(tmp_path, a="base: b.yaml\n", b="base: c.yaml\n", c="base: ./b.yaml\n")
    line = load_fails(tmp_path / f"{first}.yaml")
    end = "b" if first == "c" else "c"
    assert line.startswith(f"{tmp_path / end}.yaml: expected bases that end somewhere; found a circle, ")
    assert f" {first}.yaml -> " in line
    assert line.endswith("remove one `base`.")


def test_load_recipe__its_own_base(tmp_path):
    write(tmp_path, a="base: a.yaml\n")
    assert "a circle, a.yaml -> a.yaml;" in load_fails(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (
            "nowhere.yaml",
            ("nowhere.yaml: expected a readable recipe file", "No such file", "check `base` in ", "mine.yaml"),
        ),
        ("dem", ("mine.yaml: expected a recipe of demo", "`dem`", "did you mean `demo`")),
        ("zzz", ("mine.yaml: expected a recipe of demo", "`zzz`", "choose one with `base`")),
        ("[demo]", ("mine.yaml: expected `base` as the name or path of one recipe", "['demo']")),
        ("null", ("mine.yaml: expected `base` as the name or path of one recipe", "None")),
        ("broken.yaml", ("broken.yaml: expected a recipe file in YAML",)),
    ],
)
def test_load_recipe__a_base_that_cannot_be_read(tmp_path, base, words):
    write(tmp_path, mine=f"base: {base}\n", broken="a: [1")
    line = load_fails(tmp_path / "mine.yaml")
    assert all(word in line for word in words)


SIZES = """size: b0
output_dir: runs/x_{size}
max_steps: 9
model_name_or_path: nvidia/mit-{size}
sizes:
  tiny: {max_steps: 2, model_name_or_path: null}
  b0:
"""


def test_load_recipe__one_for_several_sizes(tmp_path):
    write(tmp_path, first=SIZES, second="base: first.yaml\nmax_steps: 7\nsizes: {tiny: {seed: 1}}\nsize: tiny\n")
    first, second = str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")
    of_b0 = {"size": "b0", "output_dir": "runs/x_b0", "max_steps": 9, "model_name_or_path": "nvidia/mit-b0"}
    assert load_recipe(first) == load_recipe(first, "b0") == of_b0
    tiny = of_b0 | {"size": "tiny", "output_dir": "runs/x_tiny", "max_steps": 2, "model_name_or_path": None}
    assert load_recipe(first, "tiny") == tiny
    # Own keys win over what the base says for that size; the default size is the last one named.
    assert load_recipe(second) == tiny | {"max_steps": 7, "seed": 1}
    assert load_recipe(second, "b0") == of_b0 | {"max_steps": 7}


def test_load_recipe__a_size_it_does_not_know(tmp_path):
    write(tmp_path, first=SIZES, wrong="sizes: {b0: 3}\n")
    path = tmp_path / "first.yaml"
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path), "b9")
    assert str(caught.value) == (
        f"{path}: expected a size of tiny, b0 for this recipe; found `b9`; choose one with `--size`."
    )
    assert load_recipe(str(path), "b9", any_size=True) == load_recipe(str(path))  # of random weights
    assert "`sizes` with a mapping of options for each" in load_fails(tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text("size: [b0]\nsizes: {b0: {a: 1}}\n")
    assert "expected a size of b0 for this recipe; found `['b0']`" in load_fails(tmp_path / "wrong.yaml")


def test_load_recipe__unknown_keys_of_a_base_are_refused(tmp_path):
    write(tmp_path, old="learning_rat: 1\n", mine="base: old.yaml\n")
    path = str(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match="did you mean `learning_rate`"):
        parse_arguments(ALL, [], load_recipe(path), path)


def test_recipe_names__folders_come_last_and_are_part_of_the_name():
    names = recipe_names()
    kitti = ["segformer_b0_kitti", "segformer_b2_kitti", "segformer_b5_kitti"]
    assert names[:7] == ["demo", "own_data", "pretrain_camvid_tiny", "pretrain_tiny_streets", *kitti]
    assert "ladder/5_ohem" in names[7:]
    assert "did you mean `ladder/5_ohem`" in load_fails("5_ohem")
    assert "ladder/..." in load_fails("qqq")


def test_recipe_names__every_folder_is_installed_with_the_package():
    installed = (FOLDER.parents[1] / "setup.cfg").read_text(encoding="utf-8")
    for path in FOLDER.rglob("*.yaml"):
        assert f"\n    {path.relative_to(FOLDER.parent).parent.as_posix()}/*.yaml\n" in installed


ROUND_TRIPS = [
    *[load_recipe(name) for name in recipe_names()],
    *[load_recipe(f"ladder/{rung}", size) for rung in ("1_imagenet", "7_auxiliary") for size in ("tiny", "b5")],
    {
        "num_train_epochs": 7,
        "max_steps": -1,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.7},
        "keep_together": ["a,b", "c,d"],
        "train_scales": ["0.5-2.0"],
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "gradient_accumulation_steps": 4,
        "report_to": ["tensorboard"],
        "data_seed": 3,
    },
]


def test_resolve_recipe__compiling_and_checkpointing_can_be_taken_back():
    recipe = resolve_recipe(*parse_arguments(ALL, ["--torch_compile", "true", "--gradient_checkpointing", "true"]))
    assert (recipe["torch_compile"], recipe["gradient_checkpointing"]) == (True, True)
    args = parse("--torch_compile", "false", "--gradient_checkpointing", "false", recipe=recipe)[-1]
    assert (args.torch_compile, args.gradient_checkpointing) == (False, False)
    assert parse(recipe=recipe)[-1].tf32 is False  # precision is not changed on the way


@pytest.mark.parametrize("recipe", ROUND_TRIPS, ids=lambda recipe: recipe.get("output_dir", "epochs"))
def test_resolve_recipe__read_back_gives_equal_arguments(recipe):
    arguments = parse_arguments(ALL, [], recipe)
    written = yaml.safe_dump(resolve_recipe(*arguments), sort_keys=False)
    again = parse_arguments(ALL, [], yaml.safe_load(written))
    for one, other in zip(arguments, again, strict=True):
        assert one == other
    assert resolve_recipe(*again) == yaml.safe_load(written)


def test_resolve_recipe__holds_no_secret_and_nothing_of_one_start():
    secret = "hf_abcdefghijklmnop"
    arguments = parse_arguments(ALL, ["--hub_token", secret, "--resume", "--cpu_threads", "3", "--use_cpu"])
    assert arguments[-1].hub_token == secret
    recipe = resolve_recipe(*arguments)
    assert secret not in yaml.safe_dump(recipe)
    assert not {"hub_token", "resume", "overwrite", "cpu_threads", "use_cpu", "recipe", "local_rank"} & set(recipe)


def test_resolve_recipe__every_secret_of_stock_transformers_is_known():
    secret = [f.name for f in fields(TrainingArguments) if f.name.endswith(("token", "key", "secret", "password"))]
    assert "hub_token" in secret
    arguments = parse_arguments(ALL, [])
    for name in secret:
        setattr(arguments[-1], name, "hf_hidden")
    assert "hf_hidden" not in str(resolve_recipe(*arguments))


def test_resolve_recipe__ours_always_stock_only_where_changed():
    recipe = resolve_recipe(*parse_arguments(ALL, ["--gradient_accumulation_steps", "4"]))
    assert {f.name for arguments in ALL[1:-1] for f in fields(arguments)} <= set(recipe)
    assert recipe["lr_power"] == 1.0
    assert recipe["gradient_accumulation_steps"] == 4
    for name in ("do_eval", "debug", "disable_tqdm", "dataloader_pin_memory", "adam_beta1"):
        assert name not in recipe
