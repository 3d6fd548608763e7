"""The compiled normalisation kernel for tests of nets, and torch's operators in its place."""

from collections.abc import Iterator

import pytest

from workers.kernels import lrn


def _selected(kernels: str) -> Iterator[None]:
    if kernels == "compiled" and not lrn.is_built():
        pytest.skip("the kernel was not built: no C compiler at installation")
    lrn.select(kernels)
    yield
    lrn.select("torch")


@pytest.fixture
def compiled():
    yield from _selected("compiled")


@pytest.fixture(params=["torch", "compiled"])
def kernels(request):
    yield from _selected(request.param)
