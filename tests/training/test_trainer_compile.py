"""Compiled training steps and recomputed activations: the same numbers, and nothing compiled twice."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import SegformerForSemanticSegmentation, TrainerCallback
from transformers.models.segformer.modeling_segformer import SegformerLayer

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.models.compilation import run_once
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments

sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))
from compiled import SMALL, compute_gradients
from gradients import relative_error

# Neither needs a C++ compiler. The first traces alone, which decides how often a model is compiled; the second also
# splits what was traced into forward and backward, as inductor does.
TRACED = {"torch_compile": True, "torch_compile_backend": "eager"}
COMPILED = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
RUN = {
    "max_steps": 6, "per_device_train_batch_size": 2, "ema_decay": 0.9, "freeze_batch_norm": True, "logging_steps": 1,
    "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    counters.clear()


class CountGraphs(TrainerCallback):
    def __init__(self):
        self.after_step = []

    def on_step_end(self, args, state, control, **kwargs):
        self.after_step.append(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize(
    ("how", "error"), [(COMPILED, 2e-6), pytest.param({"torch_compile": True}, 1e-4, marks=pytest.mark.gpu)]
)  # of fp32; inductor's kernels add and round in an order of their own
def test_compiled_step__gradients_are_those_of_eager_code(tmp_path, exact_convolutions, stock, how, error):
    options = {"per_device_train_batch_size": 4, "stock": stock}
    expected, eager = compute_gradients(tmp_path / "eager", "auxiliary", **options)
    gradients, trainer = compute_gradients(tmp_path / "compiled", "auxiliary", **options, **how)
    assert type(trainer.model.decode_head) is type(eager.model.decode_head)
    assert counters["stats"]["unique_graphs"] > 0
    assert relative_error(gradients, expected) < error
    statistics, state = eager.model.state_dict(), trainer.model.state_dict()
    for name in (name for name in statistics if "running" in name or "num_batches" in name):
        torch.testing.assert_close(state[name], statistics[name], rtol=error, atol=1e-5)


def test_compiled_run__compiles_once_and_resumes_bit_identical(worker, tmp_path):
    """Crops of random scales, evaluation at another size, an auxiliary head, averages and dropout."""
    build = worker.build_arguments
    eager = worker.build_trainer(build(tmp_path / "eager", **RUN), "auxiliary", **SMALL)
    eager.train()
    count = CountGraphs()
    whole = worker.build_trainer(build(tmp_path / "whole", **RUN, **TRACED), "auxiliary", **SMALL)
    whole.add_callback(count)
    with torch._dynamo.config.patch(error_on_recompile=True):
        whole.train()
    # The trial of the compiler, the model, and the cast that follows it outside of `forward`.
    assert count.after_step == [3] * 6

    history = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (eager, whole)]
    torch.testing.assert_close(*map(torch.tensor, history), rtol=1e-4, atol=0)
    assert all("eval_ema_mean_iou" in entry for entry in whole.state.log_history if "eval_mean_iou" in entry)

    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = worker.build_trainer(build(tmp_path / "resumed", **RUN, **TRACED), "auxiliary", **SMALL)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    expected, state = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], state[key])] == []
    averages = resumed.ema.state_dict()
    assert all(torch.equal(value, averages[key]) for key, value in whole.ema.state_dict().items())

    # What is saved knows nothing of it: the same files, names and configuration as those of the eager run.
    folders = [tmp_path / name / "checkpoint-6" for name in ("eager", "whole")]
    names = [{file.name for file in folder.iterdir()} for folder in folders]
    assert names[0] == names[1]
    for file in ("model.safetensors", "auxiliary_head.safetensors", "ema.safetensors"):
        assert load_file(folders[0] / file).keys() == load_file(folders[1] / file).keys()
    assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()
    exported, info = SegformerForSemanticSegmentation.from_pretrained(folders[1], output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(value, expected[key]) for key, value in exported.state_dict().items())


def test_compiled_step__what_is_collected_is_what_is_trained_on(worker, tmp_path):
    """Global OHEM looks at the step before it: dropout's masks and every rounding must be those of the real passes."""
    args = worker.build_arguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, **TRACED
    )
    trainer = worker.build_trainer(args, "ohem_top", **SMALL)
    collected, trained = [], []
    collect, compute = trainer.loss.collect, trainer.loss.forward
    trainer.loss.collect = lambda outputs, labels: (collected.append(outputs.logits), collect(outputs, labels))
    trainer.loss.forward = lambda outputs, *rest: (trained.append(outputs.logits), compute(outputs, *rest))[1]
    with torch._dynamo.config.patch(error_on_recompile=True):
        trainer.train()
    assert len(collected) == len(trained) == 4
    assert all(torch.equal(*pair) for pair in zip(collected, trained, strict=True))
    assert counters["stats"]["unique_graphs"] == 2  # the trial and the model


