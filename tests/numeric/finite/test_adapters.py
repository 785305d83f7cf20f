"""A user's own models: backbones on embeddings, functions of prompts, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.finite.adapters import (
    CallableModel,
    EmbeddingModel,
    QueryModel,
    check_model,
    checked_states,
)

DIM, WIDTH, POINTS = 3, 8, 6


@pytest.fixture(autouse=True)
def seeded():
    """Torch's own layers draw from the global generator, which is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def prompts(size=4, points=POINTS, dim=DIM):
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((size, points, dim)), rng.standard_normal((size, dim))
    return torch.from_numpy(X), torch.from_numpy(np.einsum("bnd,bd->bn", X, w))


class FakeGPT2(nn.Module):
    """The interface of GPT2Model: keyword inputs, all hidden states, the last one normalised."""

    def __init__(self, layers=2, n_positions=11, causal=True, dropout=0.0):
        super().__init__()
        self.config = SimpleNamespace(n_positions=n_positions)
        self.wpe = nn.Embedding(n_positions, WIDTH)
        self.h = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 2, 16, dropout=dropout, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.ln_f, self.causal = nn.LayerNorm(WIDTH), causal

    def forward(
        self, input_ids=None, inputs_embeds=None, output_hidden_states=False, use_cache=True
    ):
        assert input_ids is None
        assert use_cache is False
        length = inputs_embeds.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1).to(inputs_embeds)
        states = [inputs_embeds + self.wpe.weight[:length]]
        for block in self.h:
            states.append(block(states[-1], src_mask=mask if self.causal else None))
        states[-1] = self.ln_f(states[-1])
        return SimpleNamespace(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
        )


def embedding_model(backbone, **options):
    return EmbeddingModel(backbone, nn.Linear(DIM, WIDTH), nn.Linear(WIDTH, 1), **options)


# -- backbones on embeddings -----------------------------------------------------------------------


def test_a_hugging_face_style_backbone():
    backbone = FakeGPT2()
    model = embedding_model(backbone)
    assert (model.dim, model.points) == (DIM, 6)
    check_model(model, POINTS)
    X, y = prompts()
    states = model.hidden_states(X, y)
    assert states.shape == (3, 4, POINTS, WIDTH)
    # The same by hand, one prompt and prefix at a time.
    for p in range(2):
        for n in range(POINTS):
            tokens = [X[p, 0]]
            for i in range(n):
                tokens += [torch.tensor([y[p, i], 0, 0]), X[p, i + 1]]
            embedded = model.read_in(torch.stack(tokens).float())[None]
            last = backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -1]
            value = model.readout(last)
            assert model.predict_all(X, y)[p, n].item() == pytest.approx(value.item(), abs=1e-5)


def test_all_layers_are_normalised_alike():
    backbone = FakeGPT2()
    plain, alike = embedding_model(backbone), embedding_model(backbone, norm=backbone.ln_f)
    alike.read_in, alike.readout = plain.read_in, plain.readout
    X, y = prompts()
    a, b = plain.hidden_states(X, y), alike.hidden_states(X, y)
    assert torch.equal(a[-1], b[-1])
    assert torch.allclose(backbone.ln_f(a[:-1]), b[:-1])
    assert torch.equal(plain.predict_all(X, y), alike.predict_all(X, y))


@pytest.mark.parametrize("kind", ["last", "all", "stacked", "dict"])
def test_other_outputs_of_backbones(kind):
    """A tensor, a list, one stacked tensor, a dict."""
    mix = nn.Linear(WIDTH, WIDTH)

    def backbone(embeds):
        total = embeds.cumsum(1)  # causal
        states = [embeds, total, mix(total)]
        return {
            "last": states[-1],
            "all": states,
            "stacked": tuple(torch.stack(states)),
            "dict": {"hidden_states": states},
        }[kind]

    model = embedding_model(backbone)
    check_model(model)
    states = model.hidden_states(*prompts())
    assert len(states) == (2 if kind == "last" else 3)
    assert torch.allclose(model.read_out(states[-1]), model.predict_all(*prompts()))


