"""The simulation against what can be worked out by hand, and the command that runs it."""

from __future__ import annotations

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.plan.simulation import (
    DRAW,
    ENGINE,
    FRONT,
    Costs,
    Fleet,
    Job,
    percentile,
    poisson,
    simulate,
)

COSTS = Costs(front=0.5, page=2.0, steps={1: 1.0, 3: 1.5})


def test_one_page_alone_takes_the_sum_of_its_parts():
    report = simulate([Job(10.0, 4)], COSTS, Fleet())
    (job,) = report.jobs
    assert job.first == 10 + 0.5 + 2 + 1 and job.last == job.first + 3
    assert report.latency(95) == job.latency == 6.5
    assert report.waits == {DRAW: 0, FRONT: 0, ENGINE: 0}


def test_steps_between_and_beyond_the_measured_ones_lie_on_a_line():
    assert [COSTS.step(n) for n in (0, 1, 2, 3, 5)] == [0, 1, 1.25, 1.5, 2.0]
    assert Costs(0, 0, {7: 0.5}).step(100) == 0.5


def test_a_page_that_comes_in_between_joins_the_batch_at_the_next_step():
    """Its encoder holds up the page that is being written, as in vLLM."""
    jobs = simulate([Job(0.0, 5), Job(2.9, 2)], COSTS, Fleet()).jobs
    early, late = sorted(jobs, key=lambda job: job.arrival)
    # The first token is there at 3.5, then the other page is encoded in a step of both.
    assert early.first == 3.5 and late.first == 3.5 + 2 + 1.25
    assert late.last == late.first + 1.25
    assert early.last == late.last + 1 + 1  # tokens 2 and 3 beside the other page, then two alone


def test_a_full_batch_keeps_the_others_waiting():
    fleet = Fleet(max_num_seqs=1)
    report = simulate([Job(0.0, 2), Job(0.0, 2)], Costs(0, 1.0, {1: 1.0}), fleet)
    assert [job.last for job in report.jobs] == [3.0, 6.0]
    assert report.bottleneck == ENGINE and report.waits[ENGINE] == 1.5
    assert report.used[ENGINE] == 1.0 and report.pages_per_second == pytest.approx(1 / 3)


def test_an_engine_encodes_so_many_in_a_step():
    pages, fleet = [Job(0.0, 1) for _ in range(4)], Fleet(pages_per_step=2)
    jobs = simulate(pages, Costs(0, 1.0, {1: 0.0}), fleet).jobs
    assert [job.last for job in jobs] == [1.0, 3.0, 3.0, 4.0]  # the first found nobody else there


def test_pages_are_spread_over_replicas_and_processes():
    jobs = [Job(0.0, 1) for _ in range(4)]
    costs = Costs(front=1.0, page=0.0, steps={1: 0.0}, draw=0.0)
    assert max(j.last for j in simulate(jobs, costs, Fleet(replicas=1)).jobs) == 4
    assert max(j.last for j in simulate(jobs, costs, Fleet(replicas=2)).jobs) == 2
    assert max(j.last for j in simulate(jobs, costs, Fleet(api_processes=4)).jobs) == 1
    slow_to_draw = Costs(front=0.0, page=0.0, steps={1: 0.0}, draw=1.0)
    report = simulate(jobs, slow_to_draw, Fleet(draw_processes=2))
    assert max(j.last for j in report.jobs) == 2 and report.bottleneck == DRAW


def test_clients_send_their_next_page_when_they_have_the_last():
    costs = Costs(front=0.0, page=1.0, steps={1: 1.0})
    report = simulate([Job(0.0, 1) for _ in range(3)], costs, Fleet(), clients=1)
    assert [(job.arrival, job.last) for job in report.jobs] == [(0, 2), (2, 4), (4, 6)]
    assert report.waits[ENGINE] == 0


def test_arrivals_come_at_the_rate_asked_for():
    jobs = poisson(4.0, [7] * 4000)
    assert jobs[-1].arrival == pytest.approx(1000, rel=0.1)
    assert [job.num_tokens for job in jobs[:2]] == [7, 7] and jobs == poisson(4.0, [7] * 4000)
    assert percentile(range(1, 101), 95) == 95


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["plan", "--simulate", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_reads_measured_costs(tmp_path, capsys):
    file = tmp_path / "costs.json"
    file.write_text('{"costs": {"front": 0.0, "page": 1, "steps": {"1": 0.0}}}')
    row = run(capsys, "--costs", str(file), "--clients", "1", "--arrivals", "10")["measured"]
    assert row["pages_per_second"] == pytest.approx(1, rel=0.2)
    for text in ("[]", '{"page": 1}', '{"front": -1, "page": 1, "steps": {"1": 1}}', "{"):
        file.write_text(text)
        assert main(["plan", "--simulate", "--costs", str(file)]) == 2
        assert capsys.readouterr().err.startswith("dsocr plan: ")
    assert main(["plan", "--simulate"]) == 2
    assert "--gpu" in capsys.readouterr().err


def test_a_gpu_below_its_bound_and_more_replicas_until_something_else_saturates(capsys):
    common = ("--gpu", "H100", "--mode", "base", "--max-num-seqs", "64", "--draw-ms", "1")
    assert main(["plan", "--json", *common[:6]]) == 0
    bound = json.loads(capsys.readouterr().out)["modes"][0]["pages_per_second"]
    one = run(capsys, *common)["base"]
    assert one["saturates_first"] == ENGINE and one["pages_per_second"] < bound
    fast = run(capsys, *common, "--efficiency", "1")["base"]["pages_per_second"]
    assert one["pages_per_second"] < fast < bound
    four = run(capsys, *common, "--replicas", "4")["base"]
    assert four["pages_per_second"] == pytest.approx(4 * one["pages_per_second"], rel=0.15)
    slow = run(capsys, *common, "--replicas", "4", "--draw-ms", "500")["base"]
    assert slow["saturates_first"] == DRAW
    assert slow["pages_per_second"] == pytest.approx(8 / 0.5, rel=0.1)
