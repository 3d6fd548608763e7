"""Workers that train one stage together: each computes some of a batch's shards, and all hold the same sums.

Sums of floating-point numbers depend on their order, and a plain all-reduce has its own for each number of workers. So
a running sum of the gradients goes from worker to worker, each adds its shards to it in order, and the last one's goes
back the same way. It goes in pieces: one is added to while the others are on their way.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workers.errors import ConfigError, PeerLost
from workers.protocol import StageSpec

# Rank 0 may evaluate for long, and the driver ends a gang that hangs; a peer whose process ends is noticed at once.
_TIMEOUT = timedelta(days=7)
# Rank 0 listens before the others know where, but may still be loading torch.
_MEET_TIMEOUT = timedelta(minutes=10)
# Numbers that are sent at once between CPUs: 4 MB.
_AT_ONCE = 1_000_000


class Gang:
    """The workers of one stage, seen from that of `rank`; every method is called by all of them, in the same order.

    All raise PeerLost if another worker has ended.
    """

    def __init__(self, host: Any, device: Any, rank: int, width: int, at_once: int) -> None:
        """`host` and `device` are torch's process groups for tensors there; `at_once` numbers are sent at once."""
        self._host, self._device = host, device
        self.rank, self.width, self._at_once = rank, width, at_once
        self._sums: _Sums | None = None

    def share(self, value: Any) -> Any:
        """Returns rank 0's `value`, of plain JSON, whatever the others give."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8) if self.rank == 0 else np.empty(0, np.uint8)
        length = self._from_first(torch.tensor([len(text)]))
        own = torch.from_numpy(text.copy()) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        return json.loads(self._from_first(own).numpy().tobytes())

    def share_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns rank 0's `arrays`, byte by byte, whatever the others give."""
        shapes = self.share([(name, array.dtype.str, array.shape) for name, array in arrays.items()])
        found = {name: np.empty(shape, kind) for name, kind, shape in shapes}
        for name, array in found.items():
            if self.rank == 0:
                array[...] = arrays[name]
            self._from_first(torch.from_numpy(array.reshape(-1).view(np.uint8)))
        return found

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Returns the rows [rows, numbers] of all workers in the order of ranks; `counts` says how many each has."""
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        every = self._from_all(self._device, padded)
        return torch.cat([each[:count] for each, count in zip(every, counts, strict=True)])

    def add_up(
        self, parameters: Sequence[nn.Parameter], own: Sequence[Mapping[nn.Parameter, Tensor]]
    ) -> dict[nn.Parameter, Tensor]:
        """Returns the sum of all shards' gradients, in order; without a parameter that no shard has a gradient of.

        `own` are those of this worker's shards in order, or rank 0's sum of them. All `parameters` may have one.
        """
        flags = torch.tensor([any(parameter in each for each in own) for parameter in parameters], dtype=torch.uint8)
        # On the host, so that nobody waits for a device.
        flags = torch.stack(self._from_all(self._host, flags)).amax(dim=0)
        if self._sums is None or self._sums.parameters != [*map(id, parameters)]:
            self._sums = _Sums(parameters, self._at_once)
        sums, sent, coming = self._sums, [], []
        for tag, (piece, spans) in enumerate(sums.pieces):
            if self.rank == 0:
                # The number that any sum may begin with: +0 would turn a -0 into +0.
                piece.fill_(-0.0)
            else:
                self._receive(piece, self.rank - 1, tag)()
            for gradients in own:
                known = [(place, gradients[of], span) for place, of, span in spans if of in gradients]
                if known:
                    added = [_memory(gradient)[span] for _, gradient, span in known]
                    torch._foreach_add_([place for place, _, _ in known], added)
            if self.rank + 1 == self.width:
                sent.append(self._send(piece, self.rank - 1, tag))
            else:
                sent.append(self._send(piece, self.rank + 1, tag))
                # Into the same memory: the piece comes back only after it was sent.
                coming.append((piece, tag, self._receive(piece, self.rank + 1, tag)))
        for piece, tag, arrive in coming:
            arrive()
            if self.rank > 0:
                sent.append(self._send(piece, self.rank - 1, tag))
        for finish in sent:
            finish()
        return {of: place for (of, place), flag in zip(sums.places.items(), flags.tolist(), strict=True) if flag}

    def _from_all(self, group: Any, own: Tensor) -> list[Tensor]:
        every = [torch.empty_like(own) for _ in range(self.width)]
        _done(lambda: group.allgather([every], [own]))
        return every

    def _from_first(self, tensor: Tensor) -> Tensor:
        if tensor.numel():
            _done(lambda: self._host.broadcast(tensor, 0))
        return tensor

    def _send(self, piece: Tensor, to: int, tag: int) -> Callable[[], None]:
        return _begun(lambda: self._device.send([piece], to, tag))

    def _receive(self, piece: Tensor, sender: int, tag: int) -> Callable[[], None]:
        return _begun(lambda: self._device.recv([piece], sender, tag))


class _Sums:
    """Memory for the sums of gradients, and the pieces in which it is sent.

    A piece is a part of it and its spans: the place of a parameter's numbers in it, the parameter, and which of its
    numbers they are, in the order in which they lie in memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], at_once: int) -> None:
        self.parameters = [*map(id, parameters)]
        first = parameters[0]
        whole = torch.empty(sum(map(torch.numel, parameters)), dtype=first.dtype, device=first.device)
        spans = list(zip(accumulate(map(torch.numel, parameters), initial=0), parameters, strict=False))
        # With the parameter's strides, as its gradient has.
        self.places = {of: whole.as_strided(of.shape, of.stride(), begin) for begin, of in spans}
        self.pieces: list[tuple[Tensor, list[tuple[Tensor, nn.Parameter, slice]]]] = []
        for low in range(0, len(whole), at_once):
            high, inside = min(low + at_once, len(whole)), []
            for start, parameter in spans:
                begin, stop = max(low, start), min(high, start + parameter.numel())
                if begin < stop:
                    inside.append((whole[begin:stop], parameter, slice(begin - start, stop - start)))
            self.pieces.append((whole[low:high], inside))


