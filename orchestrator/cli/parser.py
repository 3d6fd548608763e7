"""Parses `septet VERB [RUN_DIR] [HYDRA OVERRIDES] [--flags]` into a `Request`. Quick to import."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.cli.arguments import DEBUG, OVERRIDES
from orchestrator.cli.streams import Streams
from workers.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.run import RunPaths

_OVERRIDE = re.compile(r"~|[^=\s]+=")
_PROGRAM = "septet"


@dataclass(frozen=True)
class Request:
    """One parsed command line; fields that a verb does not take keep their defaults."""

    verb: str
    run_dir: Path | None = None
    overrides: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    json: bool = False
    debug: bool = False
    watch: bool = False
    accept_changes: bool = False
    trust_code: bool = False
    top: int = 5
    out: Path | None = None
    config_dir: Path | None = None
    image_id: str = ""
    timeout: float = 600.0
    folder: Path = Path("runs")
    dry_run: bool = False
    host: str = "127.0.0.1"
    port: int = 5000
    cfg: bool = False
    topics: tuple[str, ...] = ()
    shell: str = ""
    member: str | None = None
    form: str = "top"
    on_bad: str = "stop"
    cluster: str | None = None
    to: str = ""
    open: bool = False
    run_dirs: tuple[Path, ...] = ()
    replicas: int | None = None

    @property
    def paths(self) -> "RunPaths":
        """Returns the run's paths; only for verbs that need a run directory."""
        from orchestrator.run import RunPaths

        assert self.run_dir is not None, "the parser refuses a request without a run directory"
        return RunPaths(self.run_dir)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that keeps its epilog's lines and raises its errors as one-line ConfigErrors."""

    def __init__(self, prog: str, takes: Sequence[argparse.ArgumentParser], **options: Any) -> None:
        options |= {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(prog, parents=[DEBUG, *takes], **options)
        self.takes = takes

    def format_help(self) -> str:
        """Returns the help; with what overrides may name, if the verb takes any, or for the program itself."""
        text = super().format_help()
        if self.prog != _PROGRAM and OVERRIDES not in self.takes:
            return text
        from orchestrator.config import overview_lines

        return "\n".join([text, *overview_lines(common=True), ""])

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    @property
    def positionals(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    @property
    def flags(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


@dataclass(frozen=True)
class Verb:
    """One verb: its summary, examples, parser, and its function, which may return an exit code other than 0."""

    name: str
    summary: str
    examples: tuple[str, ...]
    parser: Parser
    news: bool
    run: Callable[[Request, Streams], int | None]


def verb(
    summary: str, *examples: str, takes: Sequence[argparse.ArgumentParser], news: bool = False
) -> Callable[[Callable[[Request, Streams], int | None]], Verb]:
    """Turns a function into a verb of the same name; `examples` are lines of help, without the program and verb.

    With `news`, all that it writes to stdout is also in files, or is only for people who watch.
    """

    def made(run: Callable[[Request, Streams], int | None]) -> Verb:
        # A verb may have the name of a built-in.
        name = run.__name__.rstrip("_")
        lines = tuple(f"{_PROGRAM} {name} {example}".rstrip() for example in examples)
        parser = Parser(
            f"{_PROGRAM} {name}",
            takes,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in lines),
        )
        words = [parser.prog, *(str(action.metavar) for action in parser.positionals), "[--flags]"]
        parser.usage = " ".join(words)
        return Verb(name, summary, lines, parser, news, run)

    return made


def parse(argv: Sequence[str], verbs: Mapping[str, Verb]) -> Request:
    """Parses the words after the program's name; `--help` and `--version` print and raise SystemExit(0).

    Raises:
        ConfigError: an unknown verb or flag (the nearest is named), or too few or too many arguments.
    """
    position = next((index for index, word in enumerate(argv) if not word.startswith("-")), None)
    if position is None:
        top_parser(verbs).parse_args(argv)
        raise ConfigError(f"give a verb: {', '.join(verbs)}; see `{_PROGRAM} --help`")
    name = argv[position]
    if name not in verbs:
        near = difflib.get_close_matches(name, verbs, n=1, cutoff=0.6)
        hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(verbs)}"
        raise ConfigError(f"no verb `{name}`: {hint}")
    return _parse_verb(name, verbs[name].parser, [*argv[:position], *argv[position + 1 :]])


def top_parser(verbs: Mapping[str, Verb]) -> Parser:
    """Returns the parser of `septet` itself, whose help lists the verbs."""
    width = max(map(len, verbs))
    lines = "\n".join(f"  {name:<{width}}  {one.summary}" for name, one in verbs.items())
    parser = Parser(
        _PROGRAM,
        [],
        usage=f"{_PROGRAM} VERB [RUN_DIR] [HYDRA OVERRIDES] [--flags]",
        description="Trains an ensemble of image classifiers on Ray and hands back one averaged submission.",
        epilog=f"verbs:\n{lines}\n\n`{_PROGRAM} VERB --help` shows a verb's flags and examples.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        # Imported here: it takes 20 ms, a fifth of `septet --help`.
        from importlib import metadata

        try:
            version = metadata.version(_PROGRAM)
        except metadata.PackageNotFoundError:
            version = "(a checkout that is not installed)"
        sys.stdout.write(f"{_PROGRAM} {version}\n")
        parser.exit()


def _parse_verb(name: str, parser: Parser, argv: Sequence[str]) -> Request:
    found, left = parser.parse_known_intermixed_args(argv)
    unknown = [word for word in left if word != "--"]
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is not None:
        near = difflib.get_close_matches(flag, parser.flags, n=1, cutoff=0.8)
        setting = f"{flag.lstrip('-').partition('=')[0]}=…"
        settings = f": settings have no dashes, as {setting}" if "overrides" in vars(found) else ""
        hint = f", did you mean {near[0]}?" if near else settings
        parser.error(f"`{name}` has no flag {flag}{hint}")
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in vars(found).items()
    }
    for action in parser.positionals:
        if not fields[action.dest] and not str(action.metavar).startswith("["):
            parser.error(f"`{name}` needs {action.help}")
    if unknown:
        parser.error(f"`{name}` does not take {unknown[0]}")
    request = Request(name, **fields)
    for word in request.overrides:
        if not _OVERRIDE.match(word):
            if any(each.startswith("=") or each.endswith("=") or " =" in each for each in request.overrides):
                parser.error(f"{word}: write no space around =, as in optimizer.lr=0.1")
            parser.error(f"{word}: write overrides as key=value (a run directory as run_dir={word})")
    if request.top < 1:
        parser.error(f"--top {request.top}: give 1 or more")
    if request.replicas is not None and request.replicas < 1:
        parser.error(f"--replicas {request.replicas}: give 1 or more")
    if not 0 <= request.port < 1 << 16:
        parser.error(f"--port {request.port}: give 0 to 65535")
    if not request.timeout >= 0:
        parser.error(f"--timeout {request.timeout}: give 0 or more")
    return request
