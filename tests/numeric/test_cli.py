"""The command line: outputs, exit statuses, and refusals in one line."""

import argparse
import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import test_runner as fakes

import icltheory as icl
import numeric
from numeric import cli
from numeric.claims import runner
from numeric.display import Display
from numeric.text_numbers import arithmetic, prompt_lengths


def refusal(capsys, *argv):
    """The message of a refused command line: one line on stderr, nothing else, status 2."""
    assert cli.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("icltheory: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def output(capsys, *argv, status=0):
    assert cli.main(list(argv)) == status
    return capsys.readouterr().out


# -- the command as a whole ------------------------------------------------------------------------


def test_version_and_help(capsys):
    assert output(capsys, "--version") == "icltheory 0.1.0\n"
    for command in ("reproduce", "derive", "predict", "validate"):
        assert command in output(capsys, "--help")
        assert f"icltheory {command}" in output(capsys, command, "--help")
    assert output(capsys) == output(capsys, "--help")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["derive", "--heads", "2"], "list the names with icltheory derive --list"),
        (["derive", "nothing"], "formula nothing; icltheory derive --list shows all names."),
        (["derive", "loss-constant", "--list"], "list the names with icltheory derive --list"),
        (["derive", "loss-constant", "--scores", "1/2", "--values", "1"], "not consistent"),
        (["derive", "late-decay", "--steps", "0"], "pass a positive number of steps"),
        (["derive", "loss-constant", "--dim", "x"], "'x' is not a positive integer; pass one, or the word d"),
        (["derive", "loss-constant", "--noise-var", "a"], "or the word noise_var"),
        (["derive", "loss-constant", "--noise-var", "1/0"], "'1/0' is not a number"),
        (["derive", "loss-constant", "--noise-var", "1e999999999"], "is not a number"),
        (["derive", "loss-constant", "--noise-var", "-1"], "negative"),
        (["derive", "loss-constant", "--noise-var", "exit()"], "is not a number"),
        (["derive", "loss-constant", "--heads", "3"], "no canonical family"),
        (["derive", "finite-prompt-risk", "--heads", "1"], "icltheory predict computes it"),
        (["derive", "multihead-gain", "--heads", "2"], "--heads says nothing about multihead-gain"),
        (["derive", "multihead-gain", "--attention", "linear"], "--attention says nothing about multihead"),
        (["derive", "consistency", "--attention", "linear"], "--attention says nothing about consistency"),
        (["derive", "approximation-error", "--attention", "linear"], "--attention says nothing"),
        (["derive", "loss-constant", "--attention", "cubic"], "'cubic' is not one of softmax, linear"),
        (["derive", "loss-constant", "--scores", "k;1"], "'k;1' is not a number"),
        (["derive", "loss-constant", "--scores", "exit()", "--values", "1"], "'exit()' is not a number"),
        (["derive", "loss-constant", "--heads", "2", "--scores", "1"], "1 scores for 2 heads"),
        (["derive", "loss-constant", "--values", "1"], "--values says nothing about loss-constant"),
        (["derive", "pair-scale", "--local", "1,1"], "--local says nothing about pair-scale"),
        (["derive", "pair-scale", "--order", "3"], "--order says nothing about pair-scale"),
        (["derive", "pair-scale", "--skip"], "--skip says nothing about pair-scale"),
        (["derive", "pair-slope", "--include-query"], "--include-query says nothing about pair-slope"),
        (["derive", "pair-slope", "--heads", "1"], "no pair of opposite heads"),
        (["derive", "pair-constant", "--family", "cubic"], "'cubic' is not one of symmetric, one-sided"),
        (["derive", "prior-crossing"], "prior-crossing needs --dim, for example"),
        (["derive", "loss-constant", "--prior-norm", "1"], "needs a number for --dim"),
        (["derive", "prior-crossing", "--dim", "3", "--prior-norm=-1"], "a squared norm is not"),
        (["derive", "prior-crossing", "--dim", "3", "--prior-var", "0"], "coef_cov is zero"),
        (["derive", "prior-crossing", "--dim", "3", "--prior-var", "w"], "or the word prior_var"),
        (["derive", "local-constant", "--local", "1"], "must be a pair"),
        (["derive", "local-constant", "--local", "rho,0"], "tau"),
        (["derive", "local-constant", "--local", "a,b"], "or the word rho or local_std"),
        (["derive", "width-constant", "--dim", "6"], "width-constant needs --width"),
        (["derive", "block-constant", "--dim", "6"], "block-constant needs --blocks, for example"),
        (["derive", "block-constant", "--dim", "6", "--blocks", "3,2"], "5 dimensions, the task has 6"),
        (["derive", "product-bias", "--features", "normal"], "'normal' is not one of cumulants, uniform"),
        (["derive", "product-head-constant", "--features", "uniform"], "no 1/n law"),
        (["derive", "convention-table", "--latex"], "is a table of words"),
        (["derive", "convention-table", "--dim", "5"], "--dim says nothing about convention-table"),
        (["derive", "block-dimension-limit", "--python"], "that Python's math module lacks"),
        (["derive", "loss-constant", "--attention", "linear", "--heads", "2"], "linear attention"),
        (["derive", "consistency", "--python"], "is about matrices"),
        (["derive", "loss-constant", "--latex", "--text"], "not allowed with"),
        (["reproduce", "--jobs", "0"], "'0' is not a positive integer"),
        (["reproduce", "--paper", "unknown"], "there is no paper unknown; papers: multihead"),
        (["reproduce", "--claim", "unknown"], "claims: multihead-single-head, multihead-several"),
        (["predict", "--dims", "5", "--out", "c.csv"], "there is no option --dims; did you mean --dim"),
        (["reproduce", "--quik"], "did you mean --quick? (see icltheory reproduce --help)"),
        (["reproduce", "--claim", "multihead-prio"], "did you mean multihead-prior"),
        (["predict", "--dim", "5", "--out", "c.csv"], "one of the arguments --heads --linear"),
        (["predict", "--linear", "--dim", "5", "--out", "c.txt"], "does not end in one of .csv"),
        (["predict", "--linear", "--dim", "5", "--out", "none/c.csv"], "folder none does not exist"),
        (["predict", "--linear", "--dim", "5", "--lengths", "9:3:2", "--out", "c.csv"], "must rise"),
        (["predict", "--linear", "--dim", "5", "--lengths", "9:3", "--out", "c.csv"], "FIRST:LAST"),
        (["predict", "--linear", "--dim", "5", "--lengths", "1,,2", "--out", "c.csv"], "''"),
        (["predict", "--heads", "1", "--dim", "5", "--score-scale", "1", "--out", "c.csv"], "together"),
        (["predict", "--heads", "1", "--dim", "5", "--value-scale", "1", "--out", "c.csv"], "together"),
        (["validate", "no.pt", "--dim", "5", "--lengths", "20"], "no.pt"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_that_names_what_is_right(
    capsys, tmp_path, monkeypatch, argv, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *argv)
    assert not list(tmp_path.iterdir())


def command(*argv, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *argv], text=True, env=environment, stderr=subprocess.PIPE, **options
    )


