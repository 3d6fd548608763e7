"""The laws of docs/architecture.md, read off the syntax trees, and for each a source that breaks it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers")
MAX_LINES = 400

OWNERS = {
    "ray": ("orchestrator/cluster/ray_backend", "orchestrator/cluster/ray_nodes", "orchestrator/cluster/ray_session"),
    "mlflow": ("orchestrator/tracking/mlflow_store",),
    "hydra": ("orchestrator/config/composition", "orchestrator/config/overrides"),
    "omegaconf": ("orchestrator/config/composition", "orchestrator/config/overrides"),
    "matplotlib": ("orchestrator/report/plots",),
}
FORBIDDEN = {
    "workers": {"orchestrator", "conf", "ray", "hydra", "omegaconf", "mlflow", "matplotlib"},
    "orchestrator": {"torch", "torchvision"},
}
PURE = {
    "orchestrator/plan/build.py",
    "orchestrator/plan/model.py",
    "orchestrator/plan/diff.py",
    "orchestrator/plan/checks.py",
    "orchestrator/plan/report.py",
    "orchestrator/plan/schedule.py",
    "orchestrator/placement/choice.py",
    "orchestrator/combine/averaging.py",
    "orchestrator/report/scores.py",
    "orchestrator/combine/rows.py",
    "orchestrator/combine/weights.py",
    "orchestrator/config/members.py",
    "orchestrator/config/structure.py",
    "orchestrator/report/table.py",
    "orchestrator/report/page.py",
}
# The world outside a function's arguments: disk, clock, chance, processes, network.
IMPURE_IMPORTS = {
    *("asyncio", "datetime", "io", "multiprocessing", "os", "pathlib", "psutil", "random", "secrets", "shutil"),
    *("socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid", "concurrent", "logging"),
    *("ray", "mlflow", "hydra", "omegaconf", "matplotlib", "rich"),
}
# Rooms of values: all that a pure module may import from the project besides other pure modules.
VALUE_MODULES = {
    *(
        "workers.settings.training",
        "workers.settings.dataset",
        "workers.protocol",
        "workers.errors",
        "workers.models.layers",
    ),
    *("workers.data.sources.registry", "workers.kernels.average", "workers.training.layer_rates"),
    *("orchestrator.config.composition", "orchestrator.config.schema"),
}
# Where `except Exception` may stand: nothing but values leaves there.
CATCH_ALL = {
    "orchestrator/cluster/actor.py": "the actor boundary encodes the error and returns it",
    "orchestrator/tracking/sender.py": "the sender thread's boundary: no outage of a tracking store stops a run",
    "orchestrator/cli/program.py": "exit code 1 and its one line are made here",
}
ATOMIC = "workers/storage/atomic.py"
ATOMIC_BLOCKS = {"replacing", "atomic_folder", "replacing_folder"}
# Functions that write without workers.storage.atomic, each for a reason.
IN_PLACE = {
    "orchestrator/cluster/actor.py:_after_predecessor": "a lock is held on an open file, whose content says nothing",
    "orchestrator/report/plots.py:_png": "draws into memory",
    "orchestrator/run/paths.py:lock": "a lock is held on an open file; what it says is for the message alone",
    "workers/storage/checkpoint.py:_set_aside": "a corrupt checkpoint is renamed, never rewritten",
    "workers/storage/checkpoint.py:_write_durably": "the folder it is given is an atomic_folder",
    "workers/data/store/local_copy.py:_copy_checked": "the folder it is given is an atomic_folder",
    "workers/storage/lock.py:locked": "a lock is held on an open file, whose content says nothing",
    "workers/storage/lock.py:is_locked": "asks whether that lock is held",
    "workers/data/store/preparation.py:_commit": "renames a folder of files that are each committed",
    "workers/throughput/process.py:main": "a pipe, kept for answers",
    "workers/training/metrics.py:__init__": "metrics.jsonl grows line by line, step.txt is overwritten by one number",
}
_WRITING_CALLS = {
    *("savez", "savez_compressed", "savetxt", "tofile", "savefig", "save_file", "rename", "renames"),
    *("copy2", "copyfile", "copytree", "copyfileobj"),
}
_VAGUE = re.compile(r"(^|_)(utils?|common|commons|helpers?|misc)(_|$)")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported dotted name with its line, lazy and dynamic imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            for argument in node.args[:1]:
                constant = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                yield node.lineno, argument.value if constant else "<computed>"


def _called(node: ast.Call) -> str:
    """The last part of the called name: `open` for `open(…)` and for `path.open(…)`."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _receiver(node: ast.Call) -> str:
    """The name before the dot, empty where there is none: `json` for `json.dump(…)`."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.value.id
    return ""


def _open_mode(node: ast.Call) -> str:
    """The mode of an `open` call, `?` where it is computed."""
    position = 0 if isinstance(node.func, ast.Attribute) and _receiver(node) != "io" else 1
    mode = node.args[position] if len(node.args) > position else None
    for keyword in node.keywords:
        if keyword.arg == "mode":
            mode = keyword.value
    if mode is None:
        return "r"
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "?"


def _writes(node: ast.Call) -> bool:
    """Whether a call puts a file under its final name."""
    name, receiver = _called(node), _receiver(node)
    if name in {"open", "fdopen"} and receiver not in {"tarfile", "Image", "webbrowser"}:
        if receiver == "os" and name == "open":
            words = set(re.findall(r"\w+", ast.unparse(node)))
            return bool({"O_WRONLY", "O_RDWR", "O_CREAT"} & words) and "devnull" not in words
        return bool(set(_open_mode(node)) & set("wax+?"))
    if name in {"open_memmap", "memmap"}:
        return not any(
            keyword.arg == "mode" and isinstance(keyword.value, ast.Constant) and keyword.value.value in {"r", "c"}
            for keyword in node.keywords
        )
    if name in {"write_text", "write_bytes"}:
        return isinstance(node.func, ast.Attribute) and receiver != "atomic"
    if name == "replace":
        return receiver == "os" or (isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords)
    if name == "save":
        return receiver in {"np", "numpy", "torch", "image"}
    if name == "dump":
        return receiver in {"json", "pickle", "yaml"}
    return name in _WRITING_CALLS


def _unprotected_writes(node: ast.AST, function: str = "", protected: bool = False) -> Iterator[tuple[int, str]]:
    """Lines of writes outside any `with replacing(…)` or `with atomic_folder(…)`, with the function they are in."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        protected = protected or any(_called(call) in ATOMIC_BLOCKS for call in calls)
    if isinstance(node, ast.Call) and not protected and _writes(node):
        yield node.lineno, function
    for child in ast.iter_child_nodes(node):
        yield from _unprotected_writes(child, function, protected)


