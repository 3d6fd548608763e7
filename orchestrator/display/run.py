"""Shows the progress of a run: a live display on a terminal, a plain line now and then elsewhere."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.run import RunStatus, StageStatus, State, pace, run_line, stage_line
from orchestrator.text import printable

_log = logging.getLogger(__name__)
_PLAIN_EVERY_S = 10.0
_TREND_POINTS = 16
# A terminal of at least this many columns has room for the course of the errors.
_WIDE = 100
# And of at least this many for the nodes, where there are several.
_WIDEST = 120
# Above this share of waiting, faster storage or raw pixels would help.
_LONG_WAIT = 0.2
_TREND_MARKS = "▁▂▃▄▅▆▇█"
_MARKS = {
    State.waiting: Text("·", style="dim"),
    State.running: Text("●", style="cyan"),
    State.done: Text("✔", style="green"),
    State.failed: Text("✘", style="bold red"),
    State.paused: Text("■", style="dim"),
    State.ended: Text("–", style="dim"),
    State.stopped: Text("■", style="yellow"),
    State.interrupted: Text("■", style="yellow"),
}


class Display:
    """Shows one status after another on `stream`; `clock` returns monotonic seconds."""

    def __init__(
        self, stream: IO[str], clock: Callable[[], float] = time.monotonic, console: Console | None = None
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._console = console or Console(file=stream)
        self._live: Live | None = None
        self._shown_s: float | None = None
        self._gone = False
        self._states: dict[str, str] = {}
        self._trends: dict[str, list[float]] = {}

    def show(self, status: RunStatus) -> None:
        """Replaces the last view (terminal), or writes what has changed (elsewhere).

        Once the stream fails (a closed terminal, a pipe without a reader), nothing more is shown; training continues.
        """
        if self._gone:
            return
        try:
            self._show(status)
        except OSError as error:
            self._gone, self._live = True, None
            _log.debug("progress is no longer shown: %s", error)

    def _show(self, status: RunStatus) -> None:
        if not self._console.is_terminal:
            self._show_plain(status)
            return
        self._follow_trends(status)
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        self._live.update(self.render(status), refresh=True)

    def note(self, text: str) -> None:
        """Writes a line that stays, above the live display."""
        if self._console.is_terminal:
            self._console.print(printable(text), markup=False, highlight=False)
        else:
            self._write(text)

    def close(self) -> None:
        """Stops the live display; the last view stays on the terminal. May be called twice."""
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None

    def render(self, status: RunStatus) -> RenderableType:
        """Returns the view for a terminal: an overall bar, a line for each member, and below them what went wrong."""
        width = self._console.width
        nodes = width >= _WIDEST and len({stage.where.node for stage in status.stages if stage.where}) > 1
        return Group(_overall(status, width), self._members(status, wide=width >= _WIDE, nodes=nodes), *_notes(status))

    def _members(self, status: RunStatus, *, wide: bool, nodes: bool = False) -> Table:
        bar_width = 16 if wide else 10
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column("", width=1)
        table.add_column("member", no_wrap=True)
        table.add_column("stage", no_wrap=True)
        table.add_column("", width=bar_width)
        for column in ("epoch", "error"):
            table.add_column(column, justify="right", no_wrap=True)
        if wide:
            table.add_column("", width=_TREND_POINTS, style="cyan", no_wrap=True)
        for column in ("images/s", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        if nodes:
            table.add_column("node", no_wrap=True)
        for stage in current_stages(status):
            trends = (trend(self._trends.get(_key(stage), [])),) if wide else ()
            table.add_row(
                _MARKS[stage.state],
                stage.member,
                stage.stage,
                ProgressBar(
                    total=max(1, stage.num_updates),
                    # A stage may finish before `num_updates`; its bar is then full too.
                    completed=max(1, stage.num_updates) if stage.state is State.done else stage.step,
                    width=bar_width,
                ),
                f"{stage.epoch:.0f}/{stage.num_epochs}",
                "" if stage.val_error is None else f"{stage.val_error:.1%}",
                *trends,
                _rate(stage),
                _left(stage),
                *((stage.where.node if stage.where else "",) if nodes else ()),
            )
        return table

    def _follow_trends(self, status: RunStatus) -> None:
        for stage in status.stages:
            points = self._trends.setdefault(_key(stage), [])
            if stage.val_error is not None and (not points or points[-1] != stage.val_error):
                points.append(stage.val_error)

    def _show_plain(self, status: RunStatus) -> None:
        now = self._clock()
        states = {_key(stage): _state_line(stage) for stage in status.stages}
        # The first output lists the active stages, not all that wait.
        known = self._states or {_key(stage): _state_line(stage) for stage in status.stages if stage.state == "waiting"}
        for key, line in states.items():
            if line != known.get(key):
                self._write(line)
        self._states = states
        if self._shown_s is None or now - self._shown_s >= _PLAIN_EVERY_S:
            self._shown_s = now
            self._write(run_line(status))
            for stage in status.stages:
                if stage.state is State.running and stage.step:
                    self._write("  " + stage_line(stage))

    def _write(self, line: str) -> None:
        self._stream.write(printable(line) + "\n")
        self._stream.flush()


def current_stages(status: RunStatus) -> tuple[StageStatus, ...]:
    """Returns one stage for each member: the running one, else the first that is not done, else the last."""
    by_member: dict[str, list[StageStatus]] = {}
    for stage in status.stages:
        by_member.setdefault(stage.member, []).append(stage)

    def most_telling(stages: list[StageStatus]) -> StageStatus:
        running = [stage for stage in stages if stage.state is State.running]
        unfinished = [stage for stage in stages if stage.state is not State.done]
        return (running or unfinished or stages[-1:])[0]

    return tuple(most_telling(stages) for stages in by_member.values())


def trend(errors: list[float], num_points: int = _TREND_POINTS) -> str:
    """Returns the last errors as a line of bars, scaled between the lowest and the highest."""
    recent = errors[-num_points:]
    if len(recent) < 2:
        return ""
    low, high = min(recent), max(recent)
    steps = len(_TREND_MARKS) - 1
    return "".join(_TREND_MARKS[round((error - low) / ((high - low) or 1.0) * steps)] for error in recent)


def _overall(status: RunStatus, width: int) -> RenderableType:
    state = () if status.state is State.running else (str(status.state),)
    num_done = f"{status.num_done}/{len(status.stages)} stages"
    said = " · ".join((f"{status.share:.0%}", num_done, *state, *pace(status), *status.budget))
    bar_width = max(8, min(40, width - len(status.name) - len(said) - 3))
    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(width=bar_width)
    line.add_column(no_wrap=True)
    line.add_row(Text(status.name, style="bold"), ProgressBar(total=1.0, completed=status.share, width=bar_width), said)
    return line


def _notes(status: RunStatus) -> list[Text]:
    """Returns a line for each remark about a stage."""
    notes = [Text(f"! {_key(stage)} {remark}", style="yellow") for stage in status.stages for remark in stage.remarks]
    notes += [Text(f"! {line}", style="yellow") for line in status.left_out]
    notes += [
        Text(f"! {_key(stage)} waits for data {stage.data_wait:.0%} of its time", style="yellow")
        for stage in status.stages
        if stage.state is State.running and (stage.data_wait or 0.0) > _LONG_WAIT
    ]
    notes += [
        Text(f"✘ {_key(stage)}: {stage.error}", style="red")
        for stage in status.stages
        if stage.error and stage.state is State.failed
    ]
    return notes


def _rate(stage: StageStatus) -> str:
    if stage.state is not State.running or stage.images_per_second is None:
        return ""
    return f"{stage.images_per_second:,.0f}"


def _left(stage: StageStatus) -> RenderableType:
    if stage.state is State.running:
        return "" if stage.remaining_s is None else stage.time_left
    return Text(str(stage.state), style="red" if stage.state is State.failed else "dim")


def _state_line(stage: StageStatus) -> str:
    line = f"{_key(stage)}: {stage.state}"
    if stage.state is State.done and stage.val_error is not None:
        line += f", val error {stage.val_error:.1%}"
    if stage.state is not State.done and stage.error:
        line += f" ({stage.error})"
    if stage.at_chance:
        line += ", still at chance"
    if stage.passed_nans:
        line += f", NaN at update {', '.join(map(str, stage.passed_nans))} passed"
    return line


def _key(stage: StageStatus) -> str:
    return f"{stage.member}/{stage.stage}"