def test_a_closed_pipe_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    process = command("-m", "numeric.cli", "derive", "loss-constant", stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_help_does_not_wait_for_torch_or_matplotlib():
    code = (
        "import sys; from numeric import cli; cli.main(['--help']); "
        "print(sorted({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    process = command("-c", code, stdout=subprocess.PIPE)
    assert process.communicate()[0].endswith("[]\n")


# -- predict ---------------------------------------------------------------------------------------


def table(path):
    with path.open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["prompt_length", "risk", "score_scale", "value_scale"]
    return np.array(rows[1:], dtype=float).T


def test_predict_writes_the_optimal_curve(capsys, tmp_path):
    path = tmp_path / "curve.csv"
    shown = output(
        capsys, "predict", "--heads", "1", "--dim", "5", "--lengths", "20,40", "--out", str(path)
    )
    assert str(path) in shown
    lengths, risk, score, value = table(path)
    best = numeric.optimal_risk(
        icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1), [20, 40]
    )
    assert lengths.tolist() == [20, 40]
    assert risk.tolist() == best.risk.tolist()
    assert (1.03 * risk).tolist() != best.risk.tolist()
    assert (score.tolist(), value.tolist()) == (
        best.score_scale.tolist(),
        best.value_scale.tolist(),
    )


@pytest.mark.parametrize(
    ("options", "attention", "scales", "columns"),
    [
        (["--heads=1", "--score-scale=1/2", "--value-scale=1.5"], icl.SoftmaxAttention(heads=1),
         {"score_scale": 0.5, "value_scale": 1.5}, (0.5, 1.5)),
        (["--heads=2", "--value-scale=.8"], icl.SoftmaxAttention(heads=2),
         {"value_scale": 0.8}, (0.0, 0.8)),
        (["--linear", "--value-scale=.8"], icl.LinearAttention(),
         {"value_scale": 0.8}, (np.nan, 0.8)),
    ],
)  # fmt: skip
def test_predict_at_given_parameters(capsys, tmp_path, options, attention, scales, columns):
    path = tmp_path / "curve.csv"
    options = [*options, "--dim=3", "--noise-var=0.25", "--lengths=10:1000:5"]
    output(capsys, "predict", *options, "--out", str(path))
    lengths, risk, score, value = table(path)
    assert lengths.tolist() == [10, 32, 100, 316, 1000]
    task = icl.LinearRegression(dim=3, noise_var=0.25)
    assert risk.tolist() == numeric.exact_risk(task, attention, lengths, **scales).tolist()
    np.testing.assert_equal((score[0], value[0]), columns)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_predict_draws(capsys, tmp_path, suffix):
    path = tmp_path / f"curve.{suffix}"
    output(capsys, "predict", "--heads", "2", "--dim", "5", "--out", str(path))
    assert path.stat().st_size > 5_000


@pytest.mark.parametrize(
    ("heads", "label"),
    [(1, "one softmax head"), (2, "a pair of opposite"), (4, "a pair of opposite")],
)
def test_predict_says_what_it_plots(capsys, tmp_path, monkeypatch, heads, label):
    curves = []
    monkeypatch.setattr("numeric.plot.save", lambda figure, path: curves.append(figure))
    path = str(tmp_path / "c.svg")
    shown = output(capsys, "predict", f"--heads={heads}", "--dim=5", "--lengths=20", "--out", path)
    assert curves[0].lines[0].label.startswith(label)
    assert ("numeric.optimal_heads" in shown) == (heads > 2)
    pair = numeric.optimal_risk(
        icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=min(heads, 2)), 20
    )
    assert curves[0].lines[0].y[0] == pair.risk


