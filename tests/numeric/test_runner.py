"""The runner: what it keeps, what it computes again, and what it does with failures and Ctrl-C.

The fake claims here are module-level functions, so that worker processes can import them.
"""

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import CUI
from icltheory.symbols import d, noise_var
from numeric.claims import runner
from numeric.claims.base import EFFORTS, Claim, Part
from numeric.claims.runner import Event, Outcome, Run, load_claims, run
from numeric.compare import Comparison, compare
from numeric.plot import Figure, Series

EFFORT = replace(EFFORTS["quick"], prompts=100)
FIGURE = Figure("A curve", "n", "risk", "Caption.", (Series("line", (1.0, 2.0), (2.0, 1.0)),), ())
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)


def parts(estimate=1.0, error=0.001):
    rows = [compare({"n": n}, 1.0, estimate, error) for n in (10, 20)]
    return (Part("simulation", Comparison.from_rows(rows)),)


# -- experiments; `folder` counts the calls through files ------------------------------------------


def count(folder, name):
    Path(folder, f"{name}-{time.time_ns()}").touch()


def calls(folder, name):
    return len(list(Path(folder).glob(f"{name}-*")))


def agreeing(folder, name, effort, progress):
    count(folder, name)
    progress("half way", 0.5)
    return parts(), replace(FIGURE, title=name)


def deviating(folder, name, effort, progress):
    return parts(estimate=1.2), FIGURE


def blurred(folder, name, effort, progress):
    return parts(error=0.1), FIGURE


def raising(folder, name, effort, progress):
    raise ValueError("no such\nluck")


def refusing(folder, name, effort, progress):
    raise OutOfDomain("t = 0.6 is too large")


def interrupting(folder, name, effort, progress):
    if Path(folder, "go on").exists():
        return parts(), FIGURE
    raise KeyboardInterrupt


def dying(folder, name, effort, progress):
    os._exit(1)


def threads(folder, name, effort, progress):
    progress(os.environ.get("OMP_NUM_THREADS", "none"), 0.5)
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    return parts(), FIGURE


def sleeping(folder, name, effort, progress):
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    progress("asleep", 0.1)
    time.sleep(120)
    return parts(), FIGURE


def fake(name, experiment, folder, paper="fake"):
    return Claim(
        name,
        paper,
        f"Title of {name}",
        "A statement <in words>.",
        CUI.at("a theorem"),
        lambda: (icl.loss_constant(GENERAL, icl.SoftmaxAttention(heads=1)),),
        partial(experiment, str(folder), name),
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def stored(out, name):
    return out / "claims" / f"{name}.{EFFORT.name}.json"


# -- finished claims -------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_gives_the_same(tmp_path, out):
    claims = [fake(name, agreeing, tmp_path) for name in ("a", "b")]
    first = run(claims, EFFORT, out, jobs=1)
    assert list(first.outcomes) == ["a", "b"]
    assert first.passed
    assert not first.outcomes["a"].reused
    second = run(claims, EFFORT, out, jobs=1)
    assert second.outcomes["a"].reused
    assert second.outcomes["a"].result == first.outcomes["a"].result
    assert calls(tmp_path, "a") == calls(tmp_path, "b") == 1
    run(claims, EFFORT, out, jobs=1, fresh=True)
    assert calls(tmp_path, "a") == 2


@pytest.mark.parametrize("changed", ["effort", "version", "_code"])
def test_another_effort_version_or_code_is_computed_again(tmp_path, out, monkeypatch, changed):
    claim, effort, events = fake("a", agreeing, tmp_path), EFFORT, []
    run([claim], effort, out)
    if changed == "effort":
        effort = replace(effort, prompts=200)
    else:
        monkeypatch.setattr(f"numeric.claims.runner.{changed}", lambda *name: "9.9")
    run([claim], effort, out, report=events.append)
    assert calls(tmp_path, "a") == 2
    assert "made by other code" in events[0].what
    assert run([claim], effort, out).outcomes["a"].reused


def test_efforts_do_not_overwrite_each_other(tmp_path, out):
    claim, other = fake("a", agreeing, tmp_path), replace(EFFORT, name="other")
    for effort in (EFFORT, other, EFFORT):
        run([claim], effort, out)
    assert calls(tmp_path, "a") == 2
    kept = runner.stored([claim, fake("b", agreeing, tmp_path)], other, out)
    assert list(kept) == ["a"]
    assert kept["a"].reused


def test_the_code_digest_follows_the_source():
    assert len(runner._code()) == 64


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"fingerprint": 1}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_computed_again_with_a_notice(tmp_path, out, content):
    claim, events = fake("a", agreeing, tmp_path), []
    stored(out, "a").parent.mkdir(parents=True)
    stored(out, "a").write_bytes(content)
    outcome = run([claim], EFFORT, out, report=events.append).outcomes["a"]
    assert outcome.verdict == "confirmed"
    assert not outcome.reused
    assert events[0].fraction is None
    assert "computed again" in events[0].what
    assert run([claim], EFFORT, out).outcomes["a"].reused


@pytest.mark.parametrize("change", ["foreign", "no parts", "text for a number"])
def test_a_foreign_result_is_computed_again(tmp_path, out, change):
    claim = fake("a", agreeing, tmp_path)
    run([claim], EFFORT, out)
    record = json.loads(stored(out, "a").read_text())
    if change == "foreign":
        record["result"]["claim"] = "b"
    elif change == "no parts":
        del record["result"]["parts"]
    else:
        record["result"]["parts"][0]["rows"][0]["prediction"] = "__import__('os')"
    stored(out, "a").write_text(json.dumps(record))
    assert not run([claim], EFFORT, out).outcomes["a"].reused


