"""`septet serve` as a process, with real JPEGs: 1,000 answers, hostile clients, memory, and its end."""

import base64
import http.client
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow_serving import model_served
from noise_run import finished_run, predicted
from PIL import Image

from workers.settings.dataset import Keep
from workers.settings.model import ModelSettings
from workers.settings.training import Crops, OptimizerSettings, ScheduleSettings

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

MEMBERS = ("f", "b", "g", "a", "c", "e", "d")
SETTINGS = {
    "model": ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=1, conv1_padding=2, fc_units=64),
    "optimizer": OptimizerSettings(lr=0.02, batch_size=32),
    "schedule": ScheduleSettings(epochs=1),
}
JPEG = {"content-type": "image/jpeg"}
GIB = 1 << 30
# Of what a server has after 1,000 requests: two decoders' images of 50 million pixels, and the bodies that are held.
MOST_MORE = 1.3 * GIB


@pytest.fixture(scope="module")
def photos(real_images, real_photographs, tmp_path_factory):
    """Two classes of forty for training, and 1,000 JPEGs to predict, 200 of them photographs at full size."""
    everything, root = real_images, tmp_path_factory.mktemp("photos")
    names = sorted(path.name for path in (everything / "train").iterdir())[:2]
    for name in names:
        (root / "train" / name).mkdir(parents=True)
        for file in sorted((everything / "train" / name).iterdir())[:40]:
            (root / "train" / name / file.name).symlink_to(file)
    files = [*sorted((everything / "test").iterdir())[:800], *sorted(real_photographs.iterdir())[:200]]
    (root / "test").mkdir()
    for file in files[:5]:
        (root / "test" / file.name).symlink_to(file)
    return root, files


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    return finished_run(photos[0], tmp_path_factory, Keep.centre, Crops.ten, MEMBERS, SETTINGS, size=64)


@contextmanager
def served(run, *flags):
    """The port and process of `septet serve`."""
    words = [sys.executable, "-m", "septet", "serve", str(run.root), "--port", "0", *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving http://127.0.0.1:"), process.stderr.read()
            yield int(line.rsplit(":", 1)[1]), psutil.Process(process.pid), process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@pytest.fixture(scope="module")
def server(run):
    with served(run) as found:
        yield found


def ask(port, body, headers=JPEG, timeout=120):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/predict?top=2", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def own_answer(connection, file):
    connection.request("POST", "/predict?top=2", file.read_bytes(), JPEG)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    (one,) = json.loads(text)["predictions"]
    return {each["class"]: each["probability"] for each in one["top"]}


def mlflow_answer(connection, file):
    body = {"dataframe_records": [{"image": base64.b64encode(file.read_bytes()).decode()}]}
    connection.request("POST", "/invocations", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)["predictions"][0]["probabilities"]


def answers(port, files, at_once=8, answer=own_answer):
    """What the server says of each file, asked `at_once` at a time over connections that stay open."""
    waiting, found = queue.SimpleQueue(), {}
    for file in files:
        waiting.put(file)

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        with suppress(queue.Empty):
            while True:
                file = waiting.get_nowait()
                found[file] = answer(connection, file)
        connection.close()

    with ThreadPoolExecutor(at_once) as pool:
        for job in [pool.submit(client) for _ in range(at_once)]:
            job.result()
    return found


def worst_difference(found, wanted):
    """The largest difference of a probability; `wanted` are predictions of `septet predict`."""
    assert len(found) == len(wanted) == 1000
    return max(abs(found[Path(one.path)][guess.name] - guess.probability) for one in wanted for guess in one.top)


def test_a_thousand_jpegs_eight_at_a_time_are_answered_as_septet_predict_answers(run, photos, server):
    wanted = predicted(run, photos[1])
    found = answers(server[0], photos[1])
    assert worst_difference(found, wanted) <= 1e-6


def test_mlflow_models_serve_answers_a_thousand_jpegs_as_septet_predict_answers(run, photos, unused_port, tmp_path):
    folder, words = tmp_path / "exported", [sys.executable, "-m", "septet", "export", str(run.root)]
    subprocess.run([*words, "--out", str(folder), "--to", "pyfunc"], check=True)
    with model_served(folder, unused_port, tmp_path / "log.txt"):
        found = answers(unused_port, photos[1], answer=mlflow_answer)
    assert worst_difference(found, predicted(run, photos[1])) <= 1e-6


def bomb():
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG", optimize=True)
    return file.getvalue()


def endless(port, num_bytes, *, chunked):
    """Sends a body as fast as the server takes it, as far as it takes it; returns the status."""
    head = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % num_bytes
    piece = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        peer.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n" + head + b"\r\n\r\n")
        with suppress(OSError):
            for _ in range(num_bytes // len(piece)):
                peer.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        with suppress(OSError):
            return int(peer.recv(100).split()[1])
    return 0


def thousand(port, body):
    """The statuses of a thousand requests that are all sent before the first answer is read."""
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=120)) for _ in range(1000)]
        for peer in peers:
            peer.sendall(head + body)
        return [int(peer.recv(65536).split()[1]) for peer in peers]


