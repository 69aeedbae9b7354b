from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.reports.systems import REPORT_POINTS, ROWS, SYSTEMS


def test_report_points__are_the_report_s_table():
    found = {(point.name, point.pretraining): (point.mean_iou, point.gmac) for point in REPORT_POINTS}
    assert len(found) == len(REPORT_POINTS) == 17
    assert found["SegFormer-B2", "cityscapes"] == (0.7845, 50.633)
    assert found["UNet", "none"] == (0.4555, 356)
    assert max(found, key=found.get) == ("SegFormer-B5", "cityscapes")


def test_systems__each_has_a_row_and_a_recipe_for_its_size():
    assert len({system.word for system in SYSTEMS}) == len(SYSTEMS) == 18
    assert [(system.word, system.teacher) for system in SYSTEMS if system.teacher] == [
        ("cwd_pspnet_resnet18", "pspnet_resnet101")]  # fmt: skip
    assert ROWS.index("pspnet_resnet101") < ROWS.index("cwd_pspnet_resnet18")  # runs are started in this order
    assert [system.word for system in SYSTEMS if system not in REPORT_POINTS] == ["pspnet_resnet50"]
    for system in SYSTEMS:
        recipe = load_recipe(system.recipe, system.size)
        assert (recipe.get("architecture", "segformer"), recipe["size"]) == (system.architecture, system.size)
        scratch = recipe.get("init") == "random"
        assert scratch == (system.pretraining == "none"), system.word
        assert ("teacher" in recipe) == (system.teacher is not None)
        if system.pretraining == "cityscapes":
            assert "cityscapes" in (recipe["model_name_or_path"] or "cityscapes: to be named")
