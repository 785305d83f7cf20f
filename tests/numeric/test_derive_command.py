"""`icltheory derive`: every formula of the table, its options, and refusals in one line."""

import re
import shlex

import pytest
import sympy as sp
import test_runner as fakes
from test_cli import output, refusal

import icltheory as icl
import numeric
from icltheory import symbols
from numeric import cli, derive_command
from numeric.derive_formulas import NEEDS, STUDIES
from numeric.formula_forms import described


def test_derive_text_shows_formula_validity_source_symbols_and_steps(capsys):
    text = output(capsys, "derive", "loss-constant")
    formula = icl.loss_constant(fakes.GENERAL, icl.SoftmaxAttention(heads=1))
    for piece in (str(formula.expr), "holds for t < 1/2", "arXiv 2401.17426", "label noise", "3. "):
        assert piece in text
    assert "infimum, not attained" in output(
        capsys, "derive", "optimal-loss-constant", "--heads", "3"
    )
    assert "minimiser: t = " in output(capsys, "derive", "optimal-loss-constant")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loss-constant", ["--heads", "2"]),
        ("loss-constant", ["--attention", "linear"]),
        ("optimal-loss-constant", []),
        ("multihead-gain", []),
        ("finite-prompt-risk", ["--heads", "2"]),
        ("finite-prompt-risk", ["--attention", "linear-centered"]),
        ("consistency", ["--heads", "2"]),
    ],
)
def test_every_name_derives_as_text_and_latex(capsys, name, options):
    assert "source: " in output(capsys, "derive", name, *options)
    latex = output(capsys, "derive", name, *options, "--latex").splitlines()
    assert all(line.startswith("% ") for line in latex[1:])
    assert "noise_var" not in latex[0]


@pytest.mark.parametrize("heads", ["1", "2"])
def test_derived_python_gives_the_compiled_values(capsys, heads):
    text = output(
        capsys, "derive", "loss-constant", "--heads", heads, "--noise-var", ".25", "--python"
    )
    space = {}
    exec(text, space)
    value = space["loss_constant"](d=5, t=0.1)
    task = icl.LinearRegression(dim=5, noise_var=0.25)
    f = numeric.compile(icl.loss_constant(task, icl.SoftmaxAttention(heads=int(heads))))
    assert value == pytest.approx(f(t=0.1), rel=1e-13, abs=0)
    assert 1.03 * value != pytest.approx(f(t=0.1), rel=1e-13, abs=0)


def test_derived_python_has_numbers_for_roots(capsys):
    options = ("--heads", "1", "--local", "1,1", "--dim", "5", "--noise-var", "0")
    code = output(capsys, "derive", "optimal-loss-constant", *options, "--python")
    scope: dict = {}
    exec(code, scope)
    task = icl.LinearRegression(dim=5, local=(1, 1))
    best = icl.optimal_loss_constant(task, icl.SoftmaxAttention(heads=1))
    assert scope["optimal_loss_constant"]() == pytest.approx(float(best), rel=1e-15)


def test_numbers_are_read_exactly(capsys):
    text = output(
        capsys, "derive", "optimal-loss-constant", "--heads=2", "--dim=5", "--noise-var=1/3"
    )
    assert "\n    23/3\n" in text


FORMULAS = sorted(set(derive_command.FORMULAS) - {"convention-table"})


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_is_derived_and_its_symbols_are_described(capsys, monkeypatch, name):
    shown, text = [], derive_command.FORMS["text"]
    monkeypatch.setitem(derive_command.FORMS, "text", lambda f: shown.append(f) or text(f))
    options = [f"--{option}={text}" for option, text in NEEDS.get(name, {}).items()]
    assert "source: " in output(capsys, "derive", name, *options)
    assert "\n% source: " in output(capsys, "derive", name, *options, "--latex")
    assert shown
    for formula in shown:
        for info in described(formula):
            assert info == symbols.describe(info.symbol)
            assert info.meaning != "given by the user"
        for step in formula.steps:  # an equation that sympy evaluated says nothing
            assert step.equation not in (sp.true, sp.false), step


def test_a_name_of_the_table_is_one_symbol():
    assert len({symbol.name for symbol in symbols.TABLE}) == len(symbols.TABLE)


def test_a_minimiser_is_described(capsys):
    text = output(capsys, "derive", "block-dimension-limit", "--heads", "4")
    assert "minimiser: y = " in text
    assert "    y: t d/H of equal block heads, > 0\n" in text


