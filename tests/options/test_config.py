from dataclasses import dataclass, fields

import pytest
import yaml
from run_options import ALL, fails, parse

from hf_urbanseg.commands.finetune import _list_all
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.options.config import AugmentationArguments, DataArguments
from hf_urbanseg.options.fields import check_device, option
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments, resolve_recipe


def test_arguments__defaults_are_the_reports():
    model, augmentation, loss, args = parse()
    assert (args.learning_rate, args.head_lr_multiplier, args.weight_decay) == (1e-5, 10.0, 0.01)
    assert (args.adam_beta1, args.adam_beta2) == (0.9, 0.999)
    assert (args.lr_power, args.lr_end, args.warmup_steps, args.warmup_start) == (1.0, 0.0, 1500, 1e-5)
    assert (args.max_steps, args.per_device_train_batch_size, args.eval_steps) == (10_000, 8, 500)
    assert args.max_grad_norm == 0.0
    assert (model.drop_path_rate, model.classifier_dropout_prob) == (0.1, 0.1)
    assert (augmentation.crop_size, augmentation.max_class_share, augmentation.flip) == ([368, 368], 0.75, 0.5)
    assert (loss.normalizer, loss.class_weights) == ("valid_pixels", "inverse_log")


def test_arguments__help_shows_every_group_of_a_run():
    assert {*_list_all()} == {*ALL}


def test_data_arguments__a_recipe_repeats_the_configuration_of_a_set(tmp_path):
    words = ["--dataset", "user/set", "--dataset_config", "no", "--dataset_revision", "v1", "--streaming", "true"]
    (given,) = parse_arguments((DataArguments,), words)
    assert (given.dataset_config, DataArguments().dataset_config) == ("no", None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(resolve_recipe(given)))
    assert parse_arguments((DataArguments,), [], load_recipe(str(tmp_path / "recipe.yaml"))) == (given,)


def test_data_arguments__help_lists_the_columns_that_are_guessed():
    texts = {field.name: field.metadata["help"] for field in fields(DataArguments)}
    assert "the first of image, pixel_values, img that holds images" in texts["image_column"]
    assert "the first of label, labels, annotation, semantic_segmentation, mask, segmentation" in texts["label_column"]
    assert all(word in texts["dataset"] for word in ("images", "8-bit PNG", "id2label.json", "--label_space", "void"))


def test_arguments__lists_are_not_shared_between_instances():
    first = AugmentationArguments()
    first.train_scales.append("9")
    assert "9" not in AugmentationArguments().train_scales


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--resume", "--overwrite"), "expected either `resume` or `overwrite`; found both; drop one."),
        (
            ("--freeze_encoder", "true", "--freeze_stages", 1),
            "expected either `freeze_encoder` or `freeze_stages`; found both; drop one.",
        ),
        (("--flip", 1.5), "expected `flip` of 0..1; found 1.5; correct it."),
        (("--max_class_share", -1), "expected `max_class_share` of 0..1; found -1.0; correct it."),
        (("--crop_size", 368), "expected `crop_size` as height and width of 32..16,384; found [368]; correct it."),
        (("--crop_size", 31, 64), "expected `crop_size` as height and width of 32..16,384; found [31, 64]"),
        (
            ("--eval_size", 384, 384, 384),
            "`eval_size` as height and width of 32..16,384 in multiples of 32; found [384, 384, 384]; correct it.",
        ),
        (("--warmup_steps", -3), "expected `warmup_steps` of 0 or more; found -3.0; correct it."),
        (("--lr_end", -0.1), "expected `lr_end` of 0..1; found -0.1; correct it."),
        (("--warmup_start", 2), "expected `warmup_start` of 0..1; found 2.0; correct it."),
        (("--lr_power", -1), "expected `lr_power` of 0 or more; found -1.0; correct it."),
        (("--head_lr_multiplier", "nan"), "expected `head_lr_multiplier` of 0 or more; found nan; correct it."),
        (("--eval_strategy", "often"), "often is not a valid IntervalStrategy"),
        (("--eval_steps", 300), "load_best_model_at_end"),  # 500 is no multiple of it
    ],
)
def test_arguments__values_that_do_not_fit(words, line):
    assert line in fails(*words)


