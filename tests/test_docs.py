"""The pages of docs/: complete, every name importable, every link resolved, every docstring there."""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput
from numeric import api_reference, finite
from numeric.api_reference import public_names
from numeric.claims.runner import load_claims

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SHORT = {"icl": icl, "numeric": numeric, "finite": finite}
PACKAGES = (icl, numeric, finite)
SHORT_NAMES = {package: short for short, package in SHORT.items()}

# The statements of the four studies, in the order of the page.
ITEMS = {
    "Large prompts": [*(f"M{i}" for i in range(1, 7)), *(f"L{i}" for i in range(1, 31))],
    "One head or several": [f"M{i}" for i in range(1, 25)],
    "Which algorithm does a Transformer run?": [
        *(f"V{i}" for i in range(1, 21)),
        *(f"P{i}" for i in range(1, 9)),
        *(f"A{i}" for i in range(1, 23)),
    ],
    "What test-time compute buys": [
        *(f"D{i}" for i in range(1, 6)),
        *(f"T{i}" for i in range(1, 29)),
    ],
}
PRINTED = (  # numbers of the paper on large prompts
    *("Lemma 2.1", "Proposition 3.1", "Assumption 3.3", "Proposition 3.4", "Assumption 4.2"),
    *("Theorem 4.3", "Theorem 5.1 (v1), 5.2 (v2)", "Eq. (7)", "Eq. (9)"),
)


def sections(text):
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text):
    """Rows of all tables of a text, each a dict from column to cell."""
    rows, header = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
        elif not set(line) <= set("|- "):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


THEOREMS = sections((DOCS / "theorems.md").read_text(encoding="utf-8"))
ROWS = [(study, row) for study in THEOREMS for row in tables(THEOREMS[study])]


def resolve(name):
    """The object behind `icl.name`, `numeric.name` or `finite.name`, with attributes."""
    if name in api_reference.PACKAGES:
        return import_module(name)
    first, *rest = name.split(".")
    value = SHORT[first]
    assert rest[0] in public_names(value), f"{name} is not public"
    for part in rest:
        value = getattr(value, part)
    return value


def named(text):
    return re.findall(r"`((?:icl|numeric|finite)\.[A-Za-z_.]+)`", text)


# -- the page of theorems -------------------------------------------------------------------------


@pytest.mark.parametrize("study", ITEMS)
def test_every_statement_has_its_row(study):
    items = [row["Item"] for row in tables(THEOREMS[study]) if "Item" in row]
    numbered = [item for item in items if re.fullmatch(r"[A-Z]\d+", item)]
    assert numbered == ITEMS[study]


def test_printed_numbers_have_their_row():
    printed = [row.get("In the paper") for study, row in ROWS if study == "Large prompts"]
    assert set(PRINTED) <= set(printed)


def test_no_cell_is_empty():
    for study, row in ROWS:
        assert all(cell.strip("-– ") for cell in row.values()), (study, row)


@pytest.mark.parametrize("column", ["Computed by", "Claim"])
def test_rows_name_what_computes_and_what_checks(column):
    for study, row in ROWS:
        cell = row[column]
        if column == "Computed by":
            assert named(cell) or cell.startswith("No function: "), (study, row)
        else:
            assert re.search(r"`[a-z-]+`|\.\./tests/.*\.py", cell), (study, row)


def test_claims_exist_and_every_claim_is_on_the_page():
    claims = load_claims()
    listed = {name for _, row in ROWS for name in re.findall(r"`([a-z-]+)`", row["Claim"])}
    assert listed == set(claims)


def test_claims_stand_in_their_own_study():
    papers = dict(zip(ITEMS, ("largeprompt", "multihead", "solvers", "decoding"), strict=True))
    for study, row in ROWS:
        first = re.findall(r"`([a-z-]+)`", row["Claim"])[:1]
        # Two statements of one study are held up by a claim of another.
        if first and row.get("Item") not in ("M6", "L24"):
            assert first[0].startswith(papers[study]), (study, row)


