"""Models held against theory: the right layer agrees, the wrong one deviates, bad models are named."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric.compare import Comparison, compare
from numeric.validate import measure_risk, validate

TASK = icl.LinearRegression(dim=5)
LENGTHS = [20, 40]


def linear_attention(X, y, query):
    """Uncentred linear attention at the optimal value a = n/(n + d + 1) (no noise, d = 5)."""
    return np.einsum("bi,bij,bj->b", y, X, query) / (y.shape[1] + 6)


class TorchLinearAttention(torch.nn.Module):
    """The same layer; its only parameter is the d + 1 of the optimal value."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(6.0, dtype=dtype))
        self.seen = []

    def forward(self, X, y, query):
        self.seen.append((X.dtype, y.dtype, query.dtype, torch.is_grad_enabled(), self.training))
        return torch.einsum("bi,bij,bj->b", y, X, query) / (y.shape[1] + self.shift)


def verdicts(table):
    return {(r.setting["prompt_length"], r.setting["theory"]): r.verdict for r in table}


def test_without_attention_the_rows_show_which_layer_it_is():
    table = validate(linear_attention, TASK, LENGTHS)
    found = verdicts(table)
    assert list(found) == [
        (n, theory)
        for n in LENGTHS
        for theory in ("one softmax head", "2 softmax heads", "linear attention")
    ]
    for n in LENGTHS:
        assert found[n, "linear attention"] == "agrees"
        assert found[n, "one softmax head"] == "deviates"
    # One measurement a length, held against all three.
    assert len({row.estimate for row in table}) == len(LENGTHS)
    assert not table.passed


def test_with_attention_it_passes_and_its_control_fails():
    table = validate(
        linear_attention, TASK, LENGTHS, icl.LinearAttention(), prompts=300_000, allowance=0.0
    )
    assert [row.prediction for row in table] == pytest.approx([6 / 26, 6 / 46])
    assert table.passed, str(table)
    assert all(row.resolution < 0.02 for row in table)
    assert not table.scaled(1.03).passed


def test_noise_and_covariances():
    sigma, m = np.array([[2, 0.5], [0.5, 1]]), np.array([[0.5, 0.1], [0.1, 0.3]])
    task = icl.LinearRegression(dim=2, noise_var=0.4, feature_cov=sigma, coef_cov=m)
    signal = np.trace(sigma @ m)
    c = 2 * (1 + 0.4 / signal) + 1
    inverse = np.linalg.inv(sigma)

    def model(X, y, query):
        return np.einsum("bi,bij,bj->b", y, X @ inverse, query) / (y.shape[1] + c)

    table = validate(model, task, 10, icl.LinearAttention(), prompts=400_000, allowance=0.0)
    assert table.rows[0].prediction == pytest.approx(signal * c / (10 + c))
    assert table.passed, str(table)
    assert not table.scaled(1.03).passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_module_gets_tensors_of_its_dtype_without_gradients(dtype):
    model = TorchLinearAttention(dtype)
    table = validate(model, TASK, 20, icl.LinearAttention())
    assert table.passed, str(table)
    # Called as it is: the training mode is the caller's business.
    assert set(model.seen) == {(dtype, dtype, dtype, False, True)}
    same = measure_risk(linear_attention, TASK, 20, prompts=500)
    precision = 1e-12 if dtype == torch.float64 else 1e-4
    assert measure_risk(model, TASK, 20, prompts=500).value == pytest.approx(
        same.value, rel=precision
    )


def test_torch_function_is_recognised_by_its_framework():
    def model(X, y, query):
        assert isinstance(X, torch.Tensor)
        assert X.dtype == torch.float64
        return torch.einsum("bi,bij,bj->b", y, X, query) / (y.shape[1] + 6)

    model.framework = "torch"
    same = measure_risk(linear_attention, TASK, 20, prompts=500)
    assert measure_risk(model, TASK, 20, prompts=500).value == pytest.approx(same.value)


def test_the_attention_of_the_model_is_used():
    class Model:
        attention = icl.LinearAttention(centered=True)

        def __call__(self, X, y, query):
            n = y.shape[1]
            X = X - X.mean(axis=1, keepdims=True)
            return np.einsum("bi,bij,bj->b", y, X, query) / (n - 1 + 6)

    table = validate(Model(), TASK, 20)
    assert verdicts(table) == {(20, "centred linear attention"): "agrees"}
    other = validate(Model(), TASK, 20, icl.SoftmaxAttention(heads=1))
    assert verdicts(other) == {(20, "one softmax head"): "deviates"}


def test_measure_risk_of_a_known_risk():
    task = icl.LinearRegression(dim=3, coef_cov=2)

    def half(X, y, query):
        return np.zeros(len(X))

    risk = measure_risk(half, task, 2, prompts=300_000)
    table = Comparison.from_rows([compare({}, 6.0, risk.value, risk.standard_error)])
    assert table.passed, str(table)
    assert not table.scaled(1.03).passed


def test_seeds_batches_and_independence_of_the_other_lengths():
    first = measure_risk(linear_attention, TASK, 10, prompts=1000, seed=1, batch=300)
    assert first == measure_risk(linear_attention, TASK, 10, prompts=1000, seed=1, batch=300)
    assert first != measure_risk(linear_attention, TASK, 10, prompts=1000, seed=2, batch=300)
    spec = icl.LinearAttention()
    alone = validate(linear_attention, TASK, 20, spec, prompts=500)
    among = validate(linear_attention, TASK, [10, 20], spec, prompts=500)
    assert alone.rows[0] == among.rows[1]
    assert among.rows[0].estimate != among.rows[1].estimate


