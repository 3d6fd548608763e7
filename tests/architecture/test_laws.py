"""The laws of docs/architecture.md that neither import-linter nor ruff can state, checked on syntax trees."""

import ast
import re
import tomllib

import pytest
from module_sources import CHECKOUT, sources

MAX_LINES = 400

ATOMIC = "workers/storage/atomic.py"
ATOMIC_BLOCKS = {"replacing", "atomic_folder", "replacing_folder"}
# Functions that write without workers.storage.atomic, each for a reason.
IN_PLACE = {
    "orchestrator/report/figures/drawing.py:draw": "draws into memory",
    "orchestrator/tracking/connection.py:make_database": "MLflow writes the file; then it is fsynced and renamed",
    "orchestrator/run/holder.py:lock": "a lock is held on an open file; what it says is for the message alone",
    "workers/storage/checkpoint.py:_set_aside": "a corrupt checkpoint is renamed, never rewritten",
    "workers/storage/checkpoint.py:_write_durably": "the folder it is given is an atomic_folder",
    "workers/data/store/local_copy.py:_copy_checked": "the folder it is given is an atomic_folder",
    "workers/data/store/preparation.py:_commit": "renames a folder of files that are each committed",
    "workers/data/store/preparation.py:_repair": "moves files that are each committed",
    "workers/throughput/process.py:main": "a pipe, kept for answers",
    "workers/training/metrics.py:__init__": "metrics.jsonl grows line by line, step.txt is overwritten by one number",
}
_WRITING_CALLS = {
    *("savez", "savez_compressed", "savetxt", "tofile", "savefig", "save_file", "rename", "renames"),
    *("copy2", "copyfile", "copytree", "copyfileobj"),
}
_VAGUE = re.compile(r"(^|_)(utils?|common|commons|helpers?|misc)(_|$)")


def _called(node):
    """The last part of the called name: `open` for `open(…)` and for `path.open(…)`."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _receiver(node):
    """The name before the dot, empty where there is none: `json` for `json.dump(…)`."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.value.id
    return ""


def _open_mode(node):
    """The mode of an `open` call, `?` where it is computed."""
    position = 0 if isinstance(node.func, ast.Attribute) and _receiver(node) != "io" else 1
    mode = node.args[position] if len(node.args) > position else None
    for keyword in node.keywords:
        if keyword.arg == "mode":
            mode = keyword.value
    if mode is None:
        return "r"
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "?"


def _writes(node):
    """Says whether a call puts a file under its final name."""
    name, receiver = _called(node), _receiver(node)
    if name in {"open", "fdopen"} and receiver not in {"tarfile", "Image", "webbrowser", "LoadedEnsemble"}:
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


def _unprotected_writes(node, function="", protected=False):
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


def _pure():
    """Reads the modules that the contract `pure` in pyproject.toml names, as paths."""
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (names,) = [contract["source_modules"] for contract in contracts if contract["id"] == "pure"]
    rooms = [CHECKOUT / name.replace(".", "/") for name in names]
    found = {path for room in rooms for path in (room.glob("*.py") if room.is_dir() else [room.with_suffix(".py")])}
    return {path.relative_to(CHECKOUT).as_posix() for path in found}


PURE = _pure()


def violations(path, source):
    """Lists what breaks a law in `source`, the module at `path` (relative to the checkout, with slashes)."""
    tree = ast.parse(source)
    found = []
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
        called = _called(node) if isinstance(node, ast.Call) else ""
        if path in PURE and called in {"open", "load", "default_rng", "read_text"}:
            found.append(f"{path}:{node.lineno}: a pure module calls {called}")
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            found.append(f"{path}:{node.lineno}: unfinished")
    return found


def test_modules_as_they_are_keep_every_law():
    found = [line for path, source in sources().items() for line in violations(path, source)]
    assert not found, "\n".join(found)


STAGE, PREDICTION = "workers/training/stage.py", "workers/inference/prediction.py"
WRITES = "writes without"
BREACHES = [
    ("pure module calls open", "orchestrator/combine/averaging.py", "def f(p):\n    return open(p)\n"),
    ("named for nothing", "workers/data/image_utils.py", "X = 1\n"),
    ("named for nothing", "orchestrator/helpers/sort.py", "X = 1\n"),
    ("more than", STAGE, "x = 1\n" * (MAX_LINES + 1)),
    ("unfinished", STAGE, "def f():\n    raise NotImplementedError\n"),
    (WRITES, PREDICTION, "open('x', 'w')\n"),
    (WRITES, PREDICTION, "path.open('wb')\n"),
    (WRITES, PREDICTION, "open('x', mode)\n"),
    (WRITES, PREDICTION, "path.write_text('x')\n"),
    (WRITES, PREDICTION, "json.dump(x, file)\n"),
    (WRITES, PREDICTION, "np.save('x.npy', a)\n"),
    (WRITES, PREDICTION, "np.lib.format.open_memmap('x.npy', mode='w+')\n"),
    (WRITES, PREDICTION, "os.open(p, os.O_WRONLY | os.O_CREAT)\n"),
    (WRITES, PREDICTION, "import os\nos.replace(a, b)\n"),
    (WRITES, PREDICTION, "a.replace(b)\n"),
    (WRITES, PREDICTION, "with replacing(p) as file:\n    np.save(file, a)\nnp.save('y', a)\n"),
]
LAWFUL = [
    (STAGE, "saver.save(state)\n"),
    (PREDICTION, "open('x')\npath.open('rb')\nos.open('x', os.O_RDONLY)\n"),
    (PREDICTION, "np.lib.format.open_memmap('x.npy', mode='r')\n"),
    (PREDICTION, "atomic.write_text(p, 'x')\nwrite_json(p, {})\n"),
    (PREDICTION, "with replacing(p) as file:\n    np.save(file, a)\n"),
    ("orchestrator/plan/build.py", "s.replace('a', 'b')\nreplace(x, a=1)\n"),
    ("orchestrator/commonality.py", "X = 1\n"),
]


@pytest.mark.parametrize(("law", "path", "source"), BREACHES)
def test_law_broken_on_purpose_is_reported(law, path, source):
    assert any(law in line for line in violations(path, source))


@pytest.mark.parametrize(("path", "source"), LAWFUL)
def test_lawful_source_is_left_alone(path, source):
    assert violations(path, source) == []


def test_exemptions_are_all_still_needed():
    assert set(sources()) >= PURE | {ATOMIC}
    for place in IN_PLACE:
        path, function = place.split(":")
        tree = ast.parse((CHECKOUT / path).read_text())
        assert function in {name for _, name in _unprotected_writes(tree)}, f"{place} writes nothing in place"