def test_audits_exist():
    text = THEOREMS["Which algorithm does a Transformer run?"]
    named_audits = {
        name
        for row in tables(text)
        if "numeric.audit_table` of" in row["Computed by"]
        for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", row["Computed by"])
    }
    assert named_audits == set(numeric.AUDITS)


# -- all pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_is_importable(page):
    for name in named(page.read_text(encoding="utf-8")):
        assert inspect.getdoc(resolve(name)), name


def test_a_name_that_is_gone_is_found_out():
    with pytest.raises(AssertionError, match="not public"):
        resolve("icl.loss_constants")


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        assert "://" not in target, f"{target}: pages are read without a network"
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_listed():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in PAGES if page.name != "README.md")


@pytest.mark.parametrize("study", ITEMS)
def test_every_question_has_a_whole_answer(study):
    rows = tables(sections((DOCS / "choosing.md").read_text(encoding="utf-8"))[study])
    assert len(rows) >= 10
    for row in rows:
        assert list(row) == ["Question", "Use", "Valid", "Accuracy", "Cost"]
        assert all(row.values()), row
        assert named(row["Use"]) or "`solver." in row["Use"], row


# -- docstrings -----------------------------------------------------------------------------------

ARGUMENTS = tables((DOCS / "arguments.md").read_text(encoding="utf-8"))
COMMON = {name for row in ARGUMENTS for name in re.findall(r"`(\w+)`", row["Argument"])}
FUNCTIONS = [
    (package, name)
    for package in PACKAGES
    for name in public_names(package)
    if inspect.isfunction(inspect.unwrap(getattr(package, name)))
]


def own_and_cited(package, name):
    """The docstring of a name, and those of the public names that it points to."""
    text = inspect.getdoc(getattr(package, name)) or ""
    cited = []
    for prefix, other in re.findall(r"`(?:(icl|numeric|finite)\.)?(\w+)(?:\.\w+)*`", text):
        homes = [SHORT[prefix]] if prefix else [package, *PACKAGES]
        home = next((home for home in homes if other in public_names(home)), None)
        cited.append(inspect.getdoc(getattr(home, other)) or "" if home else "")
    return text, "\n".join(cited)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring_of_its_own(package):
    bare = []
    for name in public_names(package):
        value = getattr(package, name)
        if not (inspect.isclass(value) or callable(value)):
            continue  # data, such as tables of conventions
        text = value.__doc__ or ""
        first = inspect.cleandoc(text).partition("\n")[0]
        generated = inspect.isclass(value) and text.startswith(f"{value.__name__}(")
        if generated or len(first) < 15 or not first.rstrip().endswith((".", ":", "?")):
            bare.append((name, first))
    assert not bare


def test_every_argument_is_explained():
    unexplained = {}
    for package, name in FUNCTIONS:
        text = "\n".join(own_and_cited(package, name))
        parameters = inspect.signature(inspect.unwrap(getattr(package, name))).parameters
        missing = [p for p in parameters if p not in COMMON and not re.search(rf"\b{p}\b", text)]
        if missing:
            unexplained[f"{package.__name__}.{name}"] = missing
    assert not unexplained


def test_every_specification_explains_its_arguments():
    made_elsewhere = {"Reference", "ConstructedTransformer", "SequenceModel"}
    unexplained = {}
    for package in (icl, finite):
        for name in set(public_names(package)) - made_elsewhere:
            value = getattr(package, name)
            if not inspect.isclass(value) or issubclass(value, Exception):
                continue
            text = inspect.getdoc(value) or ""
            parameters = [p for p in inspect.signature(value).parameters if not p.startswith("_")]
            missing = [
                p for p in parameters if p not in COMMON and not re.search(rf"\b{p}\b", text)
            ]
            if missing:
                unexplained[f"{package.__name__}.{name}"] = missing
    assert not unexplained


