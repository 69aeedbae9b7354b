"""What a model costs: counted from its configuration, and measured with random weights."""

import os
from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference.latency import build_model, measure_latency, measure_peak_memory
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import ARCHITECTURES, build_config, name_architecture
from hf_urbanseg.models.complexity import count_flops, count_operations, count_parameters
from hf_urbanseg.models.exported import is_exported, load_exported
from hf_urbanseg.models.loading import load_config


def load_known_config(name: str) -> PretrainedConfig:
    """The configuration of a folder, a Hub model or an exported file, which must be of one of our architectures."""
    config = load_exported(name).config if is_exported(name) else load_config(name)
    if name_architecture(config.model_type) is None:
        expected, found = f"a model of {', '.join(ARCHITECTURES)}", f"model type `{config.model_type}`"
        raise ModelError(expected, found, "choose another model", name)
    return config


def build_named_configs(
    architecture: str, sizes: Sequence[str] | None, num_labels: int, **overrides
) -> dict[str, PretrainedConfig]:
    """Configurations by size; without `sizes` those of the report."""
    known = ["b0", "b2", "b5"] if architecture == "segformer" else ARCHITECTURES[architecture].sizes
    configs = {}
    for size in sizes or [size for size in known if not size.startswith("tiny")]:
        configs[size] = build_config(size, CITYSCAPES, architecture, **overrides)
        configs[size].num_labels = num_labels
    return configs


def count_costs(name: str, config: PretrainedConfig, image_size: Sequence[int]) -> dict:
    """Parameters and operations of a model on one image of (height, width)."""
    operations = count_operations(config, image_size)
    return {
        "name": name,
        "model_type": config.model_type,
        "decoder_hidden_size": getattr(config, "decoder_hidden_size", None),
        "num_labels": config.num_labels,
        "parameters": count_parameters(config),
        "macs": {convention: sum(parts.values()) for convention, parts in operations.items()},
        "macs_by_part": operations,
        "torch_flops": count_flops(config, image_size),
    }


def measure_costs(
    config: PretrainedConfig, image_size: Sequence[int], batch_size: int, precision: str, device: str, **limits
) -> dict:
    """Memory and latency of a model with random weights; arguments as of `measure_latency`.

    Of an exported file, which `config` names, its own latency on the CPU and no memory.
    """
    if is_exported(path := config.name_or_path):
        model = load_exported(path)
        if model.takes_bytes or precision != "fp32" or device != "cpu":
            found = "one of label maps" if model.takes_bytes else f"`{precision}` on {device}"
            fix = "leave `--precision` and `--device` out, and export it without `--takes_bytes`"
            raise ModelError("an exported file of logits, as it is, on the CPU", found, fix, path)
        return {"memory": None, "latency": measure_latency(model, image_size, batch_size, **limits)}
    memory = measure_peak_memory(config, image_size, batch_size, precision, device)
    latency = measure_latency(build_model(config, precision).to(device), image_size, batch_size, **limits)
    return {"memory": memory, "latency": latency}


def describe_device(device: str) -> dict:
    """The device that was measured on."""
    # describe_environment names the GPU of the machine even where the CPU was asked for.
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "fp32_matmul": torch.get_float32_matmul_precision()}
    return {"device": f"{device.upper()}, {os.cpu_count()} cores", "threads": torch.get_num_threads()}
