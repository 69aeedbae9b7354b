"""Every option of transformers' TrainingArguments is honoured, or refused in one line."""

import contextlib
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from run_options import fails, parse
from transformers import TrainingArguments

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.finetuning import finetune
from hf_urbanseg.options.parsing import build_parser
from hf_urbanseg.options.stock_options import REFUSED, STOCK_RANGES
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments, resolve_recipe
from hf_urbanseg.options.training_options import TrainingOptions
from hf_urbanseg.training.trainer import UrbanSegTrainer

STOCK = {f.name: f for f in fields(TrainingArguments)}
OURS = {f.name for f in fields(TrainingOptions)}
# Shown here, in tests/training/test_trainer*.py or tests/commands to change what they should.
SHOWN = """
    adam_beta1 adam_beta2 adam_epsilon optim optim_args lr_scheduler_kwargs gradient_accumulation_steps data_seed
    num_train_epochs bf16 fp16 eval_delay eval_on_start logging_strategy logging_first_step save_strategy
    save_only_model full_determinism disable_tqdm activation_checkpointing torch_compile_backend torch_compile_mode
    dataloader_pin_memory dataloader_prefetch_factor dataloader_multiprocessing_context tf32
    use_cpu hub_token hub_private_repo hub_revision
"""
# For torch, accelerate or the integrations; `local_rank` is what launchers pass, and torch's variables have replaced.
PASSED_ON = """
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout log_level log_level_replica
    log_on_each_node save_on_each_node run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    torch_empty_cache_steps local_rank
"""
HONOURED = {*SHOWN.split(), *PASSED_ON.split()}
SET = {
    "label_smoothing_factor": "0.3", "neftune_noise_alpha": "5", "train_sampling_strategy": "sequential",
    "length_column_name": "size", "eval_accumulation_steps": "2", "include_for_metrics": "loss",
    "label_names": "mask", "resume_from_checkpoint": "checkpoint-2", "fsdp": "full_shard",
    "debug": "underflow_overflow",
    "optim_target_modules": "all-linear", "include_num_input_tokens_seen": "true",
    "liger_kernel_config": '{"rope": true}',
}  # fmt: skip
JSON = '{"split_batches": true}'


def test_training_arguments__every_option_is_classified():
    """A new name here belongs to `REFUSED`, or to `HONOURED` above once a run has shown what it does."""
    assert STOCK.keys() - OURS - REFUSED.keys() - HONOURED == set()
    assert not REFUSED.keys() & (OURS | HONOURED)
    assert REFUSED.keys() <= STOCK.keys() | {"activation_checkpointing_kwargs"}  # which transformers 5.22 doesn't know
    assert STOCK_RANGES.keys() <= HONOURED


@pytest.mark.parametrize("name", sorted(REFUSED.keys() & STOCK.keys()))
def test_training_arguments__what_would_be_ignored_is_refused(name):
    if "bool" in str(STOCK[name].type):
        default = next(f.default for f in fields(UrbanSegTrainingArguments) if f.name == name)
        value = SET.get(name, str(not default).lower())
    else:
        value = SET.get(name, JSON)
    line = fails(f"--{name}", value)
    if name not in ("parallelism_config", "liger_kernel_config"):  # whose types have no words
        assert f"`{name}`" in line
        assert line.endswith(f"leave it out: {REFUSED[name]}.")


