"""docker/kuberay, docker/slurm and docker/cluster.yaml as files: rights, secrets, and words that programs know.

Nothing of them runs here but the Slurm script (test_soak_slurm.py). SEPTET_CRDS may name a folder with the operator's
ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, which are not ours to keep.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.commands import VERBS
from orchestrator.config.composition import compose

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKER = CHECKOUT / "docker"
KUBERAY = {name: (DOCKER / "kuberay" / f"{name}.yaml").read_text() for name in ("cluster", "job", "storage")}
# Ray's command line imports Ray Serve, whose settings pydantic warns about.
RAYS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning")
VARIANTS = ("#scaling: ", "#gpu: ")
PAGES = ("docs/cluster.md", "docs/deployment.md")
FILES = {
    **{f"kuberay/{name}.yaml": text for name, text in KUBERAY.items()},
    **{name: (DOCKER / name).read_text() for name in ("slurm/septet.sbatch", "cluster.yaml")},
    **{page: (CHECKOUT / page).read_text() for page in PAGES},
}
TOKEN = {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": "septet-token", "key": "auth_token"}}}


def varied(text):
    """The text with all its commented variants in use."""
    for mark in VARIANTS:
        text = text.replace(mark, "")
    return text


def _pods(node):
    """The specs of all pods below a node of a document."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for below in node.values():
            yield from _pods(below)
    elif isinstance(node, list):
        for below in node:
            yield from _pods(below)


def _container_faults(container):
    rights, resources = container.get("securityContext", {}), container.get("resources", {})
    if rights.get("allowPrivilegeEscalation") is not False or not rights.get("readOnlyRootFilesystem"):
        yield "may gain rights, or write to its root"
    if rights.get("capabilities") != {"drop": ["ALL"]} or rights.get("privileged"):
        yield "keeps capabilities"
    gpus = {name: amount for name, amount in resources.get("limits", {}).items() if "/" in name}
    if not resources.get("requests") or {**resources["requests"], **gpus} != resources.get("limits"):
        yield "requests are not its limits"
    environment = {one["name"]: one for one in container.get("env", ())}
    if environment.get("RAY_AUTH_MODE", {}).get("value") != "token" or environment.get("RAY_AUTH_TOKEN") != TOKEN:
        yield "no token from the Secret"
    if container["name"] == "ray" and not {"readinessProbe", "livenessProbe"} <= container.keys():
        yield "no probes"
    if re.search(r":latest$|^[^:]+$", container["image"]):
        yield "an image without a tag"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    if not mounted >= {"/tmp", "/home/septet/work"}:
        yield "no folders to write to"


def faults(text):
    """What of a file for Kubernetes is not as docs/deployment.md says."""
    found = []
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Secret":
            found.append("holds a secret")
        for pod in _pods(document):
            rights = pod.get("securityContext", {})
            if not rights.get("runAsNonRoot") or rights.get("runAsUser") != 1000:
                found.append("not as the image's user")
            if rights.get("seccompProfile") != {"type": "RuntimeDefault"}:
                found.append("no seccomp profile")
            if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
                found.append("shares the host's name spaces")
            if any("hostPath" in volume for volume in pod["volumes"]):
                found.append("mounts folders of the host")
            found += [fault for container in pod["containers"] for fault in _container_faults(container)]
    return found


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_have_no_rights_that_they_do_not_need(name):
    assert faults(KUBERAY[name]) == []
    assert faults(varied(KUBERAY[name])) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("runAsUser: 1000", "runAsUser: 0", "not as the image's user"),
        ("seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "no seccomp profile"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may gain rights, or write to its root"),
        ("capabilities: {drop: [ALL]}", "capabilities: {add: [SYS_ADMIN]}", "keeps capabilities"),
        ('limits: {cpu: "2"', 'limits: {cpu: "8"', "requests are not its limits"),
        ("RAY_AUTH_MODE, value: token", "RAY_AUTH_MODE, value: disabled", "no token from the Secret"),
        ("livenessProbe: &alive", "startupProbe: &alive", "no probes"),
        ("septet:1.0.0", "septet", "an image without a tag"),
        ("emptyDir: {sizeLimit: 10Gi}", "hostPath: {path: /tmp}", "mounts folders of the host"),
        ("mountPath: /tmp}", "mountPath: /var/tmp}", "no folders to write to"),
    ],
)
def test_pod_with_a_fault_is_told(good, bad, fault):
    assert good in KUBERAY["cluster"]
    assert fault in faults(KUBERAY["cluster"].replace(good, bad))


