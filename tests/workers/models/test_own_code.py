"""Nets in a user's files: what counts as their code, how it is imported, and what each mistake is told as."""

import sys
import textwrap

import pytest
import torch

from workers.errors import CheckFailed, ConfigError, DataError
from workers.models import build, code_of, initialise, outline, own_code
from workers.protocol import InitFile
from workers.settings import InitSettings, ModelSettings
from workers.storage import sha256_of
from workers.training import check_init_file

NET = """
    from torch import nn
    import {helper}
    from blocks.act import Act

    def build(num_classes, input_size, width=4):
        from {helper} import late
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), Act(), nn.Flatten(),
            nn.Linear(width * late(input_size) ** 2, num_classes),
        )
"""


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(textwrap.dedent(text))
    return folder / "nets.py"


def net(folder, helper="parts", half="(size + 1) // 2"):
    act = "from torch import nn\nclass Act(nn.ReLU): pass\n"
    late = f"def late(size): return {half}\n"
    return write(folder, nets=NET.format(helper=helper), blocks__act=act, **{helper: late})


def settings(file, size=8, **more):
    model = ModelSettings(name=f"nets.py:{more.get('function', 'build')}", file=str(file), input_size=size, **more)
    return ModelSettings(**{**vars(model), "code": code_of(model)})


def test_net_is_built_with_the_modules_beside_it_and_leaves_nothing_behind(tmp_path):
    file = net(tmp_path)
    before, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    built = build(settings(file, args={"width": 6}), 5)
    assert built(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert built[0].out_channels == 6
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("nets", "parts", "blocks")}
    assert (sys.path, sys.meta_path) == (path, finders)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["act.py", "blocks", "nets.py", "parts.py"]


def test_two_files_whose_modules_have_the_same_names_are_two_nets(tmp_path):
    one, other = net(tmp_path / "a"), net(tmp_path / "b", half="size // 2")
    (tmp_path / "b" / "blocks" / "act.py").write_text("from torch import nn\nclass Act(nn.Tanh): pass\n")
    kinds = [type(build(settings(file), 5)[2]).__mro__[1] for file in (one, other, one)]
    assert kinds == [torch.nn.ReLU, torch.nn.Tanh, torch.nn.ReLU]


def test_module_beside_a_net_hides_another_of_its_name_from_that_net_alone(tmp_path):
    import colorsys

    build(settings(net(tmp_path, helper="colorsys")), 5)
    assert sys.modules["colorsys"] is colorsys
    assert not hasattr(colorsys, "late")


def test_bytecode_that_lies_beside_a_net_is_not_run(tmp_path):
    import py_compile

    file = net(tmp_path)
    stat = (tmp_path / "parts.py").stat()
    (tmp_path / "parts.py").write_text("def late(size): return 0 * (size)  \n"[: stat.st_size].ljust(stat.st_size))
    py_compile.compile(
        str(tmp_path / "parts.py"), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    net(tmp_path)
    assert list((tmp_path / "__pycache__").iterdir())
    assert build(settings(file), 5)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("other.py", True),
        ("blocks/deep/more.py", True),
        ("notes.txt", False),
        (".hidden.py", False),
        (".venv/lib.py", False),
        ("env/pyvenv.cfg", False),
        ("blocks/__pycache__/act.py", False),
        (f"runs/x/code/{'0' * 64}/nets.py", False),
    ],
)
def test_sha256_covers_all_code_of_the_folder_and_nothing_else(tmp_path, path, counts):
    file = net(tmp_path)
    before = code_of(ModelSettings(file=str(file)))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("x = 1\n")
    if path.startswith("env"):
        (tmp_path / "env" / "lib.py").write_text("x = 1\n")
    assert (code_of(ModelSettings(file=str(file))) != before) is counts


def test_sha256_follows_names_and_contents_and_not_the_place(tmp_path):
    first, moved = (code_of(ModelSettings(file=str(net(tmp_path / name)))) for name in "ab")
    assert first == moved
    (tmp_path / "a" / "parts.py").rename(tmp_path / "a" / "bits.py")
    assert code_of(ModelSettings(file=str(tmp_path / "a" / "nets.py"))) != first


def test_code_that_changed_since_it_was_planned_is_not_run(tmp_path):
    planned = settings(net(tmp_path))
    (tmp_path / "parts.py").write_text("raise SystemExit(9)\n")
    with pytest.raises(CheckFailed, match=r"nets.py: its folder's code changed \(sha256 "):
        build(planned, 5)


def test_file_without_a_sha256_is_not_imported(tmp_path):
    marker = tmp_path / "marker"
    file = write(tmp_path, nets=f"open({str(marker)!r}, 'w')\ndef build(**_): ...\n")
    with pytest.raises(ConfigError, match="a configuration's code runs only with --trust-code"):
        build(ModelSettings(name="nets.py:build", file=str(file)), 5)
    assert not marker.exists()


