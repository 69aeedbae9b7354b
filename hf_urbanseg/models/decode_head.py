"""SegFormer's decode head with the same weights, outputs and gradients in a twentieth of the arithmetic."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead, SegformerMLP

from hf_urbanseg.models._decode_blocks import BlockedHead, compute_logits


class FastSegformerDecodeHead(SegformerDecodeHead):
    """Stock's head computed in another order; `apply_fast_decode_head` makes a model use it.

    Stock projects every stage to D channels, upsamples all of them to the first stage's size, concatenates them and
    fuses 4 D channels to D there. Bilinear upsampling commutes with maps of single pixels, so with F_i the slice of the
    fuse convolution that belongs to stage i (the concatenation is in reversed order)

        fuse(concat(up(P_i x_i + b_i))) = sum_i up(F_i P_i x_i) + sum_i F_i b_i

    and the products F_i P_i are small matrices, formed once per call (in fp32 at least). A BatchNorm with fixed
    statistics is multiplied into them. Gradients reach all factors. Dropout draws stock's mask.

    On CPU everything at the first stage's size is done in blocks of rows: predicting never holds a map of D channels,
    training keeps one instead of eight. Elsewhere, and under torch.compile, it is plain tensor code.

    Layers that aren't as transformers builds them (SyncBatchNorm, adapters, pruned weights, hooks) are called as
    modules; where those are projections or the fuse convolution, the whole head is computed as stock does, and so it
    is for a last stage that keeps no height and width and under `torch.jit.trace`.

    Shape:
        encoder_hidden_states: (N, C_i, h_i, w_i) each, the largest map first.
        returns: logits (N, num_labels, h_0, w_0), in memory as stock's: channels-last, except for a single
            image.
    """

    def forward(self, encoder_hidden_states: Sequence[Tensor], **kwargs) -> Tensor:
        stages = encoder_hidden_states
        if len(stages) < 2 or any(stage.ndim != 4 for stage in stages) or not self._can_be_composed():
            return super().forward(stages, **kwargs)
        norm, plain, count = self.batch_norm, _is_plain(self.batch_norm), len(stages[0])
        fold = plain and not norm.training
        device = stages[0].device.type
        device = "cpu" if device == "meta" else device  # autocast doesn't know models without memory
        dtype = stages[0].dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # which autocast leaves as it is
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            weights, bias = self._compose(fold)
            tokens = [stage.flatten(2).transpose(1, 2).to(dtype) for stage in stages]
            weights = [weight.to(dtype) for weight in weights]
            sizes = [tuple(stage.shape[2:]) for stage in stages]
            if self._goes_by_blocks(stages, plain):
                return self._forward_by_blocks(tokens, sizes, weights, bias, fold)
            total = None
            for token, weight, size in reversed(list(zip(tokens, weights, sizes, strict=True))):
                if size == sizes[0] and total is not None:
                    # One product that starts from the sum of the others, with one rounding.
                    total = torch.baddbmm(total.flatten(2).transpose(1, 2), token, weight.T.expand(count, -1, -1))
                    total = total.transpose(1, 2).unflatten(2, size)
                    continue
                one = F.linear(token, weight, bias.to(dtype) if total is None else None)
                one = one.transpose(1, 2).unflatten(2, size)
                one = F.interpolate(one, sizes[0], mode="bilinear", align_corners=False)
                total = one if total is None else total + one
        # Outside, so that autocast treats the stock modules as it always does.
        hidden = self.activation(total if fold else norm(total))
        if count == 1 and self.dropout.training:
            hidden = hidden.contiguous()  # stock's memory format, which dropout's mask follows
        logits = self.classifier(self.dropout(hidden))
        return logits.contiguous() if count == 1 else logits

    def _can_be_composed(self) -> bool:
        """Whether projections and fusion are nothing but their weights."""
        return (
            all(
                _is_untouched(mlp, SegformerMLP) and _is_untouched(mlp.proj, nn.Linear) and mlp.proj.bias is not None
                for mlp in self.linear_projections
            )
            and _is_pointwise(self.linear_fuse)
            and self.linear_fuse.bias is None
            and not torch.jit.is_tracing()  # it would keep blocks of one size for all
        )

    @torch.no_grad()
    def compose(self) -> tuple[list[Tensor], Tensor] | None:
        """The matrices and the bias that evaluation uses, BatchNorm included; None where it calls stock's layers."""
        return self._compose(fold=True) if self._can_be_composed() and _is_plain(self.batch_norm) else None

    def _compose(self, fold: bool) -> tuple[list[Tensor], Tensor]:
        """One (D, C_i) matrix per stage and the bias of the sum, in fp32 at least."""
        fuse = self.linear_fuse.weight[:, :, 0, 0]
        fuse = fuse.to(torch.promote_types(fuse.dtype, torch.float32))
        projections = [linear.proj for linear in self.linear_projections]
        slices = reversed(fuse.chunk(len(projections), dim=1))
        pairs = list(zip(slices, projections, strict=True))
        bias = sum(part @ one.bias.to(fuse) for part, one in pairs)
        weights = [part @ one.weight.to(fuse) for part, one in pairs]
        if not fold:
            return weights, bias
        norm = self.batch_norm
        scale = norm.weight.to(fuse) * (norm.running_var.to(fuse) + norm.eps).rsqrt()
        bias = (bias - norm.running_mean.to(fuse)) * scale + norm.bias.to(fuse)
        return [scale[:, None] * one for one in weights], bias

    def _goes_by_blocks(self, stages: Sequence[Tensor], plain: bool) -> bool:
        return (
            plain
            and stages[0].device.type == "cpu"
            and _is_untouched(self.activation, nn.ReLU)
            and _is_untouched(self.dropout, nn.Dropout)
            and self.dropout.p < 1
            and _is_pointwise(self.classifier)
            and self.classifier.bias is not None
            and len(stages[0]) * stages[0].shape[2:].numel() > 1  # else stock's BatchNorm raises its error
            and not torch.compiler.is_compiling()
        )

    def _forward_by_blocks(self, tokens, sizes, weights, bias, fold: bool) -> Tensor:
        (fine, *coarse_tokens), norm, count, dtype = tokens, self.batch_norm, len(tokens[0]), tokens[0].dtype
        # The bias goes where it costs least: upsampling leaves constants as they are.
        biases = [*(None for _ in coarse_tokens[1:]), bias.to(dtype)]
        parts = zip(coarse_tokens, weights[1:], biases, sizes[1:], strict=True)
        coarse = [F.linear(token, weight, one).unflatten(1, size) for token, weight, one, size in parts]
        classifier, classifier_bias = self.classifier.weight[:, :, 0, 0], self.classifier.bias.to(dtype)
        keep = None
        if self.dropout.training and self.dropout.p:
            keep = self._draw_mask(count, fine.shape[1], len(bias))
            classifier = classifier / (1 - self.dropout.p)
        classifier = classifier.to(dtype)
        if fold and not torch.is_grad_enabled():
            logits = compute_logits(sizes[0], fine, weights[0], coarse, classifier, classifier_bias, keep)
        else:
            scale, shift = (None, None) if fold else (norm.weight.to(bias), norm.bias.to(bias))
            logits, mean, variance = BlockedHead.apply(
                sizes[0], norm.eps, keep, fine, weights[0], scale, shift, classifier, classifier_bias, *coarse
            )
            if not fold:
                _update_statistics(norm, mean, variance, count * fine.shape[1])
        logits = logits.transpose(1, 2).unflatten(2, sizes[0])
        return logits.contiguous() if count == 1 else logits

    def _draw_mask(self, count: int, pixels: int, width: int) -> Tensor:
        """What stock draws, (N, pixels, D), a byte each instead of a float: in the order of its memory."""
        # That is channels-last, except for a single image.
        shape = (1, width, pixels) if count == 1 else (count, pixels, width)
        mask = torch.empty(shape, dtype=torch.uint8, device="cpu").bernoulli_(1 - self.dropout.p)
        return mask.transpose(1, 2) if count == 1 else mask


