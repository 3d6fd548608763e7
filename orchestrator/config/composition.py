"""Composes the configuration with Hydra and checks it.

Hydra merges the groups of `conf/`. `schema` decides which keys and values are valid, so each mistake gets one line with
the nearest right name. A configuration never instantiates a class.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

import conf
from orchestrator.config.folds import fold_members
from orchestrator.config.members import resolve_members
from orchestrator.config.overrides import check_override, implied_experiment, one_line, parse, quoted, ready
from orchestrator.config.safety import check_folder, check_path, check_text, check_values
from orchestrator.config.schema import (
    BESIDE_DATASETS,
    GROUPS,
    SETTINGS,
    TARGET,
    Auto,
    ClusterConfig,
    Config,
    MemberConfig,
    RootLayer,
    StoresLayer,
    SweepStop,
    TrackingConfig,
    check_safe_name,
    metric_of,
)
from orchestrator.config.structure import choices, join, mapping, overlay, shown
from orchestrator.config.unread import refuse_unread
from orchestrator.text import redact
from workers.errors import ConfigError
from workers.settings import ClassWeights, DatasetSettings, is_url
from workers.storage import expanded

_PATH_KEYS = (
    "run_dir",
    "datasets.store",
    "datasets.local_copy",
    "submission.template",
    "submission.class_ids",
    "folds.file",
)
_DATASET_PATH_KEYS = ("root", "classes", "class_names", "relabel")
_OWN_FOLDER = Path(str(conf.__file__)).parent
_DEFAULT_URI = "sqlite:///mlflow.db"


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> Config:
    """Composes `conf/` with `overrides` and checks every key and value.

    Args:
        overrides: Hydra overrides; `key=value` may name new members, datasets and sweep axes without a `+`.
        config_dir: a folder with the user's groups, searched after `conf/`.

    Raises:
        ConfigError: a key or value is wrong; the one line names the full key and the nearest right name.
    """
    with _hydra(config_dir) as loader:
        parsed = [parse(text, loader) for text in overrides]
        parsed += (implied := [parse(text, loader) for text in implied_experiment(parsed)])
        prefix = [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
        for override in parsed:
            check_override(override, loader, prefix)
        selected = _selected_packages(parsed, prefix)
        texts = [ready(override, selected) for override in parsed]
        composed = one_line(lambda: hydra.compose("config", [*prefix, *texts], return_hydra_config=True))
        chosen = {str(key): str(value) for key, value in composed.hydra.runtime.choices.items()}
    config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.set_struct(config, False)
    config.experiment = chosen.get("experiment", "")
    folder = () if config_dir is None else (f"--config-dir={config_dir.resolve()}",)
    command = ("septet", "launch", *overrides, *folder)
    # A dataset of the experiment may be unused, one that only the command line chooses is a typing error.
    checked = _checked(config, _Asked(tuple(parsed), selected or frozenset(chosen)))
    notes = [f"{one.input_line} is taken, since datasets.target.root is given and no experiment" for one in implied]
    notes += (*_overruled(parsed, config, config_dir), *checked.notes)
    return replace(checked, command=command, directory=str(Path.cwd()), notes=tuple(notes))


def _overruled(parsed: Sequence[Override], composed: DictConfig, config_dir: Path | None) -> Iterator[str]:
    """Yields a line for each chosen group of which the experiment or reading, which come later, replace values."""
    typed = {one.key_or_group for one in parsed}
    for one in parsed:
        group, file = one.key_or_group, f"{one.key_or_group}/{one.value()}.yaml"
        if one.is_delete() or group not in SETTINGS:
            continue
        path = next(each for folder in (config_dir, _OWN_FOLDER) if folder and (each := folder / file).is_file())
        said = mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}, group)
        found = {key: OmegaConf.select(composed, f"{group}.{key}") for key in said}
        lost = [
            f"{group}.{key}={shown(found[key])} and not {shown(value)}"
            for key, value in said.items()
            if isinstance(value, bool | int | float) and f"{group}.{key}" not in typed and found[key] != value
        ]
        if lost:
            yield f"{one.input_line}: experiment={composed.experiment} keeps {', '.join(lost)}; give a key to change it"


def reopen(text: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a run directory's config.yaml again, for verbs that take `RUN_DIR` and a few overrides.

    A group choice (`combine=weighted`) replaces what its file sets; the run's other keys stay, such as
    `submission.template`, which is null in every file. Values override it, whatever their order.

    Raises:
        ConfigError: as `compose`, or an override chooses another experiment, dataset or ensemble.
    """
    check_text(text, "config.yaml")
    config = one_line(lambda: OmegaConf.create(text))
    with _hydra(None) as loader:
        parsed = [parse(override, loader) for override in overrides]
        # Groups first, as in Hydra: a group must not undo a value that was typed before it.
        for override in sorted(parsed, key=lambda one: one.key_or_group not in GROUPS):
            check_override(override, loader, [])
            group = override.key_or_group
            if group in ("experiment", "dataset", "ensemble") or override.is_delete():
                raise ConfigError(f"{override.input_line}: cannot be changed in a run that exists; launch a new run")
            if group in GROUPS:
                chosen = one_line(partial(hydra.compose, f"{group}/{override.value()}"))
                said = {name: value for name, value in chosen[group].items() if value is not None}
                config = OmegaConf.merge(config, {group: said})
            else:
                one_line(partial(OmegaConf.update, config, group, override.value(), force_add=True))
    if not isinstance(config, DictConfig):
        raise ConfigError("config.yaml: not a mapping; restore the run directory's file")
    return _checked(config, None)


