"""Online hard example mining: cross-entropy over the hardest pixels."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixel_sum import compute_cross_entropy
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss, Normalizer
from hf_urbanseg.ranges import Range, check_range


class OhemCrossEntropyLoss(CrossEntropyLoss):
    """Weighted cross-entropy over the hardest pixels of the batch; the easy ones count in the normaliser only.

    With p the probability of the true class and K = `min_kept` x images, pooled over the batch, kept are:
    - with `threshold`: pixels with p < threshold, and the K pixels of smallest p, whatever their p;
    - without: the K pixels of largest weighted loss.
    Pixels that tie with the K-th are kept too, so K is a lower bound; with K labelled pixels or fewer all are kept.

    Args:
        class_weights (`Sequence[float]`, *optional*): as in `CrossEntropyLoss`.
        normalizer (`str`, defaults to `"valid_pixels"`): as in `CrossEntropyLoss`; over *all* labelled pixels, kept or
            not, so the loss is the smaller the fewer are kept.
        min_kept (`int`, defaults to 100000): pixels kept at least, per image (report's code: 100,000; text: 10,000).
            Images without a labelled pixel count as images.
        threshold (`float`, *optional*): keep pixels whose true-class probability is below it (report's text: 0.5).
        scope (`str`, defaults to `"process"`, the field's convention): what "the batch" is; see `hf_urbanseg.losses`.
            `"global"` holds 4 bytes per labelled pixel until `settle` (8 for fp64 logits), which takes at most 6
            reductions of up to 2 KB (10 for fp64).

    Shape: that of `CrossEntropyLoss`. Logits are upsampled twice, block by block: for the choice, which holds 4 bytes
        per pixel, and for the loss (once after `settle`).

    Attributes:
        diagnostics: After `forward`, `kept_share`: kept of this batch's labelled pixels, in [0, 1]; `cut`: the
            probability (with `threshold`) or loss (without) up to which pixels count as hard.

    Source: Shrivastava et al. 2016 (arXiv:1604.03540); the pixel rule is MMSegmentation's `OHEMPixelSampler`. There a
        strict `<` on the (K+1)-th smallest probability loses the pixels that tie with it, even below K, and the
        easiest pixel(s) when K covers all; without a threshold ties are broken by sorting order. Probabilities are
        compared as losses (p < t as -log p > -log t), which keeps them apart where p rounds to 0 or 1.
    """

    name = "ohem"

    def __init__(
        self,
        num_labels: int,
        class_weights: Sequence[float] | Tensor | None = None,
        normalizer: Normalizer = "valid_pixels",
        min_kept: int = 100_000,
        threshold: float | None = None,
        scope: Literal["process", "global"] = "process",
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__(num_labels, class_weights, normalizer, ignore_index)
        check_range(0, min_kept=min_kept)
        if threshold is None and min_kept == 0:
            raise ConfigError("`min_kept` above 0 or a `threshold`", "0 and none", "nothing would be kept: give one")
        Range(0, 1, above=True).check("threshold", threshold)
        if scope not in ("process", "global"):
            raise ConfigError("`scope` process or global", f"{scope!r}", "choose one of them")
        self.min_kept, self.threshold, self.scope = min_kept, threshold, scope
        self.diagnostics: dict[str, Tensor] = {}
        self._hard_above = math.inf if threshold is None else -math.log(threshold)
        self.needs_collection = scope == "global"
        self.release()

    @torch.no_grad()
    def collect(self, logits: Tensor, labels: Tensor) -> None:
        self._collected.append(self._compute_hardness(logits, labels)[labels != self.ignore_index])
        self._images += len(labels)

    @torch.no_grad()
    def settle(self, reduce: Callable[[Tensor], Tensor]) -> None:
        hardness = torch.cat(self._collected)
        k = self.min_kept * int(reduce(hardness.new_tensor(self._images, dtype=torch.float64)))
        self._settled = self._find_cut(hardness, k, reduce)
        self._collected, self._images = [], 0

    def release(self) -> None:
        self._collected: list[Tensor] = []
        self._images = 0
        self._settled: Tensor | None = None

    def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
        hardest = self._settled
        if hardest is None:
            # Ignored pixels are 0 here, the value below which there is nothing: they don't move the cut.
            hardest = self._find_cut(self._compute_hardness(logits, labels).flatten(), self.min_kept * len(labels))
        kept: list[Tensor] = []

        def keep_hard(cross_entropy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            hardness = cross_entropy if self.threshold is not None else cross_entropy * weight
            # Not `>=`: a NaN must stay in the loss, where it is noticed.
            hard = ~(hardness < hardest) | (hardness > self._hard_above)
            weight = weight * hard
            kept.append(weight.count_nonzero())
            return cross_entropy * weight, weight

        loss = self._sum_over_pixels(logits, labels, normalizer, keep_hard)
        cut = hardest if self.threshold is None else hardest.clamp_max(self._hard_above).neg().exp()
        self.diagnostics = {
            "kept_share": torch.stack(kept).sum() / (labels != self.ignore_index).sum().clamp_min(1),
            "cut": cut,
        }
        return loss

    def _compute_hardness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W), 0 or more: -log p with a threshold, else the weighted loss; 0 where ignored."""
        weights = self.class_weights if self.threshold is None else None
        return compute_cross_entropy(logits, labels, weights, self.ignore_index)

    def _find_cut(self, hardness: Tensor, k: int, reduce: Callable[[Tensor], Tensor] = lambda counts: counts) -> Tensor:
        if int(reduce((hardness > self._hard_above).sum().double())) >= k:
            return hardness.new_tensor(math.inf)  # the threshold alone keeps enough: counting is cheaper
        return find_kth_largest(hardness, k, reduce)


def find_kth_largest(values: Tensor, k: int, reduce: Callable[[Tensor], Tensor] = lambda counts: counts) -> Tensor:
    """The exact k-th largest of non-negative floats spread over ranks, without bringing them together.

    Non-negative floats sort like their bits read as an integer. So it is found digit by digit, from the top: counts of
    each digit are summed over ranks, and only the values that share the digits so far go on. In one process it costs
    as much as `torch.kthvalue` and a tenth of a full sort (a million values on a CPU).

    Args:
        reduce: Sums an fp64 tensor over ranks; called at most 4 times for fp32, 8 for fp64, on all ranks alike.

    Shape:
        values: (n,) fp32 or fp64; n may be 0 and differ between ranks. NaN is above all others.
        returns: scalar of that type; 0, below which there is nothing, if there are fewer than k values.
    """
    bits = values.abs().view(torch.int64 if values.dtype == torch.float64 else torch.int32)  # NaN may have a sign
    found = 0
    for shift in range(torch.iinfo(bits.dtype).bits - 8, -1, -8):
        digits = (bits >> shift).bitwise_and_(255)
        counts = reduce(torch.bincount(digits, minlength=256).double())
        at_or_above = [*counts.flip(0).cumsum(0).flip(0).tolist(), 0.0]
        if at_or_above[0] < k:
            return values.new_zeros(())
        digit = max(d for d in range(256) if at_or_above[d] >= k)
        k -= int(at_or_above[digit + 1])
        bits, found = bits[digits == digit], found | digit << shift
    return bits.new_tensor(found).view(values.dtype)