def test_every_function_has_an_example():
    without = [
        f"{package.__name__}.{name}"
        for package, name in FUNCTIONS
        if ">>> " not in "\n".join(own_and_cited(package, name))
    ]
    assert not without


def parameters_of(package, name):
    return inspect.signature(inspect.unwrap(getattr(package, name))).parameters


def test_common_arguments_are_arguments():
    used = {p for package, name in FUNCTIONS for p in parameters_of(package, name)}
    assert used >= COMMON
    assert all(row["Meaning"] for row in ARGUMENTS)


def test_calls_in_which_a_name_is_something_else_have_it():
    for row in ARGUMENTS:
        for name in set(named(row["Otherwise"])) - {"numeric.chain_law"}:
            argument = re.findall(r"`(\w+)`", row["Argument"])[0]
            taken = inspect.signature(inspect.unwrap(resolve(name))).parameters
            assert argument in taken or f"{argument}s" in taken, (argument, name)


CHANNEL = numeric.decoding_channel(icl.NoisyDecoding(0.5, 0.1, 2), icl.SparseBits(3), 24, 12)
TEST_TASK = icl.LinearRegression(dim=2)

# Calls without and with None, for arguments whose default is another value.
WITH_NONE = {
    ("accept_reject_success", "threshold"): lambda **a: (
        numeric.accept_reject_success(CHANNEL, icl.Logit(0.4), 3, 0.1, 0.1, draws=64, **a).value
    ),
    ("averaged_errors", "threshold"): lambda **a: (
        numeric.averaged_errors(CHANNEL, 0.4, 3, **a).mean
    ),
    ("best_temperature", "threshold"): lambda **a: (
        numeric.best_temperature(CHANNEL, 3, draws=64, **a).temperature
    ),
    ("greedy_errors", "threshold"): lambda **a: numeric.greedy_errors(CHANNEL, **a).mean,
    ("majority_errors", "threshold"): lambda **a: (
        numeric.majority_errors(CHANNEL, icl.Logit(0.4), 3, **a).mean
    ),
    ("pass_at_n", "threshold"): lambda **a: (
        numeric.pass_at_n(CHANNEL, icl.Logit(0.4), 3, draws=64, **a).value
    ),
    ("sampled_errors", "threshold"): lambda **a: (
        numeric.sampled_errors(CHANNEL, icl.Logit(0.4), **a).mean
    ),
    ("simulate_binary_decoding", "threshold"): lambda **a: (
        numeric.simulate_binary_decoding(
            icl.NoisyDecoding(0.5, 0.1, 2), icl.SparseBits(3), 24, 12, prompts=20, **a
        ).greedy_bit.value
    ),
    ("simulate_prompt_selection", "threshold"): lambda **a: (
        numeric.simulate_prompt_selection(
            icl.NoisyDecoding(0.5, 0, 2),
            icl.SparseBits(3),
            24,
            12,
            icl.Logit(0.3),
            2,
            prompts=20,
            **a,
        ).bit.value
    ),
}


def test_none_is_what_the_page_says():
    """Where the page gives a meaning to None it is the default, or does what the default does."""
    other = set()
    for row in ARGUMENTS:
        if "`None`" not in row["Meaning"]:
            continue
        (argument,) = re.findall(r"`(\w+)`", row["Argument"])
        for package, name in FUNCTIONS:
            p = parameters_of(package, name).get(argument)
            elsewhere = f"`{SHORT_NAMES[package]}.{name}`" in row["Otherwise"]
            if p is None or elsewhere or p.default in (None, inspect.Parameter.empty):
                continue
            other.add((name, argument))
            call = WITH_NONE[name, argument]
            assert np.array_equal(call(), call(**{argument: None})), (name, argument)
    assert other == set(WITH_NONE)


