"""What is chosen for the nodes of a cluster, by what they say and by rates that a test gives them; no Ray."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from orchestrator.cluster.interface import Machine
from orchestrator.cluster.preflight import Needs
from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.placement import choice, placing
from orchestrator.placement.choice import Candidate
from orchestrator.placement.measuring import ask_gpu, measure, measure_modes
from orchestrator.placement.placing import Measuring, place
from orchestrator.plan.build import make_plan
from workers.errors import ConfigError
from workers.numerics import Capabilities, code_digest
from workers.protocol import Numerics

SEVEN = ("ensemble=sweep", f"sweep.seed={list(range(7))}")
LONG = "ensemble.stages.train.epochs=20000"


def planned(*overrides):
    config = compose(overrides)
    return config, make_plan(config, survey_all(config))


def scaled(_, given, numerics, __):
    """Rates of threads that share the work with some loss; bf16 is twice as fast, and kernels add a quarter."""
    gain = 1.25 if numerics.kernels == "compiled" else 1.0
    return {one: 10.0 * gain * one.members * one.threads**0.9 * (1 + (one.precision == "bf16")) for one in given}


class Node:
    """Stands for a node: answers what a placement asks there, and remembers what that was."""

    def __init__(self, rates=scaled, slow=1.0, gpu="bf16", modes=None):
        self.asked, self._rates, self._slow, self._gpu, self._modes = [], rates, slow, gpu, modes

    def __call__(self, function, *given):
        self.asked.append((function, given))
        if function is ask_gpu:
            return self._gpu
        if function is measure_modes:
            return self._modes
        assert function is measure
        found = self._rates(*given)
        return found and {one: rate / self._slow for one, rate in found.items()}


def machine(name, cpus=16, call=None, **changes):
    plain = Machine(name, "One", cpus, cpus, bf16=True, compiled_kernels=True, call=call or Node())
    return replace(plain, **changes)


class Nodes:
    """Stands for the cluster's nodes."""

    def __init__(self, machines, idle=""):
        self.machines, self.idle_gpus, self.settled = machines, idle, []

    def settle(self, needs):
        self.settled.append(needs)


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Places a plan on nodes; returns what was placed and the nodes, with the lines that were said."""
    # The driver is unlike them.
    monkeypatch.setattr(placing, "available_cpus", lambda: 2)
    monkeypatch.setattr(placing, "capabilities", lambda: Capabilities(bf16=False, compiled_kernels=False))

    def placed(machines, *overrides, measuring=Measuring.where_it_pays, idle="", needs=None):
        nodes, said = Nodes(machines, idle), []
        monkeypatch.setattr(placing, "open_nodes", lambda settings, asked: nullcontext(nodes))
        words = ("cluster.address=10.0.0.1:6379", f"datasets.store={tmp_path}", *overrides)
        return place(*planned(*words), said.append, measuring, needs), nodes, said

    return placed


def test_seven_members_on_one_node_of_sixteen_cpus_leave_fewer_cpus_idle_than_there_are_members(on):
    for overrides, measuring in ((SEVEN, Measuring.never), ((*SEVEN, LONG), Measuring.where_it_pays)):
        placed, _, _ = on([machine("w1")], *overrides, measuring=measuring)
        assert placed.numerics == Numerics(2, "bf16", "cpu", "compiled")
        assert placed.cluster.cpus_per_member == 2


@pytest.mark.parametrize("members", [1, 2, 3, 5, 7, 11, 16])
@pytest.mark.parametrize("cpus", [1, 4, 16, 96])
def test_default_fills_a_machine_without_training_fewer_members_at_once(members, cpus):
    filling, *others = choice.candidates([(cpus, members)], members, ("fp32",))
    assert filling.members == min(members, cpus)
    assert cpus - filling.threads * filling.members <= members - 1
    assert filling not in others and {1, cpus} <= {filling.threads, *(other.threads for other in others)}


@pytest.mark.parametrize(
    ("members", "workers", "cpus", "threads"),
    [
        (1, (3, 4), 4, 1),
        (1, (1, 4), 4, 1),
        (1, (2, 2), 4, 2),
        (1, (1, 4), 16, 4),
        (2, (1, 2), 16, 4),
        (1, (8, 8), 4, 1),
    ],
)
def test_threads_leave_room_for_a_members_workers(members, workers, cpus, threads):
    default, *others = choice.candidates([(cpus, 16)], members, ("bf16", "fp32"), workers=workers)
    assert default == Candidate(threads, min(members, cpus // threads), "bf16")
    assert all(cpus // one.threads >= min(workers[0], cpus) for one in others)


def test_one_machine_of_sixteen_cpus_has_all_at_work_if_threads_were_measured_to_pay():
    _, plan = planned(*SEVEN)
    given = choice.candidates([(16, 7)], 7, ("fp32",))
    found = choice.options(plan, scaled(None, given, Numerics(), None))
    chosen = choice.choose(found, given[0]).candidate
    assert 16 - chosen.threads * chosen.members <= 6


def test_members_are_counted_node_by_node_and_spread():
    three = [(16, 16)] * 3
    assert choice.on_each(1, three, 7) == [3, 3, 3]
    assert choice.on_each(8, three, 7) == [2, 2, 2]
    assert choice.on_each(4, [(16, 1), (8, 8), (2, 2)], 7) == [1, 2, 0]
    assert choice.candidates(three, 7, ("fp32",))[0] == Candidate(5, 7, "fp32")
    given = {one.threads: one.members for one in choice.candidates(three, 7, ("fp32",))}
    assert given == {1: 7, 2: 7, 4: 7, 5: 7, 8: 6, 16: 3}


def test_a_node_of_each_kind_is_measured_once_and_the_slowest_counts(on):
    calls = [Node(), Node(), Node(slow=4.0)]
    machines = [machine(f"w{n}", call=call) for n, call in enumerate(calls)]
    machines[2] = replace(machines[2], processors="Two")
    placed, _, said = on(machines, *SEVEN, LONG)
    assert [len(call.asked) for call in calls] == [1, 0, 1]
    # Five threads, bf16, kernels, and a quarter of that.
    assert placed.numerics.threads == 5
    assert placed.rate == pytest.approx(10 * 5**0.9 * 2 * 1.25 / 4)
    assert placed.line.endswith(", measured on w0, w2") and len(said) == 2
    # Three run side by side on a node of three.
    (_, (_, given, numerics, _)), *_ = calls[0].asked
    assert {one.members for one in given if one.threads == 5} == {3} and numerics.kernels == "compiled"
    again, _, said = on(machines, *SEVEN, LONG)
    assert again == placed and said == []
    assert [len(call.asked) for call in calls] == [1, 0, 1]


def test_where_a_kind_gives_no_rates_nothing_counts_as_measured(on):
    machines = [machine("w1"), machine("w2", cpus=8, call=Node(rates=lambda *_: None))]
    placed, _, _ = on(machines, *SEVEN, LONG)
    assert "(not measured)" in placed.line and placed.rate is None


def test_node_that_is_too_small_for_a_candidate_does_not_count_there(on):
    machines = [machine("w1"), machine("w2", cpus=1, call=Node(slow=100.0))]
    placed, _, _ = on(machines, *SEVEN, LONG, "cluster.cpus_per_member=2")
    assert placed.rate == pytest.approx(10 * 2**0.9 * 2 * 1.25)


HALF = [machine(f"w{n}", compiled_kernels=n < 4) for n in range(6)]


def test_few_nodes_without_kernels_are_left_out_and_the_line_says_what_they_would_give(on):
    unmeasured, _, _ = on(HALF, *SEVEN, measuring=Measuring.never)
    assert unmeasured.numerics.kernels == "compiled"
    assert unmeasured.line.endswith("would use them at a rate not measured")
    # Seven members fit on four nodes, so nodes without kernels would only slow them down.
    placed, nodes, _ = on(HALF, *SEVEN, LONG)
    assert placed.numerics.kernels == "compiled"
    assert placed.line.endswith(
        "; 2 of 6 nodes lack compiled kernels and are left out; cluster.kernels=plain would use them at 0.8 times the "
        "rate each"
    )
    (needs,) = nodes.settled
    assert needs.numerics == placed.numerics


def test_where_few_nodes_have_kernels_all_train_without_if_the_plan_ends_sooner(on):
    machines = [machine(f"w{n}", cpus=1, compiled_kernels=n == 0) for n in range(6)]
    placed, nodes, _ = on(machines, *SEVEN, LONG)
    assert placed.numerics.kernels == "torch"
    assert placed.line.endswith("; 5 of 6 nodes lack compiled kernels: all train without, at 0.8 times the rate each")
    assert nodes.settled[0].numerics.kernels == "torch"


def test_nodes_that_emulate_bf16_are_left_out_or_all_train_in_fp32(on):
    few = [machine(f"w{n}", bf16=n < 5) for n in range(6)]
    placed, nodes, _ = on(few, *SEVEN, LONG)
    assert placed.numerics.precision == "bf16" and not nodes.settled[0].typed
    assert "; 1 of 6 nodes lack bf16 and are left out; precision=fp32 would use them at" in placed.line
    many = [machine(f"w{n}", cpus=1, bf16=n < 1) for n in range(6)]
    placed, _, _ = on(many, *SEVEN, LONG)
    assert placed.numerics.precision == "fp32"
    assert placed.line.endswith("; 5 of 6 nodes lack bf16: all train without, at 0.5 times the rate each")
    typed, nodes, _ = on(few, *SEVEN, "precision=bf16", measuring=Measuring.never)
    assert typed.numerics.precision == "bf16" and "lack" not in typed.line and nodes.settled[0].typed


@pytest.mark.parametrize(
    ("kernels", "machines", "chosen"),
    [
        ("plain", HALF, "torch"),
        ("compiled", HALF, "compiled"),
        ("auto", HALF[:4], "compiled"),
        ("auto", HALF[4:], "torch"),
    ],
)
def test_kernels_are_as_asked_or_what_all_nodes_have(on, kernels, machines, chosen):
    placed, _, _ = on(machines, *SEVEN, f"cluster.kernels={kernels}", measuring=Measuring.never)
    assert placed.numerics.kernels == chosen and "lack" not in placed.line


def test_kernels_that_no_machine_has_are_refused_if_asked_for_and_plain_disables_them_here(on, monkeypatch):
    with pytest.raises(ConfigError, match=r"^cluster\.kernels=compiled: no machine that fits has them"):
        on(HALF[4:], *SEVEN, "cluster.kernels=compiled")
    with pytest.raises(ConfigError, match=r"^cluster\.kernels=compiled"):
        place(*planned("cluster.kernels=compiled"), print, Measuring.never)
    monkeypatch.setattr(placing, "capabilities", lambda: Capabilities(bf16=False, compiled_kernels=True))
    for kernels, chosen in (("auto", "compiled"), ("compiled", "compiled"), ("plain", "torch")):
        placed = place(*planned(f"cluster.kernels={kernels}"), print, Measuring.never)
        assert placed.numerics.kernels == chosen


GPUS = ("cluster.gpus_per_member=1",)
ENDLESS = "ensemble.stages.train.epochs=20000000"


@pytest.mark.parametrize(
    ("said", "precision"),
    [(("bf16", "bf16"), "bf16"), (("bf16", "fp16"), "fp16"), (("bf16", "fp32"), "fp32"), (("bf16", None), "fp32")],
)
def test_gpus_of_the_nodes_and_not_the_driver_say_the_precision(on, said, precision):
    machines = [machine(f"w{n}", slots=2, processors=f"One, GPU {n}", call=Node(gpu=gpu)) for n, gpu in enumerate(said)]
    placed, nodes, _ = on(machines, *SEVEN, *GPUS)
    assert placed.numerics == Numerics(8, precision, "cuda")
    assert placed.cluster.cpus_per_member == 8 and nodes.settled[0].member_bytes == 0


def test_steps_of_a_long_plan_are_compiled_if_that_pays_on_each_kind_of_gpu(on):
    fast = {"off": 100.0, "fused": 150.0, "graphs": 200.0}
    machines = [machine("w1", slots=2, call=Node(modes=fast))]
    placed, _, _ = on(machines, *SEVEN, *GPUS, ENDLESS)
    assert placed.numerics.compile == "graphs" and "graphs 200 images/s, measured on w1)" in placed.line
    for other in ({"off": 100.0, "fused": 130.0}, {"off": 150.0, "fused": 140.0, "graphs": 130.0}, None):
        two = [*machines, machine("w2", slots=2, processors="Two", call=Node(modes=other))]
        placed, _, _ = on(two, *SEVEN, *GPUS, ENDLESS)
        assert placed.numerics.compile == ("fused" if other else "off")


def test_idle_gpus_are_told_and_needs_of_a_plan_ask_for_no_storage(on):
    _, nodes, said = on([machine("w1")], *SEVEN, measuring=Measuring.never, idle="2 GPUs idle: set it")
    assert said == ["2 GPUs idle: set it"]
    needs = nodes.settled[0]
    assert (needs.code, needs.folder, needs.stores) == (code_digest(), None, ())
    assert needs.member_bytes > 0
    _, nodes, _ = on([machine("w1")], *SEVEN, needs=Needs("c" * 64, numerics=Numerics(9)))
    assert nodes.settled[0].code == "c" * 64 and nodes.settled[0].numerics == Numerics(2, "bf16", "cpu", "compiled")


def test_where_no_node_is_there_yet_nothing_of_the_driver_decides(on):
    placed, _, _ = on([], *SEVEN, measuring=Measuring.never)
    assert placed.numerics == Numerics(1, "fp32", "cpu", "compiled") and "no node is there yet" in placed.line
    placed, _, _ = on([], *SEVEN, *GPUS, measuring=Measuring.never)
    assert placed.numerics == Numerics(1, "fp32", "cuda")


def test_idle_gpus_of_this_machine_are_told(monkeypatch):
    monkeypatch.setattr(placing, "idle_gpus", lambda asked: "" if asked else "1 GPU idle")
    said = []
    place(*planned(), said.append, Measuring.never)
    assert said == ["1 GPU idle"]