def test_training_arguments__steps_and_epochs_conflict():
    for epochs in (5, 3):  # the latter is stock's default
        line = fails("--num_train_epochs", epochs)
        assert f"`num_train_epochs` {epochs}.0 and `max_steps` 10000" in line
    assert line.endswith("add `--max_steps -1` to train by epochs.")
    args = parse("--num_train_epochs", 5, "--max_steps", -1)[-1]
    assert (args.num_train_epochs, args.max_steps) == (5.0, -1)


def test_check_device__names_what_there_is_not():
    check_device(None)
    check_device("cpu")
    with pytest.raises(ConfigError, match="expected a `--device` of this machine; found nonsense"):
        check_device("nonsense")


def test_option__help_is_written_once_and_lists_are_copied():
    @dataclass
    class Some:
        sizes: list[int] = option([1], "Sizes.", choices=[1, 2])

    (field,) = fields(Some)
    assert field.metadata == {"help": "Sizes.", "choices": [1, 2]}
    assert Some().sizes is not Some().sizes


def test_arguments__every_own_option_has_help():
    for arguments in ALL[:-1]:
        for field in fields(arguments):
            assert field.metadata["help"], field.name


def test_training_arguments__a_best_step_that_is_not_saved(tmp_path):
    options = {"output_dir": str(tmp_path), "eval_steps": 100, "save_steps": 200}
    with pytest.raises(ConfigError, match="`save_steps` equal to `eval_steps`"):
        UrbanSegTrainingArguments(**options)
    UrbanSegTrainingArguments(**options, load_best_model_at_end=False)


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ("", PredictionPlan()),
        ("--multi_scale", PredictionPlan(ratios=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)),
        ("--multi_scale --ratios 0.5 1 --flip false", PredictionPlan(ratios=(0.5, 1.0))),
        ("--multi_scale --ratios 0.5 1", PredictionPlan(ratios=(0.5, 1.0), flip=True)),
        ("--ratios 1 2", PredictionPlan(ratios=(1.0, 2.0))),
        ("--flip", PredictionPlan(flip=True)),
        ("--flip true --max_batch_pixels 2048", PredictionPlan(flip=True, max_batch_pixels=2048)),
        ("--sliding_window 512 768", PredictionPlan(window=(512, 768))),
        ("--sliding_window 512 768 --stride 256 512", PredictionPlan(window=(512, 768), stride=(256, 512))),
    ],
)
def test_plan_arguments__build_plan(words, plan):
    assert parse_arguments([PlanArguments], words.split())[0].build_plan() == plan


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--stride 32 32", "expected a sliding `window` with `stride`; found none; add it or leave the stride out."),
        ("--sliding_window 512", "expected `sliding_window` as height and width of 32..16,384; found [512]"),
        ("--sliding_window 64 64 --stride 64", "expected `stride` as height and width of 32..16,384; found [64]"),
        ("--sliding_window 64 64 --stride 64 65", "expected `stride` up to the `window`; found [64, 65]"),
        ("--ratios 1 0", "expected `ratios` above 0, up to 16; found [1.0, 0.0]"),
        ("--max_batch_pixels 5", "expected `max_batch_pixels` of 1,024..1,000,000,000,000; found 5"),
        ("--batch_size 0", "expected `batch_size` of 1..4,096; found 0"),
    ],
)
def test_plan_arguments__values_that_do_not_fit(words, line):
    with pytest.raises(ConfigError) as caught:
        parse_arguments([PlanArguments], words.split())
    assert line in str(caught.value)


def test_plan_arguments__every_option_has_help():
    assert all(field.metadata["help"] for field in fields(PlanArguments))