def test_a_model_without_any_error_deviates_instead_of_dividing_by_zero():
    task = icl.LinearRegression(dim=1, coef_cov=1)

    def exact(X, y, query):
        # One noiseless token in one dimension determines theta; doubling it keeps y/x exact.
        return y[:, 0] / X[:, 0, 0] * query[:, 0]

    table = validate(exact, task, 1, icl.LinearAttention(), prompts=100)
    assert [row.verdict for row in table] == ["deviates"]


# -- bad models and arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, r"model has type int; pass a callable \(X\[B,n,d\], y\[B,n\], query\[B,d\]\)"),
        (
            lambda X, y, query: y,
            r"returned shape \(100, 4\) for X \(100, 4, 5\), y \(100, 4\), query \(100, 5\); "
            r"expected \(B,\) = \(100,\)",
        ),
        (lambda X, y, query: 0.0, r"returned shape \(\) for X"),
        (lambda X, y, query: y[:, :1], r"returned shape \(100, 1\)"),
        (lambda X, y, query: [y, 0], "the model returned list where an array of shape"),
        (lambda X, y, query: "text", "the model returned str"),
        (
            lambda X, y, query: np.where(np.arange(100) < 3, np.nan, 0.0),
            "3 of 100 predictions of the model are NaN or infinite",
        ),
        (lambda X, y: y[:, 0], r"the model raised TypeError: .* return shape \(B,\) = \(100,\)"),
    ],
)
def test_bad_models(model, message):
    with pytest.raises(InvalidInput, match=message):
        measure_risk(model, TASK, 4, prompts=100)


def test_dropout_that_is_on_is_refused():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.size = torch.nn.Dropout(0.1), torch.nn.Parameter(torch.ones(()))

        def forward(self, X, y, query):
            return self.size * torch.einsum("bi,bij,bj->b", self.drop(y), X, query) / 10

    model = Model()
    for measure in (measure_risk, validate):
        with pytest.raises(InvalidInput, match=r"not deterministic: .* \(model.eval\(\)\)"):
            measure(model, TASK, 4, prompts=500)
    model.eval()
    assert measure_risk(model, TASK, 4, prompts=500).value > 0


def test_the_error_of_the_model_is_kept_as_cause():
    def broken(X, y, query):
        raise RuntimeError("no weights")

    with pytest.raises(InvalidInput, match="raised RuntimeError: no weights") as caught:
        measure_risk(broken, TASK, 4, prompts=100)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [(0, "prompt_lengths = 0"), ([10, 2.5], "prompt_lengths = 2.5"), ([], "prompt_lengths")],
)
def test_bad_prompt_lengths(lengths, message):
    with pytest.raises(InvalidInput, match=message):
        validate(linear_attention, TASK, lengths)


def test_prompt_length_zero_in_measure_risk():
    with pytest.raises(InvalidInput, match="prompt_length = 0 is not an integer of at least 1"):
        measure_risk(linear_attention, TASK, 0)


def test_symbolic_tasks_are_refused_before_the_model_is_called():
    from icltheory.symbols import d

    with pytest.raises(InvalidInput, match="the task still contains d"):
        validate(linear_attention, icl.LinearRegression(dim=d), 10)


# -- solvers ---------------------------------------------------------------------------------------


def descent(X, y, query):
    w = np.zeros_like(query)
    for _ in range(3):
        residual = np.einsum("bij,bj->bi", X, w) - y
        w = w - 0.01 * np.einsum("bij,bi->bj", X, residual)
    return (w * query).sum(axis=1)


@pytest.mark.parametrize("cov", [2, [1, 1, 1, 0.5, 0.5]])  # integrated, sampled
def test_a_solver_is_held_against_its_expected_risk(cov):
    task = icl.LinearRegression(dim=5, noise_var=0.3, coef_cov=2, feature_cov=cov)
    options = {"prompts": 200_000, "allowance": 0.0}
    table = validate(descent, task, 20, icl.GradientDescent(0.01), steps=3, **options)
    assert table.passed, str(table)
    assert table.rows[0].setting["theory"] == "gradient descent, 3 steps"
    assert not table.scaled(1.03).passed
    assert not validate(descent, task, 20, icl.GradientDescent(0.01), steps=4, **options).passed


def test_a_direct_solver_has_no_steps():
    def ridge(X, y, query):
        gram = np.einsum("bij,bik->bjk", X, X) + 0.5 * np.eye(3)
        w = np.linalg.solve(gram, np.einsum("bij,bi->bj", X, y)[..., None])[..., 0]
        return (w * query).sum(axis=1)

    task = icl.LinearRegression(dim=3, noise_var=0.2)
    table = validate(ridge, task, 15, icl.Ridge(0.5), allowance=0.0)
    assert table.passed, str(table)
    assert not table.scaled(1.03).passed


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        (icl.GradientDescent(0.01), {}, "needs its number of steps, steps=8.*identify"),
        (icl.GradientDescent(0.01), {"steps": [1, 2]}, "one number of steps"),
        (icl.ConjugateGradient(), {"steps": 3}, "depends on the labels.*identify"),
        (icl.LinearAttention(), {"steps": 3}, "steps are those of a solver"),
        (icl.Ridge(1), {"task": icl.LinearRegression(dim=2, coef_cov=[1, 2])}, "covariance c I"),
    ],
)
def test_solvers_without_an_expected_risk_are_refused(solver, options, message):
    task = options.pop("task", TASK)
    with pytest.raises(InvalidInput, match=message):
        validate(descent, task, 20, solver, **options)
