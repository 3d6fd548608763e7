"""docker/compose.yaml, read as Compose reads it: what it publishes, whom it trusts, and that its commands exist."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compose_file import COMPOSE_FILE, ENDS_BY_ITSELF, compose, in_order, words_of

from orchestrator.cli.commands import VERBS
from orchestrator.cli.parser import parse
from orchestrator.cli.program import main

TEXT = COMPOSE_FILE.read_text()
DOCUMENT = compose()
SERVICES = DOCUMENT["services"]
OURS = [name for name, one in SERVICES.items() if "build" in one]
SECRETS = COMPOSE_FILE.parent / "secrets"


def faults(document):
    """What of the services is not as docs/security.md says."""
    found = []
    for name, one in document["services"].items():
        if not one.get("healthcheck") and name not in ENDS_BY_ITSELF:
            found.append(f"{name}: no health check")
        if not all(str(port).startswith("127.0.0.1:") for port in one.get("ports", ())) or "network_mode" in one:
            found.append(f"{name}: published beyond loopback")
        if not one.get("read_only") or one.get("cap_drop") != ["ALL"] or one.get("privileged"):
            found.append(f"{name}: has more rights than it needs")
        if "no-new-privileges:true" not in one.get("security_opt", ()):
            found.append(f"{name}: may gain rights")
        if set(one.get("deploy", {}).get("resources", {}).get("limits", {})) != {"cpus", "memory"}:
            found.append(f"{name}: no limits")
        if "restart" not in one:
            found.append(f"{name}: no restart policy")
        for variable, value in one.get("environment", {}).items():
            telling = re.search(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", variable)
            if telling and not re.match(r"/run/secrets/|token$", str(value)):
                found.append(f"{name}: a secret in {variable}")
        if not re.search(r":[\w.-]*\w$", one["image"]) or one["image"].endswith(":latest"):
            found.append(f"{name}: an image of no version")
    return found


def test_every_service_is_healthy_limited_and_on_loopback():
    assert faults(DOCUMENT) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("127.0.0.1:5000:5000", "5000:5000"),
        ("127.0.0.1:8265:8265", "0.0.0.0:8265:8265"),
        ("POSTGRES_PASSWORD_FILE: /run/secrets/postgres_password", "POSTGRES_PASSWORD: letmein"),
        ("  read_only: true\n", ""),
        ("cap_drop: [ALL]", "cap_drop: [SYS_ADMIN]"),
        ('["no-new-privileges:true"]', "[]"),
        ("chrislusf/seaweedfs:4.44", "chrislusf/seaweedfs"),
        ("postgres:17-bookworm  ", "postgres:latest  "),
        ('limits: {cpus: "1", memory: 512m}', 'limits: {cpus: "1"}'),
        ("    healthcheck:\n      # While", "    x-health:\n      # While"),
    ],
)
def test_service_with_a_fault_is_told(good, bad):
    assert good in TEXT
    assert faults(compose(text=TEXT.replace(good, bad))) != []


def said_by_the_specification(document):
    """Why a document is no compose file, by a parser of the compose specification; empty if it is one."""
    from compose_spec import PyCompose

    try:
        PyCompose.from_yaml(yaml.safe_dump(document))
    except ValueError as error:
        return str(error)
    return ""


def test_file_follows_the_compose_specification():
    pytest.importorskip("compose_spec", reason="of the extra `test`")
    assert said_by_the_specification(DOCUMENT) == ""


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("    healthcheck:\n      # While", "    healthchek:\n      # While", "healthchek"),
        ("service_completed_successfully", "service_ended", "service_ended"),
        ("interval: 5s", "interval: soon", "soon"),
    ],
)
def test_file_against_the_specification_is_told(good, bad, said):
    pytest.importorskip("compose_spec", reason="of the extra `test`")
    assert good in TEXT
    assert said in said_by_the_specification(compose(text=TEXT.replace(good, bad)))


def test_what_a_service_waits_for_can_be_met():
    assert list(in_order(SERVICES))[-1] == "launch"
    for one in SERVICES.values():
        for needed, how in one.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            assert ends == (needed in ENDS_BY_ITSELF)
            assert ends or "healthcheck" in SERVICES[needed]


def test_secrets_are_files_that_their_script_makes_and_git_ignores(tmp_path):
    folder = tmp_path / "secrets"
    shutil.copytree(SECRETS, folder, ignore=lambda _, names: [name for name in names if name in DOCUMENT["secrets"]])
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["sh", str(folder / "make.sh")], check=True)
        made = {name: (folder / name).read_text() for name in DOCUMENT["secrets"]}
    subprocess.run(["sh", str(folder / "make.sh")], check=True)
    assert made == {name: (folder / name).read_text() for name in DOCUMENT["secrets"]}
    assert folder.stat().st_mode & 0o077 == 0
    assert {one["file"] for one in DOCUMENT["secrets"].values()} == {f"secrets/{name}" for name in made}
    assert len(made["ray_token"]) == len(made["postgres_password"]) == 64
    assert made["ray_token"] != made["postgres_password"]
    (identity,) = json.loads(made["s3_identities"])["identities"]
    (pair,) = identity["credentials"]
    assert f"aws_access_key_id = {pair['accessKey']}\n" in made["s3_credentials"]
    assert f"aws_secret_access_key = {pair['secretKey']}\n" in made["s3_credentials"]
    ignored = (SECRETS / ".gitignore").read_text().split()
    assert ignored[0] == "*"
    assert not {f"!{name}" for name in made} & set(ignored)
    used = {secret for one in SERVICES.values() for secret in one.get("secrets", ())}
    assert used == set(made)


def test_members_reach_neither_postgres_nor_s3():
    assert DOCUMENT["networks"]["storage"]["internal"] is True
    for name in ("ray-head", "ray-worker", "launch"):
        assert SERVICES[name]["networks"] == ["cluster"]
    assert [name for name, one in SERVICES.items() if len(one["networks"]) > 1] == ["mlflow"]


def test_serve_reaches_no_other_service_has_no_secret_and_its_words_are_a_request():
    one = SERVICES["serve"]
    assert one["networks"] == ["serving"] and "secrets" not in one and one["volumes"] == ["work:/home/septet/work:ro"]
    assert [name for name, each in SERVICES.items() if "serving" in each["networks"]] == ["serve"]
    program, *words = words_of(one)
    request = parse(words, VERBS)
    assert (program, request.verb, str(request.run_dir)) == ("septet", "serve", "runs/digits")
    # A container is reached by its own address; the engine publishes the port on loopback.
    assert (request.host, one["ports"]) == ("0.0.0.0", [f"127.0.0.1:{request.port}:{request.port}"])
    assert f":{request.port}/health" in one["healthcheck"]["test"][-1]


def options_in(words, program):
    """The options that the words give to a program, up to the end of its command."""
    text = " ".join(words)
    text = text[text.index(program) :].split(">")[0]
    return set(re.findall(r"(?<=\s)--[\w-]+", text))


@pytest.mark.parametrize("name", ["ray-head", "ray-worker", "launch"])
def test_options_for_ray_exist(name):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    used = options_in(words_of(SERVICES[name]), "ray start")
    assert used and used <= known


@pytest.mark.slow
def test_options_for_mlflow_exist():
    from mlflow.cli import server

    known = {option for parameter in server.params for option in parameter.opts}
    used = options_in(words_of(SERVICES["mlflow"]), "mlflow server")
    assert "--allowed-hosts" in used and used <= known


def test_launch_passes_words_on_and_they_are_a_launch(tmp_path, capsys, monkeypatch):
    entrypoint = SERVICES["launch"]["entrypoint"]
    (tmp_path / "bin").mkdir()
    for program in ("ray", "septet"):
        script = tmp_path / "bin" / program
        script.write_text(f'#!/bin/sh\nfor word in {program} "$@"; do printf "%s\\n" "$word"; done\n')
        script.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    words = [*entrypoint, *SERVICES["launch"]["command"], "name=two words"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    passed = done.stdout.splitlines()
    assert passed == [
        "septet",
        "launch",
        "cluster=existing",
        "experiment=digits",
        "run_dir=runs/digits",
        "name=two words",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVICES["launch"]["environment"]["MLFLOW_TRACKING_URI"])
    assert main([*passed[1:-1], "--cfg"]) == 0
    assert "address: auto" in capsys.readouterr().out


def test_launch_without_a_cluster_says_why_and_exits_2(tmp_path):
    (tmp_path / "ray").write_text("#!/bin/sh\necho no head answers\nexit 1\n")
    (tmp_path / "ray").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        SERVICES["launch"]["entrypoint"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "no head answers\n")


def test_bucket_is_made_once(tmp_path):
    (tmp_path / "boto3.py").write_text(
        "from pathlib import Path\nmade = Path(__file__).with_name('made')\n"
        "class client:\n"
        "    def __init__(self, kind): assert kind == 's3'\n"
        "    def list_buckets(self): return {'Buckets': [{'Name': 'mlflow'}] if made.exists() else []}\n"
        "    def create_bucket(self, Bucket): assert Bucket == 'mlflow'; made.touch(exist_ok=False)\n"
    )
    words = words_of(SERVICES["bucket"])
    for _ in range(2):
        subprocess.run([sys.executable, *words[1:]], env={"PYTHONPATH": str(tmp_path)}, check=True)
    assert (tmp_path / "made").exists()


def test_our_services_share_one_image_and_its_arguments_are_the_dockerfiles():
    assert len({SERVICES[name]["image"] for name in OURS}) == 1
    (build,) = {json.dumps(SERVICES[name]["build"]) for name in OURS}
    build = json.loads(build)
    dockerfile = (COMPOSE_FILE.parent / build["context"] / build["dockerfile"]).read_text()
    assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    default = re.search(r"^ARG PYTHON=(\S+)", dockerfile, re.MULTILINE)[1]
    assert build["args"]["PYTHON"] == default


@pytest.mark.parametrize("variable", ["SEPTET_WORKER_CPUS", "SEPTET_TORCH", "SEPTET_IMAGES"])
def test_variable_of_the_environment_is_put_in(variable):
    assert "other-value" not in json.dumps(DOCUMENT)
    assert "other-value" in json.dumps(compose({variable: "other-value"}))


@pytest.mark.parametrize(
    "path", [COMPOSE_FILE, COMPOSE_FILE.with_name("Dockerfile"), SECRETS / "README.md"], ids=Path.name.fget
)
def test_first_lines_name_files_that_exist(path):
    for named in re.findall(r"docker/[\w./-]+\.(?:sh|yaml)|docker/Dockerfile|docs/[\w-]+\.md", path.read_text()):
        assert (COMPOSE_FILE.parents[1] / named).exists(), named