def test_lengths_are_rising_integers_without_repetition():
    lengths = prompt_lengths("1:50:64")
    assert lengths == sorted(set(lengths))
    assert (lengths[0], lengths[-1]) == (1, 50)
    assert prompt_lengths("7:7:3") == [7]


@pytest.mark.parametrize(
    "text",
    ["1/2k", "9^9^9", "((9^20)^20)", "1/0", "(-1)^(1/2)", "0^-1", "k^k", "k.real", "k[0]", "(1", "1 2",
     "", "lambda: 1", "__import__('os')", "2^21", "1" * 41, "k" + "+k" * 90],
)  # fmt: skip
def test_arithmetic_refuses_what_is_no_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
        arithmetic(text, {"k": icl.symbols.k})


def test_arithmetic_has_the_usual_order(capsys):
    for text in ("-2^2", "8/2/2", "1-2-3", "1/3^2", "2*-3", "2**-2", "(1+2)(3)", "1.5e1/2"):
        python = text.replace("^", "**").replace(")(", ")*(")
        assert float(arithmetic(text, {})) == eval(python), text
    assert arithmetic("0.1+0.2", {}) == sp.Rational(3, 10)


# -- validate --------------------------------------------------------------------------------------


def test_validate_a_saved_model(capsys, tmp_path):
    import torch

    from numeric import finite

    model = finite.LinearAttention(dim=3)
    path = str(tmp_path / "model.pt")
    best = numeric.optimal_risk(icl.LinearRegression(dim=3), icl.LinearAttention(), 20)
    with torch.no_grad():
        model.A.copy_(float(best.value_scale) * torch.eye(3, dtype=model.A.dtype))
    finite.save(model, path)
    options = ["validate", path, "--dim", "3", "--lengths", "20", "--seed", "1"]
    assert "agrees" in output(capsys, *options)
    with torch.no_grad():
        model.A.mul_(1.5)
    finite.save(model, path)
    assert "deviates" in output(capsys, *options, status=1)
    assert "dim = 4, the model 3" in refusal(
        capsys, "validate", path, "--dim", "4", "--lengths", "20"
    )