def test_training_arguments__what_is_refused_is_neither_offered_nor_recorded():
    text = build_parser((UrbanSegTrainingArguments,)).format_help()
    assert [name for name in REFUSED if f"--{name} " in text] == []
    assert "--gradient_accumulation_steps" in text
    words = ["--do_train", "--do_eval", "--dataloader_drop_last", "false", "--remove_unused_columns", "false"]
    assert not REFUSED.keys() & resolve_recipe(parse(*words)[-1]).keys()  # as they are, they may be said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--fp16 --bf16 --use_cpu", "At most one of fp16 and bf16 can be True"),
        ("--save_strategy epoch", "requires the save and eval strategy to match"),
        ("--logging_steps 1.5", "--logging_steps must be an integer if bigger than 1"),
        ("--dataloader_num_workers 0 --dataloader_prefetch_factor 2", "--dataloader_prefetch_factor can"),
        ("--lr_scheduler_type greedy --eval_strategy no --load_best_model_at_end 0", "requires an eval strategy"),
        ("--lr_scheduler_kwargs {bad", "found Expecting property name"),
        ("--optim nonsense", "invalid choice"),
        ("--optim adamw_8bit", "ImportError: You need to install `bitsandbytes`"),
        ("--optim galore_adamw", "ImportError: You need to install `galore_torch`"),
        ("--optim sgd --optim_args momentum", "ValueError: not enough values to unpack"),
        ("--optim sgd --optim_args momentum=-1", "ValueError: Invalid momentum value: -1.0"),
        ("--optim sgd --optim_args weight=3", "no `optim_args`, which this `optim` ignores; found weight=3"),
        ("--optim_args momentum=0.9", "no `optim_args`, which this `optim` ignores; found momentum=0.9"),
        ("--optim sgd --adam_beta1 0.5", "no `adam_beta1`, which this `optim` ignores; found 0.5"),
        ("--lr_scheduler_type cosine --lr_power 2", "no `lr_power`, which this `lr_scheduler_type` ignores; found 2.0"),
        ('--lr_scheduler_kwargs {"x":1}', "no `lr_scheduler_kwargs`, which this `lr_scheduler_type` ignores"),
        ('--lr_scheduler_type cosine --lr_scheduler_kwargs {"x":1}', "TypeError: "),
        ('--lr_scheduler_type cosine --lr_scheduler_kwargs {"num_cycles":"a"}', "could not convert string to float"),
        ('--lr_scheduler_type inverse_sqrt --lr_scheduler_kwargs {"timescale":0}', "ZeroDivisionError"),
        ("--lr_scheduler_type cosine_with_min_lr", "ValueError: "),
    ],
)  # fmt: skip
def test_training_arguments__what_transformers_and_torch_raise_is_one_line(words, line):
    assert line in fails(*words.split())


@pytest.mark.parametrize("value", ["nan", "[1]"])
def test_training_arguments__nonsense_is_a_line_or_is_taken(value):
    """Of every option, hidden ones too; anything but a `ConfigError` is raised here."""
    for name in STOCK:
        with contextlib.suppress(ConfigError):
            parse(f"--{name}", value)


@pytest.mark.parametrize(("metric", "kept"), [("iou_road", True), ("iou_train", False)])
def test_trainer__a_class_selects_where_it_is_seen(worker, tmp_path, metric, kept):
    args = worker.build_arguments(tmp_path, metric_for_best_model=metric)
    trainer = worker.build_trainer(args)
    trainer.control.should_save = True
    assert trainer._determine_best_metric({"eval_iou_road": 0.5}, None) == kept


def test_trainer__a_class_that_the_model_does_not_know(worker, tmp_path):
    with pytest.raises(ConfigError, match=r"a class of road, .*; found `iou_lawn`"):
        worker.build_trainer(worker.build_arguments(tmp_path, metric_for_best_model="ema_iou_lawn", ema_decay=0.9))


def test_run_finetuning__what_this_machine_or_so_short_a_run_can_not(tmp_path, caplog):
    options = {"data_dir": "nowhere", "output_dir": str(tmp_path / "run"), "use_cpu": True}
    with pytest.raises(ConfigError, match="a GPU for `fp16`; found a CPU"):
        finetune(**options, fp16=True)
    with pytest.raises(ConfigError, match=r"`cpu_threads` of 0..\d+; found 256"):
        finetune(**options, cpu_threads=256)
    with pytest.raises(DataError, match="nowhere"):
        finetune(**options, max_steps=4, warmup_steps=5)
    assert "the warm-up of 5 steps is longer than the 4 of the run" in caplog.text


def test_trainer__refuses_the_same_of_stocks_own_arguments(worker, tmp_path):
    for given in ({"label_smoothing_factor": 0.3}, {"accelerator_config": {"split_batches": True}}):
        args = TrainingArguments(str(tmp_path), use_cpu=True, **given)
        with pytest.raises(ConfigError, match=f"no `{next(iter(given))}`"):
            UrbanSegTrainer(torch.nn.Identity(), args, torch.nn.Identity())


