"""What would go wrong on this machine, before it does: each check is a pure function of facts.

`orchestrator.doctor.facts` gathers the facts. They are only judged here, so each check has a test in which it fails.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.text import size

GIB = 2**30
_LEAST_FREE_BYTES = 1 * GIB
_GOOD_FREE_BYTES = 10 * GIB
# A full-size member holds about 1.2 GiB (weights, momentum, gradients, activations of 128 images), torch 0.4 GiB.
_MEMBER_BYTES = 2 * GIB
_LEAST_MEMORY_BYTES = 1 * GIB
# Docker's default of 64 MiB is what people meet; Ray's object store wants room for a few prediction blocks.
_GOOD_SHM_BYTES = 1 * GIB
# Ray refuses to make objects once the disk below its temporary folder is 95 % full.
_RAY_FULL_SHARE = 0.95


class Outcome(StrEnum):
    """How a check came out; only `fail` stops a launch."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, and what to do about it (empty if nothing)."""

    name: str
    outcome: Outcome
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class Answer:
    """What something that was asked said; `problem` is empty if it answered as it should."""

    said: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Place:
    """A folder that will be written to. `path` need not exist yet: sizes are those of its nearest existing parent."""

    name: str
    path: str
    free_bytes: int
    total_bytes: int
    writable: bool


@dataclass(frozen=True)
class Facts:
    """All that the checks look at.

    `cpu_quota` is a container's limit in CPUs; no /dev/shm is None. `placement` says how members would be placed and
    why, `placements` are what there was to choose from with its figures.
    """

    python: str
    python_required: str
    requirements: tuple[str, ...]
    installed: Mapping[str, str]
    torch: Answer
    num_gpus: int
    num_cpus: int
    cpu_quota: float | None
    cpus_per_member: int
    gpus_per_member: float
    cluster_address: str | None
    memory_bytes: int
    memory_available_bytes: int
    places: tuple[Place, ...]
    shm_bytes: int | None
    auth_mode: str | None
    has_auth_token: bool
    image_formats: Mapping[str, Answer]
    ray: Answer
    tracking: Answer
    tracking_required: bool
    datasets: Mapping[str, Answer]
    placement: Answer
    placements: tuple[str, ...] = ()
    compiled_kernels: bool = True