def test_folder_that_holds_too_much_is_refused_in_one_line(tmp_path, monkeypatch):
    file = net(tmp_path)
    for limit, most in (("_MOST_FILES", 2), ("_MOST_BYTES", 100), ("_MOST_ENTRIES", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(own_code, limit, most)
            with pytest.raises(ConfigError, match=r"folder holds too much .*; give it a folder of its own$"):
                code_of(ModelSettings(file=str(file)))


BODY = "from torch import nn\nimport torch\ndef build(num_classes, input_size): return {}\n"
HEAD = "nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "def biuld(num_classes, input_size): ...",
            r"^model.function=build: \S+ has no such function; did you mean biuld",
        ),
        ("build = 3", r"^model.function=build: .* has no such function; define build\(num_classes, input_size\), or"),
        ("import absent_module", r"^model.file=\S+/nets.py, build: fails \(ModuleNotFoundError: No module named"),
        ("def build(:", r"fails \(SyntaxError: "),
        ("import sys; sys.exit('usage: nets.py')", r"fails \(SystemExit: usage"),
        (
            "def build(num_classes): ...",
            r"^model.file=\S+/nets.py, build: takes no input_size; it is called with num_classes, input_size and",
        ),
        (BODY.format("1 / 0"), r"fails \(ZeroDivisionError: division by zero\)$"),
        (BODY.format("{}"), "build: returns a dict, not a torch.nn.Module$"),
        (BODY.format("nn.Flatten()"), "has no parameters to train"),
        (BODY.format("nn.Sequential(nn.Flatten(), nn.Linear(192, 3))"), r"gives \(1, 3\) for 1 images, not \(1, 5\)"),
        (BODY.format("nn.Conv2d(3, num_classes, 1)"), r"gives \(1, 5, 8, 8\) for 1 images"),
        (BODY.format("nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))"), "1.weight has no shape yet"),
        (BODY.format(f"{HEAD}.double()"), "1.weight is torch.float64; make it torch.float32"),
        (BODY.format(f"{HEAD}.to('meta')"), "1.weight is on meta; leave all on the CPU"),
        (
            BODY.format("nn.Sequential(nn.Flatten(), *[nn.Linear(192, 192)] * 2, nn.Linear(192, num_classes))"),
            "1.weight and 2.weight are one; give each layer its own",
        ),
        (
            BODY.format("nn.Sequential(nn.Flatten(), nn.Linear(100, num_classes))"),
            "model.input_size=8: .* does not take",
        ),
    ],
)
def test_net_that_cannot_be_trained_is_told_in_one_line(tmp_path, text, line):
    with pytest.raises(ConfigError, match=line) as refusal:
        build(settings(write(tmp_path, nets=text)), 5)
    assert "\n" not in str(refusal.value)


def test_argument_that_the_function_does_not_take_is_refused_with_the_nearest(tmp_path):
    file = net(tmp_path)
    with pytest.raises(ConfigError, match=r"^model.args.widht: nets.py:build takes no .* did you mean width\?"):
        build(settings(file, args={"widht": 3}), 5)
    with pytest.raises(ConfigError, match=r"^model.args.num_classes: Septet gives it"):
        build(settings(file, args={"num_classes": 3}), 5)


def test_arguments_are_refused_by_nets_that_take_none_and_where_they_are_no_numbers():
    with pytest.raises(ConfigError, match=r"^model.args: lenet5 has its settings below model"):
        outline(ModelSettings(name="lenet5", input_size=32, args={"width": 3}), 5)
    with pytest.raises(ValueError, match="give finite numbers"):
        ModelSettings(args={"rates": [0.1, float("nan")]})


def test_file_of_weights_starts_a_net_that_looks_at_values(tmp_path):
    file = write(
        tmp_path,
        nets=BODY.format("nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes + int(torch.zeros(1))))"),
    )
    model = settings(file)
    torch.save(build(model, 5).state_dict(), tmp_path / "a.pth")
    given = InitFile(str(tmp_path / "a.pth"), sha256_of(tmp_path / "a.pth"))
    check_init_file(given, model, 5, ())
    with pytest.raises(DataError, match=r"1.weight is \(5, 192\), the model wants \(6, 192\)"):
        check_init_file(given, model, 6, ())


def test_layers_counts_and_head_are_those_of_the_net_also_where_it_looks_at_values(tmp_path):
    file = write(
        tmp_path,
        nets="""
        import torch
        from torch import nn
        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.body = nn.Linear(192, 7)
                self.scale = nn.Parameter(torch.ones(num_classes, 7))
                assert self.scale.sum().item() > 0
            def forward(self, images):
                logits = self.body(images.flatten(1)) @ self.scale.T
                return (logits, logits) if self.training else logits
        def build(num_classes, input_size): return Net(num_classes)
    """,
    )
    found = outline(settings(file), 5)
    assert (found.num_parameters, found.num_macs, found.parameters) == (1351 + 35, 1344, {"": 35, "body": 1351})
    assert (found.select("head"), found.select("body")) == (("",), ("body",))


def test_weights_follow_the_seed_alone_and_a_net_that_draws_otherwise_is_refused(tmp_path):
    built = build(settings(net(tmp_path / "a")), 5)
    drawn = []
    for seed in (3, 3, 4):
        torch.rand(1)
        before = torch.get_rng_state()
        initialise(built, InitSettings(), seed)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(built[0].weight.clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    odd = write(
        tmp_path / "b",
        nets="""
        import random
        from torch import nn
        def build(num_classes, input_size):
            net = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
            nn.init.constant_(net[1].weight, random.random())
            return net
    """,
    )
    with pytest.raises(ConfigError, match=r"draws other numbers for 1.weight each time; draw from torch's"):
        initialise(build(settings(odd), 5), InitSettings(), 3)
