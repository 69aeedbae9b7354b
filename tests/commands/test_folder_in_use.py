"""Every command that writes into a folder leaves it alone while another process is at work there."""

import importlib
import os

import pytest
from folder_contents import read_folder

from hf_urbanseg.locks import LOCK, locked


@pytest.mark.parametrize(
    ("name", "line", "inside"),
    [
        ("finetune", "--dataset synthetic --init random --size tiny --output_dir {folder}", True),
        ("finetune", "--dataset synthetic --init random --size tiny --output_dir {folder} --resume", True),
        ("finetune", "--dataset synthetic --init random --size tiny --output_dir {folder} --overwrite", True),
        ("evaluate", "{run} --output {folder}", True),
        ("predict", "{run} image.png --output {folder}", True),
        ("compare", "{run} {run} --output {folder}", True),
        ("browse_data", "--dataset synthetic --output {folder}", True),
        ("publish", "{folder} user/name", True),
        ("reproduce", "ladder --size tiny --dataset synthetic --output_dir {folder} -- --init random", True),
        ("reproduce", "table --rows unet --dataset synthetic --output_dir {folder} -- --size tiny", True),
        ("prepare_data", "--dataset synthetic --output {folder}", False),
        ("prepare_data", "--dataset synthetic --output {folder} --overwrite", False),
        ("convert_checkpoint", "model.pth --output {folder}", False),
        ("convert_checkpoint", "{run} --to nvlabs --output {folder}/model.pth", False),
    ],
)
def test_commands__refuse_a_folder_in_use(run, fails, tmp_path, name, line, inside):
    folder = tmp_path / "folder"
    (folder / "checkpoint-2").mkdir(parents=True)
    (folder / "checkpoint-2" / "model.safetensors").write_text("of the living run")
    path = folder / "model.pth" if line.endswith("model.pth") else folder
    with locked(path, inside=inside):
        before = read_folder(tmp_path)
        main = importlib.import_module(f"hf_urbanseg.commands.{name}").main
        said = fails(main, *line.format(run=run, folder=folder).split())
        assert f"found one at work (process {os.getpid()} on " in said
        assert said.startswith(f"error: {path}: ")
        assert read_folder(tmp_path) == before
    assert list(read_folder(tmp_path)) == ["folder/checkpoint-2/model.safetensors"]


def test_prepare_data__a_lock_left_by_a_killed_process_is_not_in_the_way(tmp_path):
    from hf_urbanseg.data.own_files import check_output

    (tmp_path / LOCK).touch()
    check_output(tmp_path, False, lambda path: False, "a prepared set")