# -- reproduce -------------------------------------------------------------------------------------


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Makes the command see the fake claims of {id: experiment}, and run in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def use(**kinds):
        made = {
            name: fakes.fake(name, kind, tmp_path, paper=f"paper-{name[0]}")
            for name, kind in kinds.items()
        }
        monkeypatch.setattr(runner, "load_claims", lambda: made)

    return use


def test_reproduce_prints_a_table_and_writes_the_report(capsys, claims):
    claims(alpha=fakes.agreeing, beta=fakes.agreeing)
    assert cli.main(["reproduce", "--quick", "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["claim", "verdict", "rows", "that", "agree", "time"]
    assert lines[1].split()[:5] == ["alpha", "confirmed", "2", "of", "2"]
    assert re.fullmatch(r"2 claims confirmed, 4 rows, in \d+ s", lines[-2])
    assert lines[-1] == "report: reproduction/report.html"
    assert "Title of alpha" in Path("reproduction/report.html").read_text()
    # Not a terminal: a line at the start, and one plain line a finished claim.
    assert captured.err.splitlines() == [
        "2 claims, usually 22 s",
        "alpha: confirmed, 2 of 2 rows, 0 s",
        "beta: confirmed, 2 of 2 rows, 0 s",
    ]
    assert "kept from before" in output(capsys, "reproduce", "--quick", "--jobs", "1")


def test_a_claim_that_fails_is_explained_and_sets_the_status(capsys, claims):
    claims(alpha=fakes.deviating, beta=fakes.raising, gamma=fakes.blurred)
    text = output(capsys, "reproduce", "--jobs", "1", status=1)
    assert "simulation: n = 10: 1.2 against 1 predicted, z = 200.0: deviates" in text
    assert "error: ValueError: no such luck" in text
    assert "the negative control (x 1.03) was not rejected" in text
    assert "1 claim refuted, 1 error, 1 undecided, " in text


def test_claims_and_papers_are_chosen(capsys, claims):
    claims(alpha=fakes.agreeing, beta=fakes.agreeing, gamma=fakes.agreeing)
    one_job = ["reproduce", "--jobs", "1"]
    text = output(capsys, *one_job, "--claim", "gamma", "--claim", "alpha")
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["alpha", "gamma"]
    assert "beta" not in text
    assert "beta" in output(capsys, *one_job, "--paper", "paper-b")
    message = refusal(capsys, "reproduce", "--paper", "paper-b", "--claim", "alpha")
    assert "the claim alpha belongs to paper paper-a; leave out --paper paper-b." in message
    message = refusal(capsys, "reproduce", "--paper", "paper-b", "--claim", "delta")
    assert "there is no claim delta; claims: beta." in message


def test_ctrl_c_reports_what_is_finished(capsys, claims):
    claims(alpha=fakes.agreeing, beta=fakes.interrupting)
    assert cli.main(["reproduce", "--jobs", "1"]) == 130
    captured = capsys.readouterr()
    assert "beta   not run" in captured.out
    assert "the same command goes on" in captured.err
    assert "Not computed yet." in Path("reproduction/report.html").read_text()
    Path("go on").touch()
    assert "beta   confirmed" in output(capsys, "reproduce", "--jobs", "1")


def test_a_file_in_the_place_of_the_results_is_refused(capsys, claims, tmp_path):
    claims(alpha=fakes.agreeing)
    Path("reproduction").write_text("in the way")
    assert "give another folder" in refusal(capsys, "reproduce")
    assert fakes.calls(tmp_path, "alpha") == 0


def test_the_terminal_shows_a_line_a_running_claim():
    class Terminal:
        text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    stream = Terminal()
    with Display(stream, dict.fromkeys(("alpha", "beta", "gamma", "delta"), 8.0), 2) as display:
        display.show(runner.Event("alpha", "training", 0.5))
        display.show(runner.Event("beta", "quadrature", 0.0))
        assert "alpha  [######......]  50%  0 s, about 0 s left  training\n" in stream.text
        assert "beta  [............]   0%  0 s  quadrature\n" in stream.text
        assert "0 of 4 claims finished  0 s, about 14 s left\n" in stream.text
        assert display.drawn == 3
        display.show(runner.Event("alpha", "", outcome=runner.Outcome("alpha", error="x")))
        assert "\x1b[3F\x1b[Jalpha: error\n" in stream.text
        assert "1 of 4 claims finished  0 s, about 11 s left\n" in stream.text
        assert display.drawn == 2
    assert stream.text.endswith("\x1b[2F\x1b[J")


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("numeric.display.time.monotonic", lambda: now[0])
    return now


def done(name, **options):
    return runner.Event(name, "", outcome=runner.Outcome(name, error="x", **options))


def left(display):
    return display._whole().partition("about ")[2]


def test_the_time_left_begins_with_what_claims_usually_take(clock):
    times = {"kept": 500.0, "alpha": 60.0, "beta": 300.0, "gamma": 240.0}
    display = Display(io.StringIO(), times, jobs=2)
    display.show(done("kept", reused=True))
    assert display._whole() == "1 of 4 claims finished  0 s, about 5 min 00 s left"
    display.show(runner.Event("alpha", "", 0.0))
    clock[0] = 60.0
    display.show(done("alpha"))
    display.show(runner.Event("beta", "", 0.5))
    display.show(runner.Event("gamma", "", 0.0))
    # 60 + 150 of 600 s are done in 60 s, at a pace of (210 + 2 * 60)/(60 + 60); gamma is the last.
    assert left(display) == "2 min 55 s left"


def test_the_time_left_follows_the_pace_of_the_machine(clock):
    times = dict.fromkeys(map(str, range(100)), 10.0)
    told = {}
    for seconds in (5.0, 20.0):  # a claim takes, where 10 are usual
        clock[0] = 0.0
        display = Display(io.StringIO(), times)
        for name in list(times)[:50]:
            clock[0] += seconds
            display.show(done(name))
        told[seconds] = left(display)
    assert told == {5.0: "4 min 37 s left", 20.0: "15 min 46 s left"}


def test_the_time_left_of_a_claim_runs_down_between_its_reports(clock):
    display = Display(io.StringIO(), {"alpha": 100.0})
    display.show(runner.Event("alpha", "training", 0.0))
    clock[0] = 10.0
    display.show(runner.Event("alpha", "training", 0.25))
    told = []
    for clock[0] in (10.0, 25.0, 50.0):
        told.append(display._claim(*display.running["alpha"]).partition("25%  ")[2])
    assert told == [
        "10 s, about 30 s left  training",
        "25 s, about 15 s left  training",
        "50 s  training",
    ]


def test_the_usual_times_cover_all_claims():
    from numeric.claim_times import _TIMES

    assert set(_TIMES) == set(runner.load_claims())


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_runner as fakes
from numeric import cli
from numeric.claims import runner

if __name__ == "__main__":
    kinds = dict(alpha=fakes.threads, beta=fakes.sleeping, gamma=fakes.sleeping)
    made = {{name: fakes.fake(name, kind, {out!r}) for name, kind in kinds.items()}}
    runner.load_claims = lambda: made
    sys.exit(cli.main(["reproduce", "--jobs", "2", "--out", {out!r}]))
"""


def test_ctrl_c_stops_the_workers_at_once_and_keeps_results(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), out=str(out)))
    process = command(str(script), stdout=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not ((out / "claims/alpha.full.json").exists() and (out / "gamma.pid").exists()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        # A terminal sends it to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        text, errors = process.communicate(timeout=30)
        assert time.monotonic() - start < 20
    finally:
        process.kill()
    assert process.returncode == 130
    assert "alpha  confirmed" in text
    assert "beta   not run" in text
    assert "Traceback" not in errors
    assert (out / "report.html").exists()
    for name in ("beta", "gamma"):
        pid = int((out / f"{name}.pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_claims_are_listed_with_their_usual_times(capsys):
    lines = output(capsys, "reproduce", "--list", "--paper", "solvers").splitlines()
    assert len(lines) == 9
    assert lines[0].split()[0] == "solvers-rates"
    assert all(re.search(r"\d (s|min)", line) for line in lines)


def test_a_single_length_is_drawn(monkeypatch, tmp_path):
    from numeric import plot

    kept = []
    monkeypatch.setattr(plot, "save", lambda figure, path: kept.append(plot.draw(figure)))
    command = ["predict", "--heads", "1", "--dim", "2", "--lengths", "20", "--out"]
    assert cli.main([*command, str(tmp_path / "one.png")]) == 0
    assert cli.main([*command[:6], "20,30", "--out", str(tmp_path / "two.png")]) == 0
    assert [axes.lines[0].get_marker() for axes in kept] == ["o", "None"]