def _catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether a handler swallows everything; one that ends in a bare `raise` only cleans up."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in caught
    )


def _import_violations(path: str, tree: ast.AST) -> Iterator[str]:
    room, module = path.split("/")[0], path.removesuffix(".py")
    for line, name in _imports(tree):
        top = name.split(".")[0]
        if name.startswith(".") or name == "<computed>":
            yield f"{path}:{line}: relative or computed import: name the module in full"
        if top in FORBIDDEN[room]:
            yield f"{path}:{line}: {room} imports {top}"
        if top in OWNERS and not any(module == owner or module.startswith(f"{owner}/") for owner in OWNERS[top]):
            yield f"{path}:{line}: {top} belongs to {', '.join(OWNERS[top])}"
        if path in PURE:
            if top in IMPURE_IMPORTS:
                yield f"{path}:{line}: a pure module imports {top}"
            values = VALUE_MODULES | {pure.removesuffix(".py").replace("/", ".") for pure in PURE}
            if top in PACKAGES and not any(name == value or name.startswith(f"{value}.") for value in values):
                yield f"{path}:{line}: a pure module imports {name}"


def violations(path: str, source: str) -> list[str]:
    """What breaks a law in `source`, the module at `path` (relative to the checkout, with slashes)."""
    tree = ast.parse(source)
    found = list(_import_violations(path, tree))
    if source.count("\n") > MAX_LINES:
        found.append(f"{path}: more than {MAX_LINES} lines: split it")
    if any(_VAGUE.search(part.removesuffix(".py")) for part in path.split("/")):
        found.append(f"{path}: named for nothing: put each function where its subject lives")
    if path != ATOMIC:
        writes = [(line, f"{path}:{function}") for line, function in _unprotected_writes(tree)]
        found += [
            f"{place}:{line}: writes without workers.storage.atomic" for line, place in writes if place not in IN_PLACE
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            found.append(f"{path}:{node.lineno}: prints")
        if (
            isinstance(node, ast.Call)
            and path in PURE
            and _called(node) in {"open", "load", "default_rng", "read_text"}
        ):
            found.append(f"{path}:{node.lineno}: a pure module calls {_called(node)}")
        if isinstance(node, ast.ExceptHandler) and path not in CATCH_ALL and _catches_all(node):
            found.append(f"{path}:{node.lineno}: catches everything: name the errors")
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            found.append(f"{path}:{node.lineno}: unfinished")
    return found


def modules() -> list[str]:
    """Every module of the two packages."""
    found = sorted(
        path.relative_to(CHECKOUT).as_posix() for room in PACKAGES for path in (CHECKOUT / room).rglob("*.py")
    )
    assert len(found) > 20, "the walk finds no modules: it would call anything lawful"
    return found


def test_modules_as_they_are_keep_every_law() -> None:
    found = [line for path in modules() for line in violations(path, (CHECKOUT / path).read_text())]
    assert not found, "\n".join(found)


BREACHES = {
    "workers import orchestrator": (
        "workers imports orchestrator",
        "workers/training/stage.py",
        "from orchestrator import plan\n",
    ),
    "workers import ray lazily": ("workers imports ray", "workers/training/stage.py", "def f():\n    import ray\n"),
    "workers import mlflow by string": (
        "workers imports mlflow",
        "workers/training/stage.py",
        "import importlib\nimportlib.import_module('mlflow')\n",
    ),
    "workers import by computed name": (
        "computed import",
        "workers/training/stage.py",
        "import importlib\nimportlib.import_module(name)\n",
    ),
    "orchestrator imports torch": ("orchestrator imports torch", "orchestrator/launching.py", "import torch\n"),
    "orchestrator imports torch lazily": (
        "orchestrator imports torch",
        "orchestrator/doctor/checks.py",
        "def f():\n    from torch import nn\n",
    ),
    "ray outside its owner": ("ray belongs to", "orchestrator/launching.py", "import ray\n"),
    "mlflow outside its owner": (
        "mlflow belongs to",
        "orchestrator/report/write.py",
        "from mlflow import MlflowClient\n",
    ),
    "omegaconf outside its owner": (
        "omegaconf belongs to",
        "orchestrator/cli/program.py",
        "from omegaconf import OmegaConf\n",
    ),
    "matplotlib outside its owner": (
        "matplotlib belongs to",
        "orchestrator/report/write.py",
        "import matplotlib.pyplot as plt\n",
    ),
    "owner's name as a mere prefix": ("mlflow belongs to", "orchestrator/tracking_store_view.py", "import mlflow\n"),
    "relative import": ("relative", "orchestrator/cli/program.py", "from . import launch\n"),
    "clock in a pure module": (
        "pure module imports time",
        "orchestrator/plan/schedule.py",
        "from time import monotonic\n",
    ),
    "disk in a pure module": (
        "pure module imports pathlib",
        "orchestrator/plan/build.py",
        "from pathlib import Path\n",
    ),
    "file in a pure module": (
        "pure module calls open",
        "orchestrator/combine/averaging.py",
        "def f(p):\n    return open(p)\n",
    ),
    "pure module imports an impure one": (
        "pure module imports orchestrator.run.paths",
        "orchestrator/report/scores.py",
        "from orchestrator.run.paths import RunPaths\n",
    ),
    "vague name": ("named for nothing", "workers/data/image_utils.py", "X = 1\n"),
    "vague folder": ("named for nothing", "orchestrator/helpers/sort.py", "X = 1\n"),
    "print": ("prints", "workers/training/stage.py", "print('x')\n"),
    "except Exception": (
        "catches everything",
        "workers/training/stage.py",
        "try:\n    f()\nexcept Exception:\n    pass\n",
    ),
    "except Exception among others": (
        "catches everything",
        "workers/training/stage.py",
        "try:\n    f()\nexcept (OSError, Exception) as e:\n    g(e)\n",
    ),
    "bare except": ("catches everything", "orchestrator/launching.py", "try:\n    f()\nexcept:\n    pass\n"),
    "too long": ("more than", "orchestrator/launching.py", "x = 1\n" * (MAX_LINES + 1)),
    "unfinished": ("unfinished", "workers/inference/prediction.py", "def f():\n    raise NotImplementedError\n"),
    "open for writing": ("writes without", "workers/inference/prediction.py", "open('x', 'w')\n"),
    "open with mode keyword": ("writes without", "workers/inference/prediction.py", "open('x', mode='ab')\n"),
    "path opened for writing": ("writes without", "workers/inference/prediction.py", "path.open('wb')\n"),
    "open with computed mode": ("writes without", "workers/inference/prediction.py", "open('x', mode)\n"),
    "Path.write_text": ("writes without", "orchestrator/report/write.py", "path.write_text('x')\n"),
    "json.dump": ("writes without", "orchestrator/report/write.py", "json.dump(x, file)\n"),
    "np.save": ("writes without", "workers/inference/prediction.py", "np.save('x.npy', a)\n"),
    "memmap made in place": (
        "writes without",
        "workers/inference/prediction.py",
        "np.lib.format.open_memmap('x.npy', mode='w+')\n",
    ),
    "figure.savefig": ("writes without", "orchestrator/report/plots.py", "figure.savefig(path)\n"),
    "os.open for writing": ("writes without", "orchestrator/run/ledger.py", "os.open(p, os.O_WRONLY | os.O_CREAT)\n"),
    "os.replace": ("writes without", "orchestrator/run/ledger.py", "import os\nos.replace(a, b)\n"),
    "Path.replace": ("writes without", "orchestrator/run/ledger.py", "a.replace(b)\n"),
    "write after the block": (
        "writes without",
        "workers/inference/prediction.py",
        "with replacing(p) as file:\n    np.save(file, a)\nnp.save('y', a)\n",
    ),
}


LAWFUL = {
    "owner": ("orchestrator/cluster/ray_backend.py", "import ray\nfrom ray.actor import ActorHandle\n"),
    "owner grown into a package": ("orchestrator/tracking_store/client.py", "import mlflow\n"),
    "actor boundary": ("orchestrator/cluster/actor.py", "try:\n    f()\nexcept Exception as e:\n    g(e)\n"),
    "clean up and raise on": (
        "workers/training/stage.py",
        "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n",
    ),
    "reading": ("workers/inference/prediction.py", "open('x')\npath.open('rb')\nos.open('x', os.O_RDONLY)\n"),
    "another thing's save": ("workers/training/stage.py", "saver.save(state)\n"),
    "memmap for reading": ("workers/inference/prediction.py", "np.lib.format.open_memmap('x.npy', mode='r')\n"),
    "atomic": ("workers/inference/prediction.py", "atomic.write_text(p, 'x')\nwrite_json(p, {})\n"),
    "inside an atomic block": ("workers/inference/prediction.py", "with replacing(p) as file:\n    np.save(file, a)\n"),
    "str.replace, dataclasses.replace": ("orchestrator/plan/build.py", "s.replace('a', 'b')\nreplace(x, a=1)\n"),
    "pure on pure": ("orchestrator/plan/schedule.py", "from orchestrator.plan.build import Plan\nimport math\n"),
    "word inside a word": ("orchestrator/commonality.py", "X = 1\n"),
}


@pytest.mark.parametrize(("law", "path", "source"), BREACHES.values(), ids=BREACHES)
def test_law_broken_on_purpose_is_reported(law: str, path: str, source: str) -> None:
    assert any(law in line for line in violations(path, source))


@pytest.mark.parametrize(("path", "source"), LAWFUL.values(), ids=LAWFUL)
def test_lawful_source_is_left_alone(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_exemptions_are_all_still_needed() -> None:
    assert set(modules()) >= PURE | set(CATCH_ALL) | {ATOMIC}
    for place in IN_PLACE:
        path, function = place.split(":")
        tree = ast.parse((CHECKOUT / path).read_text())
        assert function in {name for _, name in _unprotected_writes(tree)}, f"{place} writes nothing in place"
    for path in CATCH_ALL:
        handlers = [
            node for node in ast.walk(ast.parse((CHECKOUT / path).read_text())) if isinstance(node, ast.ExceptHandler)
        ]
        assert any(_catches_all(handler) for handler in handlers), f"{path} catches nothing of the kind"
