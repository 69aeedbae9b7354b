"""What the Hub reads of a card."""

import json

import pytest
from card_pages import accept, build_card_run
from huggingface_hub import ModelCard
from loopback_cards import check_card, read_front_matter

from hf_urbanseg.hub.cards.front_matter import slugify
from hf_urbanseg.hub.cards.markdown import flatten
from hf_urbanseg.hub.cards.model_card import build_model_card
from hf_urbanseg.json_yaml import write_json


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


def test_build_model_card__a_network_of_ours_is_none_of_transformers(tmp_path, hub_here):
    run = build_card_run(tmp_path / "run", architecture="pspnet", model_name_or_path="microsoft/resnet-18")
    card = build_model_card(run, "user/name")
    front = read_front_matter(card)
    assert front["library_name"] == "hf_urbanseg"
    assert front["tags"] == ["pspnet", "semantic-segmentation", "kitti", "hf_urbanseg"]
    assert front["base_model"] == "microsoft/resnet-18"
    assert front["license_name"] == "terms-of-microsoft-resnet-18-and-cc-by-nc-sa-3.0"
    assert "NVIDIA" not in card
    assert "transformers" not in card.partition("\n---\n")[0]
    accept(hub_here, card)


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


@pytest.mark.parametrize(
    "name",
    ["no", "null", "8", "0x1F", "2024-01-01", "a: b", "- a", "#x", "{a: 1}", "!!python/object:os.system", "*a", "'",
     "---", "...", "é 🚗", "a\tb", "~"],
)  # fmt: skip
def test_build_front_matter__texts_stay_texts(tmp_path, hub_here, name):
    card = build_model_card(build_card_run(tmp_path / "run", data=name), f"user/{slugify(name)}")
    assert check_card(card, "model") == ([], [])
    found = read_front_matter(card)["model-index"][0]
    assert found["name"] == slugify(name)
    assert found["results"][0]["dataset"] == {"name": flatten(name), "type": slugify(name), "split": "test"}
    if name in ("a: b", "é 🚗"):
        accept(hub_here, card)


def test_slugify__names_the_hub_takes():
    assert [slugify(name) for name in ("a b", "--a..b--", "ü", "", "a/b", "A_b.c-1", "x" * 200)] == [
        "a-b", "a.b", "model", "model", "a-b", "A_b.c-1", "x" * 90]  # fmt: skip


def test_build_front_matter__round_trip_through_the_library(tmp_path):
    """The library writes back what it read, and each score says where it comes from."""
    run = build_card_run(tmp_path / "run")
    card = ModelCard(build_model_card(run, "user/name"))
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    assert again.data.to_dict() == card.data.to_dict() == read_front_matter(card.content)
    given = read_front_matter(card.content)["model-index"][0]["results"][0]
    url = "https://huggingface.co/user/name/blob/main/metrics.json"
    assert given["source"] == {"name": "metrics.json", "url": url}
    assert "source" not in read_front_matter(build_model_card(run))["model-index"][0]["results"][0]


def test_build_front_matter__a_score_that_does_not_exist_is_left_out(tmp_path, hub_here):
    run = build_card_run(tmp_path / "run", splits=("test",))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"]["test"] |= {"mean_iou": None, "mean_accuracy": None}
    write_json(run / "metrics.json", metrics)
    card = build_model_card(run)
    (result,) = read_front_matter(card)["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["overall_accuracy"]
    metrics["splits"]["test"]["overall_accuracy"] = None
    write_json(run / "metrics.json", metrics)
    card = build_model_card(run)
    assert "model-index" not in read_front_matter(card)
    accept(hub_here, card)


def test_build_front_matter__licence(tmp_path):
    front = read_front_matter(build_model_card(build_card_run(tmp_path / "a")))
    assert (front["license"], front["license_name"]) == (
        "other", "nvidia-source-code-license-for-segformer-and-cc-by-nc-sa-3.0")  # fmt: skip
    assert front["license_link"] == "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
    front = read_front_matter(build_model_card(build_card_run(tmp_path / "b", init="random")))
    assert front["license"] == "cc-by-nc-sa-3.0"
    assert not {"license_name", "license_link"} & front.keys()


def test_build_front_matter__data_on_the_hub_and_tags_once(tmp_path):
    run = build_card_run(tmp_path / "a", data_dir=None, dataset="user/cityscapes-mini", data="user/cityscapes-mini")
    front = read_front_matter(build_model_card(run))
    assert front["datasets"] == ["user/cityscapes-mini"]
    (types,) = {tuple(result["dataset"].items())[:2] for result in front["model-index"][0]["results"]}
    assert dict(types) == {"name": "user/cityscapes-mini", "type": "user/cityscapes-mini"}
    assert front["tags"] == ["segformer", "semantic-segmentation", "cityscapes", "hf_urbanseg"]
    run = build_card_run(tmp_path / "run", dataset_config="fine", dataset_revision="abc123")
    dataset = read_front_matter(build_model_card(run))["model-index"][0]["results"][0]["dataset"]
    assert (dataset["config"], dataset["revision"]) == ("fine", "abc123")