def test_numbers_without_a_value_survive_the_file(tmp_path, out):
    nan = float("nan")
    result = run([fake("a", agreeing, tmp_path)], EFFORT, out).outcomes["a"].result
    rows = Comparison.from_rows([compare({"n": 1}, 1.0, nan, None), *result.parts[0].comparison])
    changed = replace(result, parts=(Part("with a gap", rows),))
    assert repr(type(changed).from_dict(json.loads(json.dumps(changed.to_dict())))) == repr(changed)


# -- verdicts and failures -------------------------------------------------------------------------


def test_verdicts(tmp_path, out):
    kinds = {
        "a": (agreeing, "confirmed", (2, 2)),
        "b": (deviating, "refuted", (0, 2)),
        "c": (blurred, "undecided", (0, 2)),
        "d": (raising, "error", (0, 0)),
        "e": (refusing, "error", (0, 0)),
    }
    claims = [fake(name, kind[0], tmp_path) for name, kind in kinds.items()]
    result = run(claims, EFFORT, out, jobs=1)
    assert {k: o.verdict for k, o in result.outcomes.items()} == {k: v[1] for k, v in kinds.items()}
    assert {k: o.agreeing for k, o in result.outcomes.items()} == {
        k: v[2] for k, v in kinds.items()
    }
    assert result.outcomes["d"].error == "ValueError: no such\nluck"
    assert result.outcomes["e"].error == "t = 0.6 is too large"
    assert "raising" in result.outcomes["d"].details
    assert not result.passed
    assert not stored(out, "d").exists()
    assert not Run({}).passed
    assert Outcome("x").verdict == "not run"


def test_an_experiment_that_returns_nonsense_is_an_error(tmp_path, out):
    claim = replace(fake("a", agreeing, tmp_path), experiment=lambda effort, progress: 3)
    assert run([claim], EFFORT, out).outcomes["a"].error.startswith("TypeError")


def test_ctrl_c_keeps_what_is_finished(tmp_path, out):
    claims = [
        fake("a", agreeing, tmp_path),
        fake("b", interrupting, tmp_path),
        fake("c", agreeing, tmp_path),
    ]
    stopped = run(claims, EFFORT, out, jobs=1)
    assert stopped.interrupted
    assert [o.verdict for o in stopped.outcomes.values()] == ["confirmed", "not run", "not run"]
    assert stored(out, "a").exists()
    Path(tmp_path, "go on").touch()
    resumed = run(claims, EFFORT, out, jobs=1)
    assert resumed.passed
    assert not resumed.interrupted
    assert calls(tmp_path, "a") == 1


def test_events_tell_progress_and_outcome_in_order(tmp_path, out):
    events = []
    run([fake("a", agreeing, tmp_path)], EFFORT, out, report=events.append)
    assert [(e.what, e.fraction) for e in events] == [
        ("starting", 0.0),
        ("half way", 0.5),
        ("confirmed", None),
    ]
    assert isinstance(events[-1], Event)
    assert events[-1].outcome.claim == "a"


@pytest.mark.parametrize("place", ["out", "claims"])
def test_a_file_in_the_place_of_the_folder_is_refused_first(tmp_path, out, place):
    path = out if place == "out" else out / "claims"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(InvalidInput, match="give another folder"):
        run([fake("a", agreeing, tmp_path)], EFFORT, out)
    assert calls(tmp_path, "a") == 0


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2"])
def test_senseless_numbers_of_jobs_are_refused(tmp_path, out, jobs):
    with pytest.raises(InvalidInput, match="jobs"):
        run([fake("a", agreeing, tmp_path)], EFFORT, out, jobs=jobs)


# -- worker processes ------------------------------------------------------------------------------


def test_workers_compute_report_and_leave_the_environment_alone(tmp_path, out):
    claims = [
        fake("a", threads, tmp_path),
        fake("b", raising, tmp_path),
        fake("c", threads, tmp_path),
    ]
    events, before = [], dict(os.environ)
    result = run(claims, EFFORT, out, jobs=2, report=events.append)
    assert [o.verdict for o in result.outcomes.values()] == ["confirmed", "error", "confirmed"]
    assert result.outcomes["b"].error == "ValueError: no such\nluck"
    assert "raising" in result.outcomes["b"].details
    assert Event("a", "1", 0.5) in events
    assert dict(os.environ) == before
    assert (tmp_path / "a.pid").read_text() != str(os.getpid())
    # The result that went through a process is the one that was stored.
    again = run(claims[:1], EFFORT, out)
    assert again.outcomes["a"].result == result.outcomes["a"].result


def test_a_worker_that_dies_is_an_error_and_not_a_crash(tmp_path, out):
    claims = [fake("a", dying, tmp_path), fake("b", dying, tmp_path)]
    result = run(claims, EFFORT, out, jobs=2)
    assert {o.verdict for o in result.outcomes.values()} == {"error"}
    assert "fewer jobs" in result.outcomes["a"].error


def test_an_experiment_that_cannot_be_sent_is_an_error(tmp_path, out):
    local = replace(fake("a", agreeing, tmp_path), experiment=lambda effort, progress: None)
    result = run([local, fake("b", agreeing, tmp_path)], EFFORT, out, jobs=2)
    assert [o.verdict for o in result.outcomes.values()] == ["error", "confirmed"]


def test_the_toolkit_s_claims_load_with_unique_ids():
    claims = load_claims()
    assert len(claims) >= 5
    assert all(claim.id == name for name, claim in claims.items())
    assert {claim.paper for claim in claims.values()} >= {"multihead"}
