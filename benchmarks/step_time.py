"""Estimates how long a counted step takes on a GPU, and the least that it could take."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpus import Gpu
from benchmarks.operations import Event, Kind

# The clocks of this many steps are played; the later half counts.
_STEPS = 8


@dataclass(frozen=True)
class Host:
    """What is assumed of the machine around the GPU.

    Attributes:
        launch_s: the host's time to issue one operator from Python; 0 where a CUDA graph issues all of them.
        shortest_s: the time that the shortest kernel takes from the one before it.
        wait_s: the host's time to notice that the device is done.
        pageable: bytes per second to the device from memory that is not pinned.
        threads: CPU threads of a member.
        reach: share of the data sheet's figures that kernels reach.
        own_stream: copies from pinned memory run beside kernels, not between them.
    """

    launch_s: float = 5e-6
    shortest_s: float = 2e-6
    wait_s: float = 10e-6
    pageable: float = 6e9
    threads: int = 8
    reach: float = 1.0
    own_stream: bool = True


@dataclass(frozen=True)
class Input:
    """The host's work on one batch, in seconds by one thread, ahead of time."""

    ahead: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """One step on one GPU; times in seconds.

    Attributes:
        ideal: matrix products at peak or at their bytes, and the optimizer's bytes; all else is free.
        kernels: all kernels, each at its bytes or its FLOP.
        step: with the host's part: launches, waits, copies and input.
    """

    ideal: float
    kernels: float
    step: float

    @property
    def share(self) -> float:
        return self.ideal / self.step


def kernel_seconds(event: Event, gpu: Gpu, host: Host, *, tf32: bool = False) -> float:
    """Returns the time of one kernel: at its bytes or its FLOP, whichever is longer."""
    memory = event.num_bytes / (gpu.bandwidth * host.reach)
    products = event.flop / (gpu.peak(event.dtype, tf32=tf32) * host.reach)
    return max(memory, products, host.shortest_s * event.launches)


def ideal_seconds(events: Sequence[Event], gpu: Gpu, *, tf32: bool = False) -> float:
    """Returns the least time: matrix products and the optimizer at the data sheet's figures, and nothing else."""

    def least(event: Event) -> float:
        if event.where.startswith("lrn."):
            return 0.0
        if event.flop or event.name.startswith("_fused_"):
            return max(event.num_bytes / gpu.bandwidth, event.flop / gpu.peak(event.dtype, tf32=tf32))
        return 0.0

    return sum(map(least, events))


def estimate(
    events: Sequence[Event], gpu: Gpu, host: Host, loading: Input, *, graphs: bool = False, tf32: bool = False
) -> Estimate:
    """Plays the steps on two clocks, the host's and the device's, and takes the mean of the later ones."""
    issue = 0.0 if graphs else host.launch_s
    on_host = on_device = began = 0.0
    for step in range(_STEPS):
        if step == _STEPS // 2:
            began = max(on_host, on_device)
        for event in events:
            if event.kind is Kind.wait:
                on_host = max(on_host, on_device) + host.wait_s
            elif event.kind is Kind.to_device and not event.pinned:
                # It goes through a buffer of the driver, after all that was issued before.
                on_host = max(on_host, on_device) + event.bytes_read / host.pageable
                on_device = on_host
            else:
                on_host += issue
                if event.kind is Kind.kernel:
                    on_device = max(on_host, on_device) + kernel_seconds(event, gpu, host, tf32=tf32)
                elif not host.own_stream:
                    on_device = max(on_host, on_device) + event.bytes_read / gpu.link
        if graphs:
            on_host += host.wait_s
    step_s = (max(on_host, on_device) - began) / (_STEPS - _STEPS // 2)
    link_s = sum(event.bytes_read for event in events if event.kind is Kind.to_device) / gpu.link
    kernels = [event for event in events if event.kind is Kind.kernel]
    return Estimate(
        ideal=ideal_seconds(kernels, gpu, tf32=tf32),
        kernels=sum(kernel_seconds(event, gpu, host, tf32=tf32) for event in kernels),
        step=max(step_s, link_s, loading.ahead / host.threads),
    )