def _memory(gradient: Tensor) -> Tensor:
    """Returns a dense tensor's numbers, [numbers], as they lie in memory."""
    return gradient.as_strided((gradient.numel(),), (1,))


def _done(begin: Callable[[], Any]) -> None:
    _begun(begin)()


def _begun(begin: Callable[[], Any]) -> Callable[[], None]:
    """Begins an operation of a process group, and returns what waits for it."""
    with _peer_errors():
        work = begin()

    def wait() -> None:
        with _peer_errors():
            work.wait()

    return wait


@contextmanager
def _peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost("a worker of the gang is gone; the stage resumes from its newest checkpoint") from error


@contextmanager
def met(spec: StageSpec) -> Iterator[Gang]:
    """Meets the other workers of the stage, and leaves them at the end of the block, which ends their calls too.

    Raises:
        ConfigError: there are more workers than shards.
        PeerLost: another worker has ended.
    """
    # Torch's stub lacks what is needed to choose an address.
    c10d: Any = torch.distributed
    shards, meeting = spec.recipe.optimizer.shards, spec.meeting
    if spec.width > shards:
        raise ConfigError(f"optimizer.shards={shards}: {spec.width} workers cannot share them; give at least as many")
    assert meeting is not None, "a gang's actors agree on it"
    on_gpu = spec.numerics.device.startswith("cuda")
    with _peer_errors():
        listener = None if meeting.listener is None else os.dup(meeting.listener)
        given = meeting.host, meeting.port, None, spec.rank == 0, _MEET_TIMEOUT, False
        store = c10d.TCPStore(*given, master_listen_fd=listener)
        options = c10d.ProcessGroupGloo._Options()
        options._timeout = _TIMEOUT
        # Else it would listen at whatever address the host's name has.
        options._devices = [c10d.ProcessGroupGloo.create_device(hostname=meeting.here)]
        host = device = c10d.ProcessGroupGloo(store, spec.rank, spec.width, options)
        if on_gpu:
            # Not run yet: no machine with two GPUs was at hand.
            options = c10d.ProcessGroupNCCL.Options()
            options._timeout = _TIMEOUT
            device = c10d.ProcessGroupNCCL(c10d.PrefixStore("nccl", store), spec.rank, spec.width, options)
    try:
        yield Gang(host, device, spec.rank, spec.width, 2**62 if on_gpu else _AT_ONCE)
    finally:
        for group in {host, device}:
            group.abort()


class ConstantBuffers:
    """The buffers of a net that a gang's workers must not change: each would have its own, by its own shards."""

    def __init__(self, model: nn.Module, norms: Sequence[_BatchNorm]) -> None:
        exchanged = {id(buffer) for norm in norms for buffer in norm.buffers()}
        self._model = model
        self._before = {name: _mark(buffer) for name, buffer in model.named_buffers() if id(buffer) not in exchanged}

    def check(self, net: str) -> None:
        """Raises ConfigError if the forward pass of the model `net` has changed one."""
        now = dict(self._model.named_buffers()) if self._before else {}
        for name, mark in self._before.items():
            if name not in now or _mark(now[name]) != mark:
                raise ConfigError(
                    f"model.name={net}: its forward pass changes {name}, which workers of a gang cannot share; give "
                    "cluster.workers_per_member=[1, 1]"
                )


def _mark(buffer: Tensor) -> tuple[int, int]:
    return id(buffer), buffer._version
