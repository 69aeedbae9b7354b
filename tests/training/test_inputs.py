"""What a run trains on."""

from dataclasses import replace

import numpy as np
from datasets import Dataset

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.training.inputs import weigh_classes


def test_weigh_classes__of_a_set_that_counted_its_pixels_by_this_mapping_alone(tmp_path):
    random = np.random.default_rng(0)
    labels = [random.choice(3, (20, 30), p=(0.6, 0.3, 0.1)).astype(np.uint8) for _ in range(6)]
    rows = {
        "image": [random.integers(0, 256, (20, 30, 3), np.uint8) for _ in labels],
        "label": labels,
        "name": [*"abcdef"],
    }
    rows = Dataset.from_dict(rows, features=FEATURES)
    space = LabelSpace("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), {0: 0, 1: 1, 2: 2})
    write_shards(LoadedData({"train": rows}, space, "made", ()), tmp_path / "set", 4, {}, progress=False)

    def count(label_space=None, scheme="inverse_log"):
        loaded = load_data(dataset=str(tmp_path / "set"), streaming=True, preflight_frames=2, label_space=label_space)
        inspection = inspect_pairs(loaded.splits, loaded.label_space, progress=False, sampled=True)
        sample = inspection.train_id_counts("train", loaded.label_space)
        return weigh_classes(scheme, inspection, loaded.label_space)[1].tolist(), (3 * sample).sum(0).tolist()

    whole = np.bincount(np.stack(labels).ravel()).tolist()
    assert count()[0] == count(replace(space, name="renamed"))[0] == whole
    for other in (replace(space, label_ids={0: 2, 1: 1, 2: 0}), replace(space, label_ids={0: 0, 1: 1, 2: 255})):
        found, of_sample = count(other)
        assert found == of_sample != whole
    found, of_sample = count(scheme="median_frequency")
    assert found == of_sample != whole
