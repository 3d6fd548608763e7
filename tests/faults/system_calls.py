"""strace as a tool of tests: what a process does to files, in order; and a fault at one call of it."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oracle import FOLDER, child_environment

# All that creates, changes, renames, removes or makes durable; `?` for those that not every architecture has.
_CALLS = (
    *("openat", "write", "writev", "pwrite64", "fsync", "fdatasync", "sync_file_range", "renameat2", "unlinkat"),
    *("mkdirat", "fchmod", "fchmodat", "ftruncate", "truncate", "linkat", "symlinkat", "fallocate"),
    *("?open", "?creat", "?rename", "?renameat", "?unlink", "?mkdir", "?rmdir", "?chmod", "?link", "?symlink"),
)
_TRACE = f"trace={','.join(_CALLS)}"
_LINE = re.compile(r"(?:\d+ +)?(?P<name>\w+)\((?P<rest>.*)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OF_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
_AT_FOLDER = re.compile(r"(?:AT_FDCWD(?:<[^>]*>)?|\d+<(?P<folder>[^>]*)>), \"(?P<name>(?:[^\"\\]|\\.)*)\"")


def strace_refuses() -> str:
    """Why strace cannot be used here; empty where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt-get install strace)"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:100]}"


@dataclass(frozen=True)
class Call:
    """One call: its name, the how-manieth of that name, and the paths it names (of a descriptor, the open file's)."""

    name: str
    number: int
    paths: tuple[str, ...]
    text: str

    @property
    def changes(self) -> bool:
        """Whether it changes a file's content or makes one."""
        return self.name in {"write", "writev", "pwrite64"} or "O_CREAT" in self.text

    def __str__(self) -> str:
        return f"{self.name} {self.number} {self.text[:120]}"


class ForkedWrites:
    """The process of `forked_writes.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(FOLDER / "forked_writes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    def close(self) -> None:
        self._process.communicate("")

    def run(self, job: str, folder: Path, *, with_fsync: bool = True, inject: str | None = None) -> int:
        """Has a child do `job`, a name of `forked_writes.JOBS`, in `folder`; gives its exit code.

        It is traced if `inject` is given, what strace's `inject=` takes (empty for a look only); the trace goes beside
        the folder, into trace.txt.
        """
        child = self._ask(f"{job}\t{'with' if with_fsync else 'without'}\t{folder}")
        if inject is None:
            return self._ask("go")
        with _traced(child, folder.parent / "trace.txt", inject):
            return self._ask("go")

    def calls(self, job: str, folder: Path, *, with_fsync: bool = True) -> list[Call]:
        """What the job does to files below `folder`, undisturbed."""
        assert self.run(job, folder, with_fsync=with_fsync, inject="") == 0
        return _parsed((folder.parent / "trace.txt").read_text(), folder)

    def _ask(self, line: str) -> int:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def _traced(child: int, log: Path, inject: str) -> Iterator[None]:
    command = ["strace", "-f", "-y", "-s", "256", "-p", str(child), "-o", str(log), "-e", _TRACE, "-e", "signal=none"]
    strace = subprocess.Popen(
        [*command, *(["-e", f"inject={inject}"] if inject else [])], stderr=subprocess.PIPE, text=True
    )
    # It says so once the child is stopped: no call of the child's is made unseen after it.
    assert "attached" in (said := strace.stderr.readline()), said
    try:
        yield
    finally:
        strace.communicate()


def _parsed(trace: str, folder: Path) -> list[Call]:
    counts: Counter[str] = Counter()
    found = []
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None or "resumed>" in line:
            continue
        name, rest = match["name"], match["rest"]
        counts[name] += 1
        paths = tuple(_paths(name, rest))
        if any(path.startswith(str(folder)) for path in paths):
            found.append(Call(name, counts[name], paths, rest))
    return found


def _paths(name: str, rest: str) -> Iterator[str]:
    """Of a call on a descriptor the open file; of one that names files, these, in order."""
    if (described := _OF_DESCRIPTOR.match(rest)) and not name.endswith(("at", "at2")):
        yield described[1]
        return
    found = list(_AT_FOLDER.finditer(rest))
    for at in found:
        yield at["name"] if at["name"].startswith("/") else f"{at['folder'] or ''}/{at['name']}"
    if not found:
        yield from (quoted for quoted in _QUOTED.findall(rest) if quoted.startswith("/"))
