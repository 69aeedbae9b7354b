import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.preprocessing import EvalDataset, build_views
from hf_urbanseg.errors import ConfigError, DataError, ModelError, UrbanSegError
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.inference.multi_scale import predict_probabilities
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.inference.predictor import Predictor, build_label_space, load_label_ids
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.models.decode_head import FastSegformerDecodeHead

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        id2label=CITYSCAPES.id2label,
        label2id=CITYSCAPES.label2id,
    )
    model = SegformerForSemanticSegmentation(config)
    # Random weights barely react to the input; larger ones give maps of several classes.
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    return model.eval()


@pytest.fixture
def processor():
    return SegformerImageProcessorPil(size={"height": 64, "width": 96})


@pytest.fixture
def folder(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _images(*sizes):
    rng = np.random.default_rng(0)
    small = (rng.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in sizes)
    return [Image.fromarray(pixels).resize((w, h)) for pixels, (h, w) in zip(small, sizes, strict=True)]


def test_predict__equals_the_processor_of_transformers(model, processor):
    images = _images((75, 124), (40, 33), (64, 96))
    sizes = [(75, 124), (40, 33), (64, 96)]
    with torch.no_grad():
        logits = model(**processor(images, return_tensors="pt")).logits
    expected = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), target_sizes=sizes)
    found = Predictor(model, processor).predict(images, batch_size=3)
    assert [one.shape for one in found] == sizes
    assert all(one.dtype == np.uint8 for one in found)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert len(np.unique(found[0])) > 1  # a constant map would agree with anything


def test_predict__batch_size_changes_nothing(model, processor):
    images = _images((75, 124), (40, 33), (64, 96), (20, 20), (30, 50))
    predictor = Predictor(model, processor)
    for one, other in zip(predictor.predict(images, 2), predictor.predict(images, 1), strict=True):
        assert (one == other).mean() > 0.999  # other kernels for other batches may flip ties


