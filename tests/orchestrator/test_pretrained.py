"""Weights that torchvision and timm publish: found, hashed, refused; downloads come from a server of the test's own."""

import functools
import hashlib
import http.server
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import trained, weights
from torchvision import models

from orchestrator.config import compose
from orchestrator.execution import Work, normaliser
from orchestrator.inputs import check_init_files, hash_init_files, survey_all
from orchestrator.plan import make_plan
from orchestrator.run import Budgets, RunPaths
from workers.data.store import prepare
from workers.errors import ConfigError, DataError
from workers.protocol import InitFile, Normaliser, Numerics
from workers.settings import DatasetSettings, KeptCheckpoint, Normalisation, Source
from workers.training import pretrained
from workers.training.init_file import load_init_file
from workers.training.pretrained import find_pretrained

NET = "torchvision/shufflenet_v2_x0_5"
SIZES = ("datasets.target.size=36", "model.input_size=32", "augmentation.reflect=false")
ONE = ("ensemble=five", *(f"~ensemble.members.base{number}" for number in range(2, 6)))
KEY = "ensemble.members.base1.stages.train.model.pretrained"
WEIGHTS = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def write_published(folder: Path, seed: int = 1) -> Path:
    """A file as torchvision publishes them: a thousand classes, the start of its sha256 in its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(models.shufflenet_v2_x0_5(num_classes=1000).state_dict(), folder / "w")
    sha256 = hashlib.sha256((folder / "w").read_bytes()).hexdigest()
    return (folder / "w").rename(folder / f"shufflenet-{sha256[:8]}.pth")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published file on a server, which torchvision's tag points to; yields the file and what was asked for."""
    file, asked = write_published(tmp_path / "site"), list[str]()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(WEIGHTS.value, "url", f"http://127.0.0.1:{server.server_port}/{file.name}")
        yield file, asked
        server.shutdown()


def planned(*overrides, tag="true"):
    config = compose([*ONE, *SIZES, f"model.name={NET}", f"model.pretrained={tag}", *overrides])
    return make_plan(config, survey_all(config), hash_init_files(config))


def refusal(kind, *overrides, tag="true"):
    with pytest.raises(kind) as caught:
        planned(*overrides, tag=tag)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_is_downloaded_once_into_torch_s_cache_and_is_the_stage_s_init_file(published, cache):
    file, asked = published
    plan = planned("schedule.epochs=2")
    (stage,) = plan.stages
    assert (cache / file.name).read_bytes() == file.read_bytes()
    assert stage.init_file is not None
    assert stage.init_file.path == str(cache / file.name)
    assert stage.init_file.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stage.init_file.scale == IMAGENET
    assert stage.recipe.reset == ("head",)
    assert plan.pretrained_members() == ("base1",)
    check_init_files(plan)
    assert planned("schedule.epochs=2", tag="IMAGENET1K_V1").hash == plan.hash
    assert len(asked) == 1


def test_plan_hash_follows_the_bytes_the_scale_and_nothing_else(published, cache, monkeypatch):
    first, own, plain = planned().hash, planned("augmentation.normalisation=dataset").hash, planned(tag="false").hash
    train, file = "ensemble.members.base1.stages.train", cache / published[0].name
    by_hand = planned(f"{train}.init_file={file}", f"{train}.reset=[head]", tag="false").hash
    assert own == by_hand, "a published file is a file, with a head that is reset and a scale"
    assert len({first, own, plain}) == 3
    other = write_published(cache, seed=2)
    monkeypatch.setattr(WEIGHTS.value, "url", f"http://127.0.0.1:9/{other.name}")
    assert planned().hash not in (first, own, plain)


