"""No module makes code out of data: ruff forbids calls that could (pyproject.toml), others must say how they read."""

import ast
import re
import subprocess
import sys

import pytest
from module_sources import CHECKOUT, sources

# These are safe only with an argument, which must be written out.
BOUND = {
    **dict.fromkeys(("np.load", "numpy.load"), "allow_pickle"),
    **dict.fromkeys(("Image.open", "PIL.Image.open"), "formats"),
    "torch.load": "weights_only",
}


def unbound(path, source):
    """Lists calls in `source`, the module at `path`, that leave out the argument that makes them safe."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    wanted = ((call, BOUND.get(ast.unparse(call.func))) for call in calls)
    return [
        f"{path}:{call.lineno}: {ast.unparse(call.func)} without {argument}"
        for call, argument in wanted
        if argument and argument not in [keyword.arg for keyword in call.keywords]
    ]


def test_calls_that_are_safe_with_an_argument_have_it():
    assert [line for path, source in sources().items() for line in unbound(path, source)] == []
    assert unbound("a.py", "np.load(p)\nImage.open(p)\nImage.open(p, formats=F)\n") == [
        "a.py:1: np.load without allow_pickle",
        "a.py:2: Image.open without formats",
    ]


UNSAFE = """
pickle.load(file)
import joblib
from dill import loads
yaml.load(text, Loader=yaml.Loader)
eval(text)
exec(text)
os.system(text)
subprocess.run(text, shell=True)
subprocess.getoutput(text)
tarfile.open(path).extractall(folder)
shutil.unpack_archive(path)
hydra.utils.instantiate(config)
importlib.import_module(text)
tempfile.mktemp()
from . import launching
print(text)
try: open(path)
except Exception: f(path)
"""
SAFE = """
model.eval()
yaml.parse(text, Loader=yaml.SafeLoader)
subprocess.run([path], check=False)
"""


def test_ruff_forbids_unsafe_calls_and_leaves_safe_ones_alone():
    pytest.importorskip("ruff", reason="`make check` installs it")
    names = sorted(set(re.findall(r"^(\w+)\.\w", UNSAFE + SAFE, re.MULTILINE)))
    body = re.sub("(?m)^(?=.)", "    ", UNSAFE + SAFE)
    source = f"import {', '.join(names)}\n\n\ndef f(config, file, folder, path, text):\n{body}"
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format=concise",
        "--stdin-filename=workers/tried.py",
        "-",
    ]
    said = subprocess.run(command, input=source, capture_output=True, text=True, cwd=CHECKOUT).stdout
    found = {int(line) for line in re.findall(r"^workers/tried\.py:(\d+):\d+: (?:BLE|S|T20|TID)\d", said, re.MULTILINE)}
    assert {source.splitlines()[line - 1].strip() for line in found} == set(UNSAFE.split("\n")[1:-1]) - {
        "try: open(path)"
    }
