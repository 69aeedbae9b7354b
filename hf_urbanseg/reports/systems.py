"""The systems of the report's Table 1."""

from collections import namedtuple

# `word` names the row; `mean_iou` in [0, 1] and `gmac` as printed in the report (None: not in it); `recipe` with `size`
# trains it, `architecture` and `size` are our words for its network; `teacher` is the row that teaches it.
System = namedtuple("System", "word name pretraining mean_iou gmac recipe architecture size teacher", defaults=[None])
# fmt: off
SYSTEMS = (
    System("baseline_180", "Baseline, 180 epochs", "none", 0.2760, 67.003,
           "table/baseline_180", "encoder_decoder", "transposed"),
    System("baseline_1000", "Baseline, 1000 epochs", "none", 0.4271, 67.003,
           "table/baseline_1000", "encoder_decoder", "transposed"),
    System("unet", "UNet", "none", 0.4555, 356,
           "table/unet", "unet", "s5-d16"),
    System("deeplabv3plus_resnet18", "DeepLabV3+ R18", "imagenet", 0.5682, 97.193,
           "table/deeplabv3plus", "deeplabv3plus", "resnet18"),
    System("deeplabv3plus_resnet50", "DeepLabV3+ R50", "imagenet", 0.6041, 316,
           "table/deeplabv3plus", "deeplabv3plus", "resnet50"),
    System("deeplabv3plus_resnet101", "DeepLabV3+ R101", "imagenet", 0.6063, 455,
           "table/deeplabv3plus", "deeplabv3plus", "resnet101"),
    System("swin_imagenet", "Swin-T", "imagenet", 0.5945, 79.472,
           "table/swin_segformer", "swin_segformer", "swin-tiny"),
    System("swin_cityscapes", "Swin-T", "cityscapes", 0.7628, 79.472,
           "table/swin_segformer_cityscapes", "swin_segformer", "swin-tiny"),
    System("segformer_b0_imagenet", "SegFormer-B0", "imagenet", 0.5533, 15.579,
           "table/segformer_imagenet", "segformer", "b0"),
    System("segformer_b2_imagenet", "SegFormer-B2", "imagenet", 0.6141, 50.633,
           "table/segformer_imagenet", "segformer", "b2"),
    System("segformer_b5_imagenet", "SegFormer-B5", "imagenet", 0.6842, 150,
           "table/segformer_imagenet", "segformer", "b5"),
    System("segformer_b0_cityscapes", "SegFormer-B0", "cityscapes", 0.7460, 15.579,
           "segformer_kitti", "segformer", "b0"),
    System("segformer_b2_cityscapes", "SegFormer-B2", "cityscapes", 0.7845, 50.633,
           "segformer_kitti", "segformer", "b2"),
    System("segformer_b5_cityscapes", "SegFormer-B5", "cityscapes", 0.8018, 150,
           "segformer_kitti", "segformer", "b5"),
    System("pspnet_resnet18", "PSPNet R18", "imagenet", 0.5933, 97.213,
           "table/pspnet", "pspnet", "resnet18"),
    System("pspnet_resnet50", "PSPNet R50", "imagenet", None, None,
           "table/pspnet", "pspnet", "resnet50"),
    System("pspnet_resnet101", "PSPNet R101", "imagenet", 0.6370, 459,
           "table/pspnet", "pspnet", "resnet101"),
    System("cwd_pspnet_resnet18", "CWD: PSPNet R18", "imagenet", 0.5449, 99,
           "table/cwd_pspnet", "pspnet", "resnet18", "pspnet_resnet101"),
)
# fmt: on
"""Source: Liu and Wang 2022 (arXiv:2206.12571), Table 1; its test split of 50 KITTI images."""

REPORT_POINTS = tuple(system for system in SYSTEMS if system.mean_iou is not None)
ROWS = tuple(system.word for system in SYSTEMS)