def test_stage_begins_with_the_file_s_body_a_fresh_head_and_the_weights_normalisation(published, cache, tmp_path):
    plan = planned("optimizer.lr=1e-30", "schedule.epochs=1", "optimizer.batch_size=600")
    store = prepare(DatasetSettings(source=Source.digits, size=36), tmp_path / "stores")
    work = Work(
        *(RunPaths(tmp_path / "run"), plan, {"target": store}, "", ("val",), Numerics(), KeptCheckpoint.last, 100),
        Budgets(1, 1),
    )
    spec = work.stage_spec(plan.stages[0], 0)
    assert spec.normaliser == work.predict_spec("base1").normaliser == Normaliser(Normalisation.auto, store, IMAGENET)
    after = weights(trained(spec))
    found = torch.load(published[0], weights_only=True)
    body = {name for name in found if name.endswith(".weight") and not name.startswith("fc.")}
    assert len(body) > 100
    assert all(after[name].tobytes() == found[name].numpy().tobytes() for name in body)
    assert after["fc.weight"].shape == (10, 1024)
    assert not np.array_equal(after["fc.weight"], found["fc.weight"][:10])


def test_file_in_the_cache_that_is_another_than_its_name_says_is_refused_and_left(published, cache):
    cache.mkdir(parents=True)
    wrong, name = write_published(cache, seed=2).read_bytes(), published[0].name
    (cache / name).write_bytes(wrong)
    line = refusal(DataError)
    begins = hashlib.sha256(wrong).hexdigest()[:8]
    assert line == (
        f"{KEY}=true: {cache / name} is damaged or another file: its sha256 begins with {begins}, not with "
        f"{name[11:19]}; delete it, and the next launch downloads it"
    )
    assert (cache / name).read_bytes() == wrong
    assert published[1] == []


def test_damaged_download_is_refused_and_leaves_nothing(published, cache):
    file, _ = published
    file.write_bytes(file.read_bytes()[:-1])
    line = refusal(DataError)
    assert "cannot be read or downloaded (invalid hash value" in line
    assert list(cache.iterdir()) == []


def test_machine_without_network_is_told_which_file_to_put_where(published, cache, monkeypatch):
    name = published[0].name
    monkeypatch.setattr(WEIGHTS.value, "url", f"http://127.0.0.1:9/{name}")
    line = refusal(DataError)
    assert line.startswith(f"{KEY}=true: cannot be read or downloaded ([Errno 111] Connection refused); put ")
    assert line.endswith(f"; put {name} (its sha256 begins with {name[11:19]}) into {cache}")
    assert DataError.exit_code == 3
    # As it says.
    (cache / name).write_bytes(published[0].read_bytes())
    assert planned().stages[0].init_file.path == str(cache / name)


