"""Reads docker/compose.yaml as Compose does: variables put in, values as they reach a container."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = CHECKOUT / "docker" / "compose.yaml"
Service = Mapping[str, Any]
# What no container serves or runs for long, and so has no health.
ENDS_BY_ITSELF = ("bucket", "launch")
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with `${NAME:-default}` replaced by variables or defaults, and `$$` by `$`."""
    if isinstance(value, Mapping):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def put_in(found: re.Match[str]) -> str:
        name = found["name"]
        return "$" if found["dollar"] else variables.get(name) or found["default"] or ""

    return _VARIABLE.sub(put_in, value)


def compose(variables: Mapping[str, str] | None = None, text: str = "") -> dict[str, Any]:
    """The document, or that in `text`, with `variables` of the environment."""
    return interpolated(yaml.safe_load(text or COMPOSE_FILE.read_text()), variables or {})


def words_of(service: Service) -> list[str]:
    """What a container runs: its entrypoint, then its command."""
    return [*service.get("entrypoint", ()), *service.get("command", ())]


def in_order(services: Mapping[str, Service]) -> Iterator[str]:
    """Their names, each after those that it depends on."""
    done: set[str] = set()
    while len(done) < len(services):
        due = [name for name, one in services.items() if name not in done and set(one.get("depends_on", {})) <= done]
        assert due, f"a circle of depends_on, or an unknown name, among {sorted(set(services) - done)}"
        yield from due
        done.update(due)
