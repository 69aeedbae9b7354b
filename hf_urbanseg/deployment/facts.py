"""What an exported file says of itself: in its metadata, and as JSON beside it."""

from collections.abc import Sequence

from hf_urbanseg import __version__
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.errors import ModelError, UrbanSegError
from hf_urbanseg.inference.predictor import Predictor, load_label_ids

_BILINEAR = 2


def describe_model(
    predictor: Predictor, name_or_path: str, takes_bytes: bool, precision: str, fixed_size: Sequence[int] | None
) -> dict:
    """Classes with their colours and label ids, input and output, and what loads the file again.

    Args:
        name_or_path: Of the model.
        fixed_size: (height, width).

    Raises:
        ModelError: A model that takes other images than RGB, or whose image processor can't be put in a file.
    """
    processor, config = predictor.image_processor, predictor.model.config
    if predictor.channels != 3:
        found = f"one of {predictor.channels} channels"
        raise ModelError("a model of RGB images to export", found, "predict with its folder", name_or_path)
    if takes_bytes and processor.do_resize and int(processor.resample) != _BILINEAR:
        found = f"`resample` {int(processor.resample)} of Pillow"
        raise ModelError("bilinear resizing with `--takes_bytes`", found, "export it without", name_or_path)
    try:
        space = describe_label_space(load_label_ids(name_or_path, predictor.label_space.names))
    except UrbanSegError:  # trained elsewhere: its train ids are all that is known
        space = describe_label_space(predictor.label_space)
        for entry in space["classes"]:
            del entry["label_ids"]
    sides = [*(fixed_size or ("height", "width"))]
    quarter = ["logits_height", "logits_width"]
    pixels = {"name": "pixel_values", "type": "float32", "shape": ["batch", 3, *sides],
              "meaning": "RGB, resized to `input_size`, scaled and normalised as `image_processor` says"}  # fmt: skip
    logits = {"name": "logits", "type": "float32", "shape": ["batch", config.num_labels, *quarter],
              "meaning": "scores of the classes; upsample them bilinearly, then take the best"}  # fmt: skip
    if takes_bytes:
        pixels = {"name": "image", "type": "uint8", "shape": ["batch", *sides, 3], "meaning": "RGB, of any size"}
        logits = {"name": "train_ids", "type": "uint8", "shape": ["batch", *sides], "meaning": "places in `classes`"}
    return {
        "hf_urbanseg": __version__,
        "precision": precision,
        "takes_bytes": takes_bytes,
        "input": pixels,
        "output": logits,
        "input_size": predictor.base_size,
        "fixed_size": fixed_size and [*fixed_size],
        "label_space": space,
        "image_processor": {key: value for key, value in processor.to_dict().items() if key != "image_processor_type"},
        "config": config.to_dict(),
    }