def test_an_adapter_is_trained_like_every_sequence_model():
    backbone = FakeGPT2(layers=1)
    before = [p.detach().clone() for p in backbone.parameters()]
    task = icl.LinearRegression(dim=DIM)
    finite.train(embedding_model(backbone), task, 5, steps=3, batch_size=4, progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_backbones_that_do_not_fit_are_refused():
    X, y = prompts()
    with pytest.raises(InvalidInput, match="backbone has type int; pass a callable"):
        embedding_model(3)
    with pytest.raises(InvalidInput, match="read_in has type function; pass a torch module"):
        EmbeddingModel(nn.Tanh(), lambda x: x, nn.Linear(WIDTH, 1))
    with pytest.raises(InvalidInput, match="no in_features; give the feature dimension dim="):
        EmbeddingModel(nn.Tanh(), nn.Identity(), nn.Linear(WIDTH, 1))
    with pytest.raises(InvalidInput, match=r"7 x tokens.*positions for 6"):
        embedding_model(FakeGPT2()).predict_all(*prompts(points=7))
    for backbone, message in (
        (lambda h: h[:, :-1], r"hidden states of shapes .*for inputs_embeds \(4, 11, 8\)"),
        (lambda h: [h], "returned list"),
        (lambda h: None, "returned NoneType"),
        (lambda h: [h, "text"], "hidden states of shapes"),
        (lambda h: h.flatten(), "hidden states of shapes"),
    ):
        with pytest.raises(InvalidInput, match=message):
            embedding_model(backbone).hidden_states(X, y)
    wide = EmbeddingModel(nn.Tanh(), nn.Linear(DIM, WIDTH), nn.Linear(WIDTH, 2))
    with pytest.raises(InvalidInput, match="must return one number a state"):
        wide.predict_all(X, y)


# -- functions -------------------------------------------------------------------------------------


class PairModel(nn.Module):
    """One token an example, no causal mask; queries see the examples, and each other if told to."""

    def __init__(self, apart=True):
        super().__init__()
        self.embed, self.head = nn.Linear(DIM + 1, WIDTH), nn.Linear(WIDTH, 1)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)
        self.apart = apart

    def states(self, X, y, queries):
        n, count = X.shape[1], queries.shape[1]
        asked = self.embed(nn.functional.pad(queries, (0, 1)))
        tokens = torch.cat([self.embed(torch.cat([X, y[..., None]], -1)), asked], 1)
        mask = torch.zeros(n + count, n + count, dtype=torch.bool)
        if self.apart:
            mask[:, n:] = True
            mask.fill_diagonal_(False)
        return asked, self.block(tokens, src_mask=mask)[:, n:]


def test_a_model_of_examples_and_queries():
    backbone = PairModel()
    model = QueryModel(backbone.states, backbone.head, DIM).eval()
    check_model(model)
    X, y = prompts()
    assert {id(p) for p in backbone.parameters()} <= {id(p) for p in model.parameters()}
    with torch.no_grad():
        states, every = model.hidden_states(X, y), model.predict_all(X, y)
        last = model(X[:, :-1], y[:, :-1], X[:, -1])
        queries = X[:, [2, 5, 0]]
        several = model.query_states(X[:, :4], y[:, :4], queries)
        default = finite.SequenceModel.query_states(model, X[:, :4], y[:, :4], queries)
        by_hand = backbone.states(X[:, :3].float(), y[:, :3].float(), X[:, 3:4].float())
    assert states.shape == (2, 4, POINTS, WIDTH)
    torch.testing.assert_close(every[:, -1], last)
    torch.testing.assert_close(several, default, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states[1, :, 3], by_hand[1][:, 0], rtol=1e-5, atol=1e-6)


