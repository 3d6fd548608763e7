"""Judges the facts about a machine; each check is a pure function, so each has a test in which it fails."""

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
# Docker's default is 64 MiB; Ray's object store needs room for a few prediction blocks.
_GOOD_SHM_BYTES = 1 * GIB
# Ray refuses to make objects if the disk of its temporary folder is 95 % full.
_RAY_FULL_SHARE = 0.95
_FIX_CODECS = "install pillow again, with its wheels' codecs"
_FIX_CLUSTER = "check cluster.address and the network"
_FIX_LOCAL_RAY = "see the logs below /tmp/ray/session_latest/logs"
_FIX_STORE = "check tracking.uri or MLFLOW_TRACKING_URI, or set tracking.required=false"


# How a check ended; only `fail` stops a launch.
Outcome = StrEnum("Outcome", "ok warn fail")


@dataclass(frozen=True)
class Check:
    """Holds the result of one check; `fix` says what to do, or is empty."""

    name: str
    outcome: Outcome
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Answer:
    """Holds the answer of another system; `problem` is empty if all is well."""

    said: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Place:
    """Describes a folder that a launch will write to; if `path` does not exist, the sizes are of its nearest parent."""

    name: str
    path: str
    free_bytes: int
    total_bytes: int
    writable: bool


@dataclass(frozen=True)
class Facts:
    """Holds all facts that the checks judge.

    `cpu_quota` is a container's limit in CPUs. `shm_bytes` is None without /dev/shm. `placement` says how members would
    be placed and why, `placements` lists the candidates with their figures.
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
    """Runs every check, in the order in which a launch would meet the problems."""
    store_fails, datasets = Outcome.fail if facts.tracking_required else Outcome.warn, facts.datasets.items()
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
        *(check_answer(f"decodes {name}", answer, _FIX_CODECS) for name, answer in facts.image_formats.items()),
        *(check_answer(f"dataset {name}", one, f"correct datasets.{name}.root") for name, one in datasets),
        check_answer("ray cluster", facts.ray, _FIX_CLUSTER if facts.cluster_address else _FIX_LOCAL_RAY),
        check_answer("mlflow store", facts.tracking, _FIX_STORE, store_fails),
    )


def has_failed(checks: Iterable[Check]) -> bool:
    """Returns whether any check failed; warnings do not count."""
    return any(check.outcome is Outcome.fail for check in checks)


def check_lines(checks: Iterable[Check]) -> tuple[str, ...]:
    """Returns one line per check, and below it the fix if there is one."""
    lines = []
    for check in checks:
        lines.append(f"{check.outcome:<4}  {check.name}: {check.detail}")
        if check.fix:
            lines.append(f"      → {check.fix}")
    return tuple(lines)


def _ok(name: str, detail: str) -> Check:
    return Check(name, Outcome.ok, detail)


def _warn(name: str, detail: str, fix: str) -> Check:
    return Check(name, Outcome.warn, detail, fix)


def _fail(name: str, detail: str, fix: str) -> Check:
    return Check(name, Outcome.fail, detail, fix)


def check_python(version: str, required: str) -> Check:
    if SpecifierSet(required).contains(version, prereleases=True):
        return _ok("python", version)
    return _fail("python", f"{version}, but {required} is needed", "make a venv with a newer Python")


def check_package(requirement: Requirement, installed: Mapping[str, str]) -> Check:
    """Checks one distribution; `installed` holds the versions by name."""
    name, version = requirement.name, installed.get(requirement.name)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return _ok(name, version)
    wanted = f"{name}{requirement.specifier}"
    detail = "not installed" if version is None else f"{version}, but {wanted} is needed"
    return _fail(name, detail, f"pip install '{wanted}'")


def check_torch(torch: Answer, num_gpus: int) -> Check:
    """Checks that torch loads (a wheel for another CUDA does not) and sees the GPUs of the machine."""
    if torch.problem:
        return _fail("devices", f"torch does not load: {torch.problem}", "install torch again")
    num_seen, fix = int(torch.said), "install the torch build for this machine's CUDA driver"
    if num_seen < num_gpus:
        return _warn("devices", f"torch sees {num_seen} of {num_gpus} GPUs", fix)
    return _ok("devices", f"{num_seen} GPUs" if num_seen else "CPU only")


def check_cpus(num_cpus: int, quota: float | None) -> Check:
    """Checks that the CPUs that Ray will assign can be used."""
    if quota is not None and quota < num_cpus:
        fix = f"members will slow each other down; allow the container {num_cpus} CPUs"
        return _warn("cpus", f"{num_cpus} CPUs, but the container is limited to {quota:g}", fix)
    if num_cpus < 2:
        return _warn("cpus", "1 CPU", "members will train one after another; two or more are better")
    return _ok("cpus", f"{num_cpus} CPUs")


def check_resources(facts: Facts) -> Check:
    """Checks that one member fits this machine; a launch checks another cluster when it opens it."""
    asked = f"{facts.cpus_per_member} CPUs and {facts.gpus_per_member:g} GPUs a member"
    if facts.cluster_address:
        return _ok("resources", f"{asked}, on the cluster at {facts.cluster_address}")
    if facts.cpus_per_member > facts.num_cpus:
        detail = f"{asked}, but this machine has {facts.num_cpus} CPUs"
        return _fail("resources", detail, f"set cluster.cpus_per_member={facts.num_cpus}")
    if facts.gpus_per_member > facts.num_gpus:
        detail = f"{asked}, but this machine has {facts.num_gpus} GPUs"
        return _fail("resources", detail, f"set cluster.gpus_per_member={facts.num_gpus}")
    return _ok("resources", asked)


def check_kernels(compiled: bool) -> Check:
    """Checks that the C kernels were built at installation; Septet is slower without them."""
    if compiled:
        return _ok("kernels", "compiled")
    fix = "install a C compiler, then Septet again, if speed matters"
    return _warn("kernels", "not compiled: there was no C compiler at installation", fix)


def check_placement(chosen: Answer, candidates: tuple[str, ...]) -> Check:
    """Reports the threads and precision of a new run, and the figures of every candidate."""
    if chosen.problem:
        fix = "fix this problem, then use `septet doctor` again"
        return _warn("placement", f"not measured: {chosen.problem}", fix)
    return _ok("placement", "\n        ".join((chosen.said, *candidates)))


def check_memory(total_bytes: int, available_bytes: int, num_members: int) -> Check:
    """Checks the memory for `num_members` that train at once."""
    detail = f"{size(available_bytes)} free of {size(total_bytes)}"
    if available_bytes < _LEAST_MEMORY_BYTES:
        return _fail("memory", detail, f"free some: a member takes up to {size(_MEMBER_BYTES)}")
    if available_bytes < num_members * _MEMBER_BYTES:
        fix = f"{num_members} full-size members at once may need {size(num_members * _MEMBER_BYTES)}"
        return _warn("memory", detail, f"{fix}; raise cluster.cpus_per_member to train fewer at once")
    return _ok("memory", detail)


def check_disk(place: Place) -> Check:
    name = f"disk ({place.name})"
    detail = f"{size(place.free_bytes)} free at {place.path}"
    if place.free_bytes < _LEAST_FREE_BYTES:
        return _fail(name, detail, f"free at least {size(_LEAST_FREE_BYTES)}, or choose another disk")
    if place.name == "temporary" and 1 - place.free_bytes / place.total_bytes > _RAY_FULL_SHARE:
        return _warn(name, detail, "Ray needs a disk less than 95 % full; set TMPDIR to another disk")
    if place.free_bytes < _GOOD_FREE_BYTES:
        return _warn(name, detail, "enough for small images only; compare disk_bytes of `septet plan`")
    return _ok(name, detail)


def check_writable(place: Place) -> Check:
    name, fix = f"write access ({place.name})", "change its permissions, or choose another folder"
    return _ok(name, place.path) if place.writable else _fail(name, f"{place.path} is not writable", fix)


def check_shm(shm_bytes: int | None) -> Check:
    """Checks /dev/shm, where Ray keeps its objects; without room there it uses the slower disk."""
    if shm_bytes is None:
        return _warn("shared memory", "no /dev/shm", "Ray will use the disk, which is slower")
    detail = f"/dev/shm holds {size(shm_bytes)}"
    if shm_bytes < _GOOD_SHM_BYTES:
        return _warn("shared memory", detail, "give the container more: docker run --shm-size=2g")
    return _ok("shared memory", detail)


def check_auth(address: str | None, mode: str | None, has_token: bool) -> Check:
    """Checks the token: a cluster with token authentication refuses a driver without one."""
    name = "cluster authentication"
    said = f"RAY_AUTH_MODE {mode or 'not set'}, {'a token' if has_token else 'no token'} found"
    if mode is not None and mode.lower() not in ("token", "disabled"):
        return _fail(name, said, "set RAY_AUTH_MODE to token or disabled")
    if address is None:
        return _ok(name, "a local cluster needs none")
    if (mode or "").lower() == "token" and not has_token:
        return _fail(name, said, "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token")
    if mode is None:
        return _warn(name, said, "set RAY_AUTH_MODE to what the cluster uses: token or disabled")
    return _ok(name, said)


def check_answer(name: str, answer: Answer, fix: str, outcome: Outcome = Outcome.fail) -> Check:
    """Returns `outcome` with `fix` if the answer reports a problem."""
    return Check(name, outcome, answer.problem, fix) if answer.problem else _ok(name, answer.said)
