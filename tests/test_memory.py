import errno
import pickle

import pytest
import torch

from hf_urbanseg.errors import DataError, OutOfMemoryError
from hf_urbanseg.memory import explain_shortage, explaining_shortage, is_shortage

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.20 GiB is free. "
    "Process 4242 has 5.00 GiB memory in use. Of the allocated memory 4 GiB is allocated by PyTorch, and 1 GiB is "
    "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF."
)
WORKER = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
    "RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)\n"
)
OF_A_DEVICE = [
    torch.OutOfMemoryError(CUDA),
    torch.AcceleratorError("CUDA error: out of memory", 2),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB, max allowed: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OF_THE_MACHINE = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(WORKER),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers"),
]
OTHERS = [
    None,
    RuntimeError("shapes differ"),
    ValueError("out of memory"),
    OSError(errno.ENOSPC, "No space"),
    DataError,
]


@pytest.mark.parametrize("error", OF_A_DEVICE + OF_THE_MACHINE + OTHERS, ids=lambda error: str(error)[:40])
def test_is_shortage__of_a_device_or_the_machine(error):
    assert is_shortage(error) == any(error is one for one in OF_A_DEVICE + OF_THE_MACHINE)
    assert is_shortage(error, of_device=True) == any(error is one for one in OF_A_DEVICE)


def test_is_shortage__of_what_torch_itself_raises():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_shortage(found.value)
    assert not is_shortage(found.value, of_device=True)


def test_explaining_shortage__other_errors_stay():
    def describe():
        pytest.fail("asked")

    for error in (KeyError("a"), RuntimeError("shapes differ"), DataError("a", "b", "c")):
        with pytest.raises(type(error)) as found, explaining_shortage(describe):
            raise error
        assert found.value is error


def test_explaining_shortage__without_the_advice_of_torch():
    with (
        pytest.raises(OutOfMemoryError) as found,
        explaining_shortage(lambda: ("a step", ["take less", "end it"], "; go on")),
    ):
        raise torch.OutOfMemoryError(CUDA)
    assert str(found.value) == (
        "expected memory for a step; found CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity "
        "of 7.79 GiB of which 1.20 GiB is free. Process 4242 has 5.00 GiB memory in use; take less, or end it; go on."
    )


@pytest.mark.parametrize("error", OF_THE_MACHINE[3:], ids=lambda error: str(error)[-40:])
def test_explain_shortage__of_workers_that_load(error):
    """Neither a smaller batch nor a smaller model is what they need."""
    text = str(explain_shortage(error, "a step", ["take less"], "; go on"))
    assert text.startswith("expected memory for the processes that load, while there was a step; found ")
    assert "`--dataloader_num_workers`" in text
    assert text.endswith("`--shm-size 8g`); go on.")
    assert "Traceback" not in text
    assert "take less" not in text


def test_out_of_memory_error__of_one_process_until_it_is_sent():
    error = OutOfMemoryError("memory", "none", "take less")
    sent = pickle.loads(pickle.dumps(error))
    assert (error.of_one_process, sent.of_one_process, str(sent)) == (True, False, str(error))