def test_predict__processor_that_keeps_sizes(model):
    images = _images((64, 96), (32, 64))
    predictor = Predictor(model, SegformerImageProcessorPil(do_resize=False))
    together, alone = predictor.predict(images, 2), [predictor.predict([image])[0] for image in images]
    assert [one.shape for one in together] == [(64, 96), (32, 64)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_predict__other_modes_are_shown_as_rgb(model, processor):
    (image,) = _images((64, 96))
    grey = image.convert("L")
    predictor = Predictor(model, processor)
    np.testing.assert_array_equal(predictor.predict([grey])[0], predictor.predict([grey.convert("RGB")])[0])


def test_predict__takes_whatever_holds_an_image(model, processor, tmp_path):
    (image,) = _images((64, 96))
    path = tmp_path / "a.png"
    image.save(path)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [image, path, str(path), array, tensor, tensor.contiguous(), array[:, ::-1][:, ::-1]]
    predictor = Predictor(model, processor)
    (expected,) = predictor.predict([image])
    for kind in kinds:  # one alone gives its result alone
        np.testing.assert_array_equal(predictor.predict(kind), expected)
    for together in (kinds, tuple(kinds)):
        found = predictor.predict(together, batch_size=1)
        assert isinstance(found, list)
        assert all(np.array_equal(one, expected) for one in found)
        assert len(found) == len(kinds)
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 6), np.uint8), r"ndarray \(4, 6\) uint8"),
        (np.zeros((4, 6, 3)), r"ndarray \(4, 6, 3\) float64"),
        (np.zeros((3, 4, 6), np.uint8), r"ndarray \(3, 4, 6\) uint8"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"ndarray \(2, 4, 6, 3\) uint8"),
        (np.zeros((0, 6, 3), np.uint8), r"ndarray \(0, 6, 3\) uint8"),
        (torch.zeros(3, 4, 6), r"Tensor \(3, 4, 6\) float32"),
        (torch.zeros(4, 6, 3, dtype=torch.uint8), r"Tensor \(4, 6, 3\) uint8"),
        (torch.zeros(1, 3, 4, 6, dtype=torch.uint8), r"Tensor \(1, 3, 4, 6\) uint8"),
        (7, "int"),
        (None, "NoneType"),
        (Image.new("I;16", (4, 4), 4095), "16 bits and no value above 4095"),
        ("nowhere.png", "No such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_predict__says_what_is_no_image(model, processor, image, found):
    for one in (image, [image]):
        with pytest.raises(DataError, match=rf"expected .*; found {found}.*; .*\.$") as error:
            Predictor(model, processor).predict(one)
        assert "\n" not in str(error.value)


def test_predict__default_plan_is_one_pass_as_the_processor_says(model, processor):
    predictor = Predictor(model, processor)
    assert (predictor.sizes, predictor.base_size) == (None, (64, 96))
    images = _images((75, 124))
    same = Predictor(model, processor, plan=PredictionPlan((1.0,)))
    np.testing.assert_array_equal(same.predict(images)[0], predictor.predict(images)[0])


def test_predict__honours_the_plan(model, processor):
    images, plan = _images((75, 124), (40, 33)), PredictionPlan((0.5, 1.0, 1.5), flip=True)
    predictor = Predictor(model, processor, plan=plan)
    assert predictor.sizes((75, 124)) == [(32, 64), (64, 96), (96, 160)]
    total = [0, 0]
    for size in ((32, 64), (64, 96), (96, 160)):
        views = processor(images, size={"height": size[0], "width": size[1]}, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            for logits in (model(views).logits, model(views.flip(-1)).logits.flip(-1)):
                for index, image in enumerate(images):
                    target = (image.height, image.width)
                    total[index] += F.interpolate(logits[index : index + 1], target, mode="bilinear")[0].softmax(0)
    plain = Predictor(model, processor).predict(images)
    for found, expected, other in zip(predictor.predict(images), total, plain, strict=True):
        assert (found == expected.argmax(0).numpy()).mean() > 0.999  # rounding may decide ties
        assert (found != other).mean() > 0.01


def test_predict__window_slides_over_the_image_at_its_own_size(model, processor):
    images = _images((75, 124), (40, 33))
    plan = PredictionPlan(window=(64, 64))
    predictor = Predictor(model, processor, plan=plan)
    assert predictor.sizes((75, 124)) == [(75, 124)]
    found = predictor.predict(images)
    assert [one.shape for one in found] == [(75, 124), (40, 33)]
    # The small one fits into a window: predicted whole, at its own size instead of the processor's.
    own_size = Predictor(model, SegformerImageProcessorPil(do_resize=False))
    np.testing.assert_array_equal(found[1], own_size.predict(images[1:])[0])
    assert (found[0] != own_size.predict(images[:1])[0]).mean() > 0.01


def test_predict__scales_of_a_processor_that_keeps_sizes(model):
    (image,) = _images((64, 96))
    keeps = SegformerImageProcessorPil(do_resize=False)
    predictor = Predictor(model, keeps, plan=PredictionPlan((1.0, 1.5)))
    assert predictor.base_size is None
    assert predictor.sizes((64, 96)) == [(64, 96), (96, 160)]  # 144 is between 128 and 160: up
    resizes = Predictor(model, SegformerImageProcessorPil(size={"height": 64, "width": 96}), plan=predictor.plan)
    np.testing.assert_array_equal(predictor.predict([image])[0], resizes.predict([image])[0])


def test_predictor__scales_need_a_height_and_width(model):
    processor = SegformerImageProcessorPil(size={"shortest_edge": 64})
    Predictor(model, processor, plan=PredictionPlan(window=(64, 64)))  # doesn't look at it
    with pytest.raises(ModelError, match=r"`height` and `width`; found `size` .*shortest_edge.*64"):
        Predictor(model, processor, plan=PredictionPlan((0.5,)))


def test_from_pretrained__takes_a_plan(model, processor, folder):
    plan = PredictionPlan((0.5, 1.0), flip=True)
    images = _images((75, 124))
    loaded = Predictor.from_pretrained(folder, "cpu", plan)
    assert loaded.plan is plan
    np.testing.assert_array_equal(loaded.predict(images)[0], Predictor(model, processor, plan=plan).predict(images)[0])


def test_predict__ignores_training_mode(model, processor):
    images = _images((64, 96))
    predictor = Predictor(model, processor)
    expected = predictor.predict(images)[0]
    model.train()
    np.testing.assert_array_equal(predictor.predict(images)[0], expected)
    assert not model.training


def test_from_pretrained__gives_the_same_prediction(model, processor, folder):
    images = _images((75, 124))
    loaded = Predictor.from_pretrained(folder, device="cpu")
    expected = Predictor(model, processor).predict(images)[0]
    np.testing.assert_array_equal(loaded.predict(images)[0], expected)
    assert type(loaded.image_processor) is SegformerImageProcessorPil
    assert loaded.image_processor.size == processor.size
    assert loaded.label_space.names == CITYSCAPES.names


def _change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


CLASSIFIER = "decode_head.classifier.bias"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda weights: weights.pop(CLASSIFIER), rf"1 missing \({CLASSIFIER}\)"),
        (lambda weights: weights.update(extra=torch.zeros(3)), r"1 unexpected \(extra\)"),
        (lambda weights: weights.update({CLASSIFIER: torch.zeros(3)}), rf"1 of another shape \({CLASSIFIER}\)"),
    ],
)
def test_from_pretrained__refuses_incomplete_weights(folder, request, change, found):
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    transformers.utils.logging.add_handler(handler)
    request.addfinalizer(lambda: transformers.utils.logging.remove_handler(handler))
    _change_weights(folder, change)
    transformers.utils.logging.set_verbosity_warning()
    with pytest.raises(ModelError, match=found) as error:
        Predictor.from_pretrained(folder)
    assert str(error.value).startswith(f"{folder}: expected weights for every tensor")
    assert "\n" not in str(error.value)
    assert not said  # no loading report beside the one line
    assert transformers.utils.logging.get_verbosity() == logging.WARNING


