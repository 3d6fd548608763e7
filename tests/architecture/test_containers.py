"""What is in docker/, read as text, since images cannot be built everywhere: what a container may do, and as whom."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILE = (CHECKOUT / "docker" / "Dockerfile").read_text()
_PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
KERNELS = {module["name"].rpartition(".")[2] for module in _PROJECT["tool"]["setuptools"]["ext-modules"]}
RUN_FLAGS = ("--read-only", "--tmpfs /tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init")


def faults(text):
    """What of a Dockerfile is not as docs/security.md says."""
    joined = re.sub(r"\\\n", " ", text)
    steps = [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]
    last_stage = steps[max((number for number, step in enumerate(steps) if step.startswith("FROM ")), default=0) :]
    users = [step.split()[1] for step in last_stage if step.startswith("USER ")]
    found = []
    if not users or users[-1] in ("root", "0"):
        found.append("runs as root")
    if any(re.match(r"(EXPOSE|VOLUME|ADD)\b", step) for step in steps):
        found.append("publishes a port, makes a volume of its own, or fetches what nobody has looked at")
    if re.search(r"0\.0\.0\.0|--host|\bsudo\b|--privileged|--network[= ]host|\bcurl\b|\bwget\b", joined):
        found.append("listens beyond loopback, has more rights than it needs, or fetches past the constraints")
    if re.search(r"(?i)\b(ENV|ARG)\b[^\n]*(password|secret|token)", joined):
        found.append("holds a secret")
    if re.search(r":latest\b|(?m:^FROM\s+[\w/]+\s)", joined):
        found.append("builds on whatever is newest")
    if not all(flag in text for flag in RUN_FLAGS):
        found.append("is not run read-only and without rights")
    installs = re.findall(r"pip install[^&\n]*", joined)
    if not all("--constraint constraints.txt" in install for install in installs):
        found.append("installs without constraints")
    packages = [set(re.findall(r"apt-get install([^&]*)", " ".join(stage))) for stage in (steps, last_stage)]
    if not any("gcc" in words for words in packages[0]) or any("gcc" in words for words in packages[1]):
        found.append("has no compiler to build with, or keeps it")
    if "libgomp1" not in " ".join(packages[1]):
        found.append("lacks what the kernels run on")
    if last_stage.index(f"USER {users[-1]}" if users else last_stage[-1]) > _kernels_looked_for(last_stage)[0]:
        found.append("does not look for the kernels as its user")
    if _kernels_looked_for(last_stage)[1] != KERNELS:
        found.append("does not look for each kernel")
    return found


def _kernels_looked_for(steps):
    """The place of the step that imports the kernels, and which."""
    for number, step in enumerate(steps):
        looked = re.match(r'RUN python -c "from workers\.kernels import ([\w, ]+)"$', step)
        if looked:
            return number, set(looked[1].split(", "))
    return -1, set()


def test_container_has_no_rights_that_it_does_not_need():
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("USER septet", "USER root"),
        ("USER septet\n", ""),
        ('CMD ["--help"]', 'CMD ["--help"]\nEXPOSE 5000'),
        ('CMD ["--help"]', 'CMD ["ui", "--host", "0.0.0.0"]'),
        ("ENV PATH", "ENV MLFLOW_TRACKING_PASSWORD=password1234 PATH"),
        ("python:3.12-slim\n", "python:latest\n"),
        ("--read-only ", ""),
        ("--constraint constraints.txt ", ""),
        ("gcc libc6-dev", "libc6-dev"),
        ("libgomp1", "libgomp1 gcc"),
        ("--no-install-recommends libgomp1", "--no-install-recommends tzdata"),
        ("import _lrn, _pixels, _resize", "import _lrn, _resize"),
    ],
)
def test_container_with_a_fault_is_told(good, bad):
    assert good in DOCKERFILE
    assert faults(DOCKERFILE.replace(good, bad))


@pytest.mark.parametrize(
    ("torch", "index", "code", "installs"),
    [
        ("cuda", "", 0, []),
        ("cuda", "file:///cu130", 0, ["--index-url", "file:///cu130", "torch", "torchvision"]),
        ("cpu", "file:///cpu", 0, ["--index-url", "file:///cpu", "torch", "torchvision"]),
        ("cpu", "", 2, []),
        ("CPU", "file:///cpu", 2, []),
    ],
)
def test_variant_of_torch_comes_from_the_index_that_is_given(torch, index, code, installs):
    (step,) = re.findall(r"^RUN (case .*?esac)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    script = step.replace("\\\n", " ").replace("/opt/septet/bin/pip", "echo")
    environment = {"TORCH": torch, "TORCH_INDEX": index, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.split()[-len(installs) :] == installs if installs else not done.stdout
    assert (code == 0) == (not done.stderr)


def test_build_takes_in_only_what_is_listed():
    assert (CHECKOUT / "docker" / "Dockerfile.dockerignore").read_text().split()[0] == "*"


def test_every_version_is_pinned():
    text = re.sub(r"#.*", "", (CHECKOUT / "constraints.txt").read_text())
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    assert len(lines) > 100
    assert [line for line in lines if not re.match(r"[\w.\-\[\]]+==[\w.!+]+( *;.*)?$", line)] == []


LEAST = {"ray": (2, 60), "mlflow": (3, 17, 2), "pillow": (13, 0, 0)}


@pytest.mark.parametrize("name", LEAST)
def test_versions_with_known_holes_are_not_installed(name):
    pinned = re.search(rf"(?im)^{name}==([\d.]+)", (CHECKOUT / "constraints.txt").read_text())
    assert tuple(map(int, pinned[1].split("."))) >= LEAST[name]
    floor = re.search(rf'"{name}(?:\[\w+\])?>=([\d.]+)[",]', (CHECKOUT / "pyproject.toml").read_text())
    version = tuple(map(int, floor[1].split(".")))
    assert version + (0,) * (3 - len(version)) >= LEAST[name][: len(version)]
