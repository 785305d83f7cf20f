"""Progress and Ctrl-C: one bar at a time, and a usable partial result of every kind of long work."""

import pickle

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric import finite, progress
from numeric.cli import INTERRUPTED, main
from numeric.progress import Interrupted, partial_result, progress_bar, silent

TASK = icl.LinearRegression(dim=3)
HEAD = icl.SoftmaxAttention(heads=1)
CHAIN = icl.NoisyDecoding(0.5, 0.5, 3)


def stop_at(monkeypatch, call):
    """Ctrl-C as soon as `call` pieces of work are counted."""
    update, counted = progress._Count.update, [0]

    def counting(self, n=1):
        update(self, n)
        counted[0] += 1
        if counted[0] == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress._Count, "update", counting)


def interrupted(monkeypatch, call, function, *arguments, **options):
    with monkeypatch.context() as patch:
        stop_at(patch, call)
        with pytest.raises(Interrupted) as caught:
            function(*arguments, **options)
    assert partial_result() is caught.value.partial
    return caught.value


# -- bars ----------------------------------------------------------------------------------------


def test_only_the_outermost_bar_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(2, 0, None) as outer:
        assert not outer.disable
        with progress_bar(2, 0, None) as bar:
            assert bar.disable
        with progress_bar(2, 0, True) as bar:  # asked for
            assert not bar.disable
    with silent(), progress_bar(2, 0, None) as bar:
        assert bar.disable
    assert not progress._open


def test_an_inner_bar_moves_the_one_around_it():
    with progress_bar(4, 0, False, inner=True) as outer:
        for _ in range(2):
            with progress_bar(2, 0, None) as bar:
                bar.update(2)
        assert outer.n == 4
    with progress_bar(4, 0, False) as outer, progress_bar(2, 0, None) as bar:
        bar.update(2)
        assert outer.n == 0


def test_a_bar_that_goes_leaves_nothing_open():
    with pytest.raises(ValueError, match="x"), progress_bar(1, 0, None):
        raise ValueError("x")
    with pytest.raises(KeyboardInterrupt) as caught, progress_bar(1, 0, None):
        raise KeyboardInterrupt
    assert type(caught.value) is KeyboardInterrupt  # no partial result was offered
    assert not progress._open


def test_the_notice_says_what_was_done():
    stop = Interrupted("sampling", 300, 1000, 0.5)
    assert str(stop) == (
        "sampling: stopped after 300 of 1000; numeric.partial_result() is the result so far."
    )
    assert "nothing was finished" in str(Interrupted("sampling", 0, 1000))
    again = pickle.loads(pickle.dumps(stop))
    assert (again.partial, str(again)) == (0.5, str(stop))


# -- sampling ------------------------------------------------------------------------------------


def risk(prompts, task=TASK):
    options = {"score_scale": 0.3, "value_scale": 2, "batch": 1000, "seed": 5}
    return numeric.monte_carlo_risk(task, HEAD, 10, prompts=prompts, **options)


def test_a_stopped_estimate_is_that_of_fewer_prompts(monkeypatch):
    stop = interrupted(monkeypatch, 3, risk, 10_000)
    assert stop.partial == risk(3000)
    assert (stop.done, stop.total) == (3000, 10_000)
    assert stop.partial.standard_error > 0


