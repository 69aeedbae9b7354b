"""The dataclasses behind a recipe: data, model, augmentation, loss, and what a run leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from hf_urbanseg.data.column_names import IMAGE_COLUMNS, LABEL_COLUMNS
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.fields import Options, architecture_option, option, palette_option, stock_decode_head_option
from hf_urbanseg.ranges import Amount, Count, InputSize, Range, Seed, Share, ShareAboveZero, ShareBelowOne, Size, Width


@dataclass
class DataArguments(Options):
    """Where the images and labels come from and how they are split. Plain values: `load_data(**asdict(this))`."""

    data_dir: str | None = option(
        None,
        "Folder or .zip in the official KITTI layout, folder in that of Cityscapes, ACDC, BDD100K or another set of "
        "docs/data.md, a set saved by `urbanseg prepare-data`, folders of images and masks, or what a labelling tool "
        "exported.",
    )
    dataset: str | None = option(
        None,
        "Hub id of a data set, a folder or .parquet file of that kind, or `synthetic` for the rendered streets inside "
        "the package. Anybody's set (WebDataset tars, too) will do that has a column of images, one of lossless label "
        "pictures (8-bit PNG of label ids), and its classes in a label_space file, in id2label.json (unlabeled, void "
        "and the like are void by name; a warning says which) or in --label_space.",
    )
    label_space: str | None = option(
        None,
        "Classes of the label files: `cityscapes` (labelIds), `cityscapes_train_ids`, another name in "
        "hf_urbanseg/data/label_spaces, or a YAML or JSON file, also with `id2label` and `void`. Default: what the "
        "layout or the set implies.",
    )
    classes: list[str] | None = option(
        None, "Names of the classes in place of a label space: of ids 0, 1, ... in order, or as 0=rest 255=road."
    )
    image_column: str | None = option(
        None,
        f"Image column of a Hub or saved set, of tars the end of its files' names. Default: the first of "
        f"{', '.join(IMAGE_COLUMNS)} that holds images, of tars else `jpg`.",
    )
    label_column: str | None = option(
        None,
        f"Label column of a Hub or saved set, of tars the end of its files' names. Default: the first of "
        f"{', '.join(LABEL_COLUMNS)} that holds images, of tars else `png`.",
    )
    split_file: str | None = option(None, "YAML file that lists the frame names of train, validation and test.")
    keep_together: list[str] | None = option(
        None, "Groups of frames that must stay in one split: names joined by commas, one word per group."
    )
    test_fraction: ShareBelowOne = option(0.25, "Share cut off as test where the data has none (report: 50 of 200).")
    validation_fraction: ShareBelowOne = option(0.1, "Share of train cut off for model selection where there is none.")
    split_seed: Seed = option(0, "Seed of those cuts.")
    scenes: str = option(
        "auto",
        "Frames that cuts keep together: `auto`, what the layout says, or pictures that are alike; `none`; or a YAML "
        "file of them.",
    )
    fold: Count | None = option(None, "The fold held out as test, of a --split_file that `urbanseg crossval` wrote.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.")
    dataset_config: str | None = option(
        None,
        "Configuration of a data set that has several; of `synthetic` a town: riverside, hillside, harbour.",
    )
    streaming: bool = option(
        False,
        "Read each frame of a Hub set, or of a folder of parquet files or tars, when its turn comes: nothing is "
        "downloaded or held. For sets that are large; see docs/streaming.md.",
    )
    preflight_frames: Annotated[int, Range(1, 10**6)] = option(
        1000, "Frames of each split of a streamed set that are checked and counted before the first step."
    )
    palette: str | None = palette_option()
    format: str = option(
        "auto",
        "Format of an export of a labelling tool, or `masks` for plain folders. Default: what the files look like.",
        choices=["auto", "masks", "coco", "labelme", "cvat", "yolo", "label_studio", "supervisely"],
    )
    background: str | None = option(
        None,
        "Pixels in no shape of such an export: `class`, the class `background`, or `void`, in no loss and no score. "
        "Default: class, where --label_space has it or isn't given.",
        choices=["class", "void"],
    )
    channels: Annotated[int, Range(3, 64)] = option(
        3, "Of every image: red, green, blue and further ones, in .npy files, TIFFs of several bands or RGBA pictures."
    )

    def check_rgb(self, what: str) -> None:
        """Refuses further channels for what takes RGB alone."""
        if self.channels != 3:
            raise ConfigError(f"`channels` 3 with {what}", f"{self.channels}", "leave it out")


@dataclass
class RunArguments(Options):
    """Which recipe, and what the run leaves behind."""

    recipe: str | None = option(
        None,
        "Recipe inside the package, or a YAML file; options on the command line win. Default: `own_data` where data is "
        "named, else `demo`.",
    )
    num_overlays: Count = option(
        6, "Pictures of prediction beside label, evenly picked from the held-out split; 0: none, nor of failures."
    )
    random_baseline: bool = option(
        False,
        "Train the same from random weights, too, into random_baseline/ of the run's folder, and say how far it got.",
    )
    show: bool = option(False, "Print the recipe with all its options, and train nothing.")


@dataclass
class ModelArguments(Options):
    """Which model to start from."""

    architecture: str = architecture_option()
    model_name_or_path: str | None = option(
        None, "Hub id or folder to start from, or `tiny-streets`, the small SegFormer inside the package."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the Hub id.")
    new_classifier: bool = option(
        False, "Keep no row of the checkpoint's classifier. Default: those of classes that the data has, by name."
    )
    init: str = option("pretrained", "`pretrained` or `random` weights.", choices=["pretrained", "random"])
    size: str = option(
        "b0",
        "Which, of a recipe for several sizes, or with --init random: tiny, b0 ... b5; tiny, resnet18, resnet50, "
        "resnet101 of DeepLabV3+ and PSPNet; `urbanseg profile-model --help` lists all.",
    )
    decoder_hidden_size: Width | None = option(
        None, "Width of SegFormer's decode head for --init random. The report's have 256 at every size."
    )
    drop_path_rate: ShareBelowOne = option(0.1, "Stochastic depth, where there is any (report: 0.1; Swin 0.3).")
    classifier_dropout_prob: ShareBelowOne = option(0.1, "Dropout before the classifier (report: 0.1).")
    lora_rank: Annotated[int, Range(0, 1024)] = option(
        0,
        "LoRA: train adapters of this rank on the encoder's attention in place of the encoder. What is exported has "
        "them merged. Needs the package's extra `lora`. 0: off.",
    )
    lora_alpha: Annotated[float, Range(0, 10**6, above=True)] | None = option(
        None, "They are multiplied by this over their rank. Default: the rank."
    )
    lora_dropout: ShareBelowOne = option(0.0, "Dropout on what enters them.")
    stock_decode_head: bool = stock_decode_head_option()
    eval_size: InputSize | None = option(
        None,
        "Height and width to which the saved image processor resizes, in multiples of 32. "
        "Default: the commonest training size, rounded.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.lora_rank and (self.lora_alpha or self.lora_dropout):
            found = "`lora_alpha` or `lora_dropout` alone"
            raise ConfigError("a `lora_rank` above 0 with them", found, "add for example 8, or leave them out")


@dataclass
class AugmentationArguments(Options):
    """Training augmentation; the defaults are the report's."""

    train_scales: list[str] | None = option(
        ["0.5", "0.75", "1.0", "1.25", "1.5", "1.75"],
        "Scales to choose from, uniformly: 375x1242 (fit into height x width), 0.75 (ratio) or 0.5-2.0 (range). "
        "null in a recipe: around the size at which pictures are measured.",
    )
    crop_size: Size | None = option(
        [368, 368], "Height and width of the crop. null in a recipe: that, or the size of smaller pictures."
    )
    max_class_share: Share = option(0.75, "A crop with one class over this share is redrawn; 1 turns it off.")
    flip: Share = option(0.5, "Probability of a horizontal flip.")
    photometric: bool = option(True, "Photometric distortion.")

    def __post_init__(self):
        super().__post_init__()
        from hf_urbanseg.data.transforms import parse_scales  # here, because `--help` has no need of it

        if self.train_scales is not None:
            parse_scales(self.train_scales)

    def fit(self, sizes: Mapping[tuple[int, int], int]) -> "AugmentationArguments":
        """The same with what is left to the data, of which so many pictures have each (height, width)."""
        from hf_urbanseg.models.sizes import choose_crop_size, choose_train_scales  # as above

        scales = choose_train_scales(sizes) if self.train_scales is None else self.train_scales
        return replace(self, train_scales=scales, crop_size=self.crop_size or choose_crop_size(sizes))


