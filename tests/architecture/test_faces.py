"""The packages as a reader sees them: how much a folder lists, what a package exports, and no circle behind a face.

A package's face is the stub beside its `__init__`. Import-linter does not look through it, so circles that lead
through a face are found here.
"""

import ast
import graphlib
import json
import re
import subprocess
import sys

import pytest
from folder_listing import entries
from module_sources import CHECKOUT, PACKAGES, sources

MOST_AT_THE_TOP = 24
MOST_BELOW = 22


def _dotted(path):
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def _face(package, stub):
    nodes = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{package}.{node.module}" for node in nodes for alias in node.names}


def faces():
    """Reads the face of every package that has one."""
    stubs = [path for top in PACKAGES for path in (CHECKOUT / top).rglob("__init__.pyi")]
    found = {_dotted(path): _face(_dotted(path), path.read_text()) for path in stubs}
    assert len(found) > 20, "the walk finds too few faces"
    return found


# The source of every module, by dotted name.
MODULES = {_dotted(CHECKOUT / path): source for path, source in sources().items()}
FACES = faces()


def _defining(package, name, faces):
    """Finds the module that defines a name of a face, also where a face passes on another's name."""
    module = faces[package][name]
    return _defining(module, name, faces) if name in faces.get(module, {}) else module


def _imports(source, faces):
    """Yields for each import of `source` the package whose face it uses ("" for none) and the modules it may load.

    A package that is imported whole may load all that its face names.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        for place, name in names:
            whole = f"{place}.{name}" if name else place
            if name in faces.get(place, {}):
                yield place, {_defining(place, name, faces)}
            elif whole in faces:
                yield whole, {_defining(whole, one, faces) for one in faces[whole]}
            else:
                yield "", {place, whole}


def circles(sources, faces):
    """Lists imports of a module's own face, and the first circle of modules: faces and late imports count too."""
    found, needs = [], {}
    for module, source in sources.items():
        needs[module] = set()
        for package, loaded in _imports(source, faces):
            if package and module.startswith(f"{package}."):
                found.append(f"{module} imports from {package}, its own package")
            needs[module] |= loaded
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        found.append(" -> ".join(reversed(error.args[1])))
    return found


def test_no_module_imports_its_own_package_and_no_circle_leads_through_a_face():
    assert circles(MODULES, FACES) == []


_CIRCULAR_FACES = {"a": {"f": "a.x", "g": "a.y"}, "b": {"h": "b.z"}, "top": {"f": "a"}}


@pytest.mark.parametrize(
    "sources",
    [
        {"a.x": "from a import g\n"},
        {"a.x": "import a\n"},
        {"a.x": "def late():\n    from a import f\n"},
        {"a.x": "from b import h\n", "b.z": "from a import f\n"},
        {"a.x": "import b\n", "b.z": "if TYPE_CHECKING:\n    from a import f\n"},
        {"a.x": "from b import h\n", "b.z": "from top import f\n"},
        {"a.x": "import a.y\n", "a.y": "from a import x\n"},
    ],
)
def test_circle_is_reported(sources):
    found = circles(sources, _CIRCULAR_FACES)
    assert found and all(module in found[-1] for module in sources)
    lawful = {"a.x": "from b import h\nimport a.y\n", "b.z": "from a import g\n", "a.y": "import os\n"}
    assert circles(lawful, _CIRCULAR_FACES) == []


def test_no_submodule_bears_an_exported_name():
    """Importing the submodule would overwrite the name."""
    for package, face in FACES.items():
        submodules = {name.removeprefix(f"{package}.") for name in MODULES if name.startswith(f"{package}.")}
        assert set(face) & submodules == set(), package


