"""What the counter says of operators whose bytes and FLOP are known, and of waits and copies that are planted."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.no_gpu import count, no_gpu
from benchmarks.operations import Counted, Event, Kind


def only(counted: Counted) -> Event:
    (event,) = counted.events
    return event


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that is made without a kernel."""
    return torch.empty(shape, dtype=dtype, device="cuda")


def test_matrix_product_counts_its_operands_and_result_once() -> None:
    event = only(count(lambda: on_gpu(8, 16, dtype=torch.bfloat16) @ on_gpu(16, 4, dtype=torch.bfloat16)))
    assert (event.name, event.dtype, event.launches) == ("mm", "bfloat16", 1)
    assert (event.bytes_read, event.bytes_written, event.flop) == (2 * (8 * 16 + 16 * 4), 2 * 8 * 4, 2 * 8 * 16 * 4)


def test_addition_counts_an_expanded_operand_as_it_is_stored() -> None:
    event = only(count(lambda: on_gpu(10, 20) + on_gpu(20).expand(10, 20)))
    assert (event.bytes_read, event.bytes_written, event.flop) == (4 * (200 + 20), 4 * 200, 0)


def test_addition_in_place_reads_and_writes_its_target() -> None:
    event = only(count(lambda: on_gpu(10).add_(on_gpu(10))))
    assert (event.bytes_read, event.bytes_written) == (80, 40)


def test_view_and_empty_tensor_cost_nothing() -> None:
    assert count(lambda: on_gpu(4, 6).t().reshape(2, 12)[:, 3:].detach()).launches == 1  # the reshape copies
    assert count(lambda: on_gpu(4, 6).view(24).view(2, 12)).events == []


def test_convolution_forward_and_backward_count_each_product_and_the_bias_apart() -> None:
    images, filters, side = 2 * 3 * 8 * 8, 4 * 3 * 3 * 3, 2 * 4 * 6 * 6
    product = 2 * side * 3 * 3 * 3

    def step() -> None:
        weight, bias = on_gpu(4, 3, 3, 3).requires_grad_(), on_gpu(4).requires_grad_()
        outputs = functional.conv2d(on_gpu(2, 3, 8, 8).requires_grad_(), weight, bias)
        outputs.backward(on_gpu(2, 4, 6, 6))

    found = {event.name: event for event in count(step).events}
    forward, bias = found["convolution"], found["convolution bias"]
    assert (forward.bytes_read, forward.bytes_written, forward.flop) == (4 * (images + filters), 4 * side, product)
    assert (bias.bytes_read, bias.bytes_written, bias.flop) == (4 * side, 4 * side, 0)
    to_images, to_weight, to_bias = (found[f"convolution gradient of {name}"] for name in ("input", "weight", "bias"))
    assert (to_images.num_bytes, to_images.flop) == (4 * (side + filters + images), product)
    assert (to_weight.num_bytes, to_weight.flop) == (4 * (side + filters + images), product)
    assert (to_bias.num_bytes, to_bias.flop) == (4 * (side + 4), 0)


def test_fused_optimizer_reads_three_tensors_and_writes_two_in_few_launches() -> None:
    def step() -> None:
        layer = nn.Linear(64, 64, bias=False).to("cuda")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
        layer.weight.grad = on_gpu(64, 64)
        optimizer.step()

    event = count(step).of(Kind.kernel)[-1]
    assert (event.name, event.launches) == ("_fused_sgd_", 1)
    assert (event.bytes_read, event.bytes_written) == (3 * 4 * 64 * 64, 2 * 4 * 64 * 64)


def test_autocast_computes_products_in_bfloat16_and_roots_in_float32_as_on_a_gpu() -> None:
    seen = {}

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            product = on_gpu(4, 4) @ on_gpu(4, 4)
            seen["product"], seen["root"] = product.dtype, product.rsqrt().dtype
            seen["device"] = product.device.type, product.is_cuda

    count(step)
    assert seen == {"product": torch.bfloat16, "root": torch.float32, "device": ("cuda", True)}


def test_planted_reads_are_counted_with_their_places() -> None:
    def step() -> None:
        total = on_gpu(5).sum()
        total.item()
        if total > 0:
            total.cpu()

    waits = count(step).of(Kind.wait)
    assert [event.name for event in waits] == ["_local_scalar_dense", "_local_scalar_dense", "cpu"]
    assert all(event.where == "test_no_gpu.step" for event in waits)


def test_copy_blocks_unless_its_source_is_pinned_and_it_is_asked_not_to() -> None:
    def step() -> None:
        plain, pinned = torch.zeros(100, dtype=torch.uint8), torch.zeros(100, dtype=torch.uint8).pin_memory()
        buffer = torch.empty(100, dtype=torch.uint8, pin_memory=True)
        for source in (plain, pinned, buffer, buffer[10:]):
            source.to("cuda", non_blocking=True)
        pinned.to("cuda")

    counted = count(step)
    copies = counted.of(Kind.to_device)
    assert [event.bytes_read for event in copies] == [100, 100, 100, 90, 100]
    assert [event.pinned for event in copies] == [False, True, True, True, False]
    assert counted.synchronisations == 2


def test_streams_and_events_order_nothing_and_a_whole_device_is_waited_for() -> None:
    def step() -> None:
        stream, ready = torch.cuda.Stream(), torch.cuda.Event()
        source = torch.zeros(8).pin_memory()
        with torch.cuda.stream(stream):
            images = source.to("cuda", non_blocking=True)
            ready.record(stream)
        torch.cuda.current_stream().wait_event(ready)
        images.record_stream(torch.cuda.current_stream())
        images.add_(1)
        torch.cuda.synchronize()

    counted = count(step)
    assert [event.kind for event in counted.events] == [Kind.to_device, Kind.kernel, Kind.wait]
    assert counted.synchronisations == 1


def test_host_tensors_are_computed_and_torch_is_as_before_afterwards() -> None:
    autocast, device = torch.autocast, torch.zeros(1).device
    with no_gpu() as counted:
        assert torch.arange(4).sum().item() == 6
        assert torch.ones(2, 2).mul(3).tolist() == [[3, 3], [3, 3]]
    assert counted.events == []
    assert counted.host_operators > 0
    assert (torch.autocast, torch.zeros(1).device) == (autocast, device)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.ones(2, dtype=torch.bfloat16).rsqrt().dtype == torch.bfloat16
