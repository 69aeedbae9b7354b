"""One training step, or one prediction, in each package's own way: what train_step.py times.

Each is a class with `model`, `run()` (a whole step, which returns the logits or class maps if it has them) and the
batch from its arguments. Learning rates are zero, so that every round computes the same.
"""

import sys
import tempfile
import types

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from hf_urbanseg.inference.upsampling import upsample_argmax
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.models.build import SIZES, build_random_model
from hf_urbanseg.models.compilation import run_once
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.training.trainer import UrbanSegTrainer

LOOPS = ("stock", "fast head", "ours")
PEERS = ("stock trainer", "our trainer", "example script", "mmsegmentation")
GRAPHS = {"reduce-overhead", "max-autotune"}
"""Modes of torch.compile that replay CUDA graphs."""


def build_step(args, kind: str):
    if kind == "mmsegmentation":
        return MmsegmentationStep(args)
    if kind in ("stock trainer", "our trainer"):
        return TrainerStep(args, kind)
    if kind == "example script":
        return ExampleStep(args)
    return Step(args, kind)


def build_model(args):
    torch.manual_seed(args.seed)
    model = build_random_model(args.size, CITYSCAPES).train(args.task == "train")
    # Away from the first BatchNorm statistics and small weights, with which logits are hardly more than zero.
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.3)
    return model.to(args.device)


