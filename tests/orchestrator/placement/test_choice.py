"""The choice of threads, members, precision and compilation: pure functions of rates, and what keeps the rates."""

import subprocess
from dataclasses import replace

import pytest
import torch

from orchestrator.config.composition import compose
from orchestrator.config.schema import Compile, Precision
from orchestrator.inputs import survey_all
from orchestrator.placement import choice as placement, measuring, placing
from orchestrator.placement.choice import MARGIN, Candidate
from orchestrator.placement.measuring import (
    measure,
    measure_modes,
    rates_file,
    read_rates,
    write_rates,
)
from orchestrator.placement.placing import Measuring, place
from orchestrator.plan.build import make_plan
from workers.errors import ConfigError
from workers.models import outline
from workers.numerics import Capabilities
from workers.protocol import COMPILE_MODES, Numerics
from workers.settings import KeptCheckpoint
from workers.throughput.measure import gpu_precision

MANY = Candidate(threads=1, members=2, precision="bf16")
ONE = Candidate(threads=2, members=1, precision="bf16")
ABOUT = {"asked": ["1 thread"], "cpu": "a CPU", "num_cpus": 2}


def planned(*overrides):
    config = compose(overrides)
    return config, make_plan(config, survey_all(config))


@pytest.fixture(scope="module")
def digits():
    return planned()[1]


@pytest.mark.parametrize(("faster", "wins"), [(-0.4, False), (MARGIN * 0.8, False), (MARGIN * 2, True)])
def test_choice_other_than_the_default_must_save_more_than_the_margin(digits, faster, wins):
    default, other = placement.options(digits, {MANY: 100.0, ONE: 100.0})
    given = (default, replace(other, seconds=default.seconds / (1 + faster)))
    assert (placement.choose(given, MANY).candidate == ONE) is wins
    assert placement.choose(given[::-1], MANY) == placement.choose(given, MANY)


def test_choice_goes_by_the_time_of_the_whole_plan(digits):
    # Ten per cent fewer images a second together, but no slot stays empty behind an odd member.
    alone = Candidate(8, 1, "bf16")
    eight = Candidate(1, 8, "bf16")
    options = placement.options(digits, {eight: 100.0, alone: 90.0})
    assert options[1].seconds < options[0].seconds
    assert placement.choose(options, eight).candidate == alone


def test_candidates_begin_with_the_default_and_never_ask_for_more_than_there_is():
    given = placement.candidates([(6, 4)], 7, ("bf16", "fp32"))
    assert given[0] == Candidate(1, 4, "bf16")
    assert {one.threads for one in given} == {1, 2, 4, 6}
    assert all(one.members <= 4 and (one.threads == 1 or one.threads * one.members <= 6) for one in given)
    assert placement.candidates([(6, 4)], 7, ("fp32",), threads=3) == (Candidate(3, 2, "fp32"),)
    rates = {MANY: 200.0, replace(MANY, precision="fp32"): 100.0}
    assert placement.is_hopeless(replace(ONE, precision="fp32"), rates), "far behind with one thread"
    assert not placement.is_hopeless(ONE, rates)


def test_members_at_once_are_bounded_by_memory_and_by_the_plan(digits):
    need = max(placement.member_bytes(stage) for stage in digits.stages)
    assert placement.most_members(digits, KeptCheckpoint.last, 0) == 1
    assert placement.most_members(digits, KeptCheckpoint.last, need * 3 / 0.79) == 3
    assert placement.most_members(digits, KeptCheckpoint.last, need * 1000) == len(digits.members)


def test_average_of_the_weights_and_its_copy_count_as_memory(digits):
    stage = digits.stages[0]
    more = placement.member_bytes(stage, KeptCheckpoint.ema) - placement.member_bytes(stage)
    assert more == 2 * 4 * outline(stage.recipe.model, stage.num_classes).num_parameters
    assert placement.member_bytes(stage, KeptCheckpoint.soup) == placement.member_bytes(stage)