@pytest.mark.parametrize("seed", [[1, 2], np.random.SeedSequence(1), -1, 1.5])
def test_models_and_trainings_refuse_seeds_that_are_no_integers(seed):
    model, options = finite.SoftmaxAttention(2, 1), {"steps": 1, "progress": False}
    for call in (
        lambda: finite.SoftmaxAttention(2, 1, seed=seed),
        lambda: finite.train(model, TEST_TASK, 4, seed=seed, **options),
        lambda: finite.train_many([model], [(TEST_TASK, 4)], seeds=[seed], **options),
        lambda: finite.train_decoder(
            finite.LinearSelfAttention(2), TEST_TASK, 4, seed=seed, **options
        ),
        lambda: finite.check_model(finite.LSTM(2, 1, 8), seed=seed),
        lambda: numeric.sweep(print, {"x": [1]}, seed=seed),
    ):
        with pytest.raises(InvalidInput, match="seed"):
            call()


def test_seeds_and_generators_are_taken_alike():
    law, answers = icl.Sphere(dim=2), np.array([[True], [False]])
    for rng in (3, np.random.SeedSequence(3)):
        for call in (
            lambda rng: numeric.sample_tokens(law, 4, rng),
            lambda rng: numeric.sample_bits([0.5] * 9, 2, rng),
            lambda rng: numeric.majority_vote(answers, rng),
            lambda rng: numeric.plurality_vote(answers, rng),
        ):
            assert np.array_equal(call(rng), call(np.random.default_rng(3)))
            with pytest.raises(InvalidInput, match="rng has type NoneType; pass"):
                call(None)


# -- the API reference ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    pytest.importorskip("pdoc")
    return api_reference.build(tmp_path_factory.mktemp("reference") / "pages").parent


def test_the_reference_has_every_name(reference):
    for package in api_reference.PACKAGES:
        page = (reference / f"{package.replace('.', '/')}.html").read_text(encoding="utf-8")
        names = public_names(import_module(package))
        assert len(names) >= 5
        assert [name for name in names if f'id="{name}"' not in page] == []
        assert '<a href="' in page


def test_the_reference_needs_no_network(reference):
    for page in reference.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|link)[^>]+(?:src|href)=\"https?:", text)


def test_no_link_of_the_reference_is_dead(reference):
    links = 0
    for page in reference.rglob("*.html"):
        for link in re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            file, _, place = link.partition("#")
            target = (page.parent / file) if file else page
            assert target.exists(), link
            assert not place or f'id="{place}"' in target.read_text(encoding="utf-8"), link
            links += 1
    assert links > 1000


def test_formulas_and_examples_keep_their_form(reference):
    page = (reference / "icltheory.html").read_text(encoding="utf-8")
    start = page.index('<section id="SparseBits"')
    assert "w* uniform over" in page[start : start + 5000]
    start = page.index('<section id="head_constant"')
    part = page[start : start + 6000]
    assert "x_q&#39;A_h x_i" in part or "x_q'A_h x_i" in part
    assert "<li>score_matrices: one entry a head" in part
    assert "&gt;&gt;&gt;" in part
    assert "19.1556" in part


def test_the_command_has_a_help(capsys):
    assert api_reference.main(["--help"]) == 0
    assert "into the folder OUT" in capsys.readouterr().out


def test_bad_use_of_the_command_is_one_line(capsys, tmp_path):
    assert api_reference.main([]) == 2
    assert capsys.readouterr().err == "usage: python -m numeric.api_reference OUT\n"
    with pytest.raises(InvalidInput, match="out has type int; pass the path of a folder"):
        api_reference.build(3)  # pyright: ignore[reportArgumentType]
    (tmp_path / "file").write_text("")
    pytest.importorskip("pdoc")
    assert api_reference.main([str(tmp_path / "file" / "pages")]) == 2
    assert capsys.readouterr().err.startswith("api_reference: cannot write to ")


def test_without_pdoc_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pdoc", None)
    assert api_reference.main(["pages"]) == 2
    assert capsys.readouterr().err == (
        "api_reference: the API reference needs pdoc: pip install 'icltheory[docs]'.\n"
    )
