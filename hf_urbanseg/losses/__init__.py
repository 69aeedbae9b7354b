"""Training losses, each exact under accumulation and several processes.

All are built from `num_labels`, the number C of classes, and `ignore_index` (255), the label of pixels left out, and
called as `loss(logits, labels, normalizer=None)`.

Shape:
    logits: (N, C, h, w) float, unnormalised, upsampled to the labels' resolution. labels: (N, H, W) int64 train ids or
        `ignore_index`.
    normalizer: scalar, the sum of `compute_normalizer(labels)`, fp64, over *all* micro-batches and ranks of an
        optimiser step; None takes this batch's own.
    returns: scalar fp32 (fp64 for fp64 logits), what this batch adds to the step's loss; 0 with gradient when the
        normaliser is 0.

With `scope="global"` a loss goes by the whole optimiser step, however it is cut: before the first real forward pass,
`collect(logits, labels)` sees every micro-batch (a second pass of the model), and `settle(reduce)`, called on all ranks
alike, looks at all of it; `reduce` sums a tensor over ranks. `release()` forgets the step. With `"process"`, or without
a `settle`, it goes by the images of one `forward`.
"""
