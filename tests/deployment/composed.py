"""Runs compose.yaml's services as containers would be, without an engine: each in namespaces of its own.

A service has its own processes, host name, mounts and network addresses; its root is this machine's, read-only, under
what the file mounts; networks are bridges. What the file says of rights, users and limits is not applied. Needs root.
"""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from compose_file import CHECKOUT, Service, compose, in_order, words_of

UP_S = 300.0
_ROOT_SCRIPT = """
set -e
mount -t tmpfs none "$BOX"
mkdir "$BOX/upper" "$BOX/work" "$BOX/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$BOX/upper,workdir=$BOX/work" "$BOX/root"
cd "$BOX/root"
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o "size=$SHM" none dev/shm
mount -t proc none proc
mount -t tmpfs none run
mount -t tmpfs none tmp
{mounts}
mount --bind "$HOSTS" etc/hosts
mount -o remount,ro .
hostname "$NAME"
ip link set lo up
exec chroot . sh -c 'cd /home/septet/work; "$@"' sh "$@"
"""
_numbers = itertools.count()


@dataclass(frozen=True)
class StandIn:
    """What is run in place of an image that is not here: a script, how its health is asked, folders that it makes."""

    script: str
    health: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass
class Container:
    """One service's container, running or not."""

    name: str
    service: Service
    stand_in: StandIn | None
    words: list[str]
    environment: dict[str, str]
    health: list[str]
    addresses: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def inside(self) -> int:
        """The id of its first process."""
        assert self.process is not None and self.process.poll() is None, f"{self.name} is not up: {self.tail()}"
        (first,) = psutil.Process(self.process.pid).children()
        return first.pid

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