def test_one_member_fits_a_worker_and_none_the_head():
    spec = yaml.safe_load(KUBERAY["cluster"])["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    cpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    job = yaml.safe_load(KUBERAY["job"])["spec"]
    assert f"cluster.cpus_per_member={cpus}" in job["entrypoint"].split()
    assert job["clusterSelector"] == {"ray.io/cluster": yaml.safe_load(KUBERAY["cluster"])["metadata"]["name"]}
    assert spec["authOptions"] == {"mode": "token", "secretName": TOKEN["valueFrom"]["secretKeyRef"]["name"]}
    pinned = re.search(r"(?m)^ray==(.+)$", (CHECKOUT / "constraints.txt").read_text())[1]
    assert spec["rayVersion"] == pinned


def test_pods_outlive_what_ray_waits_for_members():
    for pod in _pods(yaml.safe_load(KUBERAY["cluster"])):
        (container,) = pod["containers"]
        waits = {one["name"]: one.get("value") for one in container["env"]}
        assert int(waits["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def _strict(node):
    """A schema of Kubernetes as JSON Schema that also refuses fields it does not name, as the API server drops them."""
    if isinstance(node, list):
        return [_strict(below) for below in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {"additionalProperties": False} if isinstance(node.get("properties"), dict) else {}
    return {**closed, **{key: _strict(below) for key, below in node.items()}}


@pytest.mark.parametrize("change", [lambda text: text, varied], ids=["as it is", "varied"])
@pytest.mark.parametrize(("name", "kind"), [("cluster", "rayclusters"), ("job", "rayjobs")])
def test_files_fit_the_schemas_of_the_operator(name, kind, change):
    folder = os.environ.get("SEPTET_CRDS")
    if not folder:
        pytest.skip("SEPTET_CRDS names no folder with KubeRay's schemas (helm-chart/kuberay-operator/crds)")
    jsonschema = pytest.importorskip("jsonschema")
    versions = yaml.load((Path(folder) / f"ray.io_{kind}.yaml").read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    schema["properties"]["metadata"] = {}
    check = jsonschema.Draft202012Validator(_strict(schema))
    document = yaml.safe_load(change(KUBERAY[name]))
    assert [error.message for error in check.iter_errors(document)] == []
    assert list(check.iter_errors({**document, "spec": {**document["spec"], "workers": 2}}))


def test_cluster_yaml_fits_rays_own_schema():
    jsonschema = pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(FILES["cluster.yaml"]))
    validate_config(config)
    assert config["head_node_type"] == "head"
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**config, "setup_command": []})


def _commands(text, program):
    """The words after each `program` of a text, one command a list, as a shell reads them."""
    joined = re.sub(r"\\\n\s*(?:# +)?|\n#     ", " ", text)
    for line in re.findall(rf"(?:^|[\s'(]){program} ([^\n;&|>`')#]*)", joined):
        words = shlex.split(line.replace('"', " "))
        # A sentence, not a command.
        if words and re.fullmatch(r"[a-z][\w-]*", words[0]):
            yield words


@pytest.mark.parametrize("name", FILES)
def test_files_use_verbs_and_settings_that_septet_has(name):
    text = yaml.safe_load(FILES[name])["spec"]["entrypoint"] if name.endswith("job.yaml") else FILES[name]
    for verb, *words in _commands(text, "septet"):
        assert verb in VERBS, verb
        assert {word for word in words if word.startswith("-")} <= {"--json", "--watch"}
        if verb in ("launch", "doctor"):
            compose([word for word in words if re.match(r"[a-z_.]+=[^$]", word) and "…" not in word])


@RAYS_OWN
@pytest.mark.parametrize("name", FILES)
def test_files_use_commands_and_options_that_ray_has(name):
    from ray.scripts.scripts import cli

    for verb, *words in _commands(FILES[name], "ray"):
        assert verb in cli.commands, verb
        taken = [cli.commands[one] for one in {"symmetric-run": ("symmetric-run", "start")}.get(verb, (verb,))]
        if verb == "job":
            taken = [cli.commands[verb].commands[words[0]]]
        known = {option for one in taken for parameter in one.params for option in parameter.opts}
        own = words[: words.index("--")] if "--" in words else words
        assert {word.partition("=")[0] for word in own if word.startswith("--")} <= known, words


@RAYS_OWN
def test_ray_start_parameters_of_pods_are_options_that_ray_has():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    spec = yaml.safe_load(KUBERAY["cluster"])["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_commands_are_found_in_each_file_that_has_some():
    found = {name: sum(1 for _ in _commands(text, "septet")) for name, text in FILES.items()}
    assert all(found[name] for name in FILES if name != "kuberay/storage.yaml" and name != "kuberay/cluster.yaml")
    assert [verb for verb, *_ in _commands(FILES["slurm/septet.sbatch"], "ray")] == ["stop", "symmetric-run"]


def test_no_file_holds_a_secret():
    for name, text in FILES.items():
        assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|PRIVATE KEY", text), name


@pytest.mark.parametrize(
    ("words", "line"),
    [([], "run_dir= is missing"), (["run_dir=runs/first"], "no absolute path")],
)
def test_slurm_script_refuses_a_run_directory_that_nodes_cannot_share(words, line):
    script = ["bash", DOCKER / "slurm" / "septet.sbatch", *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
