"""A stage that starts from a user's file of weights: what is taken, what is refused, and that nothing in it runs."""

import collections
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from stages import never, trained, weights
from torch import Tensor

from workers.errors import DataError
from workers.models import build, initialise, saved_parts_of
from workers.protocol import InitFile
from workers.settings import InitSettings, Layout, ModelSettings, OptimizerSettings
from workers.training import check_init_file, run_stage
from workers.training.init_file import load_init_file, read_init_file

Weights = dict[str, Tensor]
UNMOVED = OptimizerSettings(lr=1e-30, batch_size=400)


@pytest.fixture
def published(tiny_spec):
    """Weights of the tiny net over 40 classes."""
    model = build(tiny_spec.recipe.model, 40)
    initialise(model, InitSettings(bias=1.0), seed=99)
    return {name: value.clone() for name, value in model.state_dict().items()}


def given(path: Path) -> InitFile:
    return InitFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def saved_pth(weights: object, path: Path) -> InitFile:
    torch.save(weights, path)
    return given(path)


def saved_safetensors(weights: Mapping[str, Tensor], path: Path) -> InitFile:
    save_file(dict(weights), path)
    return given(path)


SAVERS = [(saved_pth, "w.pth"), (saved_safetensors, "w.safetensors")]


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_stage_takes_all_but_the_reset_layers_of_the_file_to_the_bit(tiny_spec, published, tmp_path, save, name):
    recipe = replace(tiny_spec.recipe, optimizer=UNMOVED, reset=("head",))
    after = weights(trained(replace(tiny_spec, recipe=recipe, init_file=save(published, tmp_path / name))))
    assert after["fc8.weight"].shape == (10, 16)
    body = [one for one in published if one.endswith("weight") and not one.startswith("fc8")]
    assert len(body) == 7
    assert all(after[one].tobytes() == published[one].numpy().tobytes() for one in body)


