"""What a person is told when a member has run out of memory: the same work on the same device would do so again."""

# By class name: the orchestrator does not load torch. The first is torch's own, of any accelerator's allocator.
_ACCELERATOR_KINDS = ("OutOfMemoryError",)
_HOST_KINDS = ("MemoryError",)
# What drivers and libraries raise as a RuntimeError, in their own words, where no allocator of torch's is in between.
_ACCELERATOR_WORDS = (
    *("CUDA error: out of memory", "HIP error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
)
_HOST_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_ON_ACCELERATOR = (
    "the accelerator's memory is too small for this member: lower optimizer.batch_size, give it more of a GPU "
    "(cluster.gpus_per_member), or set precision=bf16"
)
_ON_HOST = (
    "this machine's memory is too small for the members at work: lower optimizer.batch_size, or have fewer members at "
    "once (more cluster.cpus_per_member)"
)


def advice(error: Exception) -> str:
    """What to change where `error` says that memory ran out; empty for any other error."""
    kind, text = type(error).__name__, str(error)
    runtime = isinstance(error, RuntimeError)
    if kind in _ACCELERATOR_KINDS or (runtime and any(words in text for words in _ACCELERATOR_WORDS)):
        return _ON_ACCELERATOR
    if kind in _HOST_KINDS or (runtime and any(words in text for words in _HOST_WORDS)):
        return _ON_HOST
    return ""
