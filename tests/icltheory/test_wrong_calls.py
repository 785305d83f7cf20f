"""Calls with wrong names of arguments: one message with the legal names and the nearest."""

import inspect
import pickle
import subprocess
import sys

import pytest

import icltheory as icl
import numeric
import numeric.finite
from icltheory.checks import named
from icltheory.symbols import d, k

TASK, HEAD = icl.LinearRegression(dim=3), icl.SoftmaxAttention(heads=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: icl.LinearRegression(d=5),
            r"^LinearRegression has no argument 'd'; meant dim\? It takes: dim, noise_var, feature_cov",
        ),
        (lambda: icl.LinearRegression(), r"^LinearRegression needs dim\. It takes: dim"),
        (lambda: icl.LinearRegression(5, dim=5), "got dim twice, by position and by name"),
        (lambda: icl.SoftmaxAttention(head=2), "no argument 'head'; meant heads?"),
        (lambda: icl.SoftmaxAttention(1, [0.5]), "takes 1 arguments by position, not 2"),
        (
            lambda: icl.loss_constant(TASK),
            "loss_constant needs attention. It takes: task, attention",
        ),
        (
            lambda: icl.loss_constant(TASK, HEAD, t=1),
            r"^loss_constant has no argument 't'\. It takes",
        ),
        (
            lambda: numeric.exact_risk(TASK, HEAD, 10, k=1),
            "exact_risk has no argument 'k'; meant score_scale?",
        ),
        (lambda: numeric.plan(20, 10, 30, noise=0.3), r"no argument 'noise'; meant noise_std\? It"),
        (
            lambda: numeric.monte_carlo_constant(t=0.1),
            "no argument 't'. monte_carlo_constant needs task and attention. It takes: task",
        ),
        (
            lambda: numeric.solver_risk(icl.Ridge(1), 3, 10, 5),
            "2 arguments by position, not 4: name",
        ),
    ],
)
def test_the_message_has_the_legal_names(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_errors_inside_a_function_stay_what_they_are():
    @named
    def broken(x):
        return len(x)

    with pytest.raises(TypeError, match=r"has no len"):
        broken(5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        named(lambda: broken.__wrapped__(y=1))()


def test_the_function_is_still_itself():
    assert list(inspect.signature(numeric.plan).parameters)[:3] == ["n", "d", "budget"]
    assert next(iter(inspect.signature(icl.LinearRegression).parameters)) == "dim"
    assert "Which decoding technique" in (numeric.plan.__doc__ or "")
    assert pickle.loads(pickle.dumps(numeric.exact_risk)) is numeric.exact_risk
    assert pickle.loads(pickle.dumps(TASK)) == TASK


def exports():
    for package in (icl, numeric, numeric.finite):
        names = icl._HOMES if package is icl else vars(package)
        for name in [x for x in names if not x.startswith("_")]:
            value = getattr(package, name)
            plain = inspect.isfunction(value) or (
                inspect.isclass(value) and not issubclass(value, (BaseException, tuple))
            )
            if plain and value is not icl.TokenLaw:  # which no one makes
                yield name, value


def test_everything_exported_refuses_names_that_it_does_not_have():
    seen = 0
    for name, value in exports():
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters(value)):
            continue
        with pytest.raises(icl.InvalidInput, match=f"{name} has no argument 'no_name'"):
            value(no_name=1)
        seen += 1
    assert seen > 350


def parameters(value):
    return inspect.signature(value).parameters.values()


def test_every_exported_function_can_be_pickled():
    for _, value in exports():
        assert pickle.loads(pickle.dumps(value)) is value
    # By its name, so that a process that has not asked the package for it reads it too.
    code = f"import pickle; print(pickle.loads({pickle.dumps(icl.head_floor)!r}).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "head_floor\n"


def test_classes_of_one_base_answer_by_their_own_names():
    with pytest.raises(
        icl.InvalidInput, match=r"^Laplace has no argument 'd'; meant dim\? It takes"
    ):
        icl.Laplace(d=2)
    with pytest.raises(icl.InvalidInput, match=r"^LinearSelfAttention has no argument 'd'"):
        numeric.finite.LinearSelfAttention(d=2)


def test_compiled_functions_take_names():
    f = numeric.compile(icl.loss_constant(icl.LinearRegression(dim=d), HEAD))
    with pytest.raises(
        icl.InvalidInput, match=r"by name, not by position: f\(d=\.\.\., t=\.\.\.\)"
    ):
        f(5, 0.25, 0.1)
    both = numeric.compile({"a": icl.loss_constant(icl.LinearRegression(dim=d), HEAD)})
    with pytest.raises(icl.InvalidInput, match="by name, not by position"):
        both(5, 0.1)
    with pytest.raises(icl.InvalidInput, match=r'numeric\.compile\(icl\.Formula\("name", expr'):
        numeric.compile(d**2)
    assert numeric.compile(icl.Formula("square", k**2))(k=3.0) == 9
    with pytest.raises(icl.InvalidInput, match="a Formula or a dictionary of them"):
        numeric.compile("d")
