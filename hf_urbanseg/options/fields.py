"""How an option is written: a field of a dataclass with its default, help and limits."""

from dataclasses import field

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.palettes import PALETTES
from hf_urbanseg.ranges import check_options


def option(default, help_text: str, **metadata):
    """A dataclass field with its help; lists are copied per instance."""
    metadata["help"] = help_text
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help_text: str, **metadata):
    """A dataclass field without a default."""
    return field(metadata={"help": help_text, **metadata})


class Options:
    """What all dataclasses of options are: checked when they are made."""

    def __post_init__(self):
        check_options(self)


def device_option():
    """`--device`, which `check_device` checks."""
    return option(None, "`cpu`, `cuda`, ...; default: the GPU if there is one.")


def palette_option():
    """`--palette`, a word of `palettes.PALETTES`."""
    help_text = (
        "Colours of the classes in pictures: `cityscapes`, or `colorblind`, which people of any colour vision can tell "
        "apart. Default: those that the run, the model or the data has."
    )
    return option(None, help_text, choices=list(PALETTES))


def stock_decode_head_option():
    """`--stock_decode_head`."""
    help_text = "Compute the decode head as transformers does; default: the same function, several times faster."
    return option(False, help_text)


def architecture_option():
    """`--architecture`, a word of `models.build.ARCHITECTURES`."""
    names = ["segformer", "encoder_decoder", "unet", "deeplabv3plus", "pspnet", "swin_segformer"]
    return option("segformer", "SegFormer, or a network that the report compares it with.", choices=names)


def check_device(device: str | None) -> None:
    """Refuses a `--device` that this machine doesn't have; None is the choice of the command."""
    if device is None:
        return
    import torch  # here, because options are also read where only `--help` is wanted

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = f"{device} ({str(error).splitlines()[0].rstrip('.')})"
        raise ConfigError("a `--device` of this machine", reason, "leave it out or say `cpu`") from error