def build_batch(args) -> tuple[Tensor, Tensor]:
    torch.manual_seed(args.seed)
    pixel_values = torch.randn(args.batch_size, 3, *args.crop).to(args.device)
    labels = torch.randint(0, CITYSCAPES.num_labels, (args.batch_size, *(side // 8 for side in args.crop)))
    labels[:, :2] = IGNORE_INDEX
    return pixel_values, F.interpolate(labels[:, None].float(), args.crop)[:, 0].long().to(args.device)


class Step:
    """A bare loop. `stock` upsamples the logits and takes torch's cross-entropy, `fast head` has our decode head with
    that loss, `ours` our loss, too. Behind the name stand levers: `compiled` by torch.compile, in one of the modes
    `GRAPHS` if it is named, too; `fused` AdamW; `channels_last` images and weights; `searched`, cuDNN's benchmark of
    its convolutions."""

    search = False

    def __init__(self, args, kind: str):
        self.args, levers = args, set(kind.split())
        self.search = "searched" in levers
        self.model = build_model(args)
        if not kind.startswith("stock"):
            apply_fast_decode_head(self.model)
        self.own_loss = kind.startswith("ours")
        self.call = self.model
        self.pixel_values, self.labels = build_batch(args)
        if "channels_last" in levers:
            self.model.to(memory_format=torch.channels_last)
            self.pixel_values = self.pixel_values.contiguous(memory_format=torch.channels_last)
        if "compiled" in levers:
            run_once(self.model)  # else it falls into pieces, for stock's disadvantage as for ours
            self.call = torch.compile(self.model, mode=next(iter(levers & GRAPHS), None))
        self.loss = build_loss("cross_entropy", CITYSCAPES.num_labels)
        # None is torch's own choice, a kernel for several tensors on CUDA.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused="fused" in levers or None)

    def run(self) -> Tensor:
        torch.backends.cudnn.benchmark = self.search
        if self.args.task != "train":
            return self.predict()
        self.optimizer.zero_grad()
        with autocast(self.args):
            logits = self.call(pixel_values=self.pixel_values).logits
        self.compute_loss(logits).backward()
        self.optimizer.step()
        return logits.detach()

    @torch.no_grad()
    def predict(self) -> Tensor:
        with autocast(self.args):
            logits = self.call(pixel_values=self.pixel_values).logits
        if self.args.task == "logits":
            return logits
        if self.own_loss:
            return torch.stack(upsample_argmax(logits, [self.args.crop] * len(logits)))
        logits = F.interpolate(logits.float(), self.args.crop, mode="bilinear", align_corners=False)
        return logits.argmax(1)

    def compute_loss(self, logits: Tensor) -> Tensor:
        if self.own_loss:
            return sum(self.loss(logits, self.labels).values())
        logits = F.interpolate(logits.float(), self.labels.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(logits, self.labels, ignore_index=IGNORE_INDEX)


class TrainerStep:
    """transformers' Trainer on the model's own loss, or `UrbanSegTrainer`: step, clipping, optimiser."""

    def __init__(self, args, kind: str):
        self.model = build_model(args)
        pixel_values, labels = build_batch(args)
        self.batch = {"pixel_values": pixel_values, "labels": labels}
        ours = kind == "our trainer"
        options = {
            "output_dir": tempfile.gettempdir(), "learning_rate": 0.0, "report_to": [], "max_steps": 1,
            "eval_strategy": "no", "save_strategy": "no", "use_cpu": args.device == "cpu",
            "bf16": args.precision == "bf16",
            "max_grad_norm": 1e9,  # the norm is computed, and gradients stay comparable
        }  # fmt: skip
        if ours:
            apply_fast_decode_head(self.model)
            loss = build_loss("cross_entropy", CITYSCAPES.num_labels)
            options = UrbanSegTrainingArguments(**options, load_best_model_at_end=False)
            self.trainer = UrbanSegTrainer(self.model, options, loss)
        else:
            self.trainer = transformers.Trainer(self.model, transformers.TrainingArguments(**options))
        self.optimizer = self.trainer.create_optimizer()
        self.trainer._tr_loss = torch.zeros((), device=args.device)  # which the guard of steps keeps a copy of

    def run(self) -> None:
        trainer = self.trainer
        self.optimizer.zero_grad()
        if isinstance(trainer, UrbanSegTrainer):
            trainer.guard.begin_step()
        trainer.accelerator.gradient_state._set_sync_gradients(True)
        items = trainer._get_num_items_in_batch([self.batch], trainer.args.device)
        trainer.training_step(self.model, dict(self.batch), items)
        norm = trainer.accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        trainer._get_grad_norm(self.model, norm)
        self.optimizer.step()


class ExampleStep:
    """The loop of transformers' examples/pytorch/semantic-segmentation/run_semantic_segmentation_no_trainer.py."""

    def __init__(self, args):
        self.args, self.model = args, build_model(args)
        self.pixel_values, self.labels = build_batch(args)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self.scheduler = transformers.get_scheduler("linear", self.optimizer, 0, 10_000)

    def run(self) -> Tensor:
        self.optimizer.zero_grad()
        with autocast(self.args):
            outputs = self.model(pixel_values=self.pixel_values, labels=self.labels)
        outputs.loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return outputs.logits.detach()


class MmsegmentationStep:
    """MMSegmentation 1.2: its SegFormer with its own loss and accuracy; random weights, another decoder.

    Needs `pip install --no-deps mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7` and
    `pip install addict prettytable termcolor yapf ftfy wcwidth platformdirs`.
    """

    def __init__(self, args):
        self.args = args
        segmentor, sample, pixel_data, configuration = import_mmsegmentation()
        shape = SIZES[args.size]
        widths = shape["hidden_sizes"]
        torch.manual_seed(args.seed)
        self.model = segmentor(
            backbone={
                "type": "MixVisionTransformer", "in_channels": 3, "embed_dims": widths[0], "num_stages": 4,
                "num_layers": shape["depths"], "num_heads": [1, 2, 5, 8], "patch_sizes": [7, 3, 3, 3],
                "sr_ratios": [8, 4, 2, 1], "out_indices": (0, 1, 2, 3), "mlp_ratio": 4, "qkv_bias": True,
                "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.1,
            },
            decode_head={
                "type": "SegformerHead", "in_channels": widths, "in_index": [0, 1, 2, 3], "channels": 256,
                "dropout_ratio": 0.1, "num_classes": CITYSCAPES.num_labels, "norm_cfg": {"type": "BN"},
                "align_corners": False, "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False},
            },
            test_cfg=configuration(mode="whole"),
        ).train(args.task == "train").to(args.device)  # fmt: skip
        self.pixel_values, labels = build_batch(args)
        information = {"img_shape": args.crop, "ori_shape": args.crop, "pad_shape": args.crop}
        self.samples = [sample(metainfo=information, gt_sem_seg=pixel_data(data=label[None])) for label in labels]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def run(self) -> Tensor | None:
        if self.args.task != "train":
            with torch.no_grad(), autocast(self.args):
                found = self.model.predict(self.pixel_values, self.samples)
            return torch.cat([one.pred_sem_seg.data for one in found])
        self.optimizer.zero_grad()
        with autocast(self.args):
            loss, _ = self.model.parse_losses(self.model.loss(self.pixel_values, self.samples))
        loss.backward()
        self.optimizer.step()
        return None


def import_mmsegmentation():
    # mmcv-lite has no compiled operators. SegFormer needs none; the package's own imports do.
    operators = types.ModuleType("mmcv.ops")
    names = "CrissCrossAttention DeformConv2d ModulatedDeformConv2d PSAMask point_sample sigmoid_focal_loss"
    operators.__dict__.update(dict.fromkeys(names.split()))
    sys.modules.setdefault("mmcv.ops", operators)
    from mmengine import ConfigDict
    from mmengine.structures import PixelData
    from mmseg.models import EncoderDecoder
    from mmseg.structures import SegDataSample

    return EncoderDecoder, SegDataSample, PixelData, ConfigDict


def autocast(args):
    return torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bf16")
