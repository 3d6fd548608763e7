"""Home folders in paths: known ones are put in, an unknown one is refused in words."""

import pytest

from orchestrator.cli.program import main
from workers.errors import ConfigError, DataError
from workers.storage.home import expanded


def test_expanded_puts_the_home_folder_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a" and str(expanded("b/~c")) == "b/~c"


@pytest.mark.parametrize("error", [DataError, ConfigError])
def test_unknown_home_folder_is_refused(error):
    with pytest.raises(error, match="~nosuchuser/a: this machine has no user"):
        expanded("~nosuchuser/a", error)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("status ~nosuchuser/run", 2),
        ("export runs/a --out ~nosuchuser/b", 2),
        ("plan datasets.target.classes=~nosuchuser/a", 2),
        ("plan datasets.target.relabel=~nosuchuser/a", 2),
        ("plan model.file=~nosuchuser/a model.function=f", 2),
    ],
)
def test_command_line_refuses_an_unknown_home_folder(line, code, capsys):
    assert main(line.split()) == code
    assert "no user with that home folder" in capsys.readouterr().err
