"""Models and their image processors. Importing this makes the Auto classes of transformers know our own models."""

from transformers import AutoConfig, AutoModelForSemanticSegmentation

from hf_urbanseg.models.build import ARCHITECTURES
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderForSemanticSegmentation

_models = [one.model_class for name, one in ARCHITECTURES.items() if name != "segformer"]
for _model in (*_models, SegformerConvDecoderForSemanticSegmentation):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForSemanticSegmentation.register(_model.config_class, _model, exist_ok=True)