def test_nothing_is_left_where_nothing_was_finished(monkeypatch):
    def raising(seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(np.random, "default_rng", raising)
    with pytest.raises(Interrupted, match="nothing was finished") as caught:
        risk(10_000)
    assert caught.value.partial is None
    assert partial_result() is None


def zero(X, y, query):
    return np.zeros(len(X))


def test_a_stopped_validation_keeps_the_rows_of_what_was_measured(monkeypatch):
    size = 2**25 // (8 * 8_000)  # small batches are not an option of validate; long prompts are

    def check(lengths):
        return numeric.validate(zero, TASK, lengths, HEAD, prompts=3 * size)

    stop = interrupted(monkeypatch, 2, check, [1000, 2000])
    # Updates count twice, for the length and for the whole.
    assert [row.setting["prompt_length"] for row in stop.partial] == [1000]
    assert stop.partial.rows[0].standard_error > check([1000]).rows[0].standard_error
    assert stop.total == 6 * size


@pytest.mark.parametrize(
    "function",
    [
        lambda: numeric.simulate_chains(CHAIN, 100, 50, prompts=3000, chains=2).risk(),
        lambda: numeric.simulate_selection(DATA, CHAIN, [1, 512]).risk("mean"),
        lambda: numeric.simulate_stepwise(DATA, CHAIN, 512),
        lambda: numeric.simulate_softmax_mean(DATA, CHAIN, 512, 0.5),
        lambda: (
            numeric.simulate_binary_decoding(
                icl.NoisyDecoding(0.5, 0, 2), icl.Signs(), 100, 50, prompts=3000
            ).greedy_bit
        ),
        lambda: numeric.simulate_exhaustive_search(icl.Signs(), 3, 6, 0.1, prompts=100),
    ],
)
def test_stopped_simulations_keep_whole_prompts(monkeypatch, function):
    whole = function()
    # The partial result has the same methods; the lambdas take their average from it.
    kept = interrupted(monkeypatch, 3, function).partial
    average = kept
    if isinstance(kept, numeric.ChainSimulation):
        average = kept.risk()
    elif isinstance(kept, numeric.SelectionSimulation):
        average = kept.risk("mean")
    elif isinstance(kept, numeric.BinarySimulation):
        average = kept.greedy_bit
    assert 2 <= average.prompts < whole.prompts
    assert np.array_equal(average.values, whole.values[: average.prompts])
    assert np.all(np.isfinite(average.standard_error))


DATA = numeric.decoding_prompts(20, 10, 400, seed=1)


def test_stopped_feedback_keeps_whole_prompts(monkeypatch):
    def run():
        return numeric.simulate_feedback(icl.Bits(), icl.Probit(0.1), 400, 200, 3, prompts=30)

    whole, kept = run(), interrupted(monkeypatch, 2, run).partial
    assert 2 <= kept.error.prompts < 30
    for name in ("error", "recovered"):
        values = getattr(whole, name).values
        assert np.array_equal(getattr(kept, name).values, values[: kept.error.prompts])


def test_a_stopped_confirmation_says_what_it_did_not_reach(monkeypatch):
    plan = numeric.plan(20, 10, 16, noise_std=0.3)
    whole = plan.confirm(200)
    # Two updates for the prompts, then two a technique.
    kept = interrupted(monkeypatch, 7, plan.confirm, 200).partial
    assert kept.rows == whole.rows[:2]
    assert kept.left == tuple(x.technique for x in plan.ranked[2:])
    assert f"interrupted before {plan.ranked[2].technique}" in str(kept)
    assert "interrupted" not in str(whole)
    signs = numeric.plan(300, 100, 4, noise_std=0, prior=icl.Signs(), criterion="coordinate")
    half = interrupted(monkeypatch, 2, signs.confirm, 60).partial
    assert 2 <= half.prompts < 60
    assert [row.choice for row in half.rows] == list(signs.ranked)


def test_stopped_four_heads_keep_the_lengths_that_are_done(monkeypatch):
    task, heads = icl.LinearRegression(dim=1), icl.SoftmaxAttention(heads=4)
    kept = interrupted(monkeypatch, 1, numeric.optimal_heads, task, heads, [6, 12]).partial
    assert kept.prompt_length.tolist() == [6]
    assert kept.risk[0] == numeric.optimal_heads(task, heads, 6).risk


def test_a_stopped_search_keeps_the_lengths_that_are_done(monkeypatch):
    best = (TASK, icl.SoftmaxAttention(heads=2))
    kept = interrupted(monkeypatch, 2, numeric.optimal_risk, *best, [20, 5, 9, 5]).partial
    whole = numeric.optimal_risk(*best, [5, 9])
    for name in ("prompt_length", "risk", "score_scale", "value_scale"):
        assert getattr(kept, name).tolist() == getattr(whole, name).tolist()


def test_a_stopped_map_keeps_the_tasks_that_are_done(monkeypatch):
    tasks = [
        icl.LinearRegression(dim=2, coef_mean=mean, noise_var=0.1)
        for mean in (None, [1, 0], [2, 0])
    ]
    heads = {"one": HEAD, "two": icl.SoftmaxAttention(heads=2)}
    kept = interrupted(
        monkeypatch, 1, numeric.architecture_map, tasks, [5, 9], [0, 1, 2], "mean", heads
    ).partial
    assert kept.names == ("one", "two")  # no prior mean so far
    assert kept.risk.shape == (2, 1, 2)
    assert kept.values.tolist() == [0]
    assert kept.best.shape == (1, 2)
    whole = numeric.architecture_map(tasks, [5, 9], [0, 1, 2], "mean", heads)
    assert np.array_equal(whole.risk[:2, :1], kept.risk)
    assert whole.names[2] == "prior alone"
    assert "one, two" in repr(kept)


def test_stopped_solvers_keep_whole_prompts(monkeypatch):
    monkeypatch.setattr("numeric.solvers._CHUNK", 8 * 11 * 4 * 3 * 2)  # two prompts at a time
    data = numeric.solver_prompts(3, 10, 7)
    arguments = (data.features, data.labels, icl.GradientDescent(0.01), range(4))
    # One update for the decompositions, which are counted twice, for themselves and for the whole.
    kept = interrupted(monkeypatch, 4, numeric.run_solvers, *arguments).partial
    whole = numeric.run_solvers(*arguments)
    assert kept.weights.shape == (4, 11, 4, 3)
    assert np.array_equal(kept.weights, whole.weights[:4])
    assert np.array_equal(kept.spectra.values, whole.spectra.values[:4])
    assert kept.risk(data.coefficients[:4]).value.shape == (11, 4)
    errors = interrupted(monkeypatch, 3, numeric.solver_errors, *arguments).partial
    assert np.array_equal(errors.errors, numeric.solver_errors(*arguments).errors[:2])
    early = interrupted(monkeypatch, 1, numeric.run_solvers, *arguments)
    assert early.partial is None
    assert early.total == 14


def test_decompositions_in_pieces_are_those_at_once(monkeypatch):
    data = numeric.solver_prompts(3, 10, 7)
    whole = numeric.prompt_spectra(data.features, data.labels)
    monkeypatch.setattr("numeric.eigenbasis._CHUNK", 8 * 11 * 9 * 2)
    parts = numeric.prompt_spectra(data.features, data.labels)
    for name in ("values", "vectors", "moments"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    kept = interrupted(monkeypatch, 2, numeric.prompt_spectra, data.features, data.labels).partial
    assert np.array_equal(kept.moments, whole.moments[:4])


def test_a_stopped_similarity_is_that_of_fewer_prefixes(monkeypatch):
    descent = icl.GradientDescent(0.01)

    def similarity(points):
        return numeric.expected_similarity_of_weights(
            descent, 5, descent, [7, 9], points=points, d=3, samples=30
        )

    kept, short = interrupted(monkeypatch, 4, similarity, 9).partial, similarity(4)
    assert np.array_equal(kept.value, short.value)
    assert np.array_equal(kept.error, short.error)


def test_stopped_prompts_are_the_first_ones(monkeypatch):
    monkeypatch.setattr("numeric.chain_prompts._BLOCK", 8 * 20 * 10 * 3)
    whole = numeric.decoding_prompts(20, 10, 10, seed=1)
    kept = interrupted(monkeypatch, 2, numeric.decoding_prompts, 20, 10, 10, seed=1).partial
    assert len(kept) == 6
    assert np.array_equal(kept.eigenvalues, whole[:6].eigenvalues)


def test_a_stopped_figure_keeps_lines_and_finished_points(monkeypatch):
    options = {"samples": [1, 8], "prompts": 3000}
    chain = icl.NoisyDecoding(0.5, 0.5, 3)
    whole = numeric.risk_against_thoughts(chain, 100, 50, **options)
    kept = interrupted(monkeypatch, 1, numeric.risk_against_thoughts, chain, 100, 50, **options)
    assert 2 <= kept.done < kept.total == 3000
    assert kept.partial.lines == whole.lines
    assert len(kept.partial.points) == 2
    assert f"simulated on {kept.done} prompts" in kept.partial.caption
    plan = numeric.plan(20, 10, 16, noise_std=0.3)
    stop = interrupted(monkeypatch, 1, numeric.risk_against_compute, plan, prompts=50)
    assert stop.partial.points == ()
    assert len(stop.partial.lines) == len(numeric.risk_against_compute(plan, budgets=()).lines)


def test_a_stopped_audit_says_so(monkeypatch):
    stop = interrupted(monkeypatch, 1, numeric.audit_table, "newton-neighbours", prompts=100)
    assert (stop.partial, stop.what) == (None, "audit newton-neighbours")


def test_stopped_random_plans_keep_the_finished_ones(monkeypatch):
    from numeric import planner_trials

    calls = []

    def once(**setting):
        if calls:
            raise KeyboardInterrupt
        calls.append(setting)
        return numeric.plan(20, 10, 8, noise_std=0.3)

    monkeypatch.setattr(planner_trials, "plan", once)
    with pytest.raises(Interrupted) as caught:
        numeric.confirm_random_plans(3, prompts=50)
    assert [held.prompts for _, held in caught.value.partial] == [50]


def test_a_stopped_sample_of_outputs_is_that_of_fewer_prompts(monkeypatch):
    law = icl.Rademacher(dim=1)

    def sample(prompts):
        return numeric.simulate_output(law, [0.7], 2000, prompts)

    stop = interrupted(monkeypatch, 1, sample, 4000)
    assert stop.partial.prompts == stop.done < 4000
    assert np.array_equal(stop.partial.mean, sample(stop.done).mean)


# -- training ------------------------------------------------------------------------------------

FEW = {"prompt_length": 8, "steps": 20, "batch_size": 8}


def test_a_stopped_training_keeps_history_and_weights(monkeypatch, tmp_path):
    model, file = finite.SoftmaxAttention(3, seed=1), tmp_path / "run.pt"
    stop = interrupted(monkeypatch, 7, finite.train, model, TASK, **FEW, checkpoint=file)
    run = stop.partial
    assert run.model is model
    assert len(run.loss) == 7
    whole = finite.train(finite.SoftmaxAttention(3, seed=1), TASK, **FEW)
    assert np.array_equal(run.loss, whole.loss[:7])
    resumed = finite.train(finite.load(file), TASK, **FEW, checkpoint=file)
    assert np.array_equal(resumed.loss, whole.loss)
    assert "7 steps" in str(run)


def test_a_stopped_training_of_many_keeps_their_histories(monkeypatch):
    models = [finite.SoftmaxAttention(3, seed=s) for s in range(2)]
    start = models[0].state_dict()["A"].clone()
    stop = interrupted(monkeypatch, 5, finite.train_many, models, [(TASK, 8)] * 2, steps=20)
    assert sorted(stop.partial) == [0, 1]
    assert [len(run.loss) for run in stop.partial.values()] == [5, 5]
    assert not np.array_equal(models[0].state_dict()["A"], start)


# -- the command line ----------------------------------------------------------------------------


def test_the_command_prints_what_was_measured(monkeypatch, tmp_path, capsys):
    file = tmp_path / "model.pt"
    finite.save(finite.LinearAttention(3), file)
    command = ["validate", str(file), "--dim", "3", "--lengths", "1000,2000", "--prompts", "3000"]
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert main(command) == INTERRUPTED
    captured = capsys.readouterr()
    assert "1000" in captured.out
    assert "prediction" in captured.out
    assert "Stopped" in captured.err


def test_the_bar_of_a_notebook_is_one_output_that_is_empty_in_the_end(monkeypatch, capsys):
    import IPython.display

    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    with progress._NotebookBar(total=2, desc="work", leave=False, mininterval=0) as bar:
        bar.update()
    assert "work:" in shown[0]
    assert any("1/2" in text for text in shown)
    assert shown[-1] == ""
    assert capsys.readouterr() == ("", "")
