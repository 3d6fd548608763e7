"""What is written piece by piece is what the safetensors library writes, and reads."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, strategies as st
from safetensors.numpy import load, save

from workers.storage import tensor_file
from workers.storage.tensor_file import safetensors_pieces, write_hashed

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    return {name: chance.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@given(st.dictionaries(NAMES, SHAPES, max_size=6))
def test_pieces_together_are_the_librarys_bytes(shapes):
    written = io.BytesIO()
    about = write_hashed(written, safetensors_pieces(tensors(shapes)))
    assert written.getvalue() == save(tensors(shapes))
    assert (about.size, about.sha256) == (len(written.getvalue()), hashlib.sha256(written.getvalue()).hexdigest())


@given(st.lists(st.sampled_from(["<f4", "<i8"]), max_size=6))
def test_counts_among_weights_are_the_librarys_bytes(dtypes):
    given = {f"t{index}": np.arange(index + 1).astype(dtype) for index, dtype in enumerate(dtypes)}
    given["without dimensions"] = np.array(7, np.int64)
    assert b"".join(bytes(piece) for piece in safetensors_pieces(given)) == save(given)


def test_tensor_of_many_pieces_is_read_back_by_the_library(monkeypatch):
    monkeypatch.setattr(tensor_file, "_PIECE_BYTES", 24)
    given = tensors({"b": (7, 9), "a": (5,)})
    pieces = list(safetensors_pieces(given))
    assert len(pieces) == 1 + 1 + 11
    found = load(b"".join(pieces))
    assert all(np.array_equal(found[name], given[name]) for name in given)


def test_pieces_are_views_and_no_copies():
    given = tensors({"a": (3, 4)})
    header, piece = safetensors_pieces(given)
    assert np.shares_memory(np.frombuffer(piece, np.float32), given["a"])
    assert len(header) % 8 == 0


def test_other_types_than_float32_and_int64_are_refused():
    with pytest.raises(AssertionError, match="float64"):
        list(safetensors_pieces({"a": np.zeros(2)}))