def test_the_table_of_conventions(capsys):
    text = output(capsys, "derive", "convention-table")
    for row in icl.convention_table():
        assert f"{row['name']}:\n    layer: {row['layer']}\n" in text


def general(**options):
    return icl.LinearRegression(noise_var=symbols.noise_var, **options)


SAME = {
    "optimal-loss-constant --heads 2 --local 1,1/2 --dim 5": lambda: icl.optimal_loss_constant(
        general(dim=5, local=(1, 0.5)), icl.SoftmaxAttention(heads=2)
    ),
    "loss-constant --dim 5 --scores=1/4,-1/4 --values=2,-2": lambda: icl.loss_constant(
        general(dim=5), icl.SoftmaxAttention(scores=[0.25, -0.25], values=[2, -2])
    ),
    "loss-constant --dim 3 --prior-norm 2 --prior-var 6 --noise-var 0": lambda: icl.loss_constant(
        icl.LinearRegression(3, coef_cov=2, coef_mean=[sp.sqrt(2), 0, 0]),
        icl.SoftmaxAttention(heads=1),
    ),
    "small-pair-risk --include-query": lambda: icl.small_pair_risk(
        fakes.GENERAL, icl.SoftmaxAttention(heads=2, include_query=True)
    ),
    "shift-floor --dim 5 --noise-var 0 --local 1,1 --tested 0,1": lambda: icl.shift_floor(
        icl.LinearRegression(5, local=(1, 1)),
        icl.LinearRegression(5),
        icl.SoftmaxAttention(heads=2),
    ),
    "bayes-risk-expansion --order 3": lambda: icl.bayes_risk_expansion(fakes.GENERAL, 3),
    "rank-floor --dim 5 --rank 2": lambda: icl.rank_floor(general(dim=5), 2),
    "product-bias --features uniform": lambda: icl.product_bias(
        fakes.GENERAL, icl.UniformCube(dim=1, half_width=sp.sqrt(3))
    ),
    "equal-block-constant --heads 4 --sign-sum 0": lambda: icl.equal_block_constant(
        fakes.GENERAL, 4, 0
    ),
    "solver-risk --steps 2 --step-size .01 --length 20 --dim 20": lambda: icl.solver_risk(
        icl.GradientDescent(0.01), 2, n=20, d=20, noise_var=symbols.noise_var
    ),
    "solver-risk --solver least-squares --noise-var 0": lambda: icl.solver_risk(
        icl.OrdinaryLeastSquares()
    ),
    "late-solver-risk --solver newton --order 1": lambda: icl.late_solver_risk(
        icl.IterativeNewton(symbols.alpha), symbols.steps, order=1
    ),
    "matched-steps --solver newton-identity --scale .01 --step-size .02": lambda: icl.matched_steps(
        icl.IterativeNewton(0.01, start="I"), icl.GradientDescent(0.02)
    ),
    "matching-constant --criterion cosine --nu 0": lambda: icl.matching_constant("cosine", 0),
    "solver-steps --solver heavy-ball": lambda: icl.HeavyBall().steps_formula(),
}


@pytest.mark.parametrize("line", SAME)
def test_options_are_the_arguments_of_the_function(capsys, line):
    shown = output(capsys, "derive", *line.split(), "--latex")
    assert shown.splitlines()[0] == SAME[line]().latex()


def test_options_pass_where_the_function_supports_them():
    head = icl.SoftmaxAttention(heads=2, include_query=True)
    assert "include_query" not in icl.pair_slope.supports
    with pytest.raises(icl.InvalidInput, match="include_query"):
        icl.pair_slope(fakes.GENERAL, head)
    assert "include_query" in icl.small_pair_risk.supports
    assert icl.small_pair_risk(fakes.GENERAL, head).expr.free_symbols


def test_moments_and_filters_are_shown_as_formulas(capsys):
    moment = output(
        capsys, "derive", "wishart-trace-moment", "--power=4", "--length=40", "--dim=20"
    )
    assert f"\n    {icl.wishart_trace_moment(4, 40, 20)}\n" in moment
    ridge = icl.optimal_ridge(noise_var=symbols.noise_var).residual_filter()
    assert f"\n    {ridge}\n" in output(capsys, "derive", "optimal-ridge")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("solver-risk --solver bfgs", "'bfgs' is not one of gradient-descent, newton"),
        ("solver-risk --scale 2", "--scale says nothing about solver-risk"),
        ("solver-risk --solver least-squares --steps 2", "--steps says nothing"),
        ("solver-risk --steps=-1", "'-1' is not an integer of at least 0"),
        ("solver-risk --solver ridge", "no polynomial"),
        ("solver-steps --step-size 2", "--step-size says nothing about solver-steps"),
        ("matching-constant --criterion cosine", "needs --nu, for example --nu 0"),
        ("matching-constant --nu 3", "--nu says nothing about matching-constant"),
    ],
)
def test_options_of_solvers_that_have_no_meaning(capsys, line, message):
    assert message in refusal(capsys, "derive", *line.split())


