"""Whether a node fits: what a look at a machine finds, and what is made of it; no Ray."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_cases import EVENTS, NO_KERNELS, ODD, REFUSALS, STORE

from orchestrator.cluster import preflight
from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, inspect, misfit, none_left, remark, unfit_to_pack
from workers.errors import ConfigError, StorageError
from workers.numerics import code_digest
from workers.protocol import Numerics
from workers.storage import write_text

GOOD = {
    "code": "c" * 64,
    "python": "3.12",
    "torch": "2.14.0",
    "bf16": True,
    "compiled_kernels": True,
    "processors": "One",
    "free_bytes": 8e9,
    "probe": "",
    "seen": True,
    "stores": {STORE: "sha"},
}
NEEDS = Needs("c" * 64, Path("/shared/run"), "run_dir", Numerics(1, "bf16", "cpu", "compiled"), (Path(STORE),), 1e9)


def test_node_that_has_what_the_launch_has_fits():
    assert misfit(GOOD, GOOD, NEEDS) is None
    assert remark(GOOD, GOOD) == ""


@pytest.mark.parametrize(
    ("found", "said", "code"),
    [
        *(pytest.param(odd.found, odd.said, odd.code, id=name) for name, odd in ODD.items() if odd.found is not None),
        ({"torch": "2.13.0", "code": "d" * 64}, "it has torch 2.13.0, and this machine 2.14.0: install", 2),
        ({"code": "d" * 64}, "workers/ (digest dddddddddddd) is not the launch's (cccccccccccc): install", 2),
        ({"bf16": False}, "lacks a CPU that multiplies bfloat16: leave it out, or set precision=fp32", 2),
        ({"stores": {STORE: ""}}, f"no prepared images are at {STORE} (datasets.store): mount", 7),
        ({"free_bytes": 5e8}, "a member takes about 1.0 GB: end what else runs there", 2),
    ],
)
def test_node_that_lacks_something_is_unfit_and_the_line_says_what_to_do(found, said, code):
    unfit = misfit({**GOOD, **found}, GOOD, NEEDS)
    assert unfit is not None and said in unfit.reason and "\n" not in unfit.reason
    assert none_left({"w1": unfit}).exit_code == code


def test_what_the_driver_s_machine_lacks_too_was_accepted_when_the_run_began():
    same = {**GOOD, "bf16": False}
    assert misfit(same, same, NEEDS) is None
    # What is chosen for the nodes by itself was chosen since some multiply it.
    assert misfit(same, same, replace(NEEDS, typed=False)) is not None
    assert misfit(same, GOOD, NEEDS) is not None


def test_kernels_that_the_driver_s_machine_lacks_too_are_missed_on_nodes():
    # A run that began with kernels is resumed from elsewhere: its stages need them, and the driver does not.
    plain = {**GOOD, "compiled_kernels": False}
    assert misfit(GOOD, plain, NEEDS) is None
    unfit = misfit(plain, plain, NEEDS)
    assert unfit is not None and "lacks compiled kernels" in unfit.reason


def test_node_of_another_cpu_fits_and_is_remarked_on():
    other = {**GOOD, "processors": "One, H200"}
    assert misfit(other, GOOD, NEEDS) is None
    assert remark(other, GOOD).startswith("One, H200, and on others One: bits may depend on where")


def test_where_none_is_left_nodes_are_grouped_by_reason_and_storage_alone_is_exit_code_7():
    unshared, other = Unfit("run_dir=/r is not there", storage=True), Unfit("it has other code")
    error = none_left({"w1": unshared, "w2": unshared})
    assert type(error) is StorageError and error.exit_code == 7
    assert str(error) == "no node of the cluster can be used: w1, w2: run_dir=/r is not there"
    assert type(none_left({"w1": unshared, "w2": other})) is ConfigError


def test_look_at_this_machine_writes_its_probe_and_makes_no_folder(tmp_path):
    store = tmp_path / "store"
    write_text(store / "manifest.json", "{}")
    (tmp_path / ".tmp-node-1.earlier").touch()
    (tmp_path / ".tmp-node-2.earlier").touch()
    found = inspect(tmp_path / ".tmp-node-1.now", "here", (store, tmp_path / "absent"))
    assert (tmp_path / ".tmp-node-1.now").read_text() == "here" and found["probe"] == ""
    assert {path.name for path in tmp_path.glob(".tmp*")} == {".tmp-node-1.now", ".tmp-node-2.earlier"}
    assert found["code"] == code_digest() and found["free_bytes"] > 0 and found["processors"]
    assert len(found["stores"][str(store)]) == 64 and found["stores"][str(tmp_path / "absent")] == ""
    assert inspect(tmp_path / "run" / "probe", "here", ())["probe"].startswith("is not there: mount")
    assert not (tmp_path / "run").exists()


def test_folder_that_a_node_cannot_write_is_told_with_what_to_do_there(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preflight, "write_text", full)
    found = inspect(tmp_path / ".tmp-node-1.now", "here", ())["probe"]
    assert found == "cannot be written (No space left on device): let this user write there, and free some space"


def test_node_without_the_launch_s_code_or_the_store_s_folder_must_not_pack(tmp_path):
    assert unfit_to_pack(tmp_path, code_digest()) is None
    other, absent = unfit_to_pack(tmp_path, "0" * 64), unfit_to_pack(tmp_path / "absent", code_digest())
    assert other is not None and other.reason.startswith("its code of workers/") and not other.storage
    assert absent is not None and absent.reason.startswith("datasets.store=") and absent.storage


def test_page_of_clusters_has_a_row_with_the_line_and_the_code_of_each_case(checkout):
    page = (checkout / "docs" / "cluster.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {what: (line, code) for what, line, code in (row for row in rows if len(row) == 3)}
    for case in (NO_KERNELS, *ODD.values(), *EVENTS.values(), *REFUSALS.values()):
        line, code = told[case.what]
        assert case.said in line and code == str(case.code), (case, line, code)
