"""Implements the console script `septet`: runs one verb; an error becomes one line on stderr and an exit code."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from orchestrator.cli.commands import VERBS
from orchestrator.cli.parser import parse
from orchestrator.cli.streams import Streams, carry_news, guard_standard_streams
from orchestrator.text import complaint
from workers.errors import SeptetError, StorageError
from workers.storage import is_of_storage

_INTERNAL_ERROR = 1
_SIGNALLED = 128
_INTERRUPTED = _SIGNALLED + signal.SIGINT
_PIPE_CLOSED = _SIGNALLED + signal.SIGPIPE


# Skips Python's last collections, which walk MLflow's objects for 0.4 to 0.6 s before the process frees them anyway.
atexit.register(gc.freeze)


class _Terminated(BaseException):
    """This signal, SIGTERM or SIGHUP, arrived; a BaseException, so that no `except Exception` catches it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `septet` with `argv` (default: the process's) and returns the exit code; never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    guard_standard_streams()
    try:
        with _sigterm_raises():
            return _run(words)
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to resume")
        return _INTERRUPTED
    except _Terminated as terminated:
        _complain("terminated; run the same command again to resume")
        return _SIGNALLED + int(terminated.args[0])
    except BrokenPipeError:
        # The reader of stdout has ended (`| head`); without this, Python would print an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED


def _run(words: list[str]) -> int:
    try:
        code = _verb(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - every error that is not meant for users becomes exit code 1
        if "--debug" in words:
            sys.stderr.write(complaint(traceback.format_exc()))
        if isinstance(error, SeptetError):
            _complain(str(error))
            return error.exit_code
        if isinstance(error, OSError) and error.filename and is_of_storage(error):
            _complain(f"{error.filename}: cannot be used ({error.strerror}); give another, or fix permissions")
            return StorageError.exit_code
        said = " ".join(str(error).split())
        hint = "" if "--debug" in words else "; --debug shows where"
        _complain(f"internal error: {type(error).__name__}: {said}{hint}")
        return _INTERNAL_ERROR


def _verb(words: list[str]) -> int:
    try:
        request = parse(words, VERBS)
        chosen = VERBS[request.verb]
        # A preview is nowhere else.
        carry_news(news=request.watch or (chosen.news and not (request.cfg or request.dry_run)))
        return chosen.run(request, Streams(sys.stdout, sys.stderr)) or 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0


def _complain(message: str) -> None:
    # A closed terminal cannot take the line; the exit code is returned all the same.
    with contextlib.suppress(OSError):
        sys.stderr.write(complaint(f"septet: {' '.join(message.split())}") + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into `_Terminated`, so that locks are released and children end.

    An ignored SIGHUP (`nohup`) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _Terminated(number)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command() -> NoReturn:
    """Runs `septet` as a process, and ends it with the exit code."""
    code = main()
    if code > _SIGNALLED:
        # A signal may have come while Ray or MLflow started. Python's own end has then crashed on their threads; the
        # process guard ends Ray's processes.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, StorageError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
