"""Table 1 of the report: its systems, and our network of each."""

from typing import NamedTuple


class ReportPoint(NamedTuple):
    """A system of the table: mIoU in [0, 1] and G as printed there, our words for its network."""

    name: str
    pretraining: str
    mean_iou: float
    gmac: float
    architecture: str
    size: str


REPORT_POINTS = (
    ReportPoint("Baseline, 180 epochs", "none", 0.2760, 67.003, "encoder_decoder", "transposed"),
    ReportPoint("Baseline, 1000 epochs", "none", 0.4271, 67.003, "encoder_decoder", "transposed"),
    ReportPoint("UNet", "none", 0.4555, 356, "unet", "s5-d16"),
    ReportPoint("DeepLabV3+ R18", "imagenet", 0.5682, 97.193, "deeplabv3plus", "resnet18"),
    ReportPoint("DeepLabV3+ R50", "imagenet", 0.6041, 316, "deeplabv3plus", "resnet50"),
    ReportPoint("DeepLabV3+ R101", "imagenet", 0.6063, 455, "deeplabv3plus", "resnet101"),
    ReportPoint("Swin-T", "imagenet", 0.5945, 79.472, "swin_segformer", "swin-tiny"),
    ReportPoint("Swin-T", "cityscapes", 0.7628, 79.472, "swin_segformer", "swin-tiny"),
    ReportPoint("SegFormer-B0", "imagenet", 0.5533, 15.579, "segformer", "b0"),
    ReportPoint("SegFormer-B2", "imagenet", 0.6141, 50.633, "segformer", "b2"),
    ReportPoint("SegFormer-B5", "imagenet", 0.6842, 150, "segformer", "b5"),
    ReportPoint("SegFormer-B0", "cityscapes", 0.7460, 15.579, "segformer", "b0"),
    ReportPoint("SegFormer-B2", "cityscapes", 0.7845, 50.633, "segformer", "b2"),
    ReportPoint("SegFormer-B5", "cityscapes", 0.8018, 150, "segformer", "b5"),
    ReportPoint("PSPNet R18", "imagenet", 0.5933, 97.213, "pspnet", "resnet18"),
    ReportPoint("PSPNet R101", "imagenet", 0.6370, 459, "pspnet", "resnet101"),
    ReportPoint("CWD: PSPNet R18", "imagenet", 0.5449, 99, "pspnet", "resnet18"),
)
"""Source: Liu and Wang 2022 (arXiv:2206.12571), Table 1; its test split of 50 KITTI images."""