@pytest.mark.parametrize("num_cpus", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_reserved_cpus_let_no_more_than_that_many_members_run(num_cpus, members):
    reserved = placement.reserved_cpus(1, num_cpus, members)
    assert 1 <= num_cpus // reserved <= members


def test_rates_are_read_back_for_the_same_question_only(tmp_path):
    rates = {MANY: 123.25, ONE: 99.5}
    write_rates(tmp_path, ABOUT, rates)
    assert read_rates(tmp_path, ABOUT) == rates
    for changes in ({"cpu": "another"}, {"num_cpus": 3}, {"asked": ["1 thread", "2 threads"]}):
        assert read_rates(tmp_path, ABOUT | changes) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "num_cpus", "worth"),
    [(20, 2, False), (500, 2, False), (20_000, 2, True), (20, 64, False), (500, 64, True)],
)
def test_measuring_pays_over_a_long_plan_and_sooner_where_single_threads_leave_cores_idle(epochs, num_cpus, worth):
    _, plan = planned("ensemble=five", f"ensemble.stages.train.epochs={epochs}")
    fewest = min(placement.candidates([(num_cpus, 5)], 5, ("bf16",)), key=lambda one: one.threads)
    assert placement.is_worth_measuring(plan, fewest, num_cpus) is worth


_NEGATIVE = '{"figures": [{"candidate": {"threads": 1, "members": 1, "precision": "fp32"}, "images_per_second": -1}]}'


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"figures": [1]}', '{"figures": [{"candidate": {"a": 1}}]}', _NEGATIVE]
)
def test_damaged_rates_count_as_none(tmp_path, text):
    write_rates(tmp_path, ABOUT, {MANY: 1.0})
    assert read_rates(tmp_path, ABOUT)
    rates_file(tmp_path, ABOUT).write_text(text)
    assert read_rates(tmp_path, ABOUT) == {}


@pytest.fixture
def two_cpus(monkeypatch):
    monkeypatch.setattr(placing, "available_cpus", lambda: 2)
    monkeypatch.setattr(placing, "capabilities", lambda: Capabilities(bf16=True, compiled_kernels=False))


def _note(line):
    pass


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(
    ("overrides", "measuring", "threads", "precision", "said"),
    [
        (("model.width=0.1", "ensemble=five"), Measuring.where_it_pays, 1, "bf16", "too short"),
        (("cluster.cpus_per_member=2", "precision=fp32"), Measuring.always, 2, "fp32", ""),
    ],
    ids=["a short plan", "all configured"],
)
def test_place_of_what_needs_no_measurement_makes_none(monkeypatch, overrides, measuring, threads, precision, said):
    monkeypatch.setattr(placing, "measure", None)
    placed = place(*planned(*overrides), _note, measuring)
    assert placed.numerics == Numerics(threads, precision, "cpu", "torch")
    assert placed.cluster.cpus_per_member == threads
    assert said in placed.line


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(("workers", "threads"), [("[1,1]", 2), ("[2,2]", 1), ("[1,2]", 1)])
def test_place_gives_a_member_alone_all_cpus_unless_its_workers_need_them(workers, threads):
    alone = [f"~ensemble.members.base{number}" for number in (2, 3, 4, 5)]
    overrides = ("ensemble=five", *alone, "optimizer.shards=8", f"cluster.workers_per_member={workers}")
    placed = place(*planned(*overrides), _note, Measuring.never)
    assert (placed.numerics.threads, placed.cluster.cpus_per_member) == (threads, threads)


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(("name", "way"), [("alexnet", "torch"), ("torchvision/resnet18", "by_shape")])
def test_place_computes_convolutions_by_shape_where_a_net_is_anothers(name, way):
    assert place(*planned(f"model.name={name}", "ensemble=five"), _note, Measuring.never).numerics.convolutions == way


