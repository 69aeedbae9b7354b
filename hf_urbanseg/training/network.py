"""From options to the network that is trained, and whether it can be."""

from transformers import PreTrainedModel

from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.build import build_random_model, check_input, has_field, load_pretrained_model
from hf_urbanseg.models.channels import widen_input
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.lora import attach_lora
from hf_urbanseg.models.memory_format import lay_out_depthwise
from hf_urbanseg.models.training_branch import attach_feature_adapter
from hf_urbanseg.options.config import LossArguments, ModelArguments
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments


def build_network(
    args: ModelArguments, loss: LossArguments, space: LabelSpace, feature_channels: int = 0, channels: int = 3
) -> PreTrainedModel:
    """The network with what helps its training.

    Args:
        feature_channels: Of a teacher whose maps it learns.
        channels: Of the images.
    """
    overrides = {"drop_path_rate": args.drop_path_rate, "classifier_dropout_prob": args.classifier_dropout_prob}
    is_default = args.drop_path_rate == ModelArguments.drop_path_rate
    if is_default and not has_field(args.architecture, "drop_path_rate"):
        del overrides["drop_path_rate"]  # that nobody chose; what was chosen is refused
    if args.init == "random" and args.decoder_hidden_size is not None:
        overrides["decoder_hidden_size"] = args.decoder_hidden_size
    if args.init == "random":
        model = build_random_model(args.size, space, args.architecture, **overrides)
    elif args.model_name_or_path is None:
        raise ConfigError("`model_name_or_path`", "none", "name a Hub id or folder, or add `--init random`")
    else:
        names = args.model_name_or_path, space, args.model_revision, args.architecture
        model = load_pretrained_model(*names, new_classifier=args.new_classifier, **overrides)
    widen_input(model, channels)
    if args.lora_rank:
        attach_lora(model, args.lora_rank, args.lora_alpha, args.lora_dropout)
    lay_out_depthwise(model)
    if not args.stock_decode_head:
        apply_fast_decode_head(model)
    if loss.auxiliary_head:
        attach_auxiliary_head(model, loss.auxiliary_stage, loss.auxiliary_channels)
    if feature_channels:
        attach_feature_adapter(model, feature_channels)
    return model


def check_network(
    model: PreTrainedModel, args: UrbanSegTrainingArguments, crop_size: tuple[int, int], eval_size: tuple[int, int]
) -> None:
    """Whether it can be trained as asked, before anything is written."""
    if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        found = f"a `{model.config.model_type}`, whose maps are kept"
        raise ModelError("a Transformer with `gradient_checkpointing`", found, "leave it out")
    synchronised = args.sync_batch_norm and args.world_size > 1 and args.device.type != "cpu"
    alone = not args.freeze_batch_norm and not synchronised
    check_input(model.config, "crop_size", crop_size, args.per_device_train_batch_size * alone)
    check_input(model.config, "eval_size", eval_size)
