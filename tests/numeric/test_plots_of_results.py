"""Every result that can be drawn has `plot(ax)`: given axes are used, and nothing is left in pyplot."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput
from numeric.online import ForgettingCurve
from numeric.plot_style import sheet
from numeric.report_overview import _counted
from numeric.sweep import Point, Sweep
from numeric.table_figures import sweep_figure

N = (10, 20, 40)


def sweep_of(function, **other):
    settings = [{"n": n, "k": k} for k in (1, 2) for n in N]
    points = [Point(i, s, 0, function(**s), **other) for i, s in enumerate(settings)]
    return Sweep(tuple(points))


def flow():
    task = icl.LinearRegression(dim=1)
    descent = icl.gradient_flow(task)
    return numeric.integrate(descent, initial={"A": [[0.1]], "b": 0.1}, times=[0, 1, 2, 5])


RESULTS = {
    "comparison": lambda: numeric.Comparison.from_rows(
        [numeric.compare({"n": n}, 1 / n, 1 / n, 0.1 / n) for n in N]
    ),
    "sweep": lambda: sweep_of(lambda n, k: {"risk": k / n}),
    "sweep of comparisons": lambda: sweep_of(
        lambda n, k: {"prediction": k / n, "estimate": k / n, "standard_error": 0.01}
    ),
    "plan": lambda: numeric.plan(20, 10, 16, noise_std=0.3, techniques=["one chain", "mean of N"]),
    "flow": flow,
    "forgetting": lambda: ForgettingCurve(np.array([0.3, 0.2, 0.1]), np.full(3, 0.01)),
    "columns": lambda: ForgettingCurve(np.array([[0.3, 0.2], [0.1, 0]]), np.full((2, 2), 0.01)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_plot_into_given_axes(name):
    before = plt.get_fignums()
    result = RESULTS[name]()
    (ax,) = sheet()
    assert result.plot(ax) is ax
    own = result.plot()
    assert own.figure is not ax.figure
    assert own.get_xlabel()
    assert own.get_ylabel()
    assert len(own.lines) >= 1
    assert plt.get_fignums() == before


def test_a_sweep_shows_one_result_over_one_setting():
    result = sweep_of(lambda n, k: {"risk": k / n, "seconds": 2.0 * n})
    ax = result.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("n", "risk")
    assert [tuple(c.lines[0].get_ydata()) for c in ax.containers] == [
        tuple(k / n for n in N) for k in (1, 2)
    ]
    assert [text.get_text() for text in ax.texts] == ["k = 1", "k = 2"]
    other = result.plot(x="k", y="seconds")
    assert [text.get_text() for text in other.texts] == [f"n = {n}" for n in N]
    for options, message in (
        ({"x": "m"}, r"setting 'm' is not a number in every row; .* \['n', 'k'\]"),
        ({"y": "loss"}, "result 'loss' is not a number in every row"),
        ({"x": "__import__('os')"}, "is not a number in every row"),
    ):
        with pytest.raises(InvalidInput, match=message):
            result.plot(**options)
    with pytest.raises(InvalidInput, match=r"ax = 'n' is no matplotlib axes; .* as x='n'"):
        result.plot("n")
    with pytest.raises(InvalidInput, match="no result is a number"):
        sweep_of(lambda n, k: {"name": "a"}).plot()
    with pytest.raises(InvalidInput, match="no point has a result yet"):
        Sweep((Point(0, {"n": 1}, 0),)).plot()


def test_axes_are_logarithmic_where_numbers_span_decades():
    def axes(*values):
        rows = [{"n": i + 1, "y": y} for i, y in enumerate(values)]
        figure = sweep_figure(rows, [{"n": row["n"]} for row in rows], "n", "y")
        return figure.logx, figure.logy

    assert axes(1, 100) == (False, True)
    assert axes(1, 3) == (False, False)
    assert axes(-1, 100) == (False, False)
    assert axes(*range(1, 30)) == (True, True)


def test_plans_show_what_smaller_budgets_would_choose():
    plan = RESULTS["plan"]()
    lines = {line.label: line for line in plan.figure.lines}
    assert lines["mean of N"].y[-1] == pytest.approx(plan["mean of N"].value)
    assert not plan.figure.points


def test_the_overview_counts_in_words_that_fit():
    assert _counted("audit finding", 1) == "audit finding"
    assert {_counted("audit finding", k) for k in (0, 2)} == {"audit findings"}
