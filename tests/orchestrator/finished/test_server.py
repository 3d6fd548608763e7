"""Serving: answers are `septet predict`'s, and what is too large, too slow, too much or no image is refused."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from noise_run import predicted
from PIL import Image
from starlette.testclient import TestClient

from orchestrator.finished.ensemble import LoadedEnsemble
from orchestrator.finished.server import IMAGE_BYTES, Limits, application, serve

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(run):
    """Small limits, and one event loop for all requests, as a server has."""
    limits = Limits(body_bytes=100_000, body_s=0.3, images=8, pixels=10_000, held_bytes=20 * IMAGE_BYTES)
    with TestClient(application(run.root, limits=limits), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def contents(images):
    return [(images / "test" / f"{index}.png").read_bytes() for index in range(5)]


@pytest.fixture(scope="module")
def wanted(run, images):
    """What `septet predict` says of the five images, in one batch."""
    found = predicted(run, [images / "test"])
    return [{guess.name: guess.probability for guess in one.top} for one in found]


def as_rows(answer):
    assert answer.status_code == 200, answer.text
    return [{each["class"]: each["probability"] for each in one["top"]} for one in answer.json()["predictions"]]


def close(found, wanted):
    return all(one == pytest.approx(other, abs=1e-6) for one, other in zip(found, wanted, strict=True))


def test_each_form_of_a_request_is_answered_as_septet_predict_answers(client, contents, wanted):
    alone = [as_rows(client.post("/predict", content=one, headers=PNG))[0] for one in contents]
    files = as_rows(client.post("/predict", files=[("file", ("a.png", one)) for one in contents]))
    coded = {"images": [base64.b64encode(one).decode() for one in contents]}
    assert files == wanted and as_rows(client.post("/predict", json=coded)) == wanted
    assert close(alone, wanted) and not close(alone, wanted[::-1])


def test_an_answer_is_the_document_of_septet_predict_with_as_many_classes_as_asked(run, images, client, contents):
    (expected,) = predicted(run, [images / "test" / "0.png"])
    (every,) = client.post("/predict?top=1000", content=contents[0], headers=PNG).json()["predictions"]
    document = expected.to_json() | {"path": "image", "set": list(expected.set)}
    assert every == document | document["top"][0]
    (named,) = client.post("/predict?top=1", files={"file": ("cat.png", contents[0])}).json()["predictions"]
    assert named == every | {"path": "cat.png", "top": every["top"][:1]}


def test_requests_at_once_share_batches_and_each_gets_its_own_answer(client, contents, wanted):
    with ThreadPoolExecutor(15) as pool:
        asked = [pool.submit(client.post, "/predict", content=one, headers=PNG) for one in contents * 3]
        found = [as_rows(one.result())[0] for one in asked]
    assert close(found, wanted * 3)


def test_about_and_health_say_what_is_served(run, client):
    about = client.get("/").json()
    assert client.get("/health").json() == {"status": "ready"}
    assert about["classes"] == ["bright", "dark"] and about["size"] == 18
    assert {one["name"] for one in about["members"]} == {"a", "b"}
    manifest = json.loads(run.submission_manifest.read_text())
    assert [one["checkpoint_sha256"] for one in about["members"]] == [
        one["checkpoint_sha256"] for one in manifest["members"]
    ]
    assert client.get("/predict").status_code == 405 and client.get("/elsewhere").status_code == 404


def png(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "status", "said"),
    [
        ("image/png", b"no image", 422, "not an image"),
        ("image/png", b"", 422, "cannot be read"),
        ("image/png", png(200, 100), 422, "20000 pixels"),
        ("image/png", bytes(100_001), 413, "Too Large"),
        ("text/plain", b"x", 415, "text/plain"),
        ("", b"x", 415, "missing"),
        ("application/json", b'{"images": ["/etc/passwd"]}', 422, "base64"),
        ("application/json", b'{"images": ["file:///etc/passwd"]}', 422, "base64"),
        ("application/json", b'{"path": "/etc/passwd"}', 422, "images"),
        ("application/json", b'{"images": []}', 422, "0 images"),
        ("application/json", b'{"images": "abcd"}', 422, "no list of images"),
        ("application/json", b'{"images": [3]}', 422, "not 'int'"),
        ("application/json", b"[" * 90_000, 422, "nested"),
        ("application/json", b"[" + b"1," * 40_000 + b"1]", 422, "no list of images"),
        ("application/json", b'{"images": [' + b'"",' * 8 + b'""]}', 422, "9 images"),
        ("application/json", b"\xff\xfe", 422, "Expecting"),
        ("multipart/form-data", b"x", 422, "form-data"),
        ("multipart/form-data; boundary=b", b"x", 422, ""),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422, "0 images"),
    ],
)
def test_a_bad_request_is_refused_in_a_line(client, kind, content, status, said):
    answer = client.post("/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert said in answer.text


@pytest.mark.parametrize("query", ["top=x", "top=-1", "top=0", "top="])
def test_a_bad_query_is_refused(client, contents, query):
    assert client.post(f"/predict?{query}", content=contents[0], headers=PNG).status_code == 422


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
    sent = []

    def chunks():
        for index in range(1000):
            sent.append(index)
            yield bytes(10_000)

    assert client.post("/predict", content=chunks(), headers=PNG).status_code == 413


def asked(app, receive, headers=()):
    """Asks the application below any server, as a slow client does; returns status and headers."""
    sent = []

    async def ask():
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "asgi": {"version": "3.0"}}
        scope |= {"headers": [(b"content-type", b"image/png"), *headers], "http_version": "1.1", "root_path": ""}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(ask())
    return sent[0]["status"], dict(sent[0]["headers"])


def test_a_request_that_arrives_too_slowly_is_cut_off(client):
    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    begun = time.monotonic()
    status, headers = asked(client.app, receive)
    assert status == 408 and headers[b"connection"] == b"close"
    assert time.monotonic() - begun < 5


def test_a_client_that_leaves_is_no_error_of_ours(client):
    async def receive():
        return {"type": "http.disconnect"}

    assert asked(client.app, receive)[0] == 400


@contextmanager
def held_up(monkeypatch):
    """Predictions wait until the block ends."""
    gate, whole = threading.Event(), LoadedEnsemble.predict

    def waiting(*given):
        assert gate.wait(30)
        return whole(*given)

    monkeypatch.setattr(LoadedEnsemble, "predict", waiting)
    try:
        yield gate
    finally:
        gate.set()


def test_requests_beyond_the_room_get_503_and_later_ones_are_answered(client, contents, monkeypatch):
    with held_up(monkeypatch) as gate, ThreadPoolExecutor(60) as pool:
        begun = [pool.submit(client.post, "/predict", content=contents[0], headers=PNG) for _ in range(60)]
        until = time.monotonic() + 20
        while sum(one.done() for one in begun) < 41 and time.monotonic() < until:
            time.sleep(0.01)
        gate.set()
        answers = [one.result() for one in begun]
    refused = [one for one in answers if one.status_code == 503]
    assert {one.status_code for one in answers} == {200, 503}
    # Twenty have room, less the few bytes of their bodies.
    assert len(refused) == 41
    assert all(one.headers["retry-after"] == "1" for one in refused)
    assert client.post("/predict", content=contents[0], headers=PNG).status_code == 200


def test_a_batch_that_fails_fails_one_request_and_the_others_are_asked_again(client, contents, wanted, monkeypatch):
    whole, met, has_failed = LoadedEnsemble.predict, [], threading.Event()

    def once(*given):
        met.append(len(given[1]))
        if len(met) == 1 == len(given[1]):
            # The others come meanwhile.
            time.sleep(0.5)
        elif not has_failed.is_set():
            has_failed.set()
            raise MemoryError
        return whole(*given)

    monkeypatch.setattr(LoadedEnsemble, "predict", once)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.post, "/predict", content=one, headers=PNG) for one in contents]
        found = [one.result() for one in asked]
    failed = [one for one in found if one.status_code == 500]
    assert len(failed) == 1 and "MemoryError" not in failed[0].text
    answered = [(as_rows(one)[0], other) for one, other in zip(found, wanted, strict=True) if one.status_code == 200]
    assert close(*zip(*answered, strict=True))
    assert sum(met) > 5


def test_replicas_get_an_application_that_answers_and_a_free_port(run, contents, monkeypatch):
    asked = {}

    def in_place_of_ray(settings, needs, build, num_replicas, address, request_s, ready):
        asked.update(settings=settings, num_replicas=num_replicas, room=needs.room)
        # The proxy of Ray Serve listens there.
        socket.create_server(address).close()
        with TestClient(build()) as replica:
            asked["answer"] = replica.post("/predict", content=contents[0], headers=PNG).status_code
        ready()

    monkeypatch.setattr("orchestrator.cluster.serve_replicas", in_place_of_ray, raising=False)
    said = io.StringIO()
    serve(run, said, "127.0.0.1", 0, replicas=3)
    assert (asked["num_replicas"], asked["room"], asked["answer"]) == (3, (1, 0.0), 200)
    assert said.getvalue().startswith("serving http://127.0.0.1:") and asked["settings"].address is None
    serve(run, said, "127.0.0.1", 0, cluster="auto")
    assert (asked["num_replicas"], asked["settings"].address) == (1, "auto")
