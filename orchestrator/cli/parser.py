"""`septet VERB [RUN_DIR] [HYDRA OVERRIDES] [--flags]` as a value: a thin parser, quick to import."""

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from workers.errors import ConfigError

_OVERRIDE = re.compile(r"~|[^=\s]+=")
_PROGRAM = "septet"


@dataclass(frozen=True)
class Request:
    """What was asked for; fields that a verb does not take keep their defaults."""

    verb: str
    run_dir: Path | None = None
    overrides: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    json: bool = False
    debug: bool = False
    watch: bool = False
    accept_changes: bool = False
    top: int = 5
    out: Path | None = None
    config_dir: Path | None = None
    image_id: str = ""
    timeout: float = 600.0


@dataclass(frozen=True)
class Verb:
    """What a verb takes and how its help reads. `run_dir` is `needed`, `optional` or empty."""

    summary: str
    examples: tuple[str, ...]
    run_dir: str = ""
    overrides: str = ""
    images: bool = False
    flags: tuple[str, ...] = ()
    image_id: bool = False


VERBS = {
    "launch": Verb(
        "prepare, train every member, predict, combine, write submission and report; again: resume or extend",
        (
            "septet launch",
            "septet launch experiment=tiny_imagenet datasets.target.root=~/photos datasets.superset.root=~/more",
            "septet launch ensemble=sweep 'sweep.seed=[0,1,2]' 'sweep.optimizer.lr=[0.01,0.02]'",
            "septet launch run_dir=runs/mine",
        ),
        overrides="[HYDRA OVERRIDES]",
        flags=("accept_changes", "config_dir"),
    ),
    "plan": Verb(
        "what a launch would do: stages, updates, sizes, disk, time; changes nothing",
        ("septet plan", "septet plan experiment=ilsvrc2012 datasets.target.root=/data/ilsvrc --json"),
        overrides="[HYDRA OVERRIDES]",
        flags=("json", "config_dir"),
    ),
    "prepare": Verb(
        "pack the datasets only",
        ("septet prepare experiment=tiny_imagenet datasets.target.root=~/photos",),
        overrides="[HYDRA OVERRIDES]",
        flags=("config_dir",),
    ),
    "status": Verb(
        "how a run stands, one line a stage",
        ("septet status runs/digits-1a2b3c4d --watch", "septet status runs/digits-1a2b3c4d --json"),
        run_dir="needed",
        flags=("json", "watch"),
    ),
    "submit": Verb(
        "combine the stored predictions anew and write the submission",
        ("septet submit runs/digits-1a2b3c4d combine=weighted submission=probabilities",),
        run_dir="needed",
        overrides="[combine=… submission=…]",
    ),
    "predict": Verb(
        "the finished ensemble on new image files, or folders of them",
        (
            "septet predict runs/digits-1a2b3c4d cat.jpg more_photos/",
            "septet predict runs/digits-1a2b3c4d photos/ --top 3 --out photos.csv",
        ),
        run_dir="needed",
        images=True,
        flags=("json", "top", "out"),
    ),
    "explain": Verb(
        "where one line of the submission comes from: each member's probabilities, weight, run and checkpoint",
        (
            "septet explain runs/digits-1a2b3c4d 0007.png",
            "septet explain runs/digits-1a2b3c4d 0007.png --top 3 --json",
        ),
        run_dir="needed",
        flags=("json", "top"),
        image_id=True,
    ),
    "verify": Verb(
        "recompute a run's hashes, make its submission again, say whether it is the same byte for byte",
        ("septet verify runs/digits-1a2b3c4d", "septet verify runs/digits-1a2b3c4d --json"),
        run_dir="needed",
        flags=("json",),
    ),
    "report": Verb(
        "rebuild the report from the run's files", ("septet report runs/digits-1a2b3c4d",), run_dir="needed"
    ),
    "stop": Verb(
        "ask a running launch, here or on another host, to checkpoint and stop; waits until it has",
        ("septet stop runs/digits-1a2b3c4d", "septet stop runs/digits-1a2b3c4d --timeout 0"),
        run_dir="needed",
        flags=("timeout",),
    ),
    "ui": Verb(
        "open the MLflow UI on a run's store, and print its address",
        ("septet ui", "septet ui runs/digits-1a2b3c4d"),
        run_dir="optional",
    ),
    "doctor": Verb(
        "versions, devices, threads, disk, Ray, MLflow: what would go wrong, before it does",
        ("septet doctor", "septet doctor experiment=tiny_imagenet cluster.address=auto"),
        overrides="[HYDRA OVERRIDES]",
        flags=("json", "config_dir"),
    ),
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are ConfigErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def parse(argv: Sequence[str]) -> Request:
    """Parses what follows the program's name; `--help` and `--version` print and raise SystemExit(0).

    Raises:
        ConfigError: an unknown verb or flag (the nearest is named), or an argument too few or too many.
    """
    top = _top_parser()
    position = next((index for index, word in enumerate(argv) if not word.startswith("-")), None)
    if position is None:
        top.parse_args(argv)
        raise ConfigError(f"give a verb: {', '.join(VERBS)}; see `{_PROGRAM} --help`")
    name = argv[position]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(VERBS)}"
        raise ConfigError(f"no verb `{name}`: {hint}")
    return _parse_verb(name, [*argv[:position], *argv[position + 1 :]])