@dataclass(frozen=True)
class _Asked:
    """Holds what a person typed: parsed overrides, and the groups (`dataset@datasets.target`) that were chosen."""

    overrides: tuple[Override, ...]
    chosen: frozenset[str]

    def names_below(self, key: str) -> Iterator[str]:
        """Yields the names that overrides set directly below `key`."""
        prefix = f"{key}."
        for override in self.overrides:
            # `dataset@datasets.<name>=…` sets a name too.
            named = override.package or override.key_or_group
            if named.startswith(prefix) and not override.is_delete():
                yield named.removeprefix(prefix).split(".", 1)[0]

    def values(self) -> dict[str, str]:
        """Returns the values that overrides set, as text by dotted key; those of mappings one by one."""
        found: dict[str, str] = {}
        open_ones = [(one.key_or_group, one.value()) for one in self.overrides if not one.is_delete()]
        while open_ones:
            key, value = open_ones.pop()
            if isinstance(value, dict):
                open_ones += [(f"{key}.{name}", inner) for name, inner in value.items()]
            elif key not in GROUPS:
                found[key] = shown(value)
        return found


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[ConfigLoader]:
    if config_dir is not None:
        check_folder(config_dir)
        for group in GROUPS:
            for path in (config_dir / group).glob("*.yaml"):
                if (_OWN_FOLDER / group / path.name).exists():
                    raise ConfigError(f"{path}: has the name of one of Septet's, which would be used; rename it")
    with hydra.initialize_config_module("conf", version_base="1.3", job_name="septet"):
        yield GlobalHydra.instance().config_loader()


def _selected_packages(parsed: Sequence[Override], prefix: list[str]) -> frozenset[str]:
    """Returns each `group@package` that the chosen experiment selects; overriding any other needs Hydra's `+`."""
    if not any(override.package for override in parsed):
        return frozenset()
    experiment = [str(override.input_line) for override in parsed if override.key_or_group == "experiment"]
    composed = one_line(lambda: hydra.compose("config", [*prefix, *experiment], return_hydra_config=True))
    return frozenset(str(key) for key in composed.hydra.runtime.choices)