@pytest.mark.slow
@pytest.mark.usefixtures("two_cpus")
def test_place_of_a_long_plan_measures_once_and_chooses_alike_after(tmp_path, monkeypatch):
    calls = []

    def measured(stage, given, *_):
        calls.append(given)
        return {one: 500.0 if one == ONE else 100.0 for one in given}

    monkeypatch.setattr(placing, "measure", measured)
    config, plan = planned(f"datasets.store={tmp_path}", "ensemble.stages.train.epochs=20000")
    first = place(config, plan, _note, Measuring.where_it_pays)
    again = place(config, plan, _note, Measuring.never)
    assert len(calls) == 1
    assert again == first
    assert (first.numerics.threads, first.numerics.precision, first.cluster.cpus_per_member) == (2, "bf16", 2)
    assert first.rate == 500.0
    assert "next best" in first.line
    # Another question is another measurement: what was hopeless beside bf16 was never timed.
    place(replace(config, precision=Precision.fp32), plan, _note, Measuring.where_it_pays)
    assert len(calls) == 2
    assert {one.precision for one in calls[1]} == {"fp32"}


@pytest.mark.slow
def test_measure_times_real_processes_side_by_side():
    _, plan = planned("model.width=0.05", "model.fc_units=16", "optimizer.batch_size=8", "ensemble=five")
    told: list[str] = []
    given = (Candidate(1, 2, "fp32"), Candidate(2, 1, "fp32"))
    rates = measure(plan.stages[0], given, Numerics(), told.append)
    assert list(rates) == list(given)
    assert all(rate > 0 for rate in rates.values())
    assert told


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"off": 100.0, "fused": 120.0, "graphs": 130.0}, "graphs"),
        ({"off": 100.0, "fused": 120.0, "graphs": 90.0}, "fused"),
        ({"off": 100.0, "fused": 100 * (1 + MARGIN * 0.9)}, "off"),
        ({"off": 100.0}, "off"),
        # Without a rate of "off" nothing shows a gain; perhaps the GPU itself failed meanwhile.
        ({"fused": 120.0}, "off"),
        ({}, "off"),
    ],
)
def test_compiled_steps_are_chosen_only_if_measured_to_be_faster_by_the_margin(rates, chosen):
    assert placement.compile_mode(rates) == chosen


@pytest.fixture
def a_gpu(monkeypatch, two_cpus):
    """A machine with one GPU, by what the placement asks; returns the stages whose modes were measured."""
    measured = []

    def modes(stage, numerics, note):
        measured.append((stage, numerics))
        return {"off": 100.0, "fused": 120.0}

    monkeypatch.setattr(placing, "check_resources", lambda _: 1)
    monkeypatch.setattr(placing, "ask_gpu", lambda: "bf16")
    monkeypatch.setattr(placing, "measure_modes", modes)
    return measured


ON_GPU = ("cluster.gpus_per_member=1", "ensemble=five")
LONG = "ensemble.stages.train.epochs=20000000"


def test_place_on_a_gpu_compiles_a_long_plan_s_steps_if_that_was_measured_to_be_faster(a_gpu):
    config, plan = planned(*ON_GPU, LONG)
    placed = place(config, plan, _note, Measuring.where_it_pays)
    assert placed.numerics == Numerics(2, "bf16", "cuda", compile="fused")
    assert placed.line == "2 threads each, bf16, 1 GPUs, compile=fused (off 100 images/s, fused 120 images/s)"
    assert a_gpu == [(placement.costliest(plan), replace(placed.numerics, compile="off"))]


@pytest.mark.parametrize(
    ("overrides", "measuring"),
    [
        ((LONG,), Measuring.never),
        ((), Measuring.where_it_pays),
        ((LONG, "compile=off"), Measuring.always),
    ],
    ids=["not now", "a short plan", "off"],
)
def test_place_on_gpus_that_are_not_measured_compiles_nothing(a_gpu, overrides, measuring):
    placed = place(*planned(*ON_GPU, *overrides), _note, measuring)
    assert (placed.numerics.compile, a_gpu) == ("off", [])
    assert placed.line.endswith("compile=off (not measured on GPUs)")


