"""Who spells the names of a run's files: `RunPaths` and `workers.storage.layout` alone."""

import ast
import re

from module_sources import CHECKOUT, sources

SPELLERS = ("workers/storage/layout.py", "orchestrator/run/paths.py")
# The same word names another thing there, or stands in a message.
OTHERS = {
    "workers/data/store/store.py": {"manifest.json"},
    "orchestrator/config/composition.py": {"config.yaml"},
    "orchestrator/verification/run.py": {"checkpoints"},
    "workers/training/pretrained.py": {"checkpoints", "model.safetensors"},
}
# A split's files have a name that is computed.
_OF_SPLIT = re.compile(r"\{(split|name)(\.name)?\}\.(npy|json|rows\.txt|labels\.npy|sizes\.npy)")
_FILE = re.compile(r"[\w*-]*\.\w+")


def _strings(tree):
    """Every string constant, and every f-string as it is written."""
    computed = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in computed for part in node.values}
    yield from (ast.unparse(node)[2:-1] for node in computed)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def _names():
    """The file names that the two modules spell, and the folder names that are no common word."""
    found = {text for path in SPELLERS for text in _strings(ast.parse((CHECKOUT / path).read_text()))}
    return {text for text in found if _FILE.fullmatch(text)} | {"checkpoints", "step-"}


def _spelt(source, names):
    return [
        text
        for text in _strings(ast.parse(source))
        if text in names or _OF_SPLIT.fullmatch(text) or (text.startswith("step-") and " " not in text)
    ]


def test_names_of_a_runs_files_are_spelt_in_two_modules_alone():
    names = _names()
    assert {"metrics.jsonl", "DONE.json", ".attempt", "manifest.json", "run.json", "submission.csv"} <= names
    others = {}
    for place, source in sources().items():
        found = set(_spelt(source, names)) - OTHERS.get(place, set())
        if place not in SPELLERS and found:
            others[place] = found
    assert others == {}


def test_names_search_sees_constants_and_computed_names():
    source = 'a = f / "DONE.json"\nb = f"{split.name}.rows.txt"\nc = glob("step-*")\nd = f"{folder}: no DONE.json"\n'
    assert set(_spelt(source, _names())) == {"DONE.json", "{split.name}.rows.txt", "step-*"}