def _checked(composed: DictConfig, asked: _Asked | None) -> Config:
    check_values(one_line(lambda: OmegaConf.to_container(composed, resolve=False)))
    _absolute_paths(composed)
    raw = one_line(lambda: OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    # Again: a resolved reference may hold what its text did not show.
    check_values(raw)
    if isinstance(ensemble := raw.get("ensemble"), dict) and ensemble.get("admit", ...) is None:
        del ensemble["admit"]
    root = overlay(RootLayer(), raw, "")
    named = (("experiment", root.experiment or None, "experiment"), ("run", root.name, "name"))
    for kind, name, key in (*named, ("model", root.tracking.register, "tracking.register")):
        if name is not None:
            check_safe_name(kind, name, f"{key}={name}")
    members = resolve_members(root)
    datasets = {name: value for name, value in root.datasets.items() if name not in BESIDE_DATASETS}
    settings = {name: _dataset(name, value) for name, value in datasets.items()}
    beside = {name: root.datasets[name] for name in BESIDE_DATASETS if name in root.datasets}
    stores = overlay(StoresLayer(), beside, "datasets")
    typed, store = {} if asked is None else asked.values(), _absolute(stores.store, "datasets.store")
    notes = []
    if _is_ray_job() and root.cluster.address is None:
        root = replace(root, cluster=replace(root.cluster, address="auto"))
        notes.append(f"this is a Ray job: cluster.address=auto, and without run_dir it is below {_runs_of_jobs(store)}")
    if stores.entire:
        settings = {name: _entire(name, value, typed) for name, value in settings.items()}
    if root.ensemble.folded:
        # The out-of-fold predictions replace a val that is cut from train; what was typed stays.
        cut = {name for name in settings if f"datasets.{name}.val_fraction" not in typed}
        settings = {name: replace(one, val_fraction=0.0) if name in cut else one for name, one in settings.items()}
    if TARGET not in settings:
        raise ConfigError("datasets.target: missing; choose its source, as in dataset@datasets.target=folder")
    if asked is not None:
        _refuse_strays(asked, root, settings, members)
        refuse_unread(typed, settings, members, root.predict.checkpoint)
    folds = root.folds if root.ensemble.folded else None
    cpus = {"cpus_per_member": 1, "choose_cpus": True} if isinstance(root.cluster.cpus_per_member, Auto) else {}
    return Config(
        experiment=root.experiment,
        name=root.name or root.experiment,
        seed=root.seed,
        run_dir=root.run_dir and str(_absolute(root.run_dir, "run_dir")),
        store=store,
        datasets=settings,
        members=members if folds is None else fold_members(members, folds),
        tracking=TrackingConfig(**{**vars(root.tracking), "uri": _tracking_uri(root.tracking.uri, store)}),
        cluster=ClusterConfig(**{**asdict(root.cluster), **cpus}),
        combine=root.combine,
        submission=root.submission,
        predict=root.predict,
        checkpoint_updates=root.checkpoint_updates,
        metric=metric_of(root.submission.format) if isinstance(root.metric, Auto) else root.metric,
        precision=root.precision,
        compile=root.compile,
        verify=stores.verify,
        local_copy=None if stores.local_copy is None else _absolute(stores.local_copy, "datasets.local_copy"),
        sweep_rungs=root.sweep_rungs if root.sweep_stop is SweepStop.halving else 0,
        sweep_eta=root.sweep_eta,
        entire=stores.entire,
        admit=root.ensemble.admit,
        folds=folds,
        runs=_runs_of_jobs(store) if _is_ray_job() else Path("runs"),
        budget=root.budget,
        yaml=_kept_text(composed),
        notes=tuple(notes),
    )


def _is_ray_job() -> bool:
    """Returns whether `ray job submit` started this process; its working directory may end with the job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _runs_of_jobs(store: Path) -> Path:
    """Returns where Ray jobs keep their runs by default: beside the prepared images."""
    return store.with_name("septet-runs")


def _dataset(name: str, values: object) -> DatasetSettings:
    key = f"datasets.{name}"
    check_safe_name("dataset", name, key)
    settings = overlay(DatasetSettings(), mapping(values, key), key)
    paths = {field: _absolute_root(path) for field in _DATASET_PATH_KEYS if (path := getattr(settings, field))}
    return replace(settings, **paths)  # type: ignore[arg-type]


def _entire(name: str, settings: DatasetSettings, typed: Mapping[str, str]) -> DatasetSettings:
    """Returns the settings with no image held out but the target's val; what was typed stays."""
    keeps_val, keeps_dev = (f"datasets.{name}.{split}_fraction" in typed for split in ("val", "dev"))
    val_fraction = settings.val_fraction if keeps_val or name == TARGET else 0.0
    return replace(settings, val_fraction=val_fraction, dev_fraction=settings.dev_fraction if keeps_dev else 0.0)


def _refuse_strays(
    asked: _Asked, root: RootLayer, datasets: Mapping[str, DatasetSettings], members: Mapping[str, MemberConfig]
) -> None:
    """Raises ConfigError for a typed dataset or stage that nothing uses: open mappings accept any name, also a typo."""
    used = {stage.dataset for member in members.values() for stage in member.stages.values()}
    for name in asked.names_below("datasets"):
        if name in datasets and name not in used and f"dataset@datasets.{name}" not in asked.chosen:
            others = [other for other in (*datasets, *BESIDE_DATASETS) if other != name]
            raise ConfigError(f"datasets.{name}: no stage uses it; {choices(name, others)}")
    stages = {stage for member in members.values() for stage in member.stages}
    for name in asked.names_below("ensemble.stages"):
        if name in root.ensemble.stages and name not in stages:
            raise ConfigError(f"ensemble.stages.{name}: no member has such a stage; {choices(name, stages)}")


def _kept_text(composed: DictConfig) -> str:
    """Returns the text of config.yaml: references stay as written, and passwords in addresses are hidden."""
    kept = copy.deepcopy(composed)
    for key in ("tracking.uri", "cluster.address"):
        address = _written(composed, key)
        if isinstance(address, str) and redact(address) != address:
            OmegaConf.update(kept, key, redact(address))
    return OmegaConf.to_yaml(kept, resolve=False)


def _absolute(path: str, key: str = "") -> Path:
    check_path(path, "path")
    if is_url(path):
        why = f"{f'{key}=' if key else ''}{path}: is no path, and object stores cannot rename, lock or append"
        raise ConfigError(f"{why}; give a folder that every node mounts (NFS, EFS, Filestore, CephFS, JuiceFS, Lustre)")
    if not path.strip():
        raise ConfigError("an empty path: write one (a shell variable may be unset), or null")
    return expanded(path, ConfigError).absolute()


def _absolute_root(root: str) -> str:
    """Returns `root` as an absolute path; an address in an object store stays as it is."""
    return root if is_url(root) else str(_absolute(root))


def _absolute_paths(composed: DictConfig) -> None:
    """Makes the kept text independent of the working directory; references stay as they are."""
    datasets = OmegaConf.select(composed, "datasets")
    names = set(map(str, datasets)) - set(BESIDE_DATASETS) if isinstance(datasets, DictConfig) else set()
    below = [f"datasets.{name}.{field}" for name in names for field in _DATASET_PATH_KEYS]
    for key in (*_PATH_KEYS, *below):
        value = _written(composed, key)
        if isinstance(value, str):
            OmegaConf.update(composed, key, _absolute_root(value) if key in below else str(_absolute(value, key)))
    groups = _written(composed, "folds.groups")
    if isinstance(groups, str) and _absolute(groups).is_file():
        OmegaConf.update(composed, "folds.groups", str(_absolute(groups)))
    for key in ("model", "ensemble", "loss"):
        _resolve_files(composed.get(key), key)
    uri = _written(composed, "tracking.uri")
    if isinstance(uri, str) or (uri is None and not (os.environ.get("MLFLOW_TRACKING_URI") or _is_ray_job())):
        OmegaConf.update(composed, "tracking.uri", _tracking_uri(uri, Path()), force_add=True)


def _resolve_files(node: Any, key: str) -> None:
    """Makes files below `node`, at `key`, absolute, and reads those of class weights; references stay as they are."""
    if not isinstance(node, DictConfig):
        return
    for name in map(str, node):
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        is_file = name == "init_file" or join(key, name).endswith("model.file") or key.endswith(".predictions")
        if is_file and isinstance(value, str):
            node[name] = str(_absolute(value))
        if name == "class_weights" and isinstance(value, str) and value not in list(ClassWeights):
            node[name] = _class_weights(value, join(key, name))
        _resolve_files(value, join(key, name))


def _class_weights(path: str, key: str) -> dict[str, float]:
    try:
        lines = [line.split() for line in _absolute(path).read_text("utf-8-sig").splitlines() if line.strip()]
        found = {" ".join(names): float(weight) for *names, weight in lines}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}={path}: {reason}; give none, balanced, or a file of lines `class weight`") from error
    if len(found) < len(lines):
        raise ConfigError(f"{key}={path}: has a class twice; give each class one line")
    return found