@pytest.mark.parametrize("options", [{"torch_compile_backend": "fastest"}, {"torch_compile_mode": "quick"}])
def test_trainer__refuses_what_cannot_compile(worker, tmp_path, options):
    with pytest.raises(
        ConfigError, match=r"^expected what `torch_compile` by `\w+` needs on cpu; found .*(FAST|quick)"
    ):
        worker.build_trainer(worker.build_arguments(tmp_path, **options), **SMALL)


def test_check_compiler__names_the_missing_one(tmp_path):
    code = (
        "from hf_urbanseg.command_line import command\n"
        "from hf_urbanseg.models.compilation import check_compiler\n"
        "command(lambda argv: check_compiler('cpu'))([])"
    )
    # A cache of its own: what was compiled before needs no compiler.
    missing = {"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | missing, timeout=300
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "/no/such/compiler" in line
    assert "install what is missing" in line


def test_run_once__leaves_no_trace(worker, tmp_path):
    model = worker.build_trainer(worker.build_arguments(tmp_path), "auxiliary", **SMALL).model.train()
    model.decode_head.batch_norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    run_once(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Gradient checkpointing


@pytest.mark.parametrize("compiled", [{}, COMPILED])
def test_gradient_checkpointing__same_gradients(tmp_path, compiled):
    """With dropout, stochastic depth and an auxiliary head."""
    dropped = {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.1, "auxiliary_dropout": 0.1}
    options = {"per_device_train_batch_size": 4, "model_options": dropped}
    expected, _ = compute_gradients(tmp_path / "kept", "auxiliary", **options)
    options |= {"gradient_checkpointing": True} | compiled
    gradients, trainer = compute_gradients(tmp_path / "again", "auxiliary", **options)
    assert all(block.gradient_checkpointing for block in find_blocks(trainer.model))
    assert relative_error(gradients, expected) < 2e-6  # fp32
    plain, _ = compute_gradients(tmp_path / "plain", "auxiliary", per_device_train_batch_size=4)
    assert relative_error(plain, expected) > 1e-2  # dropout did something


def find_blocks(model):
    return [module for module in model.modules() if isinstance(module, SegformerLayer)]


def count_saved_bytes(trainer) -> int:
    """Bytes that wait for the backward pass, each memory once, with the inputs from which blocks are computed again."""
    memories, compute_loss = {}, trainer.compute_loss

    def keep(tensor):
        memories[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    def compute_and_keep(*args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return compute_loss(*args, **kwargs)

    trainer.compute_loss = compute_and_keep
    for block in find_blocks(trainer.model):
        block.register_forward_pre_hook(lambda block, args: (keep(args[0]), None)[1])
    for parameter in trainer.model.parameters():
        keep(parameter)
    own = sum(size for size, _ in memories.values())
    trainer.train()
    return sum(size for size, _ in memories.values()) - own


def test_gradient_checkpointing__keeps_less(worker, tmp_path):
    """As in B5, most blocks are in the third stage."""
    saved = []
    for recompute in (False, True):
        args = worker.build_arguments(tmp_path, per_device_train_batch_size=2, gradient_checkpointing=recompute)
        saved.append(count_saved_bytes(worker.build_trainer(args, "cross_entropy", depths=[2, 2, 12, 2])))
    assert saved[1] < 0.3 * saved[0], saved


def test_gradient_checkpointing__is_an_option_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        off, on = (UrbanSegTrainingArguments(str(tmp_path), gradient_checkpointing=value) for value in (False, True))
    for args, value in ((off, False), (on, True)):
        assert args.gradient_checkpointing is value
        assert getattr(args, "activation_checkpointing", value) is value


def test_gradient_checkpointing__refuses_the_backend_that_draws_anew(tmp_path):
    with pytest.raises(ConfigError, match="no `torch_compile_backend` eager with `gradient_checkpointing`"):
        UrbanSegTrainingArguments(str(tmp_path), gradient_checkpointing=True, torch_compile_backend="eager")
