"""Configuration that was written to do harm: refused in one line, and what its payload would have made is not there."""

import command_line
import hydra.utils
import pytest
import yaml

from orchestrator.config.safety import check_folder, check_text

MEMBERS = "members: {solo: {stages: {train: {dataset: target}}}}\n"
# Nine to the ninth: 387 million values from nine lines.
LAUGHS = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}' if level else 'x'] * 9)}]\n" for level in range(9))


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder that must stay empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words):
        answer = command_line.ask(capsys, *words)
        assert not list(folder.iterdir()), "something was left behind"
        assert not {"\x1b", "\x07"} & set(answer.said)
        return answer

    return run


@pytest.fixture
def groups(tmp_path):
    """A folder of a user's own configuration groups."""
    (tmp_path / "groups" / "ensemble").mkdir(parents=True)
    (tmp_path / "groups" / "experiment").mkdir()
    return tmp_path / "groups"


@pytest.mark.parametrize(
    "override",
    [
        "+_target_=os.system",
        "hydra.run.dir=/tmp/elsewhere",
        "ensemble.members.a/b.seed=1",
        "experiment=../../etc/passwd",
        "~ensemble",
        "seed=${seed}",
        f"seed={'9' * 5000}",
        f"seed={'[' * 3000}{']' * 3000}",
    ],
)
def test_hostile_override_is_refused_in_one_line(override, ask):
    answer = ask("plan", override)
    assert answer.code == 2, answer.said
    assert answer.line


def _call(marker):
    return f"_target_: logging.FileHandler\nfilename: '{marker}'\n"


def test_target_in_a_users_file_is_refused_and_nothing_is_called(groups, tmp_path, ask):
    marker = tmp_path / "marker"
    (groups / "ensemble" / "own.yaml").write_text(MEMBERS + _call(marker))
    answer = ask("plan", "--config-dir", str(groups), "ensemble=own")
    assert answer.code == 2
    assert "ensemble._target_" in answer.line and "classes cannot be named" in answer.line
    assert not marker.exists()
    # The payload is a live one: what Hydra offers for such a file runs it.
    hydra.utils.instantiate(yaml.safe_load(_call(marker))).close()
    assert marker.exists()


@pytest.mark.parametrize("where", ["members", "below hydra"])
def test_python_tag_in_a_users_file_is_not_run(where, groups, tmp_path, ask):
    marker = tmp_path / "marker"
    payload = f"!!python/object/apply:subprocess.check_call [[touch, '{marker}']]"
    above = "" if where == "members" else "# @package _global_\nhydra: {callbacks: {mine: {_target_: os.system}}}\n"
    (groups / "ensemble" / "own.yaml").write_text(f"{above}members: {payload}\n")
    answer = ask("plan", "--config-dir", str(groups), "ensemble=own")
    assert answer.code == 2
    assert "own.yaml" in answer.line and "python/object/apply" in answer.line
    assert not marker.exists()
    yaml.unsafe_load(payload)
    assert marker.exists(), "the payload is no live one"


def test_aliases_that_stand_for_millions_are_counted_and_not_written_out(groups, ask):
    (groups / "ensemble" / "own.yaml").write_text(LAUGHS + MEMBERS)
    answer = ask("plan", "--config-dir", str(groups), "ensemble=own")
    assert answer.code == 2
    assert "own.yaml" in answer.line and "aliases" in answer.line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MEMBERS + MEMBERS, "duplicate"),
        ("members: " + "[" * 400 + "]" * 400, "nested deeper"),
        ("a: &a [*a]\n" + MEMBERS, "has no anchor before it"),
        ("members: {'../../x': {stages: {train: {dataset: target}}}}", "a member's name"),
        ("members: {solo: {stages: {'../train': {dataset: target}}}}", "a stage's name"),
        ("x" * (1 << 21), "too many"),
        ("members: \xff", "UTF-8"),
    ],
)
def test_hostile_file_of_a_user_is_refused_in_one_line(text, said, groups, ask):
    (groups / "ensemble" / "own.yaml").write_bytes(text.encode("latin-1"))
    answer = ask("plan", "--config-dir", str(groups), "ensemble=own")
    assert answer.code == 2
    assert said in answer.line


@pytest.mark.parametrize("name", ["$(touch marker)", "-rf", "\x1b[31mred"])
def test_experiment_whose_name_is_no_folder_name_is_refused(name, groups, ask):
    (groups / "experiment" / f"{name}.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /dataset@datasets.target: digits\n- override /ensemble: five\n"
    )
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    answer = ask("launch", "--config-dir", str(groups), f"experiment='{quoted}'")
    assert answer.code == 2


@pytest.mark.parametrize("line", ["run_dir: 'a{}b'", "datasets: {{target: {{root: 'a{}b'}}}}"])
@pytest.mark.parametrize("sign", ["\\0", "\\e"])
def test_control_character_in_a_path_is_refused(line, sign, groups, ask):
    (groups / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /dataset@datasets.target: folder\n- override /ensemble: five\n"
        "- _self_\n" + line.format(sign).replace("'", '"')
    )
    answer = ask("launch", "--config-dir", str(groups), "experiment=own")
    assert answer.code == 2
    assert "control characters" in answer.line


def test_escape_sequence_in_an_override_is_shown_and_not_obeyed(ask):
    answer = ask("plan", "experiment=\x1b]0;owned\x07\x9b31m\u202egnp")
    assert answer.code == 2
    assert "\\x1b" in answer.said
    assert not set("\x9b\u202e") & set(answer.said)


def test_files_of_the_package_itself_pass(checkout):
    check_folder(checkout / "conf")


@pytest.mark.parametrize(
    "text",
    [
        "# @package hydra\ncallbacks: {evil: {}}\n",
        "#@package   hydra.job_logging\nversion: 1\n",
        "# @package mine\u2028# @package hydra.job_logging\nversion: 1\n",
        "# @package _global_\nhydra: {callbacks: {}}\n",
        "# @package _global_\ndefaults: [{override /hydra/job_logging: mine}]\n",
        "# @package _global_\ndefaults: [{'mine@hydra.callbacks': own}]\n",
    ],
)
def test_settings_of_hydra_itself_in_a_file_are_refused(text, groups, ask):
    (groups / "experiment" / "evil.yaml").write_text(text)
    answer = ask("plan", f"--config-dir={groups}", "experiment=evil")
    assert answer.code == 2
    assert "evil.yaml: " in answer.line and "would change Hydra's own settings" in answer.line
    check_text("datasets: {target: {root: /hydra/photos, classes: hydra}}", "a path or a class of that name")