@pytest.mark.parametrize(
    ("said", "optimizer", "precision"),
    [
        ("fp16", "adamw", "fp16"),
        ("fp16", "rmsprop", "fp32"),
        ("bf16", "rmsprop", "bf16"),
        ("fp32", "sgd", "fp32"),
        ("", "sgd", "fp32"),
    ],
)
def test_place_takes_fp16_on_a_gpu_without_bf16_if_the_optimizers_do(two_cpus, monkeypatch, said, optimizer, precision):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, f"{said}\n"))
    config, plan = planned(*ON_GPU, f"optimizer.name={optimizer}")
    assert place(config, plan, _note, Measuring.never).numerics.precision == precision


@pytest.mark.parametrize(
    ("available", "bf16", "capability", "precision"),
    [
        (False, True, (9, 0), "fp32"),
        (True, True, (8, 0), "bf16"),
        (True, False, (7, 0), "fp16"),
        (True, False, (6, 1), "fp32"),
    ],
)
def test_gpu_says_which_half_precision_it_multiplies(monkeypatch, available, bf16, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert gpu_precision() == precision


def test_place_where_no_gpu_fits_measures_none_of_it(a_gpu, monkeypatch):
    def refuse(_):
        raise ConfigError("no node has room for a member")

    monkeypatch.setattr(placing, "check_resources", refuse)
    assert place(*planned(*ON_GPU, LONG), _note, Measuring.always).numerics.compile == "off"
    assert a_gpu == []


def test_place_never_chooses_tf32_by_itself_nor_compiles_on_cpus(a_gpu):
    config, plan = planned(*ON_GPU, "precision=tf32")
    assert place(config, plan, _note, Measuring.never).numerics.precision == "tf32"
    for precision in ("bf16", "fp32"):
        chooser = placing._Chooser(replace(config, precision=Precision.auto), plan, _note, Measuring.never)
        found = chooser._precisions(bf16=precision == "bf16")
        assert found[0] == precision
        assert "tf32" not in found
    config, plan = planned("model.width=0.1", "ensemble=five")
    assert config.compile is Compile.auto
    assert place(config, plan, _note, Measuring.where_it_pays).numerics.compile == "off"


@pytest.mark.slow
def test_measured_modes_are_those_whose_process_answers(monkeypatch):
    monkeypatch.setattr(measuring, "COMPILE_MODES", ("off",))
    _, plan = planned("model.width=0.05", "model.fc_units=16", "optimizer.batch_size=8", "ensemble=five")
    assert measure_modes(plan.stages[0], Numerics(), _note)["off"] > 0
    # A device that this machine lacks ends the process, as a failing compilation does.
    assert measure_modes(plan.stages[0], Numerics(device="cuda:99"), _note) == {}


@pytest.mark.parametrize(
    ("cut", "images", "modes"),
    [
        ("optimizer.shards=1", 8, list(COMPILE_MODES)),
        ("optimizer.micro_batch=3", 3, ["off", "fused"]),
        ("optimizer.shards=2", 4, ["off", "fused"]),
    ],
)
def test_modes_are_measured_as_they_train(monkeypatch, cut, images, modes):
    """A batch that does not fit at once would end every process, and a mode that training replaces says nothing."""
    asked = []
    monkeypatch.setattr(measuring, "_rate", lambda _, request: asked.append(request) or 1.0)
    _, plan = planned("model.width=0.05", "model.fc_units=16", "optimizer.batch_size=8", "ensemble=five", cut)
    assert list(measure_modes(plan.stages[0], Numerics(), _note)) == modes
    assert [request.batch_size for request in asked] == [images] * len(modes)
    assert [request.numerics.compile for request in asked] == modes


@pytest.mark.soak
def test_all_modes_are_measured_in_real_processes():
    _, plan = planned("model.width=0.05", "model.fc_units=16", "optimizer.batch_size=8", "ensemble=five")
    rates = measure_modes(plan.stages[0], Numerics(), _note)
    assert list(rates) == list(COMPILE_MODES)
    assert all(rate > 0 for rate in rates.values())