# Imports every module that it is given, then looks every exported name up; prints what is not as the stubs say.
_LOOK_UP = """
import ast, importlib, inspect, json, sys
names, faces = json.load(sys.stdin)
for name in names:
    importlib.import_module(name)
for package, face in faces.items():
    for name, module in face.items():
        value, home = getattr(sys.modules[package], name), sys.modules[module]
        if inspect.ismodule(value) or value is not getattr(home, name):
            print(f"{package}.{name} is {value!r}, not what {module} defines")
        functions = [node.name for node in ast.parse(inspect.getsource(home)).body if isinstance(node, ast.FunctionDef)]
        if name in functions and not callable(value):
            print(f"{package}.{name} cannot be called")
"""


def _misleading(names, faces, folder):
    run = subprocess.run(
        [sys.executable, "-c", _LOOK_UP], input=json.dumps([names, faces]), capture_output=True, text=True, cwd=folder
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_exported_names_are_the_stubs_when_every_submodule_is_imported():
    assert _misleading(sorted(MODULES), FACES, CHECKOUT) == ""


def test_exported_name_that_a_submodule_has_overwritten_is_reported(tmp_path):
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("def __getattr__(name):\n    import shop.sell\n    return shop.sell.sell\n")
    (package / "sell.py").write_text("def sell():\n    pass\n")
    said = _misleading(["shop", "shop.sell"], {"shop": {"sell": "shop.sell"}}, tmp_path)
    assert "shop.sell is <module" in said


def sentences(source):
    """Counts the sentences of a module's docstring; 0 without one."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return len(re.findall(r"[^.!?]+[.!?](?=\s|$)", text))


def test_every_package_says_in_two_sentences_what_it_owns():
    packages = {_dotted(path) for top in PACKAGES for path in (CHECKOUT / top).rglob("__init__.py")}
    assert {name: sentences(MODULES[name]) for name in sorted(packages) if sentences(MODULES[name]) != 2} == {}


def test_sentences_are_counted():
    texts = ("", '"""One. Two."""', '"""One `a.b`, 2.5 of it"""', '"""A.\n\nB. C!"""')
    assert [sentences(text) for text in texts] == [0, 2, 0, 3]


def used(module, source, faces):
    """Returns the exported names that a module outside their package uses: `orchestrator.run.RunPaths`."""
    tree, found, rooms = ast.parse(source), set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full)
                if full in faces:
                    rooms[alias.asname or alias.name] = full
        elif isinstance(node, ast.Import):
            rooms |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in faces}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in rooms:
            found.add(f"{rooms[ast.unparse(node.value)]}.{node.attr}")
    exported = {f"{package}.{name}" for package, face in faces.items() for name in face}
    return {name for name in found & exported if not module.startswith(f"{name.rpartition('.')[0]}.")}


def test_every_exported_name_is_used_outside_its_package():
    """Of the two packages, the benchmarks and the command; what `orchestrator` itself exports is for notebooks."""
    sources = MODULES | {_dotted(path): path.read_text() for path in (CHECKOUT / "benchmarks").rglob("*.py")}
    sources["septet"] = (CHECKOUT / "septet.py").read_text()
    found = {name for module, source in sources.items() for name in used(module, source, FACES)}
    found |= {f"{module}.{name}" for name, module in FACES["orchestrator"].items()}
    exported = {f"{package}.{name}" for package, face in FACES.items() if package != "orchestrator" for name in face}
    assert sorted(exported - found) == []


def test_uses_are_told_from_a_package_using_its_own_names():
    face = {"shop": {"sell": "shop.selling", "buy": "shop.buying", "PRICE": "shop.buying"}}
    street = "from shop import sell\nimport shop\nshop.buy(1)\nother.PRICE\n"
    assert used("street", street, face) == {"shop.sell", "shop.buy"}
    assert used("shop.buying", "from shop import sell\n", face) == set()


def test_folders_list_few_entries():
    for top in PACKAGES:
        assert len(entries(CHECKOUT / top)) <= MOST_AT_THE_TOP, top
        for init in (CHECKOUT / top).rglob("*/__init__.py"):
            assert len(entries(init.parent)) <= MOST_BELOW, init.parent
