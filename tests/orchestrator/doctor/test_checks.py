"""Every check of the doctor in a machine where it fails, and all of them in one where nothing does."""

from dataclasses import replace

import pytest

from orchestrator.doctor.checks import GIB, Answer, Check, Facts, Outcome, Place, check_lines, examine, has_failed

_STORE = Place("store", "/data/septet", free_bytes=100 * GIB, total_bytes=200 * GIB, writable=True)
_TEMPORARY = Place("temporary", "/tmp", free_bytes=50 * GIB, total_bytes=200 * GIB, writable=True)
_HEALTHY = Facts(
    python="3.12.4",
    python_required=">=3.11",
    requirements=("ray[default]>=2.60", "omegaconf>=2.3,<2.4"),
    installed={"ray": "2.60.0", "omegaconf": "2.3.0"},
    torch=Answer("1"),
    num_gpus=1,
    num_cpus=8,
    cpu_quota=None,
    cpus_per_member=1,
    gpus_per_member=1.0,
    cluster_address=None,
    memory_bytes=64 * GIB,
    memory_available_bytes=60 * GIB,
    places=(_STORE, _TEMPORARY),
    shm_bytes=8 * GIB,
    auth_mode=None,
    has_auth_token=False,
    image_formats={"JPEG": Answer("8 × 8 pixels"), "PNG": Answer("8 × 8 pixels")},
    ray=Answer("local, 8 CPUs"),
    tracking=Answer("sqlite:////data/mlflow.db"),
    tracking_required=True,
    datasets={"target": Answer("10 classes")},
    placement=Answer("2 members at once, 1 thread each, bf16"),
)


def _check(facts, name):
    return next(check for check in examine(facts) if check.name == name)


def test_examine_of_a_healthy_machine_finds_nothing_amiss():
    checks = examine(_HEALTHY)
    assert {check.outcome for check in checks} == {Outcome.ok}
    assert not any(check.fix for check in checks)
    assert not has_failed(checks)


@pytest.mark.parametrize(
    ("name", "broken", "outcome", "said"),
    [
        ("python", {"python": "3.10.12"}, Outcome.fail, "3.10.12"),
        ("ray", {"installed": {"omegaconf": "2.3.0"}}, Outcome.fail, "not installed"),
        ("omegaconf", {"installed": {"ray": "2.60.0", "omegaconf": "2.4.1"}}, Outcome.fail, "2.4.1"),
        ("devices", {"torch": Answer(problem="libcudart.so: not found")}, Outcome.fail, "libcudart.so"),
        ("devices", {"torch": Answer("0")}, Outcome.warn, "0 of 1 GPUs"),
        ("cpus", {"cpu_quota": 1.5}, Outcome.warn, "limited to 1.5"),
        ("cpus", {"num_cpus": 1}, Outcome.warn, "1 CPU"),
        ("resources", {"cpus_per_member": 9}, Outcome.fail, "9 CPUs"),
        ("placement", {"placement": Answer(problem="no images")}, Outcome.warn, "no images"),
        ("resources", {"gpus_per_member": 2.0}, Outcome.fail, "2 GPUs"),
        ("memory", {"memory_available_bytes": GIB // 2}, Outcome.fail, "537 MB"),
        ("memory", {"memory_available_bytes": 8 * GIB}, Outcome.warn, "8.6 GB"),
        ("disk (store)", {"places": (replace(_STORE, free_bytes=GIB // 4),)}, Outcome.fail, "/data/septet"),
        ("disk (store)", {"places": (replace(_STORE, free_bytes=5 * GIB),)}, Outcome.warn, "5.4 GB"),
        ("disk (temporary)", {"places": (replace(_TEMPORARY, free_bytes=9 * GIB),)}, Outcome.warn, "9.7 GB"),
        ("write access (store)", {"places": (replace(_STORE, writable=False),)}, Outcome.fail, "/data/septet"),
        ("shared memory", {"shm_bytes": 64 * 2**20}, Outcome.warn, "67.1 MB"),
        ("shared memory", {"shm_bytes": None}, Outcome.warn, "/dev/shm"),
        ("cluster authentication", {"auth_mode": "tocken"}, Outcome.fail, "tocken"),
        ("cluster authentication", {"cluster_address": "ray://a:1", "auth_mode": "token"}, Outcome.fail, "no token"),
        ("cluster authentication", {"cluster_address": "ray://a:1"}, Outcome.warn, "not set"),
        ("decodes PNG", {"image_formats": {"PNG": Answer(problem="no zlib")}}, Outcome.fail, "no zlib"),
        ("dataset target", {"datasets": {"target": Answer(problem="/x: no such folder")}}, Outcome.fail, "/x"),
        ("ray cluster", {"ray": Answer(problem="timed out")}, Outcome.fail, "timed out"),
        ("kernels", {"compiled_kernels": False}, Outcome.warn, "C compiler"),
        ("mlflow store", {"tracking": Answer(problem="refused")}, Outcome.fail, "refused"),
        ("mlflow store", {"tracking": Answer(problem="refused"), "tracking_required": False}, Outcome.warn, "refused"),
    ],
)
def test_check_of_what_is_amiss_says_so_and_how_to_fix_it(name, broken, outcome, said):
    facts = replace(_HEALTHY, **broken)
    check = _check(facts, name)
    assert check.outcome is outcome
    assert said in check.detail + check.fix
    assert check.fix
    assert has_failed(examine(facts)) is (outcome is Outcome.fail)


def test_check_resources_on_a_cluster_elsewhere_is_not_held_against_this_machine():
    facts = replace(_HEALTHY, cluster_address="10.0.0.1:6379", gpus_per_member=4.0)
    assert _check(facts, "resources").outcome is Outcome.ok


def test_lines_of_a_failed_check_end_with_what_to_do():
    lines = check_lines([Check("ray", Outcome.ok, "2.60.0"), Check("disk", Outcome.fail, "full", "free some")])
    assert lines == ("ok    ray: 2.60.0", "fail  disk: full", "      → free some")