def _written(composed: DictConfig, key: str) -> Any:
    """Returns the value at `key`: None if there is none, `...` if it is a reference."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(composed, parent) if parent else composed
    if not isinstance(node, DictConfig) or name not in node:
        return None
    return ... if OmegaConf.is_interpolation(node, name) else node.get(name)


def _tracking_uri(explicit: str | None, store: Path) -> str:
    """Returns MLflow's address, by default a Ray job's beside `store`; a relative file becomes absolute."""
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_URI
    if uri == _DEFAULT_URI and _is_ray_job():
        uri = f"sqlite:///{quote(str(_runs_of_jobs(store) / 'mlflow.db'))}"
    if uri.startswith("sqlite:///:memory:"):
        raise ConfigError(f"tracking.uri={uri}: its runs would be gone at the end; name a file, as in {_DEFAULT_URI}")
    if uri.startswith("sqlite:///"):
        path, mark, query = uri.removeprefix("sqlite:///").partition("?")
        quoted = str(_absolute(unquote(path))).replace("%", "%25").replace("?", "%3F")
        return f"sqlite:///{quoted}{mark}{query}"
    if uri.startswith("file:") and not uri.startswith("file://"):
        return _absolute(uri.removeprefix("file:")).as_uri()
    if ":" not in uri and uri != "databricks":
        return str(_absolute(uri))
    return uri