@pytest.mark.parametrize("name", [CLASSIFIER, "decode_head.batch_norm.running_var"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_from_pretrained__refuses_weights_that_are_not_finite(folder, name, value):
    _change_weights(folder, lambda weights: weights[name].__setitem__(0, value))
    with pytest.raises(ModelError) as error:
        Predictor.from_pretrained(folder)
    line = f"{folder}: expected finite weights; found inf or NaN in `{name}`; take an earlier checkpoint."
    assert str(error.value) == line


@pytest.mark.parametrize("plan", [PredictionPlan(), PredictionPlan(flip=True), PredictionPlan(window=(64, 64))])
def test_predict__logits_that_are_not_finite_name_the_image(folder, plan, tmp_path):
    predictor = Predictor.from_pretrained(folder, "cpu", plan)
    images = _images(*[(75, 124)] * 3)
    images[1] = Image.new("RGB", (124, 75))
    paths = [tmp_path / f"street {number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)

    def ruin_black(module, args, options, output):
        black = options["pixel_values"].mean((1, 2, 3)) < -1.5
        output.logits = torch.where(black[:, None, None, None], torch.inf, output.logits)

    predictor.model.register_forward_hook(ruin_black, with_kwargs=True)
    for given, name in ((paths, paths[1]), (images, "image 1")):
        with pytest.raises(ModelError) as error:
            predictor.predict(given)
        expected = f"expected logits that are finite numbers; found NaN or infinity for {name}; "
        assert str(error.value).startswith(expected)


def test_from_pretrained__refuses_damaged_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"found SafetensorError: .*; copy or train it again\.$"):
        Predictor.from_pretrained(folder)


@pytest.mark.parametrize("key", ["do_reduce_labels", "reduce_labels"])
def test_from_pretrained__a_processor_that_reduces_labels_shifts_nothing(folder, key):
    """As ADE20K's checkpoints have it: neither what is predicted nor what it is measured against."""
    pixels = np.random.default_rng(0).integers(0, 34, (2, 40, 60), np.uint8)
    row = {"image": _images((40, 60))[0], "label": Image.fromarray(pixels[0]), "name": "a"}
    rows = Dataset.from_list([row], features=FEATURES)

    def look() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        predictor = Predictor.from_pretrained(folder, "cpu")
        dataset = EvalDataset(rows, CITYSCAPES, predictor.image_processor)
        loader = build_eval_loader(dataset, 1, 0)
        matrix = measure(predictor.model, loader, dataset.names, CITYSCAPES.names).matrix
        return predictor.predict(row["image"]), dataset[0]["labels"].numpy(), matrix

    before, path = look(), folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: True}))
    after = look()
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    np.testing.assert_array_equal(after[1], CITYSCAPES.train_id_table[pixels[0]])


