"""What a launch says in the environment, and what has been left there of another one."""

import pytest
import torch

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.launch import count_local_processes, count_processes, is_first, is_first_of_machine
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments

LEFT = {"RANK": "5", "LOCAL_RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def environment(monkeypatch):
    def put(**values):
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", *LEFT):
            monkeypatch.setenv(name, "")  # so that it is put back, whatever the code does
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_is_first__of_a_launch(environment):
    environment(WORLD_SIZE="8", RANK="4", LOCAL_RANK="0", LOCAL_WORLD_SIZE="4")
    assert (count_processes(), count_local_processes()) == (8, 4)
    assert (is_first(), is_first_of_machine()) == (False, True)
    environment(WORLD_SIZE="8", RANK="3", LOCAL_RANK="3", LOCAL_WORLD_SIZE="4")
    assert (is_first(), is_first_of_machine()) == (False, False)


@pytest.mark.parametrize("size", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}])
def test_is_first__a_process_alone_whatever_is_left_over(environment, size):
    environment(**LEFT, **size)
    assert count_processes() == count_local_processes() == 1
    assert is_first()
    assert is_first_of_machine()


@pytest.mark.parametrize("size", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "", "LOCAL_WORLD_SIZE": ""}])
def test_training_arguments__a_process_alone_waits_for_no_others(environment, size, tmp_path):
    """accelerate would look for a group at MASTER_ADDR, for half an hour."""
    environment(**LEFT, **size)
    args = UrbanSegTrainingArguments(str(tmp_path), use_cpu=True)
    assert (args.world_size, args.process_index, args.should_save) == (1, 0, True)


def test_training_arguments__a_launch_that_would_be_processes_alone(environment, monkeypatch, tmp_path):
    """As on a GPU, where accelerate makes no group without LOCAL_RANK."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    environment(WORLD_SIZE="4", RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    with pytest.raises(ConfigError, match="LOCAL_RANK for each of WORLD_SIZE 4 processes; found none; start by"):
        UrbanSegTrainingArguments(str(tmp_path))
