"""Memory that ran out, on a device or on the host: told with what to change, and not tried again unchanged."""

import pytest
import torch

from orchestrator.cluster.actor import advice, failure_of

ON_DEVICE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
ON_HOST = [
    MemoryError("Unable to allocate 8.00 GiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
]


@pytest.mark.parametrize("error", ON_DEVICE)
def test_memory_of_an_accelerator_that_ran_out_names_the_three_settings(error):
    failure = failure_of(error)
    assert not failure.retryable
    for setting in ("optimizer.batch_size", "cluster.gpus_per_member", "precision"):
        assert setting in failure.message
    assert "emory" in failure.message or "ALLOC" in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize("error", ON_HOST)
def test_memory_of_the_machine_that_ran_out_names_its_own_settings(error):
    failure = failure_of(error)
    assert not failure.retryable
    assert "optimizer.batch_size" in failure.message
    assert "cluster.cpus_per_member" in failure.message
    assert "gpus" not in failure.message


def test_what_torch_raises_when_the_host_cannot_give_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert advice(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("CUDA error: out of memory")])
def test_other_errors_are_left_as_they_are(error):
    failure = failure_of(error)
    assert (failure.retryable, failure.message, advice(error)) == (True, str(error), "")
