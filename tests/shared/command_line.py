"""Septet's command line inside the test's own process: what it answers, and small ensembles for it to train."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli.program import main


@dataclass(frozen=True)
class Answer:
    """A command's exit code, and what it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def line(self) -> str:
        """Its one complaint."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("septet: ")]
        return line


def ask(capture: pytest.CaptureFixture[str], *words: object) -> Answer:
    """Runs `septet WORDS`; what was said before is let go."""
    capture.readouterr()
    code = main([str(word) for word in words])
    said = capture.readouterr()
    return Answer(code, said.out, said.err)


def write_ensemble(groups: Path, name: str, *members: str) -> Path:
    """Writes `ensemble=NAME` of members that each train once on the target; gives the folder for --config-dir."""
    (groups / "ensemble").mkdir(parents=True, exist_ok=True)
    lines = [f"  {member}: {{stages: {{train: {{dataset: target}}}}}}\n" for member in members]
    (groups / "ensemble" / f"{name}.yaml").write_text(f"members:\n{''.join(lines)}")
    return groups