def test_models_of_examples_and_queries_that_do_not_fit():
    together = PairModel(apart=False)
    model = QueryModel(together.states, together.head, DIM).eval()
    with pytest.raises(InvalidInput, match="queries must not see each other"):
        check_model(model)
    backbone = PairModel().eval()
    with pytest.raises(InvalidInput, match="pass a callable"):
        QueryModel(None, backbone.head, DIM)
    with pytest.raises(InvalidInput, match=r"pass a torch module such as nn\.Linear"):
        QueryModel(backbone.states, lambda s: s, DIM)
    for states in (
        lambda X, y, queries: queries,
        lambda X, y, queries: [queries],
        lambda X, y, queries: [queries, queries[:, :, :1]],
        lambda X, y, queries: [X, X],
        lambda X, y, queries: None,
    ):
        with pytest.raises(InvalidInput, match="the embedded input and one a layer"):
            QueryModel(states, nn.Identity(), DIM)(*prompts(), prompts()[0][:, 0])


@pytest.mark.parametrize(
    ("least", "message"),
    [
        (1, r"with no examples \(n = 0\) and must answer; X was \(2, 0, 3\)"),
        (2, r"`states` was called and raised; X was \(2, 1, 3\)"),
    ],
)
def test_states_that_raise_are_told_with_the_shapes_they_saw(least, message):
    def states(X, y, queries):
        if X.shape[1] == 1 or least == 1:
            X[:, least - 1]
        return [queries, queries]

    model = QueryModel(states, nn.Linear(3, 1), 3)
    with pytest.raises(InvalidInput, match=message) as caught:
        check_model(model)
    assert "IndexError" in str(caught.value)
    assert "wrap" not in str(caught.value)


