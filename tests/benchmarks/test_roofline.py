"""The two clocks of the estimate, on steps whose time is known; and the real step of a small net, counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpus import H100_SXM, Gpu, known
from benchmarks.operations import Event, Kind
from benchmarks.roofline import counted_step, fused_lrn, without_biases
from benchmarks.step_time import Host, Input, estimate
from workers.protocol import Numerics
from workers.settings import ModelSettings

GPU = Gpu("made up", bf16=1e12, tf32=1e12, fp32=1e12, bandwidth=1e12, link=1e10)
HOST = Host(launch_s=1e-5, shortest_s=0, wait_s=0, pageable=1e9)
LONG = Event(Kind.kernel, "add", "x.y", 10**9, 0, launches=1)  # 1 ms
PRODUCT = Event(Kind.kernel, "mm", "x.y", 0, 10**8, flop=2 * 10**9, dtype="float32", launches=1)  # 2 ms of FLOP
SHORT = Event(Kind.kernel, "add", "x.y", 10**6, 0, launches=1)  # 1 µs
WAIT = Event(Kind.wait, "_local_scalar_dense", "x.y")


def step_ms(*events: Event, host: Host = HOST, loading: Input = Input(), graphs: bool = False) -> float:  # noqa: B008
    return estimate(events, GPU, host, loading, graphs=graphs).step * 1e3


def test_kernels_hide_their_launches_and_the_ideal_step_is_its_products() -> None:
    assert step_ms(LONG, PRODUCT) == pytest.approx(3)
    found = estimate([LONG, PRODUCT], GPU, HOST, Input())
    assert (found.ideal, found.share) == (pytest.approx(2e-3), pytest.approx(2 / 3))


def test_short_kernels_take_their_launches_time_unless_a_graph_issues_them() -> None:
    assert step_ms(*[SHORT] * 100) == pytest.approx(1)
    assert step_ms(*[SHORT] * 100, graphs=True) == pytest.approx(0.1)


def test_wait_makes_the_device_wait_for_the_next_launch() -> None:
    assert step_ms(LONG, LONG) == pytest.approx(2)
    assert step_ms(LONG, WAIT, LONG, WAIT) == pytest.approx(2.02)


def test_copy_from_memory_that_is_not_pinned_is_added_and_a_pinned_one_beside_kernels_is_not() -> None:
    sent = Event(Kind.to_device, "copy", "x.y", 10**6, 10**6)
    pinned = replace(sent, pinned=True)
    assert step_ms(sent, LONG) == pytest.approx(2.01)
    assert step_ms(pinned, LONG) == pytest.approx(1)
    assert step_ms(pinned, LONG, host=replace(HOST, own_stream=False)) == pytest.approx(1.1)


def test_input_ahead_of_time_only_bounds_the_step() -> None:
    assert step_ms(LONG, WAIT, loading=Input(ahead=5e-3)) == pytest.approx(1.01)
    assert step_ms(LONG, WAIT, loading=Input(ahead=40e-3)) == pytest.approx(5)


def test_real_step_of_a_small_net_is_counted(tmp_path: Path) -> None:
    model = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=32)
    numerics = Numerics(precision="bf16")

    def counted(folder: str):
        return counted_step(tmp_path / folder, numerics, model, batch=4, num_classes=3, side=64)

    whole = counted("whole")
    sent = {event.bytes_read for event in whole.of(Kind.to_device)}
    # Pixels, labels, colours, reflections.
    assert {4 * 3 * 56 * 56, 4 * 8, 4 * 3 * 4, 4} <= sent
    assert all(event.pinned for event in whole.of(Kind.to_device))
    # So short a stage reads after every update.
    assert {event.where for event in whole.of(Kind.wait)} == {"readings.read"}
    names = [event.name for event in whole.events]
    assert (names.count("convolution"), names.count("addmm"), names.count("_fused_sgd_")) == (5, 3, 1)
    with fused_lrn():
        fused = counted("fused")
    assert fused.launches < whole.launches - 10
    assert len(without_biases(whole)) == len(whole.events) - 5


def test_data_sheets_are_found_by_the_whole_name() -> None:
    assert known("NVIDIA H100 80GB HBM3") is H100_SXM
    assert known("NVIDIA GeForce RTX 3090 Ti") is None
    assert known("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is None