def test_formulas_about_no_task_refuse_its_options(capsys):
    assert "--dim says nothing" in refusal(capsys, "derive", "phase-exponent", "--dim", "5")


def test_a_name_that_is_nearly_right(capsys):
    assert "did you mean noisy-chain-risk or" in refusal(capsys, "derive", "chain-risk")
    assert "did you mean" not in refusal(capsys, "derive", "qqqq")
    typo = refusal(capsys, "derive", "los-constant")
    assert "icltheory derive --list" in typo
    assert "rank-floor" not in typo


def test_names_are_accepted_with_underscores(capsys):
    dashed = output(capsys, "derive", "loss-constant", "--latex")
    assert output(capsys, "derive", "loss_constant", "--latex") == dashed


def test_the_list_has_every_name_with_a_line_of_documentation(capsys):
    text = output(capsys, "derive", "--list")
    assert output(capsys, "derive") == text
    lines = text.splitlines()
    names = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line[:4] == "    "}
    assert list(names) == list(derive_command.FORMULAS)
    assert names["multihead-gain"] == icl.multihead_gain.__doc__.splitlines()[0]
    titles = [line for line in lines if line and line[0] != " "]
    assert titles == [f"{study}:" for study in STUDIES]


LITERAL = "all prompts, also those on which the steps diverge"


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("head-constant", "scores = 1/4, values = 4"),
        ("limit-risk --scores 1/2", "attention = softmax"),
        ("optimal-values", "scores = k,-k"),
        ("solver-risk", "solver = gradient-descent, steps = 1, " + LITERAL),
        ("noisy-chain-risk", "steps = 1, label-noise-var = 0, " + LITERAL),
        ("product-head-constant", "features = rademacher"),
        ("small-pair-risk", "heads = 2"),
        ("bayes-risk-expansion", "order = 2"),
        ("finite-prompt-risk", "attention = softmax, heads = 2"),
        ("outcome-risk", "steps = 1, no label noise"),
    ],
)
def test_the_defaults_in_use_are_shown(capsys, line, taken):
    command = ["derive", *line.split()]
    assert output(capsys, *command).splitlines()[-1] == f"taken: {taken}"
    assert output(capsys, *command, "--python").splitlines()[0] == f"# taken: {taken}"
    assert "taken: " not in output(capsys, *command, "--latex")


def test_symbols_are_no_defaults_worth_a_line(capsys):
    assert "taken: " not in output(capsys, "derive", "rank-floor")
    assert "taken: " not in output(capsys, "derive", "prior-risk")
    given = ["--scores", "1/2", "--values", "2"]
    assert "taken: " not in output(capsys, "derive", "head-constant", *given)


def test_the_help_has_groups_examples_and_the_defaults_of_single_formulas(capsys):
    text = output(capsys, "derive", "--help")
    for title in ("the task", "the attention layer", "decoding", "the output", "examples"):
        assert f"\n{title}:\n" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in (
        "state-evolution-map --sampler round",
        "matched-steps --solver newton --criterion half",
        "head-constant --scores 1/4 --values 4",
    ):
        assert row in rows


def test_the_examples_of_the_help_run(capsys):
    text = output(capsys, "derive", "--help")
    lines = [shlex.split(x)[1:] for x in text.splitlines() if x.startswith("  icltheory derive ")]
    assert len(lines) >= 5
    for line in lines:
        assert output(capsys, *line)


@pytest.mark.parametrize("name", NEEDS)
def test_what_a_formula_needs_is_in_the_list_and_in_the_refusal(capsys, name):
    message = refusal(capsys, "derive", name)
    options = [f"--{option}" for option in NEEDS[name]]
    example = " ".join(f"--{option} {text}" for option, text in NEEDS[name].items())
    assert (
        f"needs {' and '.join(options)}, for example icltheory derive {name} {example}." in message
    )
    row = next(
        x for x in output(capsys, "derive", "--list").splitlines() if x.split()[:1] == [name]
    )
    assert row.endswith(f"Needs {' and '.join(options)}.")


