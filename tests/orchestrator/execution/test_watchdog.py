"""When a silent member is ended, by a clock of the test's own."""

from dataclasses import dataclass

from orchestrator.execution.watchdog import Deadlines

TIMEOUT_S = 60.0
LOOK_S = 0.5


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self):
        return self.now_s


class Watch:
    """Looks at one member twice a second."""

    def __init__(self):
        self.clock = Clock()
        self.deadlines = Deadlines(TIMEOUT_S, self.clock)
        self.mark = 0
        self.deadlines.begin("a", self.mark)

    def moves_after(self, *pauses_s):
        for pause_s in pauses_s:
            assert self.quiet_for(pause_s) == ""
            self.mark += 1
            assert self.deadlines.look("a", self.mark) == ""

    def quiet_for(self, seconds):
        """Looks until then, or until it is to be ended."""
        until_s = self.clock.now_s + seconds
        while self.clock.now_s < until_s:
            self.clock.now_s += LOOK_S
            reason = self.deadlines.look("a", self.mark)
            if reason:
                return reason
        return ""

    def ended_after(self, at_most_s=1e5):
        began_s = self.clock.now_s
        assert "no progress" in self.quiet_for(at_most_s)
        return self.clock.now_s - began_s


def test_member_that_stands_still_is_ended_after_the_timeout_saying_which_setting_it_was():
    watch = Watch()
    watch.moves_after(1, 1, 1, 1)
    assert TIMEOUT_S < watch.ended_after() <= TIMEOUT_S + LOOK_S
    assert "cluster.progress_timeout_s" in watch.deadlines.look("a", watch.mark)


def test_member_that_has_hardly_begun_has_longer():
    watch = Watch()
    watch.moves_after(200)
    assert watch.ended_after() > 3 * TIMEOUT_S


def test_member_that_is_slow_and_moves_is_never_ended():
    watch = Watch()
    watch.moves_after(*[100.0] * 50)


def test_member_s_own_pauses_stretch_its_deadline_and_are_forgotten():
    watch = Watch()
    watch.moves_after(1, 1, 100, 1)
    assert watch.deadlines.allowed_s("a") == 1000
    watch.moves_after(*[1] * 20)
    assert watch.deadlines.allowed_s("a") == TIMEOUT_S


def test_time_in_which_the_driver_itself_was_suspended_does_not_count():
    watch = Watch()
    watch.moves_after(1, 1, 1, 1)
    watch.clock.now_s += 10 * 3600
    assert watch.deadlines.look("a", watch.mark) == ""
    assert watch.ended_after() > TIMEOUT_S / 2 - LOOK_S


def test_another_piece_of_work_begins_anew():
    watch = Watch()
    watch.moves_after(1, 1, 1, 1)
    watch.quiet_for(TIMEOUT_S - 1)
    watch.deadlines.begin("a", watch.mark)
    assert watch.quiet_for(TIMEOUT_S + 1) == ""