@torch.no_grad()
def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var), norm.momentum)


def apply_fast_decode_head(model: nn.Module) -> bool:
    """Makes a SegFormer of stock transformers compute its decode head fast; what it computes stays.

    Weights, state dict, saved files, copies and pickles are those of the stock model: only the class of the module
    `decode_head` changes. Any other model is left alone.

    Returns:
        Whether the model has the fast head now.
    """
    head = getattr(model, "decode_head", None)
    if type(head) is SegformerDecodeHead:
        head.__class__ = FastSegformerDecodeHead
    return type(head) is FastSegformerDecodeHead


def restore_stock_decode_head(model: nn.Module) -> None:
    """Undoes `apply_fast_decode_head`."""
    head = getattr(model, "decode_head", None)
    if type(head) is FastSegformerDecodeHead:
        head.__class__ = SegformerDecodeHead


def _is_untouched(module: nn.Module, kind: type) -> bool:
    """Whether calling the module is `kind.forward` and nothing else: no subclass (adapters, pruned or parametrised
    weights), no hooks, no other `forward` on the instance (accelerate).
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is kind and "forward" not in vars(module) and not any(getattr(module, name) for name in hooks)


def _is_pointwise(module: nn.Module) -> bool:
    if not _is_untouched(module, nn.Conv2d):
        return False
    return (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _is_plain(norm: nn.Module) -> bool:
    known = _is_untouched(norm, nn.BatchNorm2d)
    return known and norm.affine and norm.track_running_stats and norm.momentum is not None
