"""The display: plain lines as text, the live one rendered to a recording console."""

import io
from dataclasses import replace

from rich.console import Console

from orchestrator.display.run import Display, current_stages, trend
from orchestrator.run.ledger import State
from orchestrator.run.status import RunStatus, StageStatus

_WAITING = StageStatus(member="a", stage="target", state=State.waiting, num_updates=100, num_epochs=10, batch_size=32)


def _stage(member, stage="target", **changes):
    return replace(_WAITING, member=member, stage=stage, **changes)


def _running(member, step=50, stage="target"):
    course = {"val_error": 0.25, "images_per_second": 1234.0, "remaining_s": 65.0}
    return _stage(member, stage, state=State.running, step=step, epoch=step / 10, **course)


def _run(*stages, state=State.running):
    return RunStatus(name="digits-1a2b3c4d", state=state, stages=stages)


def _plain(*shown):
    stream = io.StringIO()
    now = iter([time_s for time_s, _ in shown])
    display = Display(stream, clock=lambda: next(now))
    for _, status in shown:
        display.show(status)
    display.close()
    return stream.getvalue().splitlines()


def test_plain_output_within_ten_seconds_and_nothing_new_adds_no_line():
    first = _plain((0.0, _run(_running("base-1"))))
    assert _plain((0.0, _run(_running("base-1"))), (9.9, _run(_running("base-1", step=60)))) == first


def test_plain_output_after_ten_seconds_says_epoch_error_rate_and_time_left():
    lines = _plain((0.0, _run(_stage("base-1"))), (10.0, _run(_running("base-1"))))
    assert not any(sign in line for line in lines for sign in "\x1b\r")
    assert lines[0] == "digits-1a2b3c4d: running, 0%, 0 of 1 stages done"
    assert lines[1] == "base-1/target: running"
    assert lines[2] == "digits-1a2b3c4d: running, 50%, 0 of 1 stages done, 1,234 images/s, 1 min 05 s left"
    said = " ".join(lines[3].split())
    assert said == "base-1/target running 50/100 updates val error 25.0% epoch 5.0/10 1,234 images/s 1 min 05 s left"


def test_plain_output_at_a_state_change_says_it_at_once_and_once():
    done = replace(_running("base-1"), state=State.done, val_error=0.1)
    lines = _plain((0.0, _run(_running("base-1"))), (1.0, _run(done)), (2.0, _run(done)))
    assert lines.count("base-1/target: done, val error 10.0%") == 1


def test_plain_output_of_a_member_at_chance_and_of_a_failure_says_so():
    lines = _plain(
        (0.0, _run(_running("a"), _running("b"))),
        (1.0, _run(replace(_running("a"), at_chance=True), _stage("b", state=State.failed, error="loss became NaN"))),
    )
    assert "a/target: running, still at chance" in lines
    assert "b/target: failed (loss became NaN)" in lines


def _rendered(*shown):
    console = Console(record=True, width=120, force_terminal=True, file=io.StringIO())
    display = Display(io.StringIO(), clock=lambda: 0.0, console=console)
    for status in shown:
        display.show(status)
    display.close()
    view = Console(record=True, width=120, file=io.StringIO())
    view.print(display.render(shown[-1]))
    return view.export_text()


def test_live_display_shows_overall_and_one_line_a_member():
    status = _run(
        _stage("six-1", "superset", state=State.done, step=100), _running("six-1"), _running("base-1"), _stage("base-2")
    )
    lines = _rendered(status).splitlines()
    assert "digits-1a2b3c4d" in lines[0] and "50%" in lines[0] and "1/4 stages" in lines[0]
    assert "2,468 images/s" in lines[0] and "left" in lines[0]
    assert [line.split()[1] for line in lines[2:5]] == ["six-1", "base-1", "base-2"]
    assert all(word in lines[2] for word in ("target", "5/10", "25.0%", "1,234", "1 min 05 s"))
    assert "waiting" in lines[4]


def test_live_display_of_a_narrow_terminal_cuts_nothing_that_matters():
    stage = replace(_running("pretrained1", stage="pretrain"), remaining_s=12000.0)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Display(io.StringIO(), console=console).render(_run(stage)))
    text = console.export_text()
    assert "…" not in text
    assert all(said in text for said in ("pretrained1", "pretrain", "5/10", "25.0%", "1,234", "3 h 20 min"))


def test_live_display_draws_the_errors_seen_so_far():
    assert "█▅▁" in _rendered(*(_run(replace(_running("a"), val_error=error)) for error in (0.9, 0.9, 0.5, 0.1)))
    assert (trend([0.4, 0.4, 0.4]), trend([0.4])) == ("▁▁▁", "")


def test_live_display_flags_a_member_at_chance_and_shows_a_failure():
    text = _rendered(_run(replace(_running("a"), at_chance=True), _stage("b", state=State.failed, error="NaN loss")))
    assert "a/target is still at chance" in text and "b/target: NaN loss" in text
    assert "1 min 05 s" in text


def test_current_stages_of_a_finished_member_is_its_last():
    stages = (_stage("a", "superset", state=State.done), _stage("a", "target", state=State.done))
    assert [stage.stage for stage in current_stages(_run(*stages))] == ["target"]