@pytest.mark.parametrize("temperature", [1.0, 0.02])
@pytest.mark.parametrize(
    "plan", [PredictionPlan(), PredictionPlan((0.5, 1.0), True), PredictionPlan((1.5,), window=(64, 64))]
)
def test_predict__scores_are_of_the_logits_that_chose_the_class(model, processor, plan, temperature):
    """Sharpened or flattened mean probabilities; of one pass, the softmax of its upsampled logits."""
    images, predictor = _images((75, 124), (40, 60)), Predictor(model, processor, plan=plan)
    predictor.temperature = temperature
    plain = predictor.predict(images)
    found = {scores: predictor.predict(images, 1, scores) for scores in ("confidence", "probabilities")}
    for index, image in enumerate(images):
        if plan.is_plain:
            with torch.no_grad():
                logits = model(**processor(image, return_tensors="pt")).logits
            size = image.size[::-1]
            expected = (F.interpolate(logits, size, mode="bilinear")[0] / temperature).softmax(0).numpy()
        else:
            views = [view[None] for view in build_views(image, processor, predictor.sizes)]
            (mean,) = predict_probabilities(model, views, [image.size[::-1]], plan)
            expected = mean.double().numpy() ** (1 / temperature)
            expected /= expected.sum(0)
        assert temperature == 1 or expected.max(0).std() > 0.02  # surer here than there
        for train_ids, scores in (found["confidence"][index], found["probabilities"][index]):
            assert (train_ids == plain[index]).mean() > 0.999  # batches of other sizes may flip ties
            own = np.take_along_axis(expected, train_ids[None].astype(int), 0)[0]
            assert scores.dtype == (np.float32 if scores.ndim == 2 else np.float16)
            if scores.ndim == 2:
                np.testing.assert_allclose(scores, own, atol=1e-5 / temperature)
            else:
                np.testing.assert_allclose(scores, expected, atol=1e-3)
    with pytest.raises(ConfigError, match="expected `scores` of confidence, probabilities; found 'logits'"):
        predictor.predict(images, scores="logits")


def _write_label_space(folder, **changes):
    classes = [{"name": name, "color": [1, 2, 3], "label_ids": [i + 1]} for i, name in enumerate(CITYSCAPES.names)]
    classes[4]["label_ids"] = [100, 5]  # the lowest counts
    space = {"name": "mine", "classes": classes, "void": [0]} | changes
    (folder / "label_space.json").write_text(json.dumps(space))


def test_load_label_ids__those_of_the_training_data(folder):
    _write_label_space(folder)
    space = load_label_ids(folder, CITYSCAPES.names)
    assert space.label_id_table[:19].tolist() == [*range(1, 20)]
    assert Predictor.from_pretrained(folder, "cpu").label_space.label_ids[0] == 0  # train ids elsewhere


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (None, "/model: expected a model with the label_space.json that training writes, for label ids; found none; "),
        (
            {"classes": [{"name": "a", "color": [1, 2, 3]}], "void": []},
            "expected the model's 19 classes; found 1 others; ",
        ),
        (
            {"classes": [{"name": n, "color": [1, 2, 3], "label_ids": [7] * (n == "car")} for n in CITYSCAPES.names]},
            "label_space.json: expected a label id for every class; found none for road, sidewalk, ",
        ),
    ],
)
def test_load_label_ids__refuses_what_it_can_not_spell(folder, changes, said):
    if changes is not None:
        _write_label_space(folder, **changes)
    with pytest.raises(ModelError) as caught:
        load_label_ids(folder, CITYSCAPES.names)
    assert said in str(caught.value)
    assert str(caught.value).endswith("leave label ids out: train ids are the model's own numbers.")


