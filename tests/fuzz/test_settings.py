"""Overrides and files of settings with anything in them: a configuration, or one line."""

import re
from pathlib import Path

import pytest
import yaml
from fuzzing import fuzzed
from hypothesis import assume, example, given, strategies as st

from orchestrator.cli.program import main
from orchestrator.config.composition import compose, reopen
from workers.errors import ConfigError

KEYS = sorted(
    re.sub(r"<name>", "target", line.partition(" = ")[0])
    for line in (Path(__file__).parents[1] / "orchestrator/plan/configuration_keys.txt").read_text().splitlines()
)
VALUE = st.one_of(
    st.integers(-3, 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(
        ("null", "true", "", "''", "[]", "{}", "[1,2]", "{a: 1}", "${seed}", "${oc.env:HOME}", "???", "a,b", "~")
    ),
    st.text(max_size=6),
)
OVERRIDE = st.one_of(
    st.text(max_size=12),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(("", "", "", "+", "++", "~")),
        st.sampled_from(KEYS),
        st.sampled_from(("=", "=", " = ", ":", "")),
        VALUE,
    ),
    st.builds(
        "{}={}".format,
        st.sampled_from(("experiment", "model", "dataset@datasets.target", "combine", "sweep.seed")),
        VALUE,
    ),
)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(("${seed}", "???", "digits")),
)
NAMES = st.one_of(
    st.sampled_from(
        (
            "defaults",
            "datasets",
            "target",
            "ensemble",
            "members",
            "stages",
            "model",
            "optimizer",
            "schedule",
            "lr",
            "epochs",
            "seed",
            "cluster",
        )
    ),
    st.text(max_size=5),
)
DOCUMENT = st.dictionaries(
    NAMES,
    st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=4,
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    (folder := tmp_path_factory.mktemp("own") / "experiment").mkdir()
    return folder


@given(st.lists(OVERRIDE, min_size=1, max_size=3))
@example(["0=0"])
@example(["+=~"])
@fuzzed(60)
def test_overrides_are_composed_or_refused_in_a_line(overrides):
    try:
        config = compose(overrides)
    except ConfigError as error:
        assert str(error).strip()
    else:
        assert reopen(config.yaml) is not None


@pytest.mark.slow
@given(DOCUMENT)
@fuzzed(60)
def test_file_of_settings_is_composed_or_refused_in_a_line(own, document):
    (own / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(document, allow_unicode=True))
    try:
        compose(["experiment=mine"], own.parent)
    except ConfigError as error:
        assert str(error).strip()


@pytest.mark.slow
@given(st.text(max_size=40))
@example("0")
@fuzzed(60)
def test_text_as_a_file_of_settings_is_refused_in_a_line(own, text):
    (own / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        compose(["experiment=mine"], own.parent)
    except ConfigError as error:
        assert str(error).strip()


@given(st.lists(st.one_of(OVERRIDE, st.sampled_from(("plan", "status", "--json", "submit", "-h", "--"))), max_size=4))
@fuzzed(40)
def test_command_lines_of_anything_end_in_a_known_way(capsys, words):
    # No shell can hand on such a word.
    assume("\0" not in "".join(words))
    code = main(["status", *words])
    assert code in (0, 2, 3)
    assert "Traceback" not in capsys.readouterr().err
