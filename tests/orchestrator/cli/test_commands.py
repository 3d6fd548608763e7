"""What verbs print and leave: plan, prepare, submit, report, status --watch."""

import io
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.cli.commands import _members_at_once, watch_run
from orchestrator.cli.program import main
from orchestrator.cli.streams import Streams
from orchestrator.config.composition import compose
from orchestrator.config.schema import ClusterConfig
from orchestrator.placement.placing import Placed
from orchestrator.run.holder import lock
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.paths import RunPaths
from workers.numerics import Capabilities
from workers.protocol import Numerics
from workers.storage import atomic


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory with an empty home beside it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_plan_as_json_has_the_keys_of_the_interface_and_changes_nothing(work, capsys):
    assert main(["plan", "--json", "ensemble=five"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert {"plan_hash", "stages", "makespan_s", "lower_bound_s", "disk_bytes"} <= set(document)
    stage_keys = {"member", "stage", "init_from", "dataset", "num_images", "num_updates", "num_parameters", "num_macs"}
    assert len(document["stages"]) == 5 and all(stage_keys <= set(stage) for stage in document["stages"])
    assert document["makespan_s"] >= document["lower_bound_s"] > 0
    # Five members alike but for their seeds: one measurement.
    assert said.err.count("measuring") == 1
    assert [path.name for path in work.rglob("*")] == ["work"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["ensemble=folds", "combine=greedy"],
            "combine=greedy: the folds have one recipe, so there is nothing to weigh",
        ),
        (["ensemble=folds", "combine=weighted"], "combine=weighted: the folds have one recipe"),
        (["ensemble=five", "combine.without=[base9]"], "combine.without: the ensemble has no member base9"),
        (["ensemble=pair", "combine.weights={base1: 0, pretrained1: 0}"], "combine.weights: all members have 0"),
        (["ensemble=five", "submission.min_members=6"], "submission.min_members=6: the ensemble has 5 members"),
        (["ensemble=five", "submission.template=gone.csv"], "submission.template"),
        (["ensemble=refit", "combine.calibration=vector"], "combine.calibration=vector: is fitted on dev or val"),
    ],
)
def test_plan_and_launch_refuse_alike_before_anything_is_made(words, said, work, capsys):
    told = []
    for verb in ("plan", "launch"):
        assert main([verb, *words]) == 2
        told.append(capsys.readouterr().err)
    assert said in told[0] and told[0] == told[1]
    assert [path.name for path in work.rglob("*")] == ["work"]


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["cpus", "gpus"])
def test_plan_for_more_than_this_machine_has_says_so_and_gives_no_time(resource, work, capsys):
    assert main(["plan", "--json", "ensemble=five", f"cluster.{resource}_per_member=9999"]) == 0
    said = capsys.readouterr()
    assert "9999" in said.err and "measuring" not in said.err
    document = json.loads(said.out)
    assert len(document["stages"]) == 5 and document["makespan_s"] is None


def test_prepare_tells_folder_counts_and_digest_and_the_same_again_at_once(work, capsys):
    words = ["prepare", "ensemble=five", "datasets.target.size=8", f"datasets.store={work / 'store'}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == said
    assert "target: 10 classes at 8 px" in said and "superset" not in said
    (folder,) = [line.split()[1] for line in said.splitlines() if line.strip().startswith("folder")]
    assert (Path(folder) / "manifest.json").is_file()
    assert json.loads((Path(folder) / "manifest.json").read_text())["digest"] in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("submit run optimizer.lr=1", "combine, submission and metric only"),
        ("status run --watch --json", "--watch and --json"),
    ],
)
def test_verb_with_what_does_not_go_together_exits_2(line, said, capsys):
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def finished(work, make_run):
    """A run with stored predictions and the configuration it was launched with."""
    paths: RunPaths = make_run(work / "work" / "run").paths
    atomic.write_text(paths.config_yaml, compose([]).yaml)
    return paths


def test_submit_combines_again_as_overrides_say_and_prints_where_it_lies(finished, capsys):
    assert main(["submit", "run", "combine=geometric", "submission=probabilities"]) == 0
    said = capsys.readouterr()
    manifest = json.loads((finished.submission / "manifest.json").read_text())
    assert (manifest["method"], manifest["format"]) == ("geometric", "probabilities")
    assert "7 CNNs*" not in said.out and "ensemble, geometric" in said.out  # the synthetic run has four members
    assert f"submission  {Path('run/submission/submission.csv')}" in said.out
    assert said.err == ""