def test_training_of_the_read_out_alone_is_told():
    task, options = icl.LinearRegression(dim=DIM), {"steps": 2, "progress": False}
    backbone = PairModel()
    model = QueryModel(lambda *prompt: backbone.states(*prompt), backbone.head, DIM)
    with pytest.warns(UserWarning, match=r"only the read-out is trained: .* or a method of it"):
        finite.train(model, task, 4, **options)
    whole = QueryModel(backbone.states, backbone.head, DIM)
    before = [p.detach().clone() for p in backbone.parameters()]
    finite.train(whole, task, 4, **options)  # without a warning, which would be an error
    assert not any(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_identify_names_descent_in_another_layout():
    def descent(X, y, queries):
        w, states = torch.zeros_like(queries[:, 0]), [torch.zeros_like(queries[..., :1])]
        for _ in range(3):
            residual = y - torch.einsum("bni,bi->bn", X, w)
            w = w + 0.05 * torch.einsum("bni,bn->bi", X, residual)
            states.append(torch.einsum("bti,bi->bt", queries, w)[..., None])
        return states

    model = QueryModel(descent, nn.Identity(), DIM)
    found = finite.identify(
        model, icl.LinearRegression(dim=DIM), 6, prompts=40, readout="own", bootstrap=100
    )
    assert found.solver == "gradient descent"
    np.testing.assert_array_equal(found.steps, [1, 2, 3])


def test_functions_of_one_prefix():
    layer = finite.SoftmaxAttention(DIM, 2, seed=1)
    X, y = prompts()
    predictions = CallableModel(layer, DIM).predict_all(X, y)
    with torch.no_grad():
        for n in range(1, POINTS):
            expected = layer(X[:, :n], y[:, :n], X[:, n])
            assert torch.allclose(predictions[:, n], expected, atol=1e-14)
    assert not predictions[:, 0].any()

    def least_squares(X, y, query):
        return np.einsum("bd,bdn,bn->b", query, np.linalg.pinv(X), y)

    model = CallableModel(least_squares, DIM, empty=0.5)
    assert torch.allclose(model.predict_all(X, y)[:, DIM:], y[:, DIM:], atol=1e-8)
    assert torch.equal(model.predict_all(X, y)[:, 0], torch.full((4,), 0.5).double())
    states = model.hidden_states(X, y)
    assert states.shape == (2, 4, POINTS, 1)
    assert not states[0].any()
    assert torch.equal(model.read_out(states[1]), model.predict_all(X, y))
    check_model(model, POINTS)


def test_functions_of_every_prefix():
    inner = finite.LSTM(DIM, 1, 4)
    model = CallableModel(inner.predict_all, DIM, every_prefix=True, points=9)
    check_model(model, POINTS)
    X, y = prompts()
    assert torch.equal(model.predict_all(X, y), inner.predict_all(X, y))
    with pytest.raises(InvalidInput, match="10 x tokens"):
        model.predict_all(*prompts(points=10))


def test_functions_that_do_not_fit_are_refused():
    X, y = prompts()
    for function, message in (
        (lambda X, y, q: y, r"returned shape \(4, 1\).*expected \(B,\) = \(4,\)"),
        (lambda X, y, q: y[:, 0] * np.nan, "NaN or infinite"),
        (lambda X, y: y, "raised TypeError"),
    ):
        with pytest.raises(InvalidInput, match=message):
            CallableModel(function, DIM).predict_all(X, y)
    for function, message in (
        (lambda X, y: y[:, 0], r"the function returned shape \(4,\); it must return \(4, 6\)"),
        (lambda X, y: y / 0, "the function returned NaN or infinite"),
    ):
        with pytest.raises(InvalidInput, match=message):
            CallableModel(function, DIM, every_prefix=True).predict_all(X, y)
    with pytest.raises(InvalidInput, match="model has type int; pass a callable"):
        CallableModel(3, DIM)


# -- what a model must satisfy ---------------------------------------------------------------------


def broken(**methods):
    """A small sound model with some of its methods replaced."""

    class Broken(finite.LSTM):
        pass

    for name, method in methods.items():
        setattr(Broken, name, method)
    return Broken(DIM, 1, 4)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"hidden_states": lambda self, X, y: torch.zeros(2, 2, 5, 4)}, r"returned \(2, 2, 5, 4\)"),
        ({"hidden_states": lambda self, X, y: [1]}, "hidden_states returned list"),
        ({"hidden_states": lambda self, X, y: X.nope}, "raised AttributeError"),
        ({"predict_all": lambda self, X, y: y[:, 0]}, r"predict_all returned shape \(2,\)"),
        ({"predict_all": lambda self, X, y: y / 0}, "predict_all returned NaN or infinite"),
        ({"predict_all": lambda self, X, y: 0 * y + 7.0}, "read-out of the last hidden state"),
    ],
)
def test_broken_models_are_refused(methods, message):
    with pytest.raises(InvalidInput, match=message):
        check_model(broken(**methods))


def test_random_leaking_and_broken_weights_are_refused():
    noisy = embedding_model(FakeGPT2(dropout=0.3))
    with pytest.raises(InvalidInput, match=r"called again.*evaluation mode \(model.eval\(\)\)"):
        check_model(noisy)
    check_model(noisy.eval())
    with pytest.raises(InvalidInput, match=r"must be causal.*x_1.*CallableModel"):
        check_model(embedding_model(FakeGPT2(causal=False)))

    # Tokens in another order: the label before its x.
    def labels_first(X, y):
        return (X * 0.1).sum(-1) + y

    with pytest.raises(InvalidInput, match="must be causal"):
        check_model(CallableModel(labels_first, DIM, every_prefix=True))
    lstm = finite.LSTM(DIM, 2, 4)
    with torch.no_grad():
        lstm.cells[1].weight_ih_l0[0, 0] = float("nan")
    with pytest.raises(InvalidInput, match="hidden states of layer 2 are NaN"):
        check_model(lstm)
    with pytest.raises(InvalidInput, match=r"model has type Linear; pass a finite.SequenceModel"):
        check_model(nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="points = 1"):
        check_model(finite.LSTM(DIM), 1)
    assert checked_states(finite.LSTM(DIM, 1, 4), *prompts()).requires_grad is False
