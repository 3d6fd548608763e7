"""The command's boundary: exit codes, one line on stderr, quick help, closed pipes and signals."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from orchestrator.cli import program
from orchestrator.cli.commands import VERBS
from orchestrator.cli.program import main
from workers import errors

_SEPTET = [sys.executable, "-m", "orchestrator.cli.program"]


@pytest.fixture
def doctor_raises(monkeypatch):
    """Makes `septet doctor` raise an error."""

    def set_error(error):
        def run(_request, _streams):
            raise error

        monkeypatch.setitem(VERBS, "doctor", replace(VERBS["doctor"], run=run))

    return set_error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("x"), kind.exit_code) for kind in errors.SeptetError.__subclasses__()),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division\nby zero"), 1),
        (OSError(36, "File name too long", "/a/place"), 7),
        (OSError("of no file"), 1),
    ],
)
def test_main_of_a_verb_that_fails_answers_with_its_exit_code_and_one_line(error, code, doctor_raises, capsys):
    doctor_raises(error)
    assert main(["doctor"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1 and said.err.startswith("septet: ")


def test_exit_codes_are_those_of_the_interface():
    names = "ClusterLost ConfigError DataError MemberFailed RunInUse RunMismatch StorageError CheckFailed Stopped"
    assert [getattr(errors, name).exit_code for name in names.split()] == [*range(1, 9), 130]


def test_main_of_an_unexpected_error_hints_at_debug_and_with_it_shows_the_traceback(doctor_raises, capsys):
    doctor_raises(ZeroDivisionError("zero"))
    main(["doctor"])
    assert "--debug" in capsys.readouterr().err
    main(["doctor", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_main_of_a_mistyped_verb_names_the_nearest_and_exits_2(capsys):
    assert main(["statsu"]) == 2
    assert capsys.readouterr().err == "septet: no verb `statsu`: did you mean `status`?\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_its_examples_and_flags(verb, capsys):
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: septet {verb}")
    assert all(shown in said for shown in [*VERBS[verb].examples, *VERBS[verb].parser.flags])


def test_help_names_every_verb_and_version_prints_it(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("septet ")


def test_help_imports_nothing_heavy(checkout):
    """So that it comes at once: importing any of these takes longer than all the rest."""
    code = "import sys; from orchestrator.cli.program import main; main(['--help']); print(*sys.modules)"
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, cwd=checkout, check=True, capture_output=True, text=True).stdout
    # The line after the help, which itself names MLflow.
    loaded = set(said.splitlines()[-1].split())
    assert "orchestrator.cli.parser" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "hydra", "omegaconf", "numpy", "PIL", "rich", "matplotlib"}


def test_reader_that_leaves_early_gets_no_traceback(checkout):
    # Unbuffered, argparse itself meets the closed pipe and swallows it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed_at_the_other_end:
        asked = subprocess.run(
            [*_SEPTET, "--help"],
            cwd=checkout,
            env=environment,
            stdout=closed_at_the_other_end,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert asked.returncode == 128 + signal.SIGPIPE
    assert asked.stderr == b""


def test_sigterm_ends_with_143_and_one_line(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def terminated(_request, _streams):
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setitem(VERBS, "doctor", replace(VERBS["doctor"], run=terminated))
    assert main(["doctor"]) == 143
    assert capsys.readouterr().err.startswith("septet: terminated")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("verb", ["status", "predict", "report", "submit", "ui"])
def test_verb_on_a_folder_that_is_no_run_exits_3_and_names_it(verb, tmp_path, capsys):
    absent = tmp_path / "absent"
    for folder in (tmp_path, absent):
        words = [verb, str(folder), *(["x.jpg"] if verb == "predict" else [])]
        assert main(words) == 3
        said = capsys.readouterr().err
        assert str(folder) in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "news"),
    [
        *((words, True) for words in ("launch", "clean run", "stop run", "serve run", "status run --watch")),
        *((words, False) for words in ("launch --cfg", "clean run --dry-run", "status run", "plan", "list")),
    ],
)
def test_stdout_may_be_lost_only_where_the_exit_code_tells_all(words, news, monkeypatch):
    verb, *rest = words.split()
    lost = []
    monkeypatch.setattr(program, "carry_news", lambda *, news: lost.append(news))
    monkeypatch.setitem(VERBS, verb, replace(VERBS[verb], run=lambda *_: 0))
    assert (main([verb, *rest]), lost) == (0, [news])
