"""The parser: what each verb takes, and one clear line for what it does not."""

import re
from pathlib import Path

import pytest

from orchestrator.cli.commands import VERBS
from orchestrator.cli.parser import Request, parse
from workers.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("launch", Request("launch")),
        (
            "launch experiment=x --accept-changes 'a.b=[0,1]' --debug ~c",
            Request("launch", overrides=("experiment=x", "'a.b=[0,1]'", "~c"), accept_changes=True, debug=True),
        ),
        ("--debug plan --json dataset@datasets.target=folder", None),
        ("status runs/a=b --watch", Request("status", run_dir=Path("runs/a=b"), watch=True)),
        ("submit run combine=weighted", Request("submit", run_dir=Path("run"), overrides=("combine=weighted",))),
        (
            "predict run a.jpg --top 3 photos --out x.csv",
            Request("predict", Path("run"), images=("a.jpg", "photos"), top=3, out=Path("x.csv")),
        ),
        ("verify run --json", Request("verify", run_dir=Path("run"), json=True)),
        ("explain run a/1.png --top 3", Request("explain", run_dir=Path("run"), image_id="a/1.png", top=3)),
        ("ui", Request("ui")),
        ("ui run", Request("ui", run_dir=Path("run"))),
    ],
)
def test_parse_of_a_well_formed_line_keeps_every_word(line, request_):
    wanted = request_ or Request("plan", overrides=("dataset@datasets.target=folder",), json=True, debug=True)
    assert parse(line.split(), VERBS) == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "give a verb"),
        ("lunch", "did you mean `launch`?"),
        ("xyzzy", "choose from launch"),
        ("status", "needs a run directory"),
        ("predict run", "at least one image"),
        ("explain run", "needs an image's id"),
        ("verify run a --json -- b", "does not take a"),
        ("stop run --timeout -1", "--timeout -1.0: give 0 or more"),
        ("status ~nobody-of-that-name", "no user with that home folder"),
        ("launch runs/mine", "run_dir=runs/mine"),
        ("launch --acept-changes", "did you mean --accept-changes?"),
        ("report run a=b", "does not take a=b"),
        ("predict run a.jpg --top 0", "--top 0"),
        ("status run --accept-changes", "no flag --accept-changes"),
        ("--jsn", "--jsn"),
        ("show run", "no verb `show`: choose from launch, resume, plan"),
        *((line, "write no space around =, as in") for line in ("plan lr = 0.1", "plan lr =0.1", "plan lr= 0.1")),
        ("plan --config-name x", "no flag --config-name: settings have no dashes, as config-name=…"),
        ("status run --config-name", "no flag --config-name; see"),
    ],
)
def test_parse_of_a_malformed_line_says_what_to_change_in_one_line(line, said):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(said)}[^\n]*$"):
        parse(line.split(), VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_help_are_well_formed_lines(verb):
    for example in VERBS[verb].examples:
        assert parse(example.split()[1:], VERBS).verb == verb
