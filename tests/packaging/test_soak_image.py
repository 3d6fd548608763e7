"""docker/Dockerfile is built and its image trains, without an engine and without a registry of images.

debootstrap makes a base that stands for python:3.x-slim, buildah builds on it, and both work in a chroot. It needs
root, a network for apt and pip, some 30 GB and a quarter of an hour.
"""

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]
# What python:3.x-slim has besides a minimal Debian. Debian bookworm has Python 3.11.
RELEASE, BASE_PACKAGES = "bookworm", ("python3", "python3-venv", "python3-dev", "python-is-python3", "ca-certificates")
NEEDED_BYTES = 30 * 10**9
QUICK = (
    *("model.width=0.1", "model.fc_units=32"),
    *(f"ensemble.stages.{stage}.epochs=1" for stage in ("train", "pretrain", "finetune")),
)
OF_BUILDAH = {"/began", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
MAY_WRITE = ("/home/septet/work", "/tmp", "/dev", "/proc", "/sys", "/run")


def said(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def timed(what):
    start = time.monotonic()
    yield
    said(f"image: {what}: {time.monotonic() - start:.0f} s")


class Buildah:
    """buildah with storage of its own, which goes with its folder."""

    def __init__(self, folder):
        self.storage = ("--root", str(folder / "storage"), "--runroot", str(folder / "runroot"))
        # A layer is written once more before it is stored, else to /var/tmp.
        self.environment = os.environ | {"TMPDIR": str(folder)}

    def __call__(self, verb, *words, check=True):
        done = subprocess.run(
            ["buildah", *self.storage, verb, *words],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"buildah {verb}: {done.stdout[-4000:]}"
        return done

    def run(self, container, *words, check=True):
        return self("run", "--isolation", "chroot", container, "--", *words, check=check)


def pip_folders():
    """What pip reads on this machine, for the build: its configuration, certificates, folders of wheels."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    files = (
        Path("/etc/pip.conf"),
        Path("/etc/xdg/pip/pip.conf"),
        home / ".config/pip/pip.conf",
        home / ".pip/pip.conf",
    )
    text = "\n".join(path.read_text() for path in files if path.exists())
    named = {Path(name) for name in re.findall(r"(?<![\w.:/])(?:file://)?(/[\w./-]+)", text)}
    # An index in a folder, `…/simple`, points to files beside it.
    found = {path.parent if path.name == "simple" else path for path in (*files, *named) if path.exists()}
    return sorted(path for path in found if not any(other in path.parents for other in found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if os.getuid() != 0:
        pytest.skip("not root: a chroot cannot be made")
    for name in ("debootstrap", "buildah"):
        if not shutil.which(name):
            pytest.skip(f"no {name}: apt-get install debootstrap buildah")
    path = tmp_path_factory.mktemp("image")
    if shutil.disk_usage(path).free < NEEDED_BYTES:
        pytest.skip(f"less than {NEEDED_BYTES / 1e9:.0f} GB free for the image")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def buildah(folder):
    made = Buildah(folder)
    yield made
    made("rm", "--all", check=False)
    made("rmi", "--all", "--force", check=False)


@pytest.fixture(scope="module")
def image(folder, buildah, checkout):
    with timed("the base that stands for python:3.x-slim"):
        base = folder / "base"
        options = ("--variant=minbase", f"--include={','.join(BASE_PACKAGES)}")
        subprocess.run(["debootstrap", *options, RELEASE, str(base)], check=True, stdout=subprocess.DEVNULL)
        # Its /proc and /sys, where debootstrap leaves them mounted.
        for name in ("proc", "sys"):
            subprocess.run(["umount", "--recursive", str(base / name)], stderr=subprocess.DEVNULL)
        buildah("from", "--name", "base", "scratch")
        buildah("add", "--quiet", "base", str(base), "/")
        buildah("commit", "--quiet", "base", "localhost/python-stand-in")
        buildah("rm", "base")
        shutil.rmtree(base)
    with timed("the build"):
        mounts = [word for path in pip_folders() for word in ("--volume", f"{path}:{path}:ro")]
        files = (
            "--file",
            str(checkout / "docker/Dockerfile"),
            "--ignorefile",
            f"{checkout}/docker/Dockerfile.dockerignore",
        )
        arguments = ("PYTHON=localhost/python-stand-in", "EXTRAS=s3,server")
        words = [word for argument in arguments for word in ("--build-arg", argument)]
        buildah("bud", "--isolation", "chroot", *mounts, *words, *files, "--tag", "septet", str(checkout))
    used = subprocess.run(["du", "-sb", str(folder)], capture_output=True, text=True).stdout.split()[0]
    said(f"image: storage of buildah after the build: {int(used) / 1e9:.1f} GB")
    return "septet"


@pytest.fixture
def container(image, buildah):
    name = buildah("from", image).stdout.strip().splitlines()[-1]
    yield name
    buildah("rm", name)


def test_image_trains_the_quickstart_with_compiled_kernels_as_an_ordinary_user(buildah, container):
    assert buildah.run(container, "id", "-u").stdout.split()[-1] == "1000"
    buildah("run", "--isolation", "chroot", "--user", "root", container, "--", "touch", "/began")
    with timed("the quickstart with one epoch of narrow nets"):
        buildah.run(container, "septet", "launch", *QUICK, "run_dir=first")
    record = json.loads(buildah.run(container, "cat", "first/run.json").stdout)
    assert record["numerics"]["kernels"] == "compiled"
    assert "all as committed" in buildah.run(container, "septet", "verify", "first").stdout
    assert re.search(r"kernels\W+compiled", buildah.run(container, "septet", "doctor", check=False).stdout)
    listing = buildah.run(container, "sh", "-c", "find / -xdev -newer /began -type f 2>/dev/null || true").stdout
    elsewhere = {name for name in listing.splitlines() if name.startswith("/") and not name.startswith(MAY_WRITE)}
    assert elsewhere - OF_BUILDAH == set()


def test_build_fails_where_a_kernel_is_missing(buildah, container, checkout):
    dockerfile = (checkout / "docker" / "Dockerfile").read_text()
    check = shlex.split(re.search(r"^RUN (python -c .*)$", dockerfile, re.MULTILINE)[1])
    assert buildah.run(container, *check, check=False).returncode == 0
    for kernel in ("_lrn", "_pixels", "_resize"):
        where = "/opt/septet/lib/python3*/site-packages/workers/kernels"
        root = ("run", "--isolation", "chroot", "--user", "root", container, "--", "sh", "-c")
        buildah(*root, f"mkdir /hidden && mv {where}/{kernel}.*.so /hidden")
        assert buildah.run(container, *check, check=False).returncode != 0
        buildah(*root, f"mv /hidden/*.so {where}/ && rmdir /hidden")