@pytest.fixture(scope="module")
def train(worker, tmp_path_factory):
    """Trains two steps, and returns the trainer."""

    def run(**options):
        defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "eval_steps": 1}
        args = worker.build_arguments(tmp_path_factory.mktemp("run"), **defaults | options)
        trainer = worker.build_trainer(args)
        trainer.train()
        return trainer

    return run


@pytest.fixture(scope="module")
def plain(train):
    return train()


def differ(one, other) -> bool:
    expected, state = one.model.state_dict(), other.model.state_dict()
    return any(not torch.equal(expected[key], state[key]) for key in expected)


@pytest.mark.parametrize(
    "options",
    [
        {"adam_beta1": 0.5},
        {"adam_beta2": 0.5},
        {"optim": "sgd"},
        {"gradient_accumulation_steps": 2},
        {"lr_scheduler_type": "constant"},
        {"bf16": True, "use_cpu": True},
        {"seed": 4},
        {"data_seed": 4},
    ],
    ids=str,
)
def test_train__an_option_changes_the_weights(train, plain, options):
    assert differ(train(**options), plain)


def test_train__the_same_again(train, plain):
    """Else the differences above would prove little."""
    assert not differ(train(data_seed=3, full_determinism=True), plain)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def test_train__data_seed_is_that_of_the_order(worker, tmp_path):
    def order(**options):
        trainer = worker.build_trainer(worker.build_arguments(tmp_path, per_device_train_batch_size=2, **options))
        return [*trainer._get_train_sampler()]

    assert order(data_seed=4) == order(seed=4) != order()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"eval_strategy": "steps", "eval_delay": 2}, [2]),
        ({"eval_strategy": "steps", "eval_on_start": True}, [0, 1, 2]),
        ({"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1}, [4]),
    ],
    ids=str,
)
def test_train__when_it_is_measured(train, options, steps):
    history = train(**options).state.log_history
    assert [entry["step"] for entry in history if "eval_mean_iou" in entry] == steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"logging_first_step": True, "logging_steps": 2}, [1, 2]), ({"logging_strategy": "no"}, [])],
    ids=str,
)
def test_train__when_it_is_logged(train, options, steps):
    assert [entry["step"] for entry in train(**options).state.log_history if "loss" in entry] == steps


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"save_strategy": "steps", "save_steps": 1}, {"checkpoint-1": True, "checkpoint-2": True}),
        ({"save_strategy": "epoch", "max_steps": 4, "save_only_model": True}, {"checkpoint-4": False}),
        ({"save_strategy": "best", "eval_strategy": "steps", "max_steps": 1}, {"checkpoint-1": True}),
    ],
    ids=str,
)
def test_train__what_is_saved_when(train, options, saved):
    """Checkpoints, and whether each has the optimiser's state."""
    folders = Path(train(**options).args.output_dir).glob("checkpoint-*")
    assert {folder.name: (folder / "optimizer.pt").exists() for folder in folders} == saved


@pytest.mark.parametrize(
    ("name", "value", "own", "line"),
    [
        (
            "MIXED_PRECISION",
            "bf16",
            {},
            "accelerate's `mixed_precision` no, .* found `bf16`; add `--bf16 true`",
        ),
        ("MIXED_PRECISION", "fp16", {"bf16": True}, "expected accelerate's `mixed_precision` bf16, .* found `fp16`"),
        ("DYNAMO_BACKEND", "INDUCTOR", {}, "`dynamo_backend` no, .* found `inductor`; add `--torch_compile true`"),
        ("USE_FSDP", "true", {}, "expected accelerate without ways to split a model; found FSDP; leave it out"),
    ],
)
def test_check_launcher__what_the_record_would_not_show(tmp_path, monkeypatch, name, value, own, line):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ConfigError, match=line):
        UrbanSegTrainingArguments(str(tmp_path), **own)


def test_check_launcher__what_agrees(tmp_path, monkeypatch):
    for name, value in {"MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO", "USE_FSDP": "false"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert UrbanSegTrainingArguments(str(tmp_path), bf16=True).mixed_precision == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert UrbanSegTrainingArguments(str(tmp_path), bf16=True).mixed_precision == "bf16"
