"""The samples that a run trains on: of one set or several, some shown more often, read where they lie or kept."""

import logging
from dataclasses import asdict, replace
from itertools import chain

import numpy as np

from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.decoded_cache import build_decoded_cache
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, list_movable
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.data.preprocessing import JoinedDataset, TrainDataset
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.launch import count_local_processes
from hf_urbanseg.models.sizes import find_commonest
from hf_urbanseg.options.config import AugmentationArguments
from hf_urbanseg.options.sampling import SamplingArguments
from hf_urbanseg.options.stock_options import choose_data_seed
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.runs.folder import RunFolder
from hf_urbanseg.training.inputs import Prepared

logger = logging.getLogger(__name__)


def build_train_dataset(
    prepared: Prepared, sampling: SamplingArguments, args: UrbanSegTrainingArguments
) -> TrainDataset | JoinedDataset:
    """Of further data, frames are brought to the main data's commonest size first, where scales are ratios."""
    data, inspection, added = prepared.data, prepared.inspection, prepared.added
    augmentation, teacher = prepared.augmentation, prepared.teaching.cache
    sets = [(data.splits["train"], data.label_space, inspection.pairs["train"])]
    sets += [(one.rows, one.label_space, one.pairs) for one in added]
    rare, paste = _show_more_often(sampling, augmentation, inspection, data.label_space)
    parts, cached = [], 0
    for number, (rows, space, pairs) in enumerate(sets):
        base = find_commonest(inspection.sizes("train")) if number else None
        transforms = build_train_transforms(**asdict(augmentation), base=base)
        sizes = [pair.size for pair in pairs]
        if isinstance(rows, ShardedRows):
            skipped = RunFolder(args.output_dir).skipped_frames if sampling.bad_frames == "skip" else None
            rows = replace(rows, buffer=sampling.shuffle_buffer)
            cache = CheckedFrames(rows, space, skipped)
        else:
            processes = count_local_processes()
            cache = build_decoded_cache(rows, space, sizes, args.cache_images, processes, data.channels, cached)
            cached += 0 if cache is None else cache.memory.nbytes
        first = sum(map(len, parts))
        seed, pasted = choose_data_seed(args), None if number else paste
        options = {"rare": rare, "paste": pasted, "shuffle_buffer": sampling.shuffle_buffer}
        parts.append(TrainDataset(rows, space, transforms, seed, cache, teacher, first, **options))
    if not added:
        return parts[0]
    shares = [one.share for one in added]
    return JoinedDataset(
        parts, [1 - sum(shares), *shares], [*parts[0].names, *chain.from_iterable(one.frames for one in added)]
    )


def _show_more_often(
    sampling: SamplingArguments, augmentation: AugmentationArguments, inspection: Inspection, space: LabelSpace
) -> tuple[RareClasses | None, ObjectPaste | None]:
    share, paste_share = sampling.rare_class_share, sampling.paste_share
    if not share and not paste_share:
        return None, None
    counts = inspection.train_id_counts("train", space)
    rare = RareClasses(counts, share, sampling.rare_class_temperature, sampling.rare_class_min_pixels)
    if share:
        shown = [one for one in np.argsort(-rare.probabilities, kind="stable") if rare.probabilities[one] >= 0.01]
        told = (f"{space.names[one]} {100 * rare.probabilities[one]:.0f} % ({len(rare.images[one])})" for one in shown)
        told = ", ".join(told)
        logger.info("drawn by class: %.0f %% of the samples, of them (from so many frames) %s", 100 * share, told)
    if not paste_share:
        return rare, None
    pasted = choose_pasted(sampling.paste_classes, rare, space)
    told = ", ".join(space.names[one] for one in pasted)
    logger.info("pasted: an object of %s, into %.0f %% of the samples", told, 100 * paste_share)
    movable, flip = list_movable(space), augmentation.flip
    return rare, ObjectPaste(rare, pasted, movable, paste_share, flip, augmentation.photometric)
