"""Solvers as sequence models: every layer and prefix against dense loops."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import frobenius, lam_max, lam_min, trace
from numeric import finite

DIM, POINTS, LAYERS = 4, 9, 5


def prompts(size=3, points=POINTS, dim=DIM, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((size, points, dim)), rng.standard_normal((size, dim))
    return X, np.einsum("bnd,bd->bn", X, w) + noise * rng.standard_normal((size, points))


def hidden(model, X, y):
    return model.hidden_states(torch.from_numpy(X), torch.from_numpy(y)).numpy()


def gradient(S, b, steps, rate):
    w = np.zeros(len(b))
    for _ in range(steps):
        w = w - rate * (S @ w - b)
    return w


def newton(S, b, steps, M):
    for _ in range(steps):
        M = 2 * M - M @ S @ M
    return M @ b


def krylov(S, b, steps):
    """The minimiser of w'Sw/2 - b'w over the Krylov space of dimension `steps`."""
    if steps == 0 or not b.any():
        return np.zeros(len(b))
    basis, v = [], b
    for _ in range(steps):
        for _ in range(2):
            for u in basis:
                v = v - (u @ v) * u
        if np.linalg.norm(v) < 1e-10 * np.linalg.norm(b):
            break
        basis.append(v / np.linalg.norm(v))
        v = S @ basis[-1]
    Q = np.array(basis).T
    return Q @ np.linalg.solve(Q.T @ S @ Q, Q.T @ b)


def nonzero(S):
    spectrum = np.linalg.eigvalsh(S)
    return spectrum[spectrum > 1e-10 * spectrum[-1]]


CASES = {
    "gd": (icl.GradientDescent(0.02), lambda S, b, t: gradient(S, b, t, 0.02)),
    "gd, best": (
        icl.GradientDescent(),
        lambda S, b, t: gradient(S, b, t, 2 / (nonzero(S)[0] + nonzero(S)[-1])),
    ),
    "newton, 1/F": (
        icl.IterativeNewton(1 / frobenius),
        lambda S, b, t: newton(S, b, t, S / np.linalg.norm(S @ S)),
    ),
    "newton, I": (
        icl.IterativeNewton(1 / trace, start="I"),
        lambda S, b, t: newton(S, b, t, np.eye(len(S)) / np.trace(S)),
    ),
    "cg": (icl.ConjugateGradient(), krylov),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_layer_and_prefix_are_step_and_examples(name, stride):
    solver, reference = CASES[name]
    X, y = prompts()
    states = hidden(finite.SolverModel(solver, DIM, LAYERS, stride), X, y)
    assert states.shape == (LAYERS + 1, 3, POINTS, 2 * DIM + 1)
    assert np.array_equal(states[..., :DIM], np.broadcast_to(X, states[..., :DIM].shape))
    for layer in range(LAYERS + 1):
        for p in range(3):
            assert not states[layer, p, 0, DIM:].any()  # no example: no weights
            for n in range(1, POINTS):
                S, b = X[p, :n].T @ X[p, :n], X[p, :n].T @ y[p, :n]
                w = reference(S, b, layer * stride)
                assert states[layer, p, n, DIM:-1] == pytest.approx(w, abs=1e-9)
                assert states[layer, p, n, -1] == pytest.approx(X[p, n] @ w, abs=1e-9)
    # Control: one more step is far from the first layer.
    w = reference(S, b, stride + 1)
    assert np.linalg.norm(states[1, -1, -1, DIM:-1] - w) > 1e-3 * np.linalg.norm(w)


def test_it_is_the_constructed_network():
    """Two constructions of one step: weights written down, and the recursion."""
    X, y = prompts(2)
    rate = 0.02
    model = finite.SolverModel(icl.IterativeNewton(rate, start="I"), DIM, 3)
    states = hidden(model, X, y)
    for n in (1, 5, 8):
        for k in range(4):
            network = finite.newton_transformer(DIM, n, k, rate, "I")
            inputs = (torch.from_numpy(a) for a in (X[:, :n], y[:, :n], X[:, n]))
            assert network(*inputs).numpy() == pytest.approx(states[k, :, n, -1], abs=1e-12)


def test_conjugate_gradients_end_at_least_squares():
    X, y = prompts(20, 9, 4, seed=2)
    states = hidden(finite.SolverModel(icl.ConjugateGradient(), 4, 8), X, y)
    for n in range(1, 9):
        for p in range(20):
            w = np.linalg.pinv(X[p, :n]) @ y[p, :n]
            assert states[min(n, 4), p, n, 4:-1] == pytest.approx(w, abs=1e-7)
            assert states[8, p, n, 4:-1] == pytest.approx(w, abs=1e-7)


def test_the_last_label_is_not_read():
    X, y = prompts()
    model = finite.SolverModel(icl.GradientDescent(0.02), DIM, 2)
    before = model.predict_all(torch.from_numpy(X), torch.from_numpy(y))
    y[:, -1] += 1
    assert torch.equal(before, model.predict_all(torch.from_numpy(X), torch.from_numpy(y)))
    finite.check_model(model, 8)


def test_unstable_steps_name_the_prefix_and_the_bound():
    X, y = prompts(4)
    top = np.array(
        [[np.linalg.eigvalsh(x[:n].T @ x[:n])[-1] if n else 0 for n in range(POINTS)] for x in X]
    )
    rate = 2.2 / top.max()
    bad = rate * top > 2
    first = np.argwhere(bad)[0]
    with pytest.raises(OutOfDomain) as caught:
        hidden(finite.SolverModel(icl.GradientDescent(rate), DIM, 2), X, y)
    message = str(caught.value)
    assert f"unstable for {bad.sum()} of {bad.size} prefixes" in message
    assert f"prompt {first[0]} with {first[1]} examples" in message
    assert "must stay below 2" in message
    with pytest.raises(OutOfDomain, match=r"scale \* lam_max\^2"):
        hidden(finite.SolverModel(icl.IterativeNewton(3 / frobenius), DIM, 2), X, y)
    # The bound itself is allowed: 2/F has scale lam_max^2 = 2 at one example, which is never learned.
    states = hidden(finite.SolverModel(icl.IterativeNewton(2 / frobenius), DIM, 3), X, y)
    assert states[1:, :, 1, -1] == pytest.approx(0, abs=1e-9)
    hidden(finite.SolverModel(icl.GradientDescent(1.9 / lam_max), DIM, 2), X, y)
    assert lam_min in icl.GradientDescent().data_symbols


def test_wrong_solvers_are_refused():
    with pytest.raises(InvalidInput, match="pass one of GradientDescent, IterativeNewton, Conj"):
        finite.SolverModel(icl.Ridge(1), DIM, 2)
    with pytest.raises(InvalidInput, match="pass one of"):
        finite.SolverModel("gd", DIM, 2)
    with pytest.raises(InvalidInput, match="contains t; its parameters must be numbers or rules"):
        finite.SolverModel(icl.GradientDescent(icl.symbols.t), DIM, 2)
    with pytest.raises(InvalidInput, match="layers = 0"):
        finite.SolverModel(icl.GradientDescent(0.1), DIM, 0)