def test_hostile_requests_are_refused_and_memory_stays_bounded(run, photos, server):
    port, process, _ = server
    answers(port, photos[1][:200])
    before, peak, over = process.memory_info().rss, [0], threading.Event()

    def watch():
        while not over.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    content = photos[1][0].read_bytes()
    try:
        large = bomb()
        with ThreadPoolExecutor(8) as pool:
            assert {job.result()[0] for job in [pool.submit(ask, port, large) for _ in range(16)]} == {422}
        assert ask(port, b"no image")[0] == 422
        assert ask(port, b'{"images": ["/etc/passwd"]}', {"content-type": "application/json"})[0] == 422
        assert endless(port, GIB, chunked=False) == 413
        # The server may close before all is sent, and then its answer may be lost.
        assert endless(port, GIB, chunked=True) in (413, 0)
        many = thousand(port, content)
        assert set(many) <= {200, 503} and many.count(200) >= 200 and many.count(503) >= 200
        # Of the largest that are taken, 32 at once hold more than there is room for.
        with ThreadPoolExecutor(32) as pool:
            full = {job.result()[0] for job in [pool.submit(ask, port, bytes(16 << 20)) for _ in range(32)]}
        assert full <= {422, 503}
    finally:
        over.set()
        watcher.join()
    assert peak[0] - before < MOST_MORE, f"RSS {before / GIB:.2f} GiB before, {peak[0] / GIB:.2f} GiB at most"
    assert ask(port, content)[0] == 200


def test_a_slow_sender_is_cut_off_and_one_without_a_header_too(server):
    begun = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", server[0])) as slow,
        socket.create_connection(("127.0.0.1", server[0])) as headless,
    ):
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 9999\r\n\r\n")
        slow.settimeout(1)
        status = b""
        while not status and time.monotonic() - begun < 60:
            slow.sendall(b"x")
            headless.sendall(b"x") if time.monotonic() - begun < 5 else None
            with suppress(TimeoutError):
                status = slow.recv(100)
        assert status.split()[1] == b"408"
        headless.settimeout(30)
        assert headless.recv(100) == b""
    assert 29 < time.monotonic() - begun < 60


def test_sigterm_answers_what_has_begun_and_ends_with_143(run, photos):
    with served(run) as (port, _, process), ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ask, port, photos[1][0].read_bytes()) for _ in range(8)]
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        assert {job.result()[0] for job in jobs if not job.exception()} == {200}
        assert process.wait(60) == 143
        assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_is_refused_at_once(run, server):
    words = [sys.executable, "-m", "septet", "serve", str(run.root), "--port", str(server[0])]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 2 and "give another, or --port 0" in refused.stderr


def test_replicas_answer_as_one_process_does_and_refuse_what_it_refuses(run, photos, server):
    files = photos[1][:100]
    wanted = answers(server[0], files)
    with served(run, "--replicas", "2") as (port, driver, process):
        found = answers(port, files)
        for file, one in wanted.items():
            assert all(abs(found[file][name] - value) <= 1e-6 for name, value in one.items())
        processes = [one for one in psutil.process_iter() if "ray::" in one.name() or one == driver]
        listening = [each.laddr.ip for one in processes for each in one.net_connections() if each.status == "LISTEN"]
        assert sum("ServeReplica" in one.name() for one in processes) == 2
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        before = sum(one.memory_info().rss for one in processes)
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(endless, port, GIB, chunked=bool(place % 2)) for place in range(8)]
            assert {job.result() for job in jobs} <= {413, 0}
        assert sum(one.memory_info().rss for one in processes) - before < MOST_MORE
        assert ask(port, bomb())[0] == 422 and ask(port, photos[1][0].read_bytes())[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    more = [sys.executable, "-m", "septet", "serve", str(run.root), "--port", "0", "--replicas", "999"]
    refused = subprocess.run(more, capture_output=True, text=True)
    assert refused.returncode == 2 and "--replicas 999: there is room for" in refused.stderr