# Each of these is refused by some formula of icltheory, which speaks of Python.
REFUSED = (
    "--heads 3", "--heads 1", "--scores k,-k", "--steps 2", "--steps steps", "--solver ridge",
    "--step-size 3", "--local 1,1", "--skip", "--dim 5 --python", "--features uniform",
    "--noise-std 0", "--attention linear", "--sampler clip",
)  # fmt: skip
CHEAP = (
    "loss-constant", "optimal-loss-constant", "limit-risk", "head-constant", "finite-prompt-risk",
    "small-pair-risk", "product-risk", "proportional-risk", "shift-floor", "consistency",
    "matched-steps", "solver-risk", "optimal-solver-risk", "log-loss", "split-law",
    "product-head-constant", "pair-constant",
)  # fmt: skip


@pytest.mark.parametrize("options", REFUSED)
def test_refusals_speak_of_options(capsys, options):
    refused = 0
    for name in CHEAP:
        if cli.main(["derive", name, *options.split()]):
            message = capsys.readouterr().err
            refused += "says nothing about" not in message
            told = re.sub(r"`[^`]*` of Python", "", message)
            assert not re.search(r"icl\.|numeric\.|sympy|Attention\(|=\.\.\.|subs", told), message
    assert refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("loss-constant --nois-var 1", "no option --nois-var; did you mean --noise-var"),
        (
            "loss-constant --n 20",
            "no option --n; did you mean --length? (see icltheory derive --help)",
        ),
        ("loss-constant --qqqqqq 1", "no option --qqqqqq (see icltheory derive --help)"),
        ("loss-constant extra", "unexpected argument 'extra'"),
        ("outcome-risk --noise-var 1", "outcome-risk, which reads --dim, --length, --steps; leave"),
        (
            "head-constant --scores 1/2",
            "head-constant needs --values with one number a head, 1 here",
        ),
        ("limit-risk --heads 3", "limit-risk needs --scores with one number a head, 3 here"),
        ("finite-prompt-risk --heads 1", "without closed form; icltheory predict computes it"),
        ("split-law --noise-std 0", "pass --noise-std > 0"),
        ("loss-constant --noise-var t", "or arithmetic of numbers and noise_var; pass one"),
    ],
)
def test_a_refusal_says_what_to_write(capsys, line, message):
    assert message in refusal(capsys, "derive", *line.split())


@pytest.mark.parametrize(
    ("line", "formula"),
    [
        (
            "head-constant --scores k,-k --values 1/(2k),-1/(2k)",
            lambda k, v, task: icl.head_constant(task, [k, -k], [1 / (2 * k), -1 / (2 * k)]),
        ),
        (
            "head-constant --scores 0.1,-0.1 --values -2+7,-(2^3-3)",
            lambda k, v, task: icl.head_constant(task, [0.1, -0.1], [5, -5]),
        ),
        (
            "limit-risk --heads 2",
            lambda k, v, task: icl.limit_risk(
                task, icl.SoftmaxAttention(scores=[k, -k], values=[v, -v])
            ),
        ),
        (
            "limit-risk --scores -k/d --values -v",
            lambda k, v, task: icl.limit_risk(
                task, icl.SoftmaxAttention(scores=[-k / symbols.d], values=[-v])
            ),
        ),
    ],
)
def test_options_take_arithmetic_of_their_symbols(capsys, line, formula):
    shown = output(capsys, "derive", *line.split(), "--latex").splitlines()[0]
    expected = formula(symbols.k, symbols.v, fakes.GENERAL)
    assert not expected.expr.has(sp.Float)
    assert shown == expected.latex()


def test_sources_are_short_and_cited_in_full(capsys):
    text = output(capsys, "derive", "loss-constant")
    assert text.count("source: ") == 1
    assert "source: Cui et al. 2024, arXiv 2401.17426 (the question" in text
    cited = output(capsys, "derive", "loss-constant", "--cite")
    formula = icl.loss_constant(fakes.GENERAL, icl.SoftmaxAttention(heads=1))
    assert cited == f"{formula.citation()}\n"
    # Formulas of one source are cited once.
    assert output(capsys, "derive", "gradient-flow", "--cite").count("@article") == 1
    assert "source: derived here\n" in output(capsys, "derive", "wishart-trace-moment")


def test_exact_numbers_are_shown_in_decimals_as_well(capsys):
    text = output(capsys, "derive", "overthinking-threshold", "--gamma", "0.5")
    assert text.splitlines()[2:4] == ["    1/9", "    = 0.111111"]
    assert "    = " not in output(capsys, "derive", "optimal-chain-length")
    assert "    = " not in output(capsys, "derive", "lock-in-threshold")
