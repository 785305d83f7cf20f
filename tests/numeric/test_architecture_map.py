"""Regions of the best architecture: against single calls, the crossing with the prior, refusals."""

import numpy as np
import pytest

import icltheory as icl
import numeric

ONE, TWO, LINEAR = icl.SoftmaxAttention(), icl.SoftmaxAttention(heads=2), icl.LinearAttention()


def test_risks_are_those_of_single_calls():
    tasks = [icl.LinearRegression(dim=d, noise_var=0.2) for d in (2, 5)]
    found = numeric.architecture_map(
        tasks, [40, 10], architectures={"one": ONE, "two": TWO, "linear": LINEAR}
    )
    assert found.names == ("one", "two", "linear")
    assert found.prompt_lengths.tolist() == [10, 40]
    for j, task in enumerate(tasks):
        for i, attention in enumerate((ONE, TWO, LINEAR)):
            small = {"small_scores": True} if attention is TWO else {}
            expected = numeric.optimal_risk(task, attention, [10, 40], **small).risk
            assert np.array_equal(found.risk[i, j], expected)
    # Linear attention has one example more than two heads, which need fewer than one head.
    assert np.all(found.best == 2)
    ratio = np.minimum(found.risk[0], found.risk[1]) / found.risk[2]
    assert np.allclose(found.advantage, ratio)


def test_the_prior_wins_up_to_the_derived_crossing():
    variances = np.array([0.02, 0.1, 0.5])
    tasks = [
        icl.LinearRegression(dim=3, noise_var=0.3, coef_mean=[1, 0, 0], coef_cov=w / 3)
        for w in variances
    ]
    lengths = np.arange(2, 400)
    found = numeric.architecture_map(tasks, lengths, variances, "prior variance")
    prior = found.names.index("prior alone")
    assert np.allclose(found.risk[prior], variances[:, None])
    for j, w in enumerate(variances):
        # Two heads, values y: the prior alone is better iff n - 1 < c n_0 / omega^2.
        c = (1 + 0.3 / (1 + w)) * 3 + 1
        wins = lengths[found.best[j] == prior]
        crossing = 1 + c / w
        assert (wins.max() if wins.size else 1) == min(np.ceil(crossing) - 1, 399)
        if crossing > 40:  # long enough for a change of 3 % to move it
            assert np.ceil(1 + 1.03 * c / w) - 1 != wins.max()


def test_regions_are_drawn():
    tasks = [icl.LinearRegression(dim=3, noise_var=x) for x in (0.0, 0.5, 1.0)]
    ax = numeric.architecture_map(tasks, [10, 20, 40], [0, 0.5, 1], "noise").draw()
    assert ax.get_xlabel() == "prompt length n"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["two heads"]


def test_regions_meet_where_the_risks_are_equal():
    variances = np.geomspace(0.05, 1, 6)
    tasks = [icl.LinearRegression(dim=2, coef_mean=[1, 0], coef_cov=w / 2) for w in variances]
    lengths = np.unique(np.geomspace(3, 200, 12).astype(int))
    found = numeric.architecture_map(tasks, lengths, variances, "variance", title="T", caption="C")
    ax = found.draw()
    assert (ax.get_title(loc="left"), found.caption) == ("T", "C")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["two heads", "prior alone"]
    edge = ax.collections[0].get_paths()[0].vertices
    # The crossing, n - 1 = c / w without noise, lies on the boundary of the region of two heads.
    w = variances[2]
    crossing = float(icl.prior_crossing(tasks[2], TWO))
    at = edge[np.isclose(edge[:, 1], w), 0]
    assert np.min(np.abs(np.log(at / crossing))) < 0.03
    assert np.min(np.abs(np.log(at / (1.2 * crossing)))) > 0.03
    data, how = found._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert how["alt"] == "T. C"
    assert repr(found) == "ArchitectureMap('variance': one head, two heads, prior alone)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, "0 tasks"),
        ({"tasks": icl.LinearRegression(dim=2)}, "must be a list"),
        ({"architectures": [ONE]}, "must map names"),
        ({"values": [1, 2]}, "1 tasks and values"),
        ({"lengths": [1, 5]}, "at least 2"),
        ({"architectures": {}}, "at least one"),
        ({"architectures": {"prior alone": ONE}}, "none called"),
    ],
)
def test_refusals(change, message):
    given = {"tasks": [icl.LinearRegression(dim=2)], "lengths": [5], **change}
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.architecture_map(
            given["tasks"], given["lengths"], given.get("values"), "x", given.get("architectures")
        )


def test_one_architecture_has_no_second_best():
    found = numeric.architecture_map(
        [icl.LinearRegression(dim=2)], [5, 9], architectures={"one": ONE}
    )
    assert np.all(found.best == 0)
    assert np.all(np.isnan(found.advantage))
