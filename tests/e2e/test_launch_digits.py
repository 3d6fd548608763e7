"""`septet launch` as a person runs it: seven members on real Ray, watched, interrupted, and brought to its end."""

import csv
import json
import os
import signal
import sqlite3
from contextlib import closing

import numpy as np
import psutil
import pytest
from oracle import Place, expect_line, wait_for
from redone import redone_updates

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import State, read_ledger
from orchestrator.run.record import read_record
from orchestrator.run.status_reader import read_status

pytestmark = pytest.mark.timeout(900)
MEMBERS = ("base1", "base2", "base3", "base4", "base5", "pretrained1", "pretrained2")
STAGES = {f"base{n}/train" for n in range(1, 6)} | {
    f"pretrained{n}/{s}" for n in (1, 2) for s in ("pretrain", "finetune")
}
SMALL = (
    *("model.width=0.1", "model.fc_units=32", "checkpoint_updates=10", "cluster.cpus_per_member=1", "precision=fp32"),
    *(f"ensemble.stages.{stage}.epochs=2" for stage in ("train", "pretrain", "finetune")),
)


class Folder(Place):
    """A run of the default experiment, with the tracking store that a look from outside reads."""

    def query(self, sql):
        """Asks the MLflow store; nothing while there is none."""
        database = self.root / "mlflow.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError:
                return []

    def live_points(self):
        """Training-loss points of stages that still run."""
        found = self.query(
            "select count(*) from metrics join runs using (run_uuid) where key = 'train/loss' and status = 'RUNNING'"
        )
        return int(found[0][0]) if found else 0

    def runs(self):
        """MLflow's run ids by member/stage (`/` the ensemble's)."""
        tags = self.query("select run_uuid, key, value from tags where key like 'septet.%'")
        named: dict[str, dict[str, str]] = {}
        for run, key, value in tags:
            named.setdefault(run, {})[key] = value
        return {f"{own.get('septet.member', '')}/{own.get('septet.stage', '')}": run for run, own in named.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    place = Folder(root, root / "store", SMALL)
    yield place
    place.close()


def test_launch_interrupted_and_repeated_comes_to_a_whole_run(folder):
    first = folder.start()
    wait_for(lambda: folder.live_points() >= 2 or first.poll() is not None)
    assert first.poll() is None, folder.ended(first)
    assert read_status(folder.paths).state is State.running
    # It cannot end meanwhile, however slow the second one is; its members are at work.
    first.send_signal(signal.SIGSTOP)
    second = folder.launch()
    first.send_signal(signal.SIGCONT)
    expect_line(second, 5, f"process {first.pid}")
    assert second.out == ""
    family = psutil.Process(first.pid).children(recursive=True)
    assert any("raylet" in " ".join(process.cmdline()) for process in family)
    runs = folder.runs()
    first.send_signal(signal.SIGINT)
    ended = folder.ended(first)
    expect_line(ended, 130, "septet: stopped as asked")
    assert ended.out == ""
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not is_locked(folder.paths)
    assert read_status(folder.paths).state is State.stopped
    assert folder.query("select distinct status from runs where status not in ('FINISHED', 'KILLED')") == []

    done = folder.launch()
    assert done.code == 0, done.err
    assert sum(redone_updates(entry) for entry in read_ledger(folder.paths.ledger).stages.values()) == 0
    _check_directory(folder.paths)
    _check_tracking(folder, runs)
    for row in ("1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"):
        assert f"\n{row} " in done.out
    assert (folder.paths.report / "table.md").read_text()


UMASK = os.umask(0o022)
os.umask(UMASK)


def _check_directory(paths):
    record = read_record(paths)
    assert set(record.data_digests) == {"target", "superset"}
    assert (record.numerics.threads, record.numerics.device) == (1, "cpu")
    assert (paths.data / "classes.txt").read_text().split() == [str(digit) for digit in range(10)]
    stages = {f"{path.parent.parent.name}/{path.parent.name}" for path in paths.members.glob("*/*/DONE.json")}
    assert stages == STAGES
    for stage in STAGES:
        done = json.loads((paths.members / stage / "DONE.json").read_text())
        checkpoint = paths.members / stage / "checkpoints" / done["checkpoint"]
        files = {"model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"}
        assert {path.name for path in checkpoint.iterdir()} == files
        steps = [
            json.loads(line)["step"] for line in (paths.members / stage / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps))
        assert steps[-1] == done["num_updates"]
        assert "from update" in (paths.members / stage / "log.txt").read_text()
    rows = (paths.data / "test.rows.txt").read_text().splitlines()
    arrays = [np.load(paths.predictions(member) / "test.npy") for member in MEMBERS]
    assert all(array.shape == (len(rows), 10) and array.dtype == np.float32 for array in arrays)
    submissions = list(paths.submission.glob("submission.*"))
    assert [path.name for path in submissions] == ["submission.csv"]
    with submissions[0].open() as file:
        lines = list(csv.reader(file))[1:]
    best = np.mean(np.stack(arrays).astype(np.float64), axis=0).argmax(axis=1)
    assert len(lines) == len(rows)
    assert np.mean([label == str(best[number]) for number, (_, label) in enumerate(lines)]) == 1
    scores = json.loads((paths.report / "scores.json").read_text())
    assert (scores["split"], set(scores["members"])) == ("test", set(MEMBERS))
    assert read_status(paths).state is State.done
    # Another account may verify and predict: what is new has the mode that the umask says.
    modes = {path.stat().st_mode & 0o777 for path in paths.root.rglob("*")}
    assert modes == {0o777 & ~UMASK, 0o666 & ~UMASK}


def _check_tracking(folder, before):
    runs = folder.runs()
    assert len(runs) == 1 + len(MEMBERS) + len(STAGES)
    assert before.items() <= runs.items(), "a resumed run has new ids"
    ids = folder.query("select run_uuid from runs")
    assert len(ids) == len(runs), "a resume made runs twice"
    assert folder.query("select distinct status from runs") == [("FINISHED",)]
    assert read_record(folder.paths).mlflow["run_id"] == runs["/"]
    for stage in STAGES:
        lines = [json.loads(line) for line in (folder.paths.members / stage / "metrics.jsonl").read_text().splitlines()]
        wanted = {line["step"] for line in lines if "train/loss" in line["metrics"]}
        sql = f"select step from metrics where key = 'train/loss' and run_uuid = '{runs[stage]}'"
        assert {step for (step,) in folder.query(sql)} == wanted
    keys = {key for (key,) in folder.query(f"select key from metrics where run_uuid = '{runs['/']}'")}
    assert {"ensemble/top1_error", "ensemble/top5_error", "ensemble/nll", "ensemble/ece"} <= keys


@pytest.mark.soak
def test_member_alone_has_the_bits_it_has_among_seven(folder, tmp_path):
    # No member is left that has a stage `train`, and a setting of none is refused.
    alone = Folder(tmp_path, folder.store, tuple(word for word in SMALL if ".train." not in word))
    without = [f"~ensemble.members.{member}" for member in MEMBERS if member != "pretrained2"]
    done, among = alone.launch(*without), folder.launch()
    alone.close()
    assert done.code == among.code == 0, (done.err, among.err)
    for stage in ("pretrain", "finetune"):
        assert _final_sha256(alone, f"pretrained2/{stage}") == _final_sha256(folder, f"pretrained2/{stage}")
    arrays = [np.load(one.paths.predictions("pretrained2") / "test.npy") for one in (alone, folder)]
    assert np.array_equal(*arrays)


def _final_sha256(folder, stage):
    return str(json.loads((folder.paths.members / stage / "DONE.json").read_text())["checkpoint_sha256"])
