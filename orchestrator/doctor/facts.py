"""Gathers the facts that the doctor judges, from this machine, Ray, MLflow and the datasets.

It changes nothing, except that it caches the rates that it measures for the placement.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from orchestrator import cluster, placement, tracking
from orchestrator.cluster import available_cpus
from orchestrator.config import Config
from orchestrator.doctor.checks import Answer, Facts, Place
from orchestrator.inputs import hash_init_files, hash_outside, survey_all, survey_one
from orchestrator.placement import Measuring, Placed
from orchestrator.plan import make_plan, used_datasets
from workers.data.decoding import FORMATS, BadImage, decode
from workers.errors import SeptetError
from workers.numerics import capabilities, code_digest
from workers.storage import expanded

_TORCH_TIMEOUT_S = 120
# Runs in another process: if torch crashes while loading, only a check fails.
_ASK_TORCH = "import torch; print(torch.cuda.device_count())"


def gather(config: Config, note: Callable[[str], None]) -> Facts:
    """Gathers everything that a launch of `config` needs.

    It takes a few seconds, most of them for Ray, and longer if rates of training must be measured: `note` then receives
    a line.
    """
    requirements = tuple(text for text in metadata.requires("septet") or () if "extra ==" not in text)
    memory, limit = psutil.virtual_memory(), int(cluster.memory_limit())
    torch = ask_torch()
    placed = Answer(problem="torch does not load") if torch.problem else ask_placement(config, note)
    chosen = placed if isinstance(placed, Placed) else None
    return Facts(
        python=".".join(map(str, sys.version_info[:3])),
        python_required=metadata.metadata("septet")["Requires-Python"],
        requirements=requirements,
        installed={name: found for name in map(_name, requirements) if (found := _installed(name))},
        torch=torch,
        num_gpus=len(list(Path("/proc/driver/nvidia/gpus").glob("*"))),
        num_cpus=available_cpus(),
        cpu_quota=cpu_quota(),
        cpus_per_member=(chosen or config).cluster.cpus_per_member,
        gpus_per_member=config.cluster.gpus_per_member,
        cluster_address=config.cluster.address,
        memory_bytes=limit,
        memory_available_bytes=min(memory.available, limit),
        places=(
            place("run directory", _run_dir(config)),
            place("store", config.store),
            place("temporary", Path(tempfile.gettempdir())),
        ),
        shm_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        auth_mode=os.environ.get("RAY_AUTH_MODE"),
        has_auth_token=_has_auth_token(os.environ),
        image_formats={name: ask_decoder(name) for name in FORMATS},
        ray=ask(partial(ask_ray, config, chosen)),
        tracking=ask(partial(tracking.probe, config.tracking.uri)),
        tracking_required=config.tracking.required,
        datasets={name: ask(partial(ask_dataset, config, name)) for name in used_datasets(config)},
        placement=Answer(placed.line) if isinstance(placed, Placed) else placed,
        compiled_kernels=capabilities().compiled_kernels,
        placements=() if chosen is None else tuple(map(str, chosen.options)),
    )


def ask_placement(config: Config, note: Callable[[str], None]) -> Placed | Answer:
    """Returns the placement that a launch would choose, measured even for a short plan; else the problem."""
    try:
        plan = make_plan(config, survey_all(config, allow_absent=True), hash_init_files(config), hash_outside(config))
        return placement.place(config, plan, note, Measuring.always)
    except SeptetError as error:
        return Answer(problem=str(error))


def ask_torch() -> Answer:
    """Returns how many GPUs torch sees, as a number."""
    try:
        command = [sys.executable, "-P", "-c", _ASK_TORCH]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_TORCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Answer(problem=f"no answer within {_TORCH_TIMEOUT_S} s")
    if asked.returncode:
        said = asked.stderr.strip().splitlines()
        return Answer(problem=said[-1] if said else f"exit code {asked.returncode}")
    return Answer(asked.stdout.strip())


def ask_decoder(name: str) -> Answer:
    """Encodes a small image in the format `name`, and decodes it as the preparation does."""
    file = io.BytesIO()
    try:
        Image.new("RGB", (8, 8), (200, 100, 50)).save(file, name)
        decode(file.getvalue(), 8)
    except (OSError, KeyError, BadImage) as error:
        return Answer(problem=str(error))
    return Answer("works")


def ask_ray(config: Config, chosen: Placed | None) -> str:
    """Opens the cluster as a launch would, looks at its nodes, and closes it again.

    Raises:
        ConfigError, StorageError: a launch could not use it.
    """
    settings = (chosen or config).cluster
    if settings.address is not None and not cluster.check_resources(settings):
        return cluster.survey_nodes(settings)[1]
    needs = cluster.Needs(code_digest(), _existing(_run_dir(config)), numerics=chosen.numerics if chosen else None)
    with cluster.open_cluster(settings, needs) as actors:
        found = [f"{settings.address or 'local'}: room for {actors.num_slots} members at once"]
        return "\n        ".join([*found, *(actors.describe() if settings.address else [])])


def ask_dataset(config: Config, name: str) -> str:
    """Surveys a dataset without decoding images; raises as `survey_one`."""
    found = survey_one(config, name)
    counts = ", ".join(f"{count:,} {split}" for split, count in found.counts.items())
    return f"{found.num_classes} classes, {counts}"


def place(name: str, path: Path) -> Place:
    """Describes `path`, or its nearest existing parent: it makes no folder."""
    wanted, existing = expanded(path).absolute(), _existing(path)
    usage = shutil.disk_usage(existing)
    return Place(name, str(wanted), usage.free, usage.total, existing.is_dir() and os.access(existing, os.W_OK))


def _run_dir(config: Config) -> Path:
    return Path(config.run_dir) if config.run_dir else config.runs


def _existing(path: Path) -> Path:
    wanted = expanded(path).absolute()
    return next(folder for folder in (wanted, *wanted.parents) if folder.exists())


def cpu_quota(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Returns a container's limit in CPUs (cgroup v2), or None without one."""
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def ask(question: Callable[[], str]) -> Answer:
    """Returns the answer to `question`, or the error that it raised for users."""
    try:
        return Answer(question())
    except SeptetError as error:
        return Answer(problem=str(error))


def _has_auth_token(environment: Mapping[str, str]) -> bool:
    if environment.get("RAY_AUTH_TOKEN"):
        return True
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    return (Path(named) if named else Path.home() / ".ray" / "auth_token").is_file()


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