def _top_parser() -> _Parser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    parser = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} VERB [RUN_DIR] [HYDRA OVERRIDES] [--flags]",
        description="Trains an ensemble of image classifiers on Ray and hands back one averaged submission.",
        epilog=f"verbs:\n{verbs}\n\n`{_PROGRAM} VERB --help` shows a verb's flags and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {_version()}")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")
    return parser


def _version() -> str:
    try:
        return metadata.version(_PROGRAM)
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def _verb_parser(name: str) -> _Parser:
    verb = VERBS[name]
    run_dir = {"needed": "RUN_DIR", "optional": "[RUN_DIR]", "": ""}[verb.run_dir]
    others = "IMAGE…" if verb.images else "IMAGE_ID" if verb.image_id else ""
    words = [_PROGRAM, name, run_dir, verb.overrides, others, "[--flags]"]
    parser = _Parser(
        prog=f"{_PROGRAM} {name}",
        usage=" ".join(filter(None, words)),
        description=verb.summary[0].upper() + verb.summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in verb.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")
    if "json" in verb.flags:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    if "watch" in verb.flags:
        parser.add_argument("--watch", action="store_true", help="refresh until the run ends")
    if "accept_changes" in verb.flags:
        parser.add_argument("--accept-changes", action="store_true", help="go on though data or code differ; recorded")
    if "top" in verb.flags:
        parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to show an image (default: 5)")
    if "out" in verb.flags:
        parser.add_argument("--out", type=Path, metavar="FILE", help="write them to FILE (.csv or .json) instead")
    if "timeout" in verb.flags:
        said = "how long to wait for its end (default: 600; 0: not at all)"
        parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help=said)
    if "config_dir" in verb.flags:
        parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder of configuration groups of yours")
    return parser


def _parse_verb(name: str, argv: Sequence[str]) -> Request:
    verb = VERBS[name]
    parser = _verb_parser(name)
    found, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0], flags, n=1)
        parser.error(f"`{name}` has no flag {unknown[0]}" + (f", did you mean {near[0]}?" if near else ""))
    fields = vars(found)
    words = fields.pop("words")
    run_dir = None
    if verb.run_dir == "needed" and not words:
        parser.error(f"`{name}` needs a run directory")
    if verb.run_dir and words:
        run_dir = Path(words.pop(0)).expanduser()
    if verb.images and not words:
        parser.error(f"`{name}` needs at least one image file or folder")
    image_id = words.pop(0) if verb.image_id and words else ""
    if verb.image_id and not image_id:
        parser.error(f"`{name}` needs the id of an image, as the submission spells it")
    if words and not verb.images and not verb.overrides:
        parser.error(f"`{name}` does not take {words[0]}")
    if verb.overrides:
        _check_overrides(parser, words)
    if fields.get("top", 1) < 1:
        parser.error(f"--top {fields['top']}: give 1 or more")
    if not fields.get("timeout", 0.0) >= 0:
        parser.error(f"--timeout {fields['timeout']}: give 0 or more")
    return Request(
        verb=name,
        run_dir=run_dir,
        overrides=tuple(words) if verb.overrides else (),
        images=tuple(Path(word).expanduser() for word in words) if verb.images else (),
        image_id=image_id,
        **fields,
    )


def _check_overrides(parser: _Parser, words: Sequence[str]) -> None:
    for word in words:
        if not _OVERRIDE.match(word):
            parser.error(f"{word}: write overrides as key=value (a run directory as run_dir={word})")