def examine(facts: Facts) -> tuple[Check, ...]:
    """Every check, in the order in which a launch would stumble."""
    return (
        check_python(facts.python, facts.python_required),
        *(check_package(Requirement(text), facts.installed) for text in facts.requirements),
        check_torch(facts.torch, facts.num_gpus),
        check_cpus(facts.num_cpus, facts.cpu_quota),
        check_resources(facts),
        check_kernels(facts.compiled_kernels),
        check_placement(facts.placement, facts.placements),
        check_memory(facts.memory_bytes, facts.memory_available_bytes, facts.num_cpus // max(1, facts.cpus_per_member)),
        *(check_disk(place) for place in facts.places),
        *(check_writable(place) for place in facts.places),
        check_shm(facts.shm_bytes),
        check_auth(facts.cluster_address, facts.auth_mode, facts.has_auth_token),
        *(check_image_format(name, answer) for name, answer in facts.image_formats.items()),
        *(check_dataset(name, answer) for name, answer in facts.datasets.items()),
        check_ray(facts.ray, facts.cluster_address),
        check_tracking(facts.tracking, facts.tracking_required),
    )


def has_failed(checks: Iterable[Check]) -> bool:
    """Whether any check failed; warnings do not count."""
    return any(check.outcome is Outcome.fail for check in checks)


def check_lines(checks: Iterable[Check]) -> tuple[str, ...]:
    """One line a check, and below it what to do where something is amiss."""
    lines = []
    for check in checks:
        lines.append(f"{check.outcome:<4}  {check.name}: {check.detail}")
        if check.mend:
            lines.append(f"      → {check.mend}")
    return tuple(lines)


def check_python(version: str, required: str) -> Check:
    """`required` is the package's own `requires-python`."""
    if SpecifierSet(required).contains(version, prereleases=True):
        return Check("python", Outcome.ok, version)
    return Check("python", Outcome.fail, f"{version}, but {required} is needed", "make a venv with a newer Python")


def check_package(requirement: Requirement, installed: Mapping[str, str]) -> Check:
    """`installed` gives the version of each distribution that is there."""
    version = installed.get(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    mend = f"pip install '{wanted}'"
    if version is None:
        return Check(requirement.name, Outcome.fail, "not installed", mend)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, Outcome.fail, f"{version}, but {wanted} is needed", mend)
    return Check(requirement.name, Outcome.ok, version)


def check_torch(torch: Answer, num_gpus: int) -> Check:
    """Whether torch loads at all (a wheel for another CUDA does not) and sees the GPUs that the machine has."""
    if torch.problem:
        return Check("devices", Outcome.fail, f"torch does not load: {torch.problem}", "install torch again")
    num_seen = int(torch.said)
    if num_seen < num_gpus:
        detail = f"torch sees {num_seen} of {num_gpus} GPUs"
        return Check("devices", Outcome.warn, detail, "install the torch build for this machine's CUDA driver")
    return Check("devices", Outcome.ok, f"{num_seen} GPUs" if num_seen else "CPU only")


def check_cpus(num_cpus: int, quota: float | None) -> Check:
    """Whether the threads that Ray will hand out are there."""
    if quota is not None and quota < num_cpus:
        detail = f"{num_cpus} CPUs, but the container is held to {quota:g}"
        return Check("cpus", Outcome.warn, detail, f"members will wait for one another; allow {num_cpus} CPUs")
    if num_cpus < 2:
        return Check("cpus", Outcome.warn, "1 CPU", "members will train one after another; two or more are better")
    return Check("cpus", Outcome.ok, f"{num_cpus} CPUs")


def check_resources(facts: Facts) -> Check:
    """Whether one member fits this machine; a cluster elsewhere is asked when the launch opens it."""
    asked = f"{facts.cpus_per_member} CPUs and {facts.gpus_per_member:g} GPUs a member"
    if facts.cluster_address:
        return Check("resources", Outcome.ok, f"{asked}, on the cluster at {facts.cluster_address}")
    if facts.cpus_per_member > facts.num_cpus:
        detail = f"{asked}, but this machine has {facts.num_cpus} CPUs"
        return Check("resources", Outcome.fail, detail, f"set cluster.cpus_per_member={facts.num_cpus}")
    if facts.gpus_per_member > facts.num_gpus:
        detail = f"{asked}, but this machine has {facts.num_gpus} GPUs"
        return Check("resources", Outcome.fail, detail, f"set cluster.gpus_per_member={facts.num_gpus}")
    return Check("resources", Outcome.ok, asked)


def check_kernels(compiled: bool) -> Check:
    """Whether the C kernels were built when Septet was installed; all goes on without them, slower."""
    if compiled:
        return Check("kernels", Outcome.ok, "compiled")
    mend = "install a C compiler, then Septet again, if speed matters"
    return Check("kernels", Outcome.warn, "not compiled: there was no C compiler at installation", mend)


def check_placement(chosen: Answer, candidates: tuple[str, ...]) -> Check:
    """What threads and precision a new run would get, and the figures of every candidate."""
    if chosen.problem:
        return Check("placement", Outcome.warn, f"not measured: {chosen.problem}", "mend what is said there")
    return Check("placement", Outcome.ok, "\n        ".join((chosen.said, *candidates)))


def check_memory(total_bytes: int, available_bytes: int, num_members: int) -> Check:
    """`num_members` train at once."""
    detail = f"{size(available_bytes)} free of {size(total_bytes)}"
    if available_bytes < _LEAST_MEMORY_BYTES:
        return Check("memory", Outcome.fail, detail, f"free some: a member takes up to {size(_MEMBER_BYTES)}")
    if available_bytes < num_members * _MEMBER_BYTES:
        mend = f"{num_members} full-size members at once may need {size(num_members * _MEMBER_BYTES)}"
        return Check("memory", Outcome.warn, detail, f"{mend}; raise cluster.cpus_per_member to train fewer at once")
    return Check("memory", Outcome.ok, detail)


def check_disk(place: Place) -> Check:
    """Space below a place, and how full its disk is."""
    name = f"disk ({place.name})"
    detail = f"{size(place.free_bytes)} free at {place.path}"
    if place.free_bytes < _LEAST_FREE_BYTES:
        return Check(name, Outcome.fail, detail, f"free at least {size(_LEAST_FREE_BYTES)}, or choose another disk")
    if place.name == "temporary" and 1 - place.free_bytes / place.total_bytes > _RAY_FULL_SHARE:
        mend = "Ray makes no objects on a disk over 95 % full; set TMPDIR to another"
        return Check(name, Outcome.warn, detail, mend)
    if place.free_bytes < _GOOD_FREE_BYTES:
        return Check(name, Outcome.warn, detail, "enough for small images only; compare disk_bytes of `septet plan`")
    return Check(name, Outcome.ok, detail)


def check_writable(place: Place) -> Check:
    """Whether files can be made there."""
    name = f"write access ({place.name})"
    if place.writable:
        return Check(name, Outcome.ok, place.path)
    return Check(
        name, Outcome.fail, f"{place.path} is not writable", "change its permissions, or choose another folder"
    )


def check_shm(shm_bytes: int | None) -> Check:
    """Ray keeps its objects in /dev/shm and falls back to the slower disk."""
    if shm_bytes is None:
        return Check("shared memory", Outcome.warn, "no /dev/shm", "Ray will use the disk, which is slower")
    detail = f"/dev/shm holds {size(shm_bytes)}"
    if shm_bytes < _GOOD_SHM_BYTES:
        return Check("shared memory", Outcome.warn, detail, "give the container more: docker run --shm-size=2g")
    return Check("shared memory", Outcome.ok, detail)


def check_auth(address: str | None, mode: str | None, has_token: bool) -> Check:
    """A cluster with token authentication turns away a driver that has none."""
    name = "cluster authentication"
    said = f"RAY_AUTH_MODE {mode or 'not set'}, {'a token' if has_token else 'no token'} at hand"
    if mode is not None and mode.lower() not in ("token", "disabled"):
        return Check(name, Outcome.fail, said, "set RAY_AUTH_MODE to token or disabled")
    if address is None:
        return Check(name, Outcome.ok, "a local cluster of its own needs none")
    if (mode or "").lower() == "token" and not has_token:
        return Check(name, Outcome.fail, said, "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token")
    if mode is None:
        return Check(name, Outcome.warn, said, "set RAY_AUTH_MODE to what the cluster uses: token or disabled")
    return Check(name, Outcome.ok, said)


def check_image_format(name: str, answer: Answer) -> Check:
    """Whether an image of this format is decoded here."""
    if answer.problem:
        return Check(f"decodes {name}", Outcome.fail, answer.problem, "install pillow again, with its wheels' codecs")
    return Check(f"decodes {name}", Outcome.ok, answer.said)


def check_dataset(name: str, answer: Answer) -> Check:
    """Whether a configured dataset is where the configuration says."""
    if answer.problem:
        return Check(f"dataset {name}", Outcome.fail, answer.problem, f"mend datasets.{name}.root or the folder")
    return Check(f"dataset {name}", Outcome.ok, answer.said)


def check_ray(answer: Answer, address: str | None) -> Check:
    """Whether Ray starts here, or answers at `address`."""
    if answer.problem:
        mend = "check cluster.address and the network" if address else "see the logs below /tmp/ray/session_latest/logs"
        return Check("ray cluster", Outcome.fail, answer.problem, mend)
    return Check("ray cluster", Outcome.ok, answer.said)


def check_tracking(answer: Answer, required: bool) -> Check:
    """Whether the MLflow store answers; where it is not required, a launch goes on without."""
    if not answer.problem:
        return Check("mlflow store", Outcome.ok, answer.said)
    mend = "check tracking.uri or MLFLOW_TRACKING_URI, or set tracking.required=false"
    return Check("mlflow store", Outcome.fail if required else Outcome.warn, answer.problem, mend)