@pytest.mark.slow
def test_submit_fits_by_another_metric(finished, capsys):
    assert main(["submit", "run", "combine=greedy", "metric=brier"]) == 0
    assert "images of dev by brier" in capsys.readouterr().out


@pytest.mark.slow
def test_submit_in_another_format_keeps_the_template_of_the_launch(finished, capsys):
    assert main(["submit", "run", "submission=probabilities"]) == 0
    header, *lines = (finished.submission / "submission.csv").read_text().splitlines()
    columns = ["image", *header.split(",")[:0:-1]]
    template = finished.root.parent / "sample.csv"
    ids = [line.split(",")[0] for line in lines[::-1]]
    template.write_text("\n".join([",".join(columns), *(",".join([one, *"0" * (len(columns) - 1)]) for one in ids)]))
    atomic.write_text(finished.config_yaml, compose([f"submission.template={template}"]).yaml)
    assert main(["submit", "run", "combine=geometric", "submission=probabilities"]) == 0
    header, *lines = (finished.submission / "submission.csv").read_text().splitlines()
    assert (header.split(","), [line.split(",")[0] for line in lines]) == (columns, ids)
    manifest = json.loads((finished.submission / "manifest.json").read_text())
    assert manifest["template"]["path"] == str(template)
    template.write_bytes(b"PK\3\4\0\0" + template.read_bytes())
    capsys.readouterr()
    assert main(["submit", "run", "submission=probabilities"]) == 2
    assert "sample.csv: is not text (a zip archive" in capsys.readouterr().err


def test_report_is_rebuilt_as_the_last_submission_was_combined(finished, capsys):
    assert main(["submit", "run", "combine=geometric"]) == 0
    scores = (finished.report / "scores.json").read_bytes()
    shutil.rmtree(finished.report)
    capsys.readouterr()
    assert main(["report", "run"]) == 0
    assert (finished.report / "scores.json").read_bytes() == scores
    assert f"report      {Path('run/report/index.html')}" in capsys.readouterr().out


@pytest.mark.parametrize("has_browser", [True, False])
def test_report_open_shows_the_page_in_the_browser_or_says_that_there_is_none(
    finished, capsys, monkeypatch, has_browser
):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or has_browser)
    assert main(["report", "run"]) == 0 and opened == []
    assert main(["report", "run", "--open"]) == 0
    assert opened == [finished.report_page.absolute().as_uri()]
    assert ("no browser was found" in capsys.readouterr().err) != has_browser


@pytest.mark.parametrize("verb", ["submit", "report"])
def test_verb_that_writes_into_a_run_in_use_or_without_its_configuration_writes_nothing(verb, finished, capsys):
    with lock(finished):
        assert main([verb, "run"]) == 5
    assert "in use" in capsys.readouterr().err
    finished.config_yaml.unlink()
    assert main([verb, "run"]) == 7
    assert "config.yaml: missing" in capsys.readouterr().err
    assert not finished.submission.exists() and not finished.report.exists()


@pytest.mark.parametrize("state", [State.waiting, State.running, State.failed])
def test_watch_shows_a_run_as_long_as_a_launch_holds_it(finished, state):
    Ledger(finished.ledger).set_state(state)  # before it runs, a launch leaves what the one before has left
    streams = Streams(io.StringIO(), io.StringIO())
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            held.close()

    with ExitStack() as held:
        held.enter_context(lock(finished))
        watch_run(finished, streams, pause)
    assert len(pauses) == 3
    assert f"run: {state}" in streams.out.getvalue()


def test_machine_that_lacks_what_is_chosen_for_a_cluster_has_no_room_to_measure_on(monkeypatch):
    monkeypatch.setattr("workers.numerics.capabilities", lambda: Capabilities(bf16=True, compiled_kernels=False))
    at = ClusterConfig("head:6379")
    streams = Streams(io.StringIO(), io.StringIO())
    assert _members_at_once(Placed(Numerics(kernels="compiled"), at, ""), streams) == 0
    assert "this machine cannot run it: it lacks compiled kernels" in streams.err.getvalue()
    assert _members_at_once(Placed(Numerics(kernels="torch"), at, ""), streams) > 0
