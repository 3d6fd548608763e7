"""The GPU check's own logic on the CPU at tiny sizes: each kind of check passes, and turns red where it should."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpus
from benchmarks.gpu_check import bits, devices, fractions, kernels, rates, share, stages
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.catalogue import CHECKS
from benchmarks.gpu_check.checks import Check, Finding, Outcome, Result, Skipped, Target, perform, perform_all
from benchmarks.gpu_check.page import page
from benchmarks.operations import Counted, Event, Kind
from workers import numerics
from workers.models import LocalResponseNorm
from workers.numerics import capabilities
from workers.protocol import Numerics, StageResult


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("cpu", quick=True, scratch=tmp_path)


@pytest.fixture(autouse=True)
def same_threads_and_kernels():
    threads = torch.get_num_threads()
    yield
    numerics.apply(Numerics(threads=threads))


def test_devices_are_described_and_a_wrong_product_is_told(target, monkeypatch):
    found = devices.describe(target)
    assert found.ok
    assert found.figures["torch"] == torch.__version__
    monkeypatch.setattr(devices, "multiplies", lambda _device: False)
    assert perform(Check("devices", 1, devices.describe), target).reason == "cpu multiplies wrongly"


@pytest.mark.skipif(not capabilities().compiled_kernels, reason="no C compiler at installation")
def test_lrn_agrees_with_the_reference_and_another_window_is_told(target, monkeypatch):
    found = kernels.lrn(target)
    assert found.ok, found.lines
    assert set(found.figures) == {f"conv{index}_{precision}" for index in (1, 2) for precision in ("fp32", "bf16")}
    monkeypatch.setattr(
        kernels, "LocalResponseNorm", lambda channels, size, *rest: LocalResponseNorm(channels, size - 2, *rest)
    )
    wrong = kernels.lrn(target)
    assert not wrong.ok
    assert wrong.lines[0].startswith("conv1 fp32: error")


def test_lrn_in_bf16_with_denominators_in_bf16_is_told(target, monkeypatch):
    monkeypatch.setattr(stages, "capabilities", lambda: replace(capabilities(), compiled_kernels=False))

    def rounded(self, images):
        squares = (images * images).permute(0, 2, 3, 1).reshape(-1, self.channels)
        sums = (squares.bfloat16() @ self.band.bfloat16()).mul(self.scale).add(self.k).bfloat16()
        batch, _, height, width = images.shape
        factors = sums.pow(-self.beta).bfloat16().view(batch, height, width, -1).permute(0, 3, 1, 2)
        return images * factors.to(images.dtype)

    monkeypatch.setattr(LocalResponseNorm, "forward", rounded)
    assert not kernels.lrn(target).ok


def test_net_agrees_with_the_cpu_and_a_kernel_of_less_precision_is_told(target, monkeypatch):
    assert kernels.net(target).ok
    placed = []

    def place(model, device):
        placed.append(device)
        if len(placed) == 1:  # the first is the device's, whose weights lose the bits that TF32 drops
            for weight in model.parameters():
                weight.data = weight.data.mul(2**12 + 1).sub(weight.data.mul(2**12))

    monkeypatch.setattr(kernels, "place", place)
    wrong = kernels.net(target)
    assert not wrong.ok
    assert wrong.figures["logits"] > wrong.figures["bound"]


def test_input_is_the_cpu_s_and_one_that_is_off_by_more_than_a_rounding_is_told(target, monkeypatch):
    found = kernels.net_input(target)
    assert found.ok and found.figures == {"batches": 2, "largest_difference": 0.0}
    first, second = kernels._inputs(target, "two")
    assert not torch.equal(first, second)
    own = kernels._inputs
    monkeypatch.setattr(
        kernels,
        "_inputs",
        lambda to, name: [batch * (1 + (name == "ours") * 2e-6) for batch in own(to, f"again-{name}")],
    )
    wrong = kernels.net_input(target)
    assert not wrong.ok
    assert wrong.lines[0].startswith("the net's images differ from the CPU's by up to ")


@pytest.mark.slow
def test_bits_are_equal_over_a_kill_and_a_resumed_stage_with_other_bits_is_told(target, monkeypatch):
    found = bits.resumed("fp32", target)
    assert found.ok, found.lines
    assert 0 < found.figures["from"] <= bits.KILLED_AFTER
    own = bits.run_stage
    # The rest of the killed stage is trained on other crops; the others are done already.
    monkeypatch.setattr(
        bits, "run_stage", lambda spec, stop: own(replace(spec, seed=spec.seed + spec.stage.endswith("killed")), stop)
    )
    wrong = bits.resumed("fp32", target)
    assert not wrong.ok
    assert wrong.lines[0].endswith("other bits")


@pytest.mark.parametrize(
    ("hashes", "begun", "line"),
    [
        ("abb", 6, "two undisturbed stages differ in bits"),
        ("aaa", 0, "the killed stage resumed from update 0, not from between"),
        ("aaa", 12, "the killed stage resumed from update 12, not from between"),
        ("aab", 6, "killed and resumed from update 6: other bits"),
    ],
)
def test_each_way_to_lose_bits_has_its_line(target, monkeypatch, hashes, begun, line):
    coming = iter(hashes)
    monkeypatch.setattr(
        bits, "result_of", lambda _spec: StageResult(12, begun, "step", next(coming), 0.0, 0.0, at_chance=False)
    )
    monkeypatch.setattr(bits, "_train_and_kill", lambda *_: None)
    found = bits.resumed("fp32", target)
    assert (found.ok, found.lines) == (False, [line])


@pytest.mark.slow
def test_halves_are_close_to_the_grouped_net_and_one_that_is_not_is_told(target, monkeypatch):
    found = bits.halves(target)
    assert found.ok, found.lines
    monkeypatch.setattr(bits, "_compared", lambda *_: found)
    own = bits._weights
    monkeypatch.setattr(
        bits, "_weights", lambda spec: {k: v * (1 + 1e-3 * (spec.stage != "grouped")) for k, v in own(spec).items()}
    )
    wrong = bits.halves(target)
    assert not wrong.ok
    assert wrong.lines[0].startswith("weights differ from the grouped net's")


def test_what_one_gpu_cannot_do_is_skipped_with_the_reason(target, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    on_gpu = replace(target, device="cuda")
    halves = perform(Check("halves", 1, bits.halves), on_gpu)
    assert (halves.outcome, halves.reason) == (Outcome.skipped, "1 GPU; the halves need two")
    with pytest.raises(Skipped, match="no bf16 in hardware"):
        bits.resumed("bf16", on_gpu)
    with pytest.raises(Skipped, match="no step was timed"):
        share.of_roofline(target)


def test_launch_that_fails_is_told_with_its_line(target, monkeypatch):
    # A folder where a file of the store should be: refused before anything starts.
    (target.scratch / "run").write_text("")
    wrong = fractions.launch(target)
    assert not wrong.ok
    assert wrong.lines[0].startswith("septet launch exited with ")
    assert len(wrong.lines) >= 2


class _Readings:
    """Stands in for `Turns`: takes readings, and ends the contestant after some."""

    def __init__(self, most: int) -> None:
        self.most, self.readings = most, list[float]()

    def next(self, reading: float) -> None:
        self.readings.append(reading)
        if len(self.readings) == self.most:
            raise SystemExit


@pytest.mark.slow
def test_our_side_of_the_rates_reports_whole_turns_and_no_evaluation(target, monkeypatch):
    size = rates.QUICK
    store = rates.synthetic.store(target.scratch / "rates", 2 * rates._UPDATES * size.batch, 4, size.side)
    spec = rates.synthetic.stage(
        store, target.scratch / "member", size.model, size.batch, stages.numerics(target, "fp32")
    )
    evaluated = []
    monkeypatch.setattr("workers.training.stage.evaluate", _slow(evaluated))
    turns = _Readings(4)
    with pytest.raises(SystemExit):
        rates.ours(spec, turns)  # type: ignore[arg-type]
    assert all(0 < reading < 0.2 for reading in turns.readings[1:]), turns.readings
    assert len(evaluated) == 2, "an epoch ended before the first turn, and one meanwhile"
    assert list(spec.stage_dir.glob("checkpoints/step-*/MANIFEST.json"))


def test_peers_side_reports_the_seconds_of_one_step(target):
    turns = _Readings(3)
    since = time.perf_counter()
    with pytest.raises(SystemExit):
        rates._peer(rates.peers.tuned, ("small", 4, 2, 1), "cpu", turns)
    first, *steps = turns.readings
    assert first == 0
    assert 0 < sum(steps) * rates._TIMED < time.perf_counter() - since


def test_rates_are_medians_of_both_sides_and_ratios_of_the_same_rounds(target, monkeypatch):
    asked = []

    def turns(contestants, rounds):
        asked.append((sorted(contestants), rounds))
        return {name: [0.5, 0.2, 1.0] if name == "ours off" else [1.0, 1.0, 3.0] for name in contestants}

    monkeypatch.setattr(rates, "take_turns", turns)
    found = rates.beside_plain_torch(target)
    assert asked == [(["ours off", "tuned"], 1), (["ours off", "plain", "plain with TF32"], 1)]
    assert found.figures["bf16"]["images_per_second"] == {"ours off": 8, "tuned": 4}
    assert found.figures["fp32"]["ours_over_plain"] == {"ours off": 3}
    assert found.lines[1] == "fp32, images/s: ours off 8, plain 4, plain with TF32 4; ours is 3.00 × plain"


def _slow(evaluated):
    """An evaluation that takes so long that a turn which held one would show it."""
    from workers.training import evaluation

    def evaluate(*parts):
        evaluated.append(1)
        until = time.perf_counter() + 2
        while time.perf_counter() < until:
            pass
        return evaluation.evaluate(*parts)

    return evaluate


def test_share_divides_the_ideal_step_by_the_measured_one(target):
    timed = Result("rates", Outcome.ok, figures={"fp32": {"seconds": {"ours": 2.0, "plain": 4.0}}})
    found = share.of_roofline(replace(target, so_far={"rates": timed}))
    assert found.ok
    ideal, shares = found.figures["fp32"]["ideal_s"], found.figures["fp32"]["share"]
    assert shares == {"ours": pytest.approx(ideal / 2), "plain": pytest.approx(ideal / 4)}
    assert 0 < ideal < 1
    assert found.figures["peaks"]["source"] == "not in the table: measured here"
    assert gpus.known("NVIDIA L4").source == "vendor's data sheet, dense, without sparsity"


def test_step_faster_than_its_ideal_is_told(target, monkeypatch):
    event = Event(Kind.kernel, "mm", "x.y", 10**9, 0, flop=1, dtype="float32", launches=1)
    monkeypatch.setattr(share, "counted_step", lambda *_: Counted([event]))
    monkeypatch.setattr(share, "peaks", lambda _target: gpus.H100_SXM)
    timed = Result("rates", Outcome.ok, figures={"fp32": {"seconds": {"ours": 2e-4}}})
    wrong = share.of_roofline(replace(target, quick=False, so_far={"rates": timed}))
    assert not wrong.ok
    assert wrong.lines[0] == "fp32: faster than the ideal step, so the count or the peaks are wrong"


def test_every_way_to_compile_is_measured_on_a_gpu_and_none_on_a_cpu(target):
    on_gpu = replace(target, device="cuda")
    found = rates._contestants(on_gpu, rates.QUICK, target.scratch, "bf16")
    assert list(found) == ["ours off", "ours fused", "ours graphs", "tuned"]
    assert found["ours fused"].args[0].numerics.compile == "fused"
    assert list(rates._contestants(target, rates.QUICK, target.scratch, "bf16")) == ["ours off", "tuned"]


def outcomes(results):
    return {result.name: result.outcome for result in results}


def test_checks_that_raise_or_find_nothing_leave_the_others_their_turn(target):
    def wrong(_target: Target) -> Finding:
        raise ValueError("first line\nsecond line")

    checks = [
        Check("wrong", 1, wrong),
        Check("none", 1, lambda _: Finding(False, {}, ["the figure is off", "more"])),
        Check("fine", 1, lambda seen: Finding(seen.so_far["none"].outcome is Outcome.failed, {}, ["as it should be"])),
    ]
    results = perform_all(checks, target, 100, lambda check, seen, _s: perform(check, seen))
    assert outcomes(results) == {"wrong": "failed", "none": "failed", "fine": "ok"}
    assert [result.reason for result in results] == ["ValueError: first line", "the figure is off", ""]
    said = page(results, "cpu", 3, "abc")
    assert "failed  wrong (0 s): ValueError: first line" in said
    assert "second line" not in said


def test_no_check_starts_after_the_limit_and_each_gets_what_is_left(target):
    now, given = [0.0], {}

    def one(check: Check, _target: Target, timeout_s: float) -> Result:
        given[check.name] = timeout_s
        now[0] += timeout_s
        return Result(check.name, Outcome.ok)

    checks = [Check(name, 250, lambda _: Finding(True, {}, [])) for name in ("a", "b", "c", "d")]
    results = perform_all(checks, target, 600, one, clock=lambda: now[0])
    assert given == {"a": 250, "b": 250, "c": 100}
    assert (results[3].outcome, results[3].reason) == (Outcome.not_run, "the 10 minutes were over")


def test_page_fits_and_lines_are_not_too_long():
    results = [
        Result(check.name, Outcome.ok, 60, lines=tuple(f"line {index} " + "x" * 200 for index in range(9)))
        for check in CHECKS
    ]
    said = page(results, "cpu", 600, "abc").splitlines()
    assert len(said) <= 62
    assert max(map(len, said)) <= 118


@pytest.mark.slow
def test_command_prints_a_page_writes_json_and_answers_by_its_exit_code(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    words = ["--device", "cpu", "--quick", "--scratch", str(tmp_path), "--out", str(out)]
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert main([*words, "--only", "devices"]) == 0
    assert capsys.readouterr().out.startswith("Septet GPU check, ")
    (found,) = json.loads(out.read_text())["checks"]
    assert (found["name"], found["outcome"]) == ("devices", "ok")
    # Its process does not live long enough for an answer.
    monkeypatch.setattr("benchmarks.gpu_check.__main__.CHECKS", (Check("devices", 0.05, devices.describe),))
    assert main([*words, "--only", "devices"]) == 1
    assert json.loads(out.read_text())["checks"][0]["reason"].startswith("not done after")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: no CUDA device here")


def test_weights_are_compared_by_their_own_size():
    ours, theirs = {"a": np.array([1.0, 100.0])}, {"a": np.array([1.001, 100.0])}
    assert bits._largest_difference(ours, theirs) == pytest.approx(1e-5, rel=1e-3)
