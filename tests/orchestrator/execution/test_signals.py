"""Signals sent to processes of their own: exit codes, the orderly stop, and the second Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_AT_WORK = """
import sys, time
from orchestrator.execution.signals import Interrupts
from workers.errors import SeptetError
try:
    with Interrupts() as interrupts:
        {setting}
except SeptetError as error:
    print("cleaned up", flush=True)
    sys.exit(error.exit_code)
"""
_UNWINDS = "print('ready', flush=True); time.sleep(250)"
_DEFERS = """
        with interrupts.deferred():
            print("ready", flush=True)
            # Bounded: nobody may be left to end it.
            for _ in range(20000):
                if interrupts.requested:
                    break
                time.sleep(0.01)
            print("noted", flush=True)
            if {obstinate}:
                time.sleep(250)
        raise interrupts.error()
"""


@contextmanager
def _started(setting, **options):
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_WORK.format(setting=setting)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
        # Whoever started the tests may ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL) and None,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _expect_stopped(setting, number, said=""):
    """Waits for a process that signals itself, and has its clean-up and its exit code."""
    with _started(setting.strip()) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (_CODES[number], f"{said}cleaned up\n", "")


@pytest.mark.parametrize(("number", "code"), _CODES.items())
@pytest.mark.parametrize("setting", [_UNWINDS, _DEFERS.format(obstinate=False)], ids=["anywhere", "while training"])
def test_signal_ends_in_order_with_its_exit_code(number, code, setting):
    with _started(setting) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    assert out.endswith("cleaned up\n")


def test_second_signal_ends_at_once():
    with _started(_DEFERS.format(obstinate=True)) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "noted\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cleaned up" not in out


@pytest.mark.parametrize("numbers", [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)])
def test_echo_of_a_signal_does_not_end_at_once(numbers):
    with _started(_DEFERS.format(obstinate=True).replace("time.sleep(250)", "time.sleep(0.5)")) as process:
        process.send_signal(numbers[0])
        assert process.stdout.readline() == "noted\n"
        for number in numbers[1:]:
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (128 + numbers[0], "")
        assert out == "cleaned up\n"


def test_second_ctrl_c_during_one_call_that_python_cannot_interrupt_ends_at_once():
    # Deferred, since a first one that comes before the call would unwind the process, and later ones end it as it ends.
    blocked = """
        import hashlib
        with interrupts.deferred():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)
"""
    with _started(blocked.strip()) as process:
        while process.poll() is None:
            # Two that the kernel finds waiting together are one.
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
    assert process.returncode == 130


def test_signal_that_another_handler_took_stops_all_the_same():
    taken = """
        import signal
        # As a library may for a while.
        signal.signal(signal.SIGTERM, lambda *_: None)
        print("ready", flush=True)
        while not interrupts.requested:
            time.sleep(0.01)
        raise interrupts.error()
"""
    with _started(taken.strip()) as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "cleaned up\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_another_thread_received_does_not_wait_for_the_main_threads_call(number):
    received = f"""
        import signal, threading
        print("ready", flush=True)
        # For the main thread it is as if the signal had come just before its call.
        receive = lambda: (time.sleep(0.5), signal.pthread_kill(threading.get_ident(), {int(number)}), time.sleep(250))
        threading.Thread(target=receive, daemon=True).start()
        time.sleep(250)
"""
    _expect_stopped(received, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_came_where_python_raises_nothing_is_not_lost(number):
    destroyed = f"""
        import os
        class Held:
            def __del__(self):
                os.kill(os.getpid(), {int(number)})
                time.sleep(0.05)
        print("ready", flush=True)
        held = Held()
        del held
        time.sleep(250)
"""
    _expect_stopped(destroyed, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_an_import_leaves_no_lock_taken_that_other_threads_need(number):
    importing = f"""
        import _imp, collections, functools, importlib, operator, signal, threading
        calls = [_imp.acquire_lock, functools.partial(signal.raise_signal, {int(number)})]
        class Signalled:
            # Once, as it takes the lock. All in C, so that Python's own code of imports is what the signal finds.
            def __getattr__(self, name):
                if name != "acquire_lock" or not calls:
                    return getattr(_imp, name)
                called = map(operator.call, tuple(calls))
                calls.clear()
                return functools.partial(collections.deque, called, 0)
        print("ready", flush=True)
        importlib._bootstrap._imp = Signalled()
        try:
            import colorsys
            time.sleep(250)
        finally:
            other = threading.Thread(target=lambda: importlib.import_module("quopri"), daemon=True)
            other.start()
            other.join(10)
            print("waits" if other.is_alive() else "imported", len(calls), flush=True)
"""
    _expect_stopped(importing, number, "imported 0\n")


def test_ctrl_c_that_a_forked_child_hears_too_is_counted_once():
    forking = """
        import subprocess
        with interrupts.deferred():
            # As Ray starts its processes; Ctrl-C goes to the whole group.
            wait = lambda: (print("ready", flush=True), time.sleep(1))
            subprocess.run([sys.executable, "-c", "pass"], preexec_fn=wait)
            while not interrupts.requested:
                time.sleep(0.01)
        raise interrupts.error()
"""
    with _started(forking.strip(), start_new_session=True) as process:
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "cleaned up\n")
