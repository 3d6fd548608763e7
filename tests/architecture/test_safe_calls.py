"""No module of the two packages makes code out of data: calls that could are forbidden, or bound to a safe form."""

import ast

from module_sources import CHECKOUT, sources

# Modules whose very loading runs what is loaded. `pickle` is looked at call by call: its errors are caught.
MODULES = {"dill", "joblib", "cloudpickle", "jsonpickle", "shelve", "marshal", "runpy", "codeop", "imp", "xml"}
# `x.name(…)` for any x, where the name alone says enough.
METHODS = {
    *("extractall", "unpack_archive", "instantiate", "read_pickle", "unsafe_load", "full_load", "load_all", "mktemp")
}
# `module.name(…)`.
CALLS = {
    **{("pickle", name): "unpickles" for name in ("load", "loads", "Unpickler")},
    **{("os", name): "starts a shell" for name in ("system", "popen")},
    **{("subprocess", name): "starts a shell" for name in ("getoutput", "getstatusoutput")},
    **{("yaml", name): "takes tags" for name in ("load", "unsafe_load", "full_load", "Loader", "UnsafeLoader")},
    ("tarfile", "extract"): "writes where an archive says",
}
BUILTINS = {"eval", "exec", "compile", "__import__", "input"}
# A call is only allowed with this argument, written out.
BOUND = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
    ("Image", "open"): ("formats", ...),
    ("PIL.Image", "open"): ("formats", ...),
}
EXEMPT = {"workers/throughput/process.py:pickle.load": "a pipe whose other end is the process that started it"}


def _name(node):
    """`("os", "system")` for `os.system`, `("", "eval")` for `eval`, `("PIL.Image", "open")`."""
    if isinstance(node, ast.Name):
        return "", node.id
    if isinstance(node, ast.Attribute):
        return ".".join(part for part in _name(node.value) if part), node.attr
    return "", ""


def _has(call, argument, value):
    for keyword in call.keywords:
        if keyword.arg == argument:
            return value is ... or (isinstance(keyword.value, ast.Constant) and keyword.value.value is value)
    return False


def _imported(node):
    if isinstance(node, ast.Import):
        yield from ((alias.name.split(".")[0], "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (((node.module or "").split(".")[0], alias.name) for alias in node.names)


def _unsafe(node):
    """What a node does, and why it must not."""
    for module, name in _imported(node):
        if module in MODULES:
            yield module, "is imported"
        if (module, name) in CALLS or (module, name) in BOUND or name in METHODS:
            yield f"{module}.{name}", "is imported by name: call it by its module, so that its arguments are seen"
    if not isinstance(node, ast.Call):
        return
    module, name = _name(node.func)
    shown = f"{module}.{name}" if module else name
    if isinstance(node.func, ast.Name) and name in BUILTINS:
        yield name, "runs text"
    if name in METHODS:
        yield shown, "is never needed here"
    if (module, name) in CALLS:
        yield shown, CALLS[module, name]
    if (module, name) in BOUND and not _has(node, *BOUND[module, name]):
        argument, value = BOUND[module, name]
        yield shown, f"without {argument}={'…' if value is ... else value}"
    if any(keyword.arg == "shell" and not _has(node, "shell", False) for keyword in node.keywords):
        yield shown, "with a shell"


def unsafe(path, source):
    """Unsafe calls in `source`, the module at `path`."""
    found = [(node, *said) for node in ast.walk(ast.parse(source)) for said in _unsafe(node)]
    return [
        f"{path}:{getattr(node, 'lineno', 0)}: {what} {why}"
        for node, what, why in found
        if f"{path}:{what}" not in EXEMPT
    ]


def test_no_module_makes_code_out_of_data():
    found = [line for path, source in sources().items() for line in unsafe(path, source)]
    assert not found, "\n".join(found)


UNSAFE = """
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=careful)
from torch import load; load(path)
np.load(path)
np.load(path, allow_pickle=True)
numpy.load(path)
Image.open(path)
PIL.Image.open(path)
pickle.load(file)
pickle.loads(data)
from pickle import loads
pickle.Unpickler(file).load()
import joblib
from dill import loads
import yaml; yaml.load(text, Loader=yaml.SafeLoader)
yaml.unsafe_load(text)
eval(text)
exec(text)
os.system(text)
os.popen(text)
subprocess.run(text, shell=True)
subprocess.run(text, shell=wanted)
subprocess.getoutput(text)
tar.extractall(folder)
shutil.unpack_archive(path)
hydra.utils.instantiate(config)
from hydra.utils import instantiate
tempfile.mktemp()
"""
SAFE = """
torch.load(path, weights_only=True)
np.load(path, allow_pickle=False)
Image.open(path, formats=FORMATS)
model.eval()
re.compile(text)
pickle.dumps(value)
except_ = pickle.UnpicklingError
yaml.parse(text, Loader=yaml.SafeLoader)
subprocess.run([command], shell=False)
safetensors.torch.load(data)
"""


def test_unsafe_calls_are_reported_and_safe_ones_left_alone():
    unreported = [line for line in UNSAFE.split("\n")[1:-1] if not unsafe("workers/training/stage.py", line)]
    assert unreported == []
    assert unsafe("workers/training/stage.py", SAFE) == []


def test_exemptions_are_all_still_needed():
    for place in EXEMPT:
        path, what = place.split(":")
        tree = ast.parse((CHECKOUT / path).read_text())
        assert what in {said[0] for node in ast.walk(tree) for said in _unsafe(node)}, place