def test_old_state_dict_is_read(tiny_spec, published, tmp_path):
    ordered = collections.OrderedDict((name, torch.nn.Parameter(value)) for name, value in published.items())
    torch.save(ordered, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    model = build(tiny_spec.recipe.model, 40)
    load_init_file(model, given(tmp_path / "w.pth"), reset=())
    assert all(torch.equal(value, published[name]) for name, value in model.state_dict().items())


def test_persistent_buffers_are_copied_and_must_be_there(tmp_path):
    source, target = (torch.nn.Sequential(torch.nn.BatchNorm2d(3)) for _ in range(2))
    source.get_submodule("0").running_mean.fill_(7.0)
    load_init_file(target, saved_pth(source.state_dict(), tmp_path / "w.pth"), reset=())
    assert target.get_submodule("0").running_mean.tolist() == [7.0, 7.0, 7.0]
    old = {name: value for name, value in source.state_dict().items() if name != "0.num_batches_tracked"}
    load_init_file(target, saved_pth(old, tmp_path / "w.pth"), reset=())
    without = {name: value for name, value in source.state_dict().items() if name != "0.running_mean"}
    with pytest.raises(DataError, match=r"has no 0.running_mean"):
        load_init_file(target, saved_pth(without, tmp_path / "w.pth"), reset=())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict, "fc8.weight is (40, 16), the model wants (10, 16); add fc8 to the stage's reset"),
        (lambda given: given | {"conv2.weight": given["conv2.weight"][:, :, :3, :3].clone()}, "conv2.weight is"),
        (lambda given: {name: given[name] for name in given if name != "fc7.bias"}, "has no fc7.bias (it has fc"),
        (
            lambda given: {name: given[name] for name in given if not name.startswith(("conv1", "fc6"))},
            "has no conv1.weight, conv1.bias, fc6.weight and 1 more (it has conv5.weight); add conv1, fc6 to the stage",
        ),
        (
            lambda given: given | {f"aux{number}.weight": torch.ones(2) for number in range(5)},
            "the model has no aux0.weight, aux1.weight, aux2.weight and 2 more; give weights of this model",
        ),
        (lambda given: given | {"fc6.bias": given["fc6.bias"] * float("nan")}, "fc6.bias is not finite"),
        (lambda given: {"state_dict": given, "epoch": 90}, "dict ('state_dict' is a dict, not a dense tensor)"),
        (lambda _: torch.nn.Linear(2, 2), "(UnpicklingError; only tensors are loaded, and no code is run)"),
        (list, "not a plain state dict (it holds a list)"),
    ],
    ids=["head", "shape", "layer", "layers", "more", "nan", "nested", "model", "list"],
)
def test_file_that_does_not_fit_is_refused_in_one_line(tiny_spec, published, tmp_path, change, words):
    file = saved_pth(change(published), tmp_path / "w.pth")
    reset = () if change is dict else ("head",)
    with pytest.raises(DataError) as checked:
        check_init_file(file, tiny_spec.recipe.model, 10, reset)
    with pytest.raises(DataError) as run:
        run_stage(replace(tiny_spec, init_file=file, recipe=replace(tiny_spec.recipe, reset=reset)), never)
    assert str(checked.value) == str(run.value)
    assert words in str(run.value)
    assert "\n" not in str(run.value)
    assert run.value.exit_code == 3


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.onnx"])
def test_bytes_that_are_no_weights_are_refused_in_one_line(published, tmp_path, name):
    generator, save = torch.Generator().manual_seed(5), saved_pth if name == "w.pth" else saved_safetensors
    noise = [bytes(torch.randint(0, 256, (size,), generator=generator).tolist()) for size in (0, 1, 64, 5000)]
    for content in (*noise, Path(save(published, tmp_path / name).path).read_bytes()[:-40]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"not a (plain|safetensors)|is not a known kind") as caught:
            read_init_file(given(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_head_of_several_layers_in_the_file_is_left_out_where_the_head_is_reset(tiny_spec, published, tmp_path):
    other = {name.replace("fc8.", "fc8.1."): value for name, value in published.items()} | {"fc8.0.bias": torch.ones(3)}
    check_init_file(saved_pth(other, tmp_path / "w.pth"), tiny_spec.recipe.model, 10, ("head",))


@pytest.mark.parametrize("deep", ["resnet34", "resnet18"])
def test_weights_of_a_deeper_net_are_refused(tmp_path, deep):
    published = torchvision.models.get_model(deep, weights=None).state_dict()
    zeros = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in published.items()}
    wanted = ModelSettings(name="torchvision/resnet18", input_size=64)
    file = saved_pth(zeros, tmp_path / f"{deep}.pth")
    if deep == "resnet18":
        check_init_file(file, wanted, 10, ("head",))
        return
    with pytest.raises(DataError, match=r"has no layer1.2.conv1.weight, .* and \d+ more; give weights of this model"):
        check_init_file(file, wanted, 10, ("head",))


class Marker:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "it ran")


def test_malicious_pickle_is_refused_and_runs_nothing(tiny_spec, published, tmp_path):
    marker = tmp_path / "marker"
    saved_pth({**published, "extra": Marker(marker)}, tmp_path / "zip.pth")
    torch.save({"extra": Marker(marker)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Marker(marker)))
    for name in ("zip.pth", "legacy.pth", "bare.pth"):
        with pytest.raises(DataError, match="no code is run"):
            run_stage(replace(tiny_spec, init_file=given(tmp_path / name)), never)
    assert not marker.exists()
    # The trap works: an unguarded reader springs it.
    pickle.loads((tmp_path / "bare.pth").read_bytes())  # noqa: S301
    assert marker.exists()


def test_changed_file_is_refused_unparsed(published, tmp_path, monkeypatch):
    file = saved_pth(published, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("parsed"))
    path = Path(file.path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="changed since the run was planned"):
        read_init_file(file)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_init_file(file)


def test_two_halves_take_a_grouped_net_s_file(tiny_spec, published, tmp_path):
    own = replace(tiny_spec.recipe.model, layout=Layout.halves, lrn_across_halves=False)
    halves = build(own, 40)
    load_init_file(halves, saved_pth(published, tmp_path / "w.pth"), reset=())
    for name, parts in saved_parts_of(halves).items():
        assert torch.equal(torch.cat([part.detach() for part in parts]), published[name])