@dataclass
class LossArguments(Options):
    """What is minimised."""

    loss: str = option(
        "cross_entropy",
        "Main loss: cross_entropy, ohem, focal, dice or lovasz.",
        choices=["cross_entropy", "ohem", "focal", "dice", "lovasz"],
    )
    add_losses: list[str] = option([], "Further losses with weights, such as dice=0.5 lovasz=1.")
    normalizer: str = option(
        "valid_pixels",
        "Divide by the labelled pixels (report) or by their summed weights.",
        choices=["valid_pixels", "weight_sum"],
    )
    class_weights: str = option(
        "inverse_log",
        "none, inverse_log (report), effective_number, enet, median_frequency, or a JSON file written by "
        "`urbanseg class-weights`. Schemes count the pixels of the training split.",
    )
    ohem_threshold: ShareAboveZero | None = option(
        None,
        "Keep pixels whose true-class probability is below it (report: 0.5); none: largest losses (code).",
    )
    ohem_min_kept: Annotated[int, Range(0, 10**9)] = option(
        100_000, "Pixels kept at least, per image, pooled (report: 10,000; code: 100,000)."
    )
    loss_scope: str = option(
        "process",
        "Over what ohem selects and dice sums: a process's micro-batch (the field's convention), or `global`: all "
        "ranks and micro-batches of the step, for one more forward pass where there are several.",
        choices=["process", "global"],
    )
    focal_gamma: Amount = option(2.0, "Exponent of the focal loss.")
    auxiliary_head: bool = option(False, "Train an FCN head on an encoder stage beside the main one; not exported.")
    auxiliary_stage: Annotated[int, Range(1, 4)] = option(3, "Stage it looks at, from 1 (report's code: 3; text: 2).")
    auxiliary_channels: Width = option(256, "Its width (report's code: 256).")
    auxiliary_weight: Amount = option(0.4, "Weight of its cross-entropy (report: 0.4).")

    def __post_init__(self):
        super().__post_init__()
        from hf_urbanseg.data.class_weights import SCHEMES  # here, because `--help` has no need of it

        if self.class_weights not in SCHEMES and not self.class_weights.endswith(".json"):
            expected = f"`class_weights` of {', '.join(SCHEMES)}, or a .json file"
            raise ConfigError(expected, f"`{self.class_weights}`", "choose one of them")
        self.build(num_labels=2)

    def build(self, num_labels: int, class_weights=None, further=None):
        """The loss these options describe, which checks them; `further` as in `build_loss`."""
        from hf_urbanseg.losses.build import build_loss

        auxiliary_weight = self.auxiliary_weight if self.auxiliary_head else None
        return build_loss(
            self.loss, num_labels, class_weights, self.normalizer, self.add_losses, auxiliary_weight,
            self.ohem_threshold, self.ohem_min_kept, self.loss_scope, self.focal_gamma, further,
        )  # fmt: skip
