"""Gradient of one optimiser step over the same eight samples, for any layout; run directly or under a launcher."""

from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from transformers import TrainerCallback, set_seed

from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, list_movable
from hf_urbanseg.data.preprocessing import EvalDataset, JoinedDataset, TrainDataset
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.data.teacher_cache import TeacherCache, write_teacher_cache
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.data.unlabelled import UnlabelledDataset, WithUnlabelled
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.losses.composition import LossPart
from hf_urbanseg.losses.distillation import DISTILLATION_LOSSES, READS, ChannelWiseDistillationLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss
from hf_urbanseg.models.auxiliary_head import attach_auxiliary_head
from hf_urbanseg.models.build import build_image_processor, build_random_model, has_field
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.teacher import Teacher
from hf_urbanseg.models.training_branch import attach_feature_adapter
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.training.trainer import UrbanSegTrainer
from hf_urbanseg.training.unlabelled import UnlabelledStep

WEIGHTS = torch.linspace(0.5, 1.5, CITYSCAPES.num_labels).tolist()
LOSSES = {
    "cross_entropy": {"loss": "cross_entropy"},
    "weighted_valid_pixels": {"loss": "cross_entropy", "class_weights": WEIGHTS},
    "weighted_weight_sum": {"loss": "cross_entropy", "class_weights": WEIGHTS, "normalizer": "weight_sum"},
    "auxiliary": {"loss": "cross_entropy", "class_weights": WEIGHTS, "auxiliary_weight": 0.4},
    # Fewer pixels than there are valid ones, so that selection has something to do.
    "ohem_top": {"loss": "ohem", "class_weights": WEIGHTS, "ohem_min_kept": 700, "loss_scope": "global"},
    "ohem_threshold": {"loss": "ohem", "ohem_threshold": 0.02, "ohem_min_kept": 700, "loss_scope": "global"},
    "dice": {"loss": "cross_entropy", "add_losses": ["dice=0.5"], "loss_scope": "global"},
    "lovasz": {"loss": "focal", "add_losses": ["lovasz=0.5"]},
    # A teacher asked about every batch, and one that wrote its scores down; it lacks a class.
    "distilled_soft": {"loss": "cross_entropy", "further": "soft"},
    "distilled_cwd": {"loss": "cross_entropy", "further": "cwd"},
    "distilled_features": {"loss": "cross_entropy", "further": "features"},
    # Samples of two data sets.
    "joined": {"loss": "cross_entropy", "class_weights": WEIGHTS},
    # Frames without labels, of which the run's own averages are sure here and there.
    "unlabelled": {"loss": "cross_entropy", "unlabelled": {"threshold": 0.12, "weight": 2.0}},
    # Samples drawn by class, and objects pasted.
    "rare_classes": {"loss": "cross_entropy", "class_weights": WEIGHTS, "rare": True},
    # Frames read one by one from files, shuffled three at a time.
    "streamed": {"loss": "cross_entropy", "class_weights": WEIGHTS},
    # The loss alone instead of a weighted sum, and samples that know of no epoch.
    "bare": {},
}
TWO_PROCESS_LAYOUTS = ((4, 1), (2, 2))
# By name: loss and architecture. Swin's tensors are of both kinds, a transformer's and of convolutions with BatchNorm.
TWO_PROCESS_CASES = {loss: (loss, "segformer") for loss in LOSSES} | {"swin": ("auxiliary", "swin_segformer")}


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class PlainSamples(torch.utils.data.Dataset):
    """What anyone's data set gives: floats and labels by whole-number index."""

    def __init__(self, dataset: TrainDataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index: int):
        batch = normalize_batch({name: value[None] for name, value in self.dataset[int(index)].items()})
        return {name: value[0] for name, value in batch.items()}


def build_arguments(output_dir, **options) -> UrbanSegTrainingArguments:
    defaults = {
        "max_steps": 1,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        "seed": 3,
    }
    return UrbanSegTrainingArguments(output_dir=str(output_dir), **defaults | options)


def build_trainer(
    args,
    loss="weighted_valid_pixels",
    num_images=8,
    num_eval_images=5,
    auxiliary_dropout=0.1,
    size="tiny",
    **model_options,
) -> UrbanSegTrainer:
    """A tiny trainer on rendered streets; crops reach beyond the image, so void differs between samples."""
    torch.set_num_threads(1)
    set_seed(0)
    rows: DatasetDict = build_synthetic_splits(train=num_images, validation=num_eval_images, test=1, size=(64, 96))
    transforms = build_train_transforms((64, 64), ["0.5-1.0"])
    image_processor = build_image_processor((64, 96))
    model = build_random_model(size, CITYSCAPES, **model_options)
    apply_fast_decode_head(model)
    if "auxiliary_weight" in LOSSES[loss]:
        attach_auxiliary_head(model, stage=3, channels=16, dropout=auxiliary_dropout)
    options, teacher = dict(LOSSES[loss]), None
    train = TrainDataset(rows["train"], CITYSCAPES, transforms, args.seed)
    if options.pop("rare", False):
        train.rare, train.paste = show_more_often(rows["train"])
    if loss.startswith("streamed"):
        train = stream(rows["train"], transforms, args)
    if loss == "joined":
        further = TrainDataset(rows["validation"], CITYSCAPES, transforms, args.seed, first_index=len(train))
        train = JoinedDataset([train, further], [0.7, 0.3], [*train.names, *further.names])
    if "further" in options:
        teacher = build_teacher()
        kind = options["further"]
        if kind == "features":
            teacher.with_features = True
            teacher.try_out((64, 64))
            attach_feature_adapter(model, teacher.feature_channels)
            part = ChannelWiseDistillationLoss(19, range(teacher.feature_channels))
            part = LossPart(part, 2.0, "adapted_features", READS["features"])
        else:
            part = DISTILLATION_LOSSES[kind](19, teacher.taught, teach_void=kind == "soft")
            part = LossPart(part, 2.0, reads=READS["output"])
        options["further"] = {"distillation": part}
        if kind == "cwd":
            train.teacher, teacher = write_down(teacher, train, Path(args.output_dir)), None
    unlabelled = options.pop("unlabelled", None)
    if unlabelled:
        torch.nn.init.normal_(model.decode_head.classifier.weight)  # who knows nothing is sure of nothing
        crops = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        frames = build_synthetic_splits(train=5, validation=1, test=1, size=(48, 80), seed=1)["train"]
        train = WithUnlabelled(train, UnlabelledDataset(frames, transforms, args.seed), crops)
    if bare := loss == "bare":
        criterion = OhemCrossEntropyLoss(CITYSCAPES.num_labels, WEIGHTS, min_kept=300, scope="global")
    else:
        criterion = build_loss(num_labels=CITYSCAPES.num_labels, **options)
    trainer = UrbanSegTrainer(
        model,
        args,
        criterion,
        PlainSamples(train) if bare else train,
        EvalDataset(rows["validation"], CITYSCAPES, image_processor),
        image_processor,
        teacher=teacher,
    )
    if unlabelled:
        trainer.add_callback(UnlabelledStep(trainer, **unlabelled))
    return trainer


