"""Models and their image processors. Importing this makes the Auto classes of transformers know our own models."""

from transformers import AutoConfig, AutoModelForSemanticSegmentation

from hf_urbanseg.models.baselines.deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
from hf_urbanseg.models.baselines.encoder_decoder import EncoderDecoderForSemanticSegmentation
from hf_urbanseg.models.baselines.pspnet import PSPNetForSemanticSegmentation
from hf_urbanseg.models.baselines.swin_segformer import SwinSegformerForSemanticSegmentation
from hf_urbanseg.models.baselines.unet import UNetForSemanticSegmentation
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderForSemanticSegmentation

for _model in (
    DeepLabV3PlusForSemanticSegmentation,
    EncoderDecoderForSemanticSegmentation,
    PSPNetForSemanticSegmentation,
    SegformerConvDecoderForSemanticSegmentation,
    SwinSegformerForSemanticSegmentation,
    UNetForSemanticSegmentation,
):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForSemanticSegmentation.register(_model.config_class, _model, exist_ok=True)
