"""Loads a file of published weights into a model: checked by sha256, matched by name, without running code in it.

It reads a state dict as torch saves it (`.pth`, `.pt`; what torchvision publishes), with torch's loader that makes
nothing but tensors, and `.safetensors` (what a checkpoint here is made of).
"""

import difflib
import hashlib
import io
import logging
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from workers.errors import DataError, some
from workers.models import build, fill, outline, saved_parts_of, whole_shape
from workers.protocol import InitFile
from workers.settings import ModelSettings
from workers.training.optimizer import layer_of

_PICKLES = (".pth", ".pt")
_SAFETENSORS = ".safetensors"
_COUNTER = ".num_batches_tracked"
# DenseNet's published files name `norm1` as torch did until its modules' names could hold no dots.
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
# What the loaders raise on bytes that are not such a file; a damaged pickle fails wherever the damage is.
_UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, TypeError),
    *(LookupError, AttributeError, AssertionError, OverflowError),
)
_log = logging.getLogger(__name__)


def load_init_file(model: nn.Module, given: InitFile, reset: Collection[str]) -> None:
    """Copies the file's tensors into the parameters and persistent buffers of all layers but the `reset` ones.

    Raises:
        DataError: the file is absent, changed since planning, holds anything but tensors, lacks what the model needs,
            or holds what the model lacks: the weights of a deeper net would fit layer by layer, and mean nothing.
    """
    tensors = read_init_file(given)
    own = saved_parts_of(model)
    wanted = {name: parts for name, parts in own.items() if layer_of(name) not in reset}
    # Batch norm's counter, which older files lack and nothing reads.
    wanted = {name: parts for name, parts in wanted.items() if name in tensors or not name.endswith(_COUNTER)}
    _require_all(given, [name for name in wanted if name not in tensors], tensors)
    for name, parts in wanted.items():
        _require_fit(given, name, whole_shape(parts), tensors[name])
    unused = [name for name in tensors if name not in own and not _is_of(layer_of(name), reset)]
    if unused:
        raise DataError(f"init_file={given.path}: the model has no {some(unused)}; give weights of this model")
    fill(wanted, tensors)


def check_init_file(given: InitFile, model: ModelSettings, num_classes: int, reset: Collection[str]) -> None:
    """Raises as `load_init_file` would; `reset` may name several layers at once, such as `head`."""
    # A user's code may look at values, which meta tensors lack.
    with torch.device("cpu" if model.code else "meta"):
        built = build(model, num_classes)
    load_init_file(built, given, outline(model, num_classes).select_all(reset))


def read_init_file(given: InitFile) -> dict[str, Tensor]:
    """Returns the file's tensors by name, on the CPU, after it compared the sha256; raises as `load_init_file`."""
    try:
        data = Path(given.path).read_bytes()
    except OSError as error:
        raise DataError(f"init_file={given.path}: cannot be read ({error.strerror}); give a file of weights") from error
    if hashlib.sha256(data).hexdigest() != given.sha256:
        raise DataError(f"init_file={given.path}: changed since the run was planned; put the old file back")
    return _parsed(given, data)


def _parsed(given: InitFile, data: bytes) -> dict[str, Tensor]:
    suffix = Path(given.path).suffix.lower()
    if suffix not in (*_PICKLES, _SAFETENSORS):
        raise DataError(f"init_file={given.path}: is not a known kind of file; give a .pth, .pt or .safetensors file")
    try:
        if suffix == _SAFETENSORS:
            return safetensors.torch.load(data)
        _refuse_packed(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        kind = "safetensors file" if suffix == _SAFETENSORS else "plain state dict"
        _log.debug("%s: %s", given.path, error)
        raise DataError(
            f"init_file={given.path}: not a {kind} ({type(error).__name__}; only tensors are loaded, and no "
            "code is run); save model.state_dict() alone"
        ) from error
    strange = _strange(content)
    if strange:
        raise DataError(f"init_file={given.path}: not a plain state dict ({strange}); save model.state_dict() alone")
    assert isinstance(content, Mapping)
    return {_OLD_DENSE.sub(r"\1", name): value for name, value in content.items()}


def _refuse_packed(data: bytes) -> None:
    """Refuses a compressed archive: torch stores its own uncompressed, and this one may be made to fill the memory."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(data):
                raise ValueError("a compressed archive")


def _strange(content: object) -> str:
    """Returns how `content` differs from a mapping of names to dense tensors; empty if it does not."""
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    for name, value in content.items():
        if not isinstance(name, str):
            return f"a name is a {type(name).__name__}"
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            return f"{name!r:.60} is a {type(value).__name__}, not a dense tensor"
    return ""


def _is_of(layer: str, reset: Collection[str]) -> bool:
    """Returns whether `layer` is one of `reset`, or below it: a head may be several layers in a file."""
    return any(layer == each or layer.startswith(f"{each}.") for each in reset)


def _require_all(given: InitFile, missing: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    if missing:
        close = difflib.get_close_matches(missing[0], tensors, n=1)
        hint = f" (it has {close[0]})" if close else ""
        layers = some(list(dict.fromkeys(layer_of(name) or name for name in missing)))
        raise DataError(
            f"init_file={given.path}: has no {some(missing)}{hint}; add {layers} to the stage's reset, or give "
            "weights of this model"
        )


def _require_fit(given: InitFile, name: str, shape: tuple[int, ...], found: Tensor) -> None:
    reset = f"add {layer_of(name) or name} to the stage's reset"
    if tuple(found.shape) != shape:
        shapes = f"{tuple(found.shape)}, the model wants {shape}"
        raise DataError(f"init_file={given.path}: {name} is {shapes}; {reset}, or give weights of this model")
    if not bool(torch.isfinite(found).all()):
        raise DataError(f"init_file={given.path}: {name} is not finite; give another file")