class Composed:
    """The services; `up` starts those without a profile, `run` starts another once, `close` ends all of them."""

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        stand_ins: Mapping[str, StandIn],
        imports: tuple[Path, ...] = (),
        programs: tuple[Path, ...] = (),
    ) -> None:
        """`imports` are what the services import besides the checkout; `programs` are folders that they see too."""
        self.folder, self._stand_ins = folder, stand_ins
        self._imports, self._programs = (CHECKOUT, *imports), programs
        self._mark = f"septet{os.getpid()}-{next(_numbers)}"
        self.document = compose(variables)
        self.services: Mapping[str, Service] = self.document["services"]
        self.containers: dict[str, Container] = {}
        self._spaces: list[str] = []
        shutil.copytree(CHECKOUT / "docker" / "secrets", folder / "secrets")
        subprocess.run(["sh", str(folder / "secrets" / "make.sh")], check=True)
        self._bridge = self._space("bridge")
        for number in range(len(self.document["networks"])):
            self._ip("-n", self._bridge, "link", "add", f"br{number}", "type", "bridge")
            self._ip("-n", self._bridge, "link", "set", f"br{number}", "up")
        for name in in_order(self.services):
            service = self.services[name]
            replicas = service.get("deploy", {}).get("replicas", 1)
            for instance in range(1, replicas + 1):
                self._add(name if replicas == 1 else f"{name}-{instance}", name)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def _space(self, name: str) -> str:
        space = f"{self._mark}-{name}"
        self._ip("netns", "add", space)
        self._spaces.append(space)
        return space

    def _add(self, name: str, service_name: str) -> None:
        service, host = self.services[service_name], len(self.containers) + 2
        space, addresses = self._space(name), {}
        for number, network in enumerate(self.document["networks"]):
            if network not in service["networks"]:
                continue
            # From the bridge's namespace to the service's: this machine's own network sees nothing of it.
            end, addresses[network] = f"v{number}-{host}", f"10.77.{number}.{host}"
            pair = ("type", "veth", "peer", "name", f"eth{number}", "netns", space)
            self._ip("-n", self._bridge, "link", "add", end, *pair)
            self._ip("-n", self._bridge, "link", "set", end, "master", f"br{number}", "up")
            self._ip("-n", space, "address", "add", f"{addresses[network]}/24", "dev", f"eth{number}")
            self._ip("-n", space, "link", "set", f"eth{number}", "up")
        stand_in = self._stand_ins.get(service_name)
        words = words_of(service)
        health = list(service.get("healthcheck", {}).get("test", ()))[1:]
        if stand_in:
            words = ["sh", "-c", stand_in.script, "sh", *service.get("command", ())]
            health = list(stand_in.health) or health
        log = self.folder / f"{name}.log"
        environment = self._environment() | service.get("environment", {})
        self.containers[name] = Container(name, service, stand_in, words, environment, health, addresses, log)

    def _environment(self) -> dict[str, str]:
        # As the image's, whose HOME is its folder of work.
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": "/home/septet/work",
            "PYTHONPATH": ":".join(map(str, self._imports)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C.UTF-8",
        }

    def _mounts(self, service: Service, folders: tuple[str, ...]) -> str:
        """Shell lines, in the container's root, for what the file mounts and for the code."""
        binds = []
        for volume in service.get("volumes", ()):
            source, target, *options = volume.split(":")
            place = self.folder / "volumes" / source.strip("./") if "/" not in source.strip("./") else Path(source)
            place.mkdir(parents=True, exist_ok=True)
            binds.append((place, target, "ro" in options))
        # At their own places, which a container's empty /tmp may hide.
        binds += [(path, str(path), True) for path in (*self._imports, *self._programs)]
        lines = ["mkdir -p home/septet/work run/secrets"]
        for target in (*service.get("tmpfs", ()), *folders):
            lines += [f"mkdir -p .{target}", f"mount -t tmpfs none .{target}"]
        for place, target, read_only in binds:
            lines += [f"mkdir -p .{target}", f"mount --bind {shlex.quote(str(place))} .{target}"]
            if read_only:
                lines.append(f"mount -o remount,bind,ro .{target}")
        for secret in service.get("secrets", ()):
            file = self.folder / self.document["secrets"][secret]["file"]
            lines += [f"touch run/secrets/{secret}", f"mount --bind {shlex.quote(str(file))} run/secrets/{secret}"]
        return "\n".join(lines)

    def _hosts(self, container: Container) -> Path:
        names = [f"127.0.0.1 localhost\n{next(iter(container.addresses.values()))} {container.name}\n"]
        for other in self.containers.values():
            shared = [network for network in other.addresses if network in container.addresses]
            names += [f"{other.addresses[network]} {other.name}\n" for network in shared if other is not container]
        file = self.folder / f"{container.name}.hosts"
        file.write_text("".join(names))
        return file

    def start(self, name: str, words: list[str] | None = None) -> Container:
        """Starts a container, with its own words or with `words`."""
        container = self.containers[name]
        box = self.folder / f"{name}.box"
        box.mkdir(exist_ok=True)
        setting = {
            "BOX": str(box),
            "SHM": container.service.get("shm_size", "64m"),
            "HOSTS": str(self._hosts(container)),
            "NAME": name,
        }
        folders = container.stand_in.folders if container.stand_in else ()
        script = _ROOT_SCRIPT.format(mounts=self._mounts(container.service, folders))
        apart = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        inside = ["ip", "netns", "exec", f"{self._mark}-{name}", *apart, "sh", "-c", script, "sh"]
        with container.log.open("a") as log:
            container.process = subprocess.Popen(
                [*inside, *(words or container.words)],
                env=setting | container.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        return container

    def execute(self, name: str, *words: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Runs a command in a running container, as a health check is run."""
        container = self.containers[name]
        enter = [
            "nsenter",
            "--target",
            str(container.inside()),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd",
        ]
        environment = container.environment
        return subprocess.run(
            [*enter, *words], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def healthy(self, name: str) -> bool:
        """One health check, now."""
        container = self.containers[name]
        if container.process is None or container.process.poll() is not None:
            return False
        try:
            return self.execute(name, *container.health, timeout_s=30.0).returncode == 0
        except (subprocess.TimeoutExpired, AssertionError, ValueError, psutil.Error):
            return False

    def wait_until_healthy(self, name: str) -> None:
        give_up = time.monotonic() + UP_S
        while not self.healthy(name):
            container = self.containers[name]
            ended = container.process is not None and container.process.poll() is not None
            if ended and container.service["restart"] == "unless-stopped":
                self.start(name)
            assert time.monotonic() < give_up, f"{name}: not healthy: {container.tail()}"
            time.sleep(0.2)

    def instances(self, service: str) -> list[str]:
        return [name for name, one in self.containers.items() if one.service is self.services[service]]

    def up(self) -> None:
        """All services without a profile, each once what it depends on is as it asks."""
        for service in in_order(self.services):
            if self.services[service].get("profiles"):
                continue
            for needed, how in self.services[service].get("depends_on", {}).items():
                self._await(needed, how["condition"])
            for name in self.instances(service):
                self.start(name)
        for service, one in self.services.items():
            if one.get("healthcheck") and not one.get("profiles"):
                self._await(service, "service_healthy")

    def _await(self, service: str, condition: str) -> None:
        for name in self.instances(service):
            if condition == "service_healthy":
                self.wait_until_healthy(name)
            else:
                assert condition == "service_completed_successfully"
                container = self.containers[name]
                assert container.process.wait(UP_S) == 0, container.tail()

    def kill(self, name: str) -> None:
        """SIGKILL to all of a container's processes at once."""
        process = self.containers[name].process
        process.kill()
        process.wait()

    def restart(self, name: str) -> None:
        """What the file's restart policy does after a container has ended."""
        assert self.containers[name].service["restart"] == "unless-stopped"
        self.start(name)

    def close(self) -> None:
        for container in self.containers.values():
            if container.process is not None and container.process.poll() is None:
                container.process.kill()
                container.process.wait()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def why_not() -> str:
    """Why no namespaces can be made here; empty if they can."""
    for name in ("ip", "unshare", "nsenter", "setpriv"):
        if not shutil.which(name):
            return f"no {name} (Debian: iproute2, util-linux)"
    space = f"septet{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", space], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
    return ""
