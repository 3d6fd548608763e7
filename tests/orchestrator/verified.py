"""What `septet verify` says of a run, and alterations of its files."""

import json
from typing import Any

from orchestrator.cli.program import main
from workers.storage import atomic


def told(paths, capsys, code):
    """The document of `septet verify --json`, which must end with `code` and one line on stderr unless it is 0."""
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")}
    assert main(["verify", str(paths.root), "--json"]) == code
    said = capsys.readouterr()
    assert said.err.count("\n") == (0 if code == 0 else 1)
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")} == before, "verify changes nothing"
    document: dict[str, Any] = json.loads(said.out)
    assert document["ok"] == (code == 0) == (document["problems"] == [])
    return document


def flip(path):
    content = bytearray(path.read_bytes())
    # The lowest bit of a float32's mantissa, near the end: still a probability and a weight like any other.
    content[-4] ^= 1
    path.write_bytes(bytes(content))


def amend(path, **values):
    atomic.write_json(path, json.loads(path.read_text()) | values)
