"""What the Hub reads of a card."""

import json

from card_pages import build_card_run
from huggingface_hub import ModelCard
from loopback_cards import read_front_matter

from hf_urbanseg.hub.model_card import build_model_card


def test_build_model_card__model_index_holds_every_split(tmp_path):
    run = build_card_run(tmp_path / "run")
    card = ModelCard(build_model_card(run, "user/tiny-kitti"))
    metrics = json.loads((run / "metrics.json").read_text())["splits"]
    results = {(one.dataset_split, one.metric_type): one for one in card.data.eval_results}
    assert len(results) == 6
    for (split, key), one in results.items():
        assert one.metric_value == metrics[split][key]
        assert (one.dataset_type, one.dataset_name) == ("kitti", "KITTI semantic segmentation")
        assert one.metric_args["protocol"] == "single scale of 64x192 (height x width)"
        assert one.task_type == "image-segmentation"
    assert card.data.model_name == "tiny-kitti"
    assert card.data.tags == ["segformer", "semantic-segmentation", "kitti", "cityscapes", "hf_urbanseg"]
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.base_model == "nvidia/segformer-b0-finetuned-cityscapes-768-768"
    assert read_front_matter(card.content)["base_model_relation"] == "finetune"


def test_build_model_card__folders_are_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for base in ("models/mine", "runs/other", "/models/mine", "./mine"):
        front = read_front_matter(build_model_card(build_card_run(tmp_path / "run", model_name_or_path=base)))
        assert "base_model" not in front
        assert "base_model_relation" not in front
    front = read_front_matter(build_model_card(build_card_run(tmp_path / "run", init="random")))
    assert "base_model" not in front
    assert front["license"] == "cc-by-nc-sa-3.0"
    assert "datasets" not in front