def test_load_label_ids__void(folder):
    _write_label_space(folder)
    assert load_label_ids(folder, CITYSCAPES.names, void=True).label_id_table[255] == 0
    _write_label_space(folder, void=[])
    assert load_label_ids(folder, CITYSCAPES.names).label_id_table[255] == 0  # which is no class, nor void
    with pytest.raises(ModelError, match=r"label_space.json: expected a label id for void; found none; leave out"):
        load_label_ids(folder, CITYSCAPES.names, void=True)


@pytest.mark.parametrize("filename", ["preprocessor_config.json", "config.json", "model.safetensors"])
def test_from_pretrained__names_a_missing_file(folder, filename):
    (folder / filename).unlink()
    with pytest.raises(ModelError, match=filename.split(".")[0]) as error:
        Predictor.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_from_pretrained__refuses_a_damaged_processor(folder):
    (folder / "preprocessor_config.json").write_text('{"size": ')
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: expected an image processor's options"):
        Predictor.from_pretrained(folder)


@pytest.mark.parametrize("name", ["runs/never_trained", "/no/such/folder", "./nowhere"])
def test_from_pretrained__missing_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=rf"^{name}: expected a model folder.*train a model first") as error:
        Predictor.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_from_pretrained__mistyped_path_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError, match=r"^runs/dmeo: expected a model folder; found nothing there"):
        Predictor.from_pretrained("runs/dmeo")


def test_build_label_space__cityscapes_names_have_their_colours():
    assert build_label_space(CITYSCAPES.id2label).colors == CITYSCAPES.colors


def test_build_label_space__other_names_get_distinct_colours():
    space = build_label_space({0: "road"} | {index: f"class {index}" for index in range(1, 150)})
    assert space.colors[0] == (128, 64, 128)
    assert len(set(space.colors)) == 150
    assert (0, 0, 0) not in space.colors  # void
    first = np.array(space.colors[:12], float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=-1)[np.triu_indices(12, 1)]
    assert apart.min() > 100


def test_build_label_space__ids_as_in_json_or_with_gaps():
    assert build_label_space({"1": "b", "0": "a"}).names == ("a", "b")
    for ids, found in (({0: "a", 2: "b"}, "[0, 2]"), ({"0": "a", "x": "b"}, "['0', 'x']")):
        with pytest.raises(ModelError, match=re.escape(f"ids 0..1; found {found}")):
            build_label_space(ids)


@pytest.mark.parametrize("name", [None, 7, "", ["x"], "a\nb", "\x1b]0;a\x07", "x" * 10_000])
def test_from_pretrained__a_foreign_models_names(folder, name):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["id2label"]["0"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(UrbanSegError) as caught:
        Predictor.from_pretrained(folder, "cpu")
    assert str(caught.value).startswith(f"{folder}: expected ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1030


def test_from_pretrained__half_precision_files_are_measured_in_fp32(tmp_path):
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    build_random_model("tiny", CITYSCAPES, **sizes).half().save_pretrained(tmp_path)
    build_image_processor((64, 96)).save_pretrained(tmp_path)
    assert Predictor.from_pretrained(tmp_path, "cpu").model.dtype == torch.float32


def test_from_pretrained__fast_decode_head_unless_told_otherwise(folder):
    fast = Predictor.from_pretrained(folder, "cpu")
    stock = Predictor.from_pretrained(folder, "cpu", stock_decode_head=True)
    assert type(fast.model.decode_head) is FastSegformerDecodeHead
    assert type(stock.model.decode_head) is SegformerDecodeHead
    images = _images((75, 124), (40, 33))
    for ours, theirs in zip(fast.predict(images), stock.predict(images), strict=True):
        assert (ours == theirs).mean() > 0.999