@pytest.mark.parametrize(
    ("overrides", "tag", "words"),
    [
        ((), "IMAGENET1K_V3", f"{KEY}=IMAGENET1K_V3: no such weights of {NET}; did you mean IMAGENET1K_V1? (known: "),
        (
            ("model.name=alexnet",),
            "true",
            f"{KEY}=true: alexnet has none; give a net of torchvision or timm, as model.name=",
        ),
        (
            ("ensemble=pair",),
            "true",
            "stages.finetune: init_from and model.pretrained exclude each other; give ensemble.members.pretrained1.",
        ),
        (
            ("ensemble.members.base1.stages.train.init_file=/a.pth",),
            "true",
            "stages.train: init_file and model.pretrained exclude each other; ",
        ),
        (("model.pretrained=3",), "true", "model.pretrained=3: give true or false or a text"),
        (("ensemble.members.base1.stages.train.freeze=[head]",), "true", "fc would keep random weights; remove it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(published, cache, overrides, tag, words):
    given = [] if "ensemble=pair" in overrides else ONE
    with pytest.raises(ConfigError) as caught:
        config = compose([*given, *SIZES, f"model.name={NET}", f"model.pretrained={tag}", *overrides])
        make_plan(config, survey_all(config), hash_init_files(config))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_first_stage_of_a_chain_may_have_published_weights_and_its_heirs_see_as_it_does(published, cache, tmp_path):
    pretrain = "ensemble.stages.pretrain.model.pretrained=true"
    chosen = ["ensemble=pair", *SIZES, "datasets.superset.size=36", f"model.name={NET}", pretrain]
    finetune = "ensemble.members.pretrained1.stages.finetune.reset=[head]"
    config = compose([*chosen, finetune])
    plan = make_plan(config, survey_all(config), hash_init_files(config))
    last = plan.last_stage("pretrained1")
    stores = {"target": tmp_path / "target", "superset": tmp_path / "superset"}
    assert normaliser(plan, last, stores) == Normaliser(Normalisation.auto, stores["superset"], IMAGENET)
    assert normaliser(plan, plan.last_stage("base1"), stores) is None


def test_weights_that_torchvision_scales_for_a_second_time_are_given_that_scale():
    scale = pretrained._of_torchvision("googlenet")[True][1]
    pixels = torch.rand(2, 3, 4, 4)
    mean, std, own_mean, own_std = (torch.tensor(each)[:, None, None] for each in (*IMAGENET, *scale))
    theirs = models.GoogLeNet(init_weights=False, transform_input=True)._transform_input((pixels - mean) / std)
    torch.testing.assert_close((pixels - own_mean) / own_std, theirs)
    assert pretrained._of_torchvision("efficientnet_v2_l")[True][1] == ((0.5,) * 3, (0.5,) * 3)


def test_densenet_s_old_names_are_read(tmp_path):
    made = models.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=4, num_classes=5)
    old = {re.sub(r"(denselayer\d\.\w+)(\d)\.", r"\1.\2.", name): value for name, value in made.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    net = models.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=4, num_classes=5)
    sha256 = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    load_init_file(net, InitFile(str(tmp_path / "w.pth"), sha256), ())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """Hugging Face's cache without a network, with the weights of timm's smallest net; returns that file."""
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    for folder in ("blobs", "refs", "snapshots/abc"):
        (home / folder).mkdir(parents=True)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w")
    sha256 = hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()
    (tmp_path / "w").rename(home / "blobs" / sha256)
    (home / "refs" / "main").write_text("abc")
    file = home / "snapshots" / "abc" / "model.safetensors"
    file.symlink_to(f"../../blobs/{sha256}")
    return file


def test_timm_s_weights_come_from_hugging_face_s_cache_as_timm_loads_them(hugging_face):
    import timm

    found = find_pretrained("timm/test_resnet", True)
    assert (
        found == find_pretrained("timm/test_resnet", "r160_in1k") == find_pretrained("timm/test_resnet.r160_in1k", True)
    )
    assert (found.path, found.sha256) == (str(hugging_face), hugging_face.resolve().name)
    theirs = timm.create_model(
        "test_resnet", pretrained=True, num_classes=7, pretrained_cfg_overlay={"file": str(hugging_face)}
    )
    assert found.scale == (theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"]) != IMAGENET
    own = timm.create_model("test_resnet", num_classes=7)
    load_init_file(own, found, {"fc"})
    body = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in body.items())


def test_net_of_another_library_has_none():
    with pytest.raises(
        ConfigError, match=r"^model.pretrained=true: no such weights of own/net; it has none; give false$"
    ):
        find_pretrained("own/net", True)


def test_timm_s_weights_that_are_damaged_absent_or_unknown_are_refused_in_one_line(hugging_face):
    with pytest.raises(
        ConfigError, match=r"^model.pretrained=r16: no such weights of timm/test_resnet; did you mean r1"
    ):
        find_pretrained("timm/test_resnet", "r16")
    hugging_face.resolve().write_bytes(b"other")
    with pytest.raises(DataError, match=r"^model.pretrained=true: \S+ is damaged or another file: its sha256 begins"):
        find_pretrained("timm/test_resnet", True)
    hugging_face.unlink()
    with pytest.raises(DataError, match=r"put what Hugging Face's cache has of timm/test_resnet.r160_in1k") as caught:
        find_pretrained("timm/test_resnet", True)
    assert "\n" not in str(caught.value)
