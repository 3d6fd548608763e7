"""Finds the weights that torchvision and timm publish, in the caches of those libraries, or downloads them there."""

import difflib
import re
import sys
from http.client import HTTPException
from pathlib import Path

import torch

from workers.errors import ConfigError, DataError
from workers.models import INCEPTIONS
from workers.protocol import InitFile, Scale
from workers.storage import sha256_of

# The start of a file's sha256 in its name, as torch's hub has it; Hugging Face's cache names a file by all of it.
_HASH = re.compile(r"(?:-(?=[0-9a-f]{8,64}\.)|^(?=[0-9a-f]{64}$))([0-9a-f]+)")
# By tag, and the default by True: a file's URL, or its repository on Hugging Face's hub; and what it saw as pixels.
_Known = dict[bool | str, tuple[str, Scale]]


def find_pretrained(net: str, tag: bool | str) -> InitFile:
    """Returns the file of weights that the library of `net` publishes as `tag`; downloads it if its cache lacks it.

    Raises:
        ConfigError: nothing is published for the net under this tag.
        DataError: the file cannot be had, or is another than its name says: the libraries load what their caches hold.
    """
    said = f"model.pretrained={'true' if tag is True else tag}"
    library, _, name = net.partition("/")
    find = {"torchvision": _of_torchvision, "timm": _of_timm}.get(library)
    known = {} if find is None else find(name)
    if tag not in known:
        tags = [one for one in known if isinstance(one, str)]
        close = " or ".join(difflib.get_close_matches(str(tag), tags, n=3, cutoff=0.0))
        advice = f"did you mean {close}? (known: {', '.join(tags)})" if tags else "it has none; give false"
        raise ConfigError(f"{said}: no such weights of {net}; {advice}")
    address, scale = known[tag]
    file = Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
    wanted = _hash_in(file.name)
    put = f"{file.name}{f' (its sha256 begins with {wanted})' if wanted else ''} into {file.parent}"
    try:
        if "://" not in address:
            from huggingface_hub import hf_hub_download

            put = f"what Hugging Face's cache has of {address} elsewhere into this machine's"
            file = Path(hf_hub_download(address, "model.safetensors"))
            wanted = _hash_in(file.resolve().name)
        elif not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), wanted, progress=sys.stderr.isatty())
        sha256 = sha256_of(file)
    # RuntimeError: what was downloaded has another sha256.
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise DataError(f"{said}: cannot be read or downloaded ({reason:.160}); put {put}") from error
    if not sha256.startswith(wanted):
        raise DataError(
            f"{said}: {file} is damaged or another file: its sha256 begins with "
            f"{sha256[: len(wanted)]}, not with {wanted}; delete it, and the next launch downloads it"
        )
    return InitFile(str(file), sha256, scale)


def _of_torchvision(name: str) -> _Known:
    from torchvision import models

    known: _Known = {}
    for tag, weights in models.get_model_weights(name).__members__.items():
        seen = weights.transforms()
        # With weights, torchvision's own net scales pixels a second time, to these.
        scale = ((0.5,) * 3, (0.5,) * 3) if f"torchvision/{name}" in INCEPTIONS else (tuple(seen.mean), tuple(seen.std))
        known[True if tag == "DEFAULT" else tag] = weights.url, scale
    return known


def _of_timm(name: str) -> _Known:
    import timm

    net, _, tag = name.partition(".")
    known: _Known = {}
    for full in timm.list_pretrained(net):
        config = timm.get_pretrained_cfg(full)
        # Only timm reads a file in a format of its own.
        if config is not None and not config.custom_load:
            known[full.partition(".")[2]] = str(config.hf_hub_id or config.url), (config.mean, config.std)
    default = timm.get_pretrained_cfg(net)
    chosen = known.get(tag or str(default and default.tag))
    return known if chosen is None else {**known, True: chosen}


def _hash_in(name: str) -> str:
    return next(iter(_HASH.findall(name)), "")