def show_more_often(rows) -> tuple[RareClasses, ObjectPaste]:
    labels = [CITYSCAPES.train_id_table[np.asarray(row["label"])] for row in rows]
    counts = np.stack([np.bincount(label.ravel(), minlength=256)[:19] for label in labels])
    rare = RareClasses(counts, 0.5, temperature=0.05, min_pixels=20)
    return rare, ObjectPaste(rare, choose_pasted(None, rare, CITYSCAPES), list_movable(CITYSCAPES), 0.7)


def stream(rows, transforms, args) -> TrainDataset:
    folder = Path(args.output_dir) / f"set_{args.process_index}"
    data = LoadedData(DatasetDict(train=rows), CITYSCAPES, "streets", ())
    write_shards(data, folder, 3, {}, progress=False)
    streamed = load_data(dataset=str(folder), streaming=True).splits["train"]
    cache = CheckedFrames(streamed, CITYSCAPES)
    return TrainDataset(streamed, CITYSCAPES, transforms, args.seed, cache, shuffle_buffer=3)


def build_teacher() -> Teacher:
    """Of other random weights than the student, and the first class by another name."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_random_model("tiny", CITYSCAPES)
        torch.nn.init.normal_(model.decode_head.classifier.weight)
    return Teacher(model, ["unknown", *CITYSCAPES.names[1:]], CITYSCAPES.names)


def write_down(teacher: Teacher, train: TrainDataset, folder: Path) -> TeacherCache:
    folder = folder / f"teacher_{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}"
    images = [np.asarray(row["image"].convert("RGB")) for row in train.rows]
    pixels = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - 0.45) / 0.225
    scores = teacher(pixels).logits
    frames = ((name, name, one) for name, one in zip(train.names, scores, strict=True))
    write_teacher_cache(folder, frames, teacher.describe())
    return TeacherCache(folder, CITYSCAPES.names, {name: name for name in train.names})


def compute_gradients(
    output_dir,
    batch_size: int,
    accumulation: int,
    loss: str,
    architecture: str = "segformer",
    size: str = "tiny",
    **more,
) -> dict[str, torch.Tensor]:
    args = build_arguments(
        output_dir,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        freeze_batch_norm=True,
        ema_decay=0.9,
        **more,
    )
    # The same seed draws other dropout masks in other layouts; that is not what is compared here.
    options = {"drop_path_rate": 0.0} if has_field(architecture, "drop_path_rate") else {}
    trainer = build_trainer(
        args, loss, auxiliary_dropout=0.0, size=size, architecture=architecture, classifier_dropout_prob=0.0, **options
    )
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.train()
    if trainer.class_log is not None:  # over all ranks, as the samples themselves say
        samples = [trainer.train_dataset[key] for key in list(trainer.train_sampler)[:8]]
        found = [[sum(int((sample["labels"] == one).sum()) for sample in samples) for one in range(19)]]
        found += [[sum(bool((sample["labels"] == one).any()) for sample in samples) for one in range(19)]]
        found += [[sum(int(sample["drawn"] == one) for sample in samples) for one in range(19)]]
        found += [sum(sample["pasted"] for sample in samples).tolist()]
        assert trainer.class_log.counts.long().tolist() == [found[2], found[1], found[0], found[3]]
        assert (trainer.class_log.counts.sum(1) > 0).all()
    return keep.gradients


def relative_error(gradients, reference):
    assert gradients.keys() == reference.keys()
    difference = torch.cat([(gradients[key].to(one.device) - one).flatten() for key, one in reference.items()])
    return float(difference.norm() / torch.cat([value.flatten() for value in reference.values()]).norm())


def main(folder: Path) -> None:
    for name, case in TWO_PROCESS_CASES.items():
        for batch_size, accumulation in TWO_PROCESS_LAYOUTS:
            gradients = compute_gradients(folder, batch_size, accumulation, *case)
            if torch.distributed.get_rank() == 0:
                torch.save(gradients, folder / f"{name}_{batch_size}_{accumulation}.pt")
