"""What help, completion and --cfg tell comes from conf/ and the schema, and is all that these know."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import conf
from orchestrator.cli.commands import VERBS
from orchestrator.cli.completion import completion_script
from orchestrator.cli.program import main
from orchestrator.config.catalogue import COMMON, group_choices, group_keys
from orchestrator.config.composition import compose
from orchestrator.config.schema import GROUPS

KEYS = Path(__file__).parents[1] / "plan" / "configuration_keys.txt"


def recorded():
    """Every key of the configuration, by its last part and the group it is in."""
    return {line.split(" = ")[0] for line in KEYS.read_text().splitlines()}


def test_every_key_that_is_recorded_is_told_by_some_group():
    told = {
        key.name.replace("datasets.target.", "datasets.<name>.") for group in ("", *GROUPS) for key in group_keys(group)
    }
    told |= {"experiment"}
    inner = ("ensemble.members.<name>.", "schedule.rate_changes.<name>.")
    for key in recorded():
        if not key.startswith(inner) and key != "datasets":
            assert key in told, key


def test_choices_are_the_files_of_conf_and_each_has_a_word_on_what_it_is():
    for group in GROUPS:
        folder = Path(str(conf.__file__)).parent / group
        found = group_choices(group)
        assert set(found) == {path.stem for path in folder.glob("*.yaml")}
        assert all(found.values()), group


@pytest.mark.parametrize("group", GROUPS)
def test_help_config_of_a_group_names_each_choice_and_key(group, capsys):
    assert main(["help", "config", group]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in (*group_choices(group), *(key.name for key in group_keys(group))))
    assert main(["help", "config"]) == 0
    assert f"  {group} " in capsys.readouterr().out


def test_defaults_are_the_schema_s(capsys):
    assert main(["help", "config", "schedule"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "schedule.epochs 90 a whole number",
        "schedule.decay plateau plateau or fixed",
        "schedule.latest [0.6, 0.8, 0.95] a list",
    ):
        assert line in said


@pytest.mark.parametrize("words", [["--help"], ["launch", "--help"], ["plan", "--help"], ["help"], ["help", "launch"]])
def test_help_lists_groups_choices_and_common_keys(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "  schedule      constant cosine fixed one_cycle plateau release step" in said and all(
        f"\n  {name} " in said for name in COMMON
    )


def test_help_of_a_verb_without_overrides_has_none_of_it_and_of_a_stranger_exits_2(capsys):
    assert main(["help", "status"]) == 0
    assert "groups" not in capsys.readouterr().out
    assert main(["help", "config", "schedul"]) == 2
    assert "did you mean schedule?" in capsys.readouterr().err
    assert main(["help", "lunch"]) == 2


def test_cfg_prints_the_composed_configuration_and_does_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=digits", "optimizer.lr=0.5", "tracking.uri=http://me:hidden@host"]
    for verb in ("launch", "plan"):
        assert main([verb, *words, "--cfg"]) == 0
        said = capsys.readouterr()
        assert said.out == compose(words).yaml and "hidden" not in said.out and said.err == ""
        assert yaml.safe_load(said.out)["optimizer"]["lr"] == 0.5
    assert main(["launch", "optimizer.lrr=1", "--cfg"]) == 2
    assert list(tmp_path.iterdir()) == []


def completed(line):
    """What bash offers for `line`, whose words it cuts as Readline does."""
    cut = line.replace("=", " = ").replace("@", " @ ").split() + ([""] if line.endswith(" ") else [])
    ask = "\n".join(
        [
            completion_script("bash", VERBS),
            'COMP_LINE="$LINE"; COMP_POINT=${#LINE}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))',
            'compopt() { :; }; _septet; printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    environment = os.environ | {"LINE": line}
    done = subprocess.run(
        ["bash", "-c", ask, "bash", *cut], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("septet res", ["resume"]),
        ("septet launch experiment=ilsvrc2012_", ["ilsvrc2012_release"]),
        ("septet launch precision=", ["auto", "fp32", "bf16", "tf32", "fp16"]),
        ("septet launch optimizer.lr", ["optimizer.lr="]),
        ("septet plan dataset@datasets.target=web", ["webdataset"]),
        ("septet plan --js", ["--json"]),
        ("septet submit run combine=", [*sorted(group_choices("combine"))]),
        ("septet clean run --dr", ["--dry-run"]),
        ("septet submit run optim", []),
    ],
)
def test_bash_completes_verbs_flags_groups_choices_and_keys(line, offered):
    assert completed(line) == offered


def test_script_for_zsh_offers_the_same_words(capsys):
    assert main(["completion", "zsh"]) == 0
    zsh = capsys.readouterr().out
    for text in (f'candidates="{" ".join(VERBS)}"', "precision=fp32", "compdef _septet septet"):
        assert text in zsh
    assert main(["completion", "fish"]) == 2 and main(["completion"]) == 2


# Types a line and a tab in a terminal of zsh, and writes the line that stands there then.
_TYPED = r"""
zmodload zsh/zpty
zpty typed "PS1='' zsh -f -i"
zpty -w typed 'unset zle_bracketed_paste; PROMPT="" TERM=dumb; source ./septet.zsh; bindkey "^I" complete-word'
zpty -w typed 'shown() { print -r -- "<${BUFFER}>"; BUFFER="" }; zle -N shown; bindkey "^X" shown'
zpty -w typed 'print -r -- "rea""dy"'
zpty -r typed found '*ready*'
zpty -w -n typed "$LINE"$'\t'$'\x18'
zpty -r typed found '*<septet*>*'
print -r -- "${${found##*<}%%>*}"
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("septet res", "septet resume"),
        ("septet launch experiment=ph", "septet launch experiment=photos"),
        ("septet launch dataset@datasets.target=web", "septet launch dataset@datasets.target=webdataset"),
        ("septet plan datasets.target.root=pho", "septet plan datasets.target.root=photographs/"),
    ],
)
def test_zsh_completes_choices_and_files_after_a_key(line, completed, tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "septet.zsh").write_text(completion_script("zsh", VERBS))
    environment = os.environ | {"LINE": line, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["zsh", "-fc", _TYPED], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == completed
