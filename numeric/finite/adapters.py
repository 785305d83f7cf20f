"""A user's own models as sequence models, and the checks that any model must pass.

`EmbeddingModel` wraps a backbone that maps embedded tokens to hidden states, such as `GPT2Model` of
Hugging Face (nothing of it is imported here); `QueryModel` wraps a model with any other layout of
tokens, layer by layer; `CallableModel` wraps a function of prompts. Exported: these, and
`check_model`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from icltheory.errors import IclTheoryError, InvalidInput
from numeric.arrays import integer
from numeric.finite.models import count
from numeric.finite.transformer import SequenceModel, interleaved
from numeric.validate import array_caller

# Relative and absolute change of predictions that counts as one, for float32 weights.
_TOLERANCE, _ROUNDING = 1e-4, 1e-6
_LAYOUT = (
    "the tokens are x_1, (y_1, 0, ...), x_2, ..., and the prediction of y_i is read at x_i; wrap a "
    "model with another layout by finite.QueryModel or finite.CallableModel"
)


class EmbeddingModel(SequenceModel):
    """A causal backbone on embedded tokens, with a linear read-in and read-out.

    Parameters
    ----------
    backbone: callable inputs_embeds (B, 2 N - 1, width) -> hidden states: a tensor (B, 2 N - 1, width)
        (the last state), a sequence of them (the first being the embedded input), or an object or
        dict with `hidden_states` or `last_hidden_state`, as Hugging Face models return. It is called
        by keyword, and with output_hidden_states=True, where its signature has these names.
    read_in: module (..., dim) -> (..., width), e.g. `nn.Linear`; `dim` is its `in_features`.
    readout: module (..., width) -> (..., 1) that acts on the last hidden state.
    points: the most x tokens (2 points - 1 positions); `None` takes it from `backbone.config`, if it
        has `n_positions`.
    norm: the final normalisation of the backbone (`ln_f` of GPT-2), to be applied to all states but
        the last, which already has it; so all layers are read in the same way.
    dim: feature dimension, for a read-in without `in_features`.

    Errors: `InvalidInput` for hidden states of another shape. `check_model` looks for the rest.

    >>> model = EmbeddingModel(nn.Tanh(), nn.Linear(3, 8), nn.Linear(8, 1))
    >>> model.hidden_states(torch.zeros(2, 5, 3), torch.ones(2, 5)).shape
    torch.Size([2, 2, 5, 8])
    """

    def __init__(
        self,
        backbone: Callable[..., Any],
        read_in: nn.Module,
        readout: nn.Module,
        *,
        points: int | None = None,
        norm: nn.Module | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(backbone):
            raise InvalidInput(
                f"backbone has type {type(backbone).__name__}; pass a callable inputs_embeds -> "
                f"hidden states."
            )
        for name, module in (("read_in", read_in), ("readout", readout)):
            if not isinstance(module, nn.Module):
                raise InvalidInput(
                    f"{name} has type {type(module).__name__}; pass a torch module such as nn.Linear."
                )
        self.backbone, self.read_in, self.readout, self.norm = backbone, read_in, readout, norm
        width = getattr(read_in, "in_features", None) if dim is None else dim
        if width is None:
            raise InvalidInput("the read-in has no in_features; give the feature dimension dim=.")
        self.dim = count(width, "dim")
        if points is None:
            positions = getattr(getattr(backbone, "config", None), "n_positions", None)
            points = None if positions is None else (int(positions) + 1) // 2
        self.points = None if points is None else count(points, "points")
        self._keywords = _keywords(backbone)

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States at the x tokens, (layers + 1, B, N, width), normalised alike if `norm` is given."""
        self.check(X, y)
        weight = next(self.read_in.parameters(), torch.empty(0))
        embedded = self.read_in(interleaved(X, y).to(weight))
        keywords = dict(self._keywords)
        called = keywords.pop("inputs_embeds", False)
        output = (
            self.backbone(inputs_embeds=embedded, **keywords)
            if called
            else self.backbone(embedded, **keywords)
        )
        states = _all_states(output, embedded)
        if self.norm is not None:
            states = [self.norm(state) for state in states[:-1]] + [states[-1]]
        return torch.stack([state[:, ::2] for state in states])

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """The given read-out."""
        return _one_number(self.readout, states)


class QueryModel(SequenceModel):
    """A model of examples and queries, whatever its tokens are, as a sequence model.

    Parameters
    ----------
    states: callable (X (B, n, dim), y (B, n), queries (B, T, dim)) -> the states that belong to the
        queries, (layers + 1, B, T, width) or a sequence of (B, T, width), the embedded input first;
        n = 0 included (X of shape (B, 0, dim)). A query must not depend on the others. If it is a
        module, or a method of one, the weights of that belong to this model; of a plain function
        `finite.train` trains the read-out alone, and warns.
    readout: module (..., width) -> (..., 1) that acts on the last state.
    dim: feature dimension d.
    points: the most x tokens (examples and query), or None.

    Inputs are cast to the dtype and device of the first weight. Every prefix of a prompt is a call of
    its own, so that nothing in the layout has to be causal. Errors: `InvalidInput` for states of
    another shape.

    >>> def two_steps(X, y, queries):
    ...     w, states = X.new_zeros(len(X), X.shape[2]), [torch.zeros_like(queries[..., :1])]
    ...     for _ in range(2):
    ...         w = w + torch.einsum("bni,bn->bi", X, y - torch.einsum("bni,bi->bn", X, w)) / 10
    ...         states.append(torch.einsum("bti,bi->bt", queries, w)[..., None])
    ...     return states
    >>> model = QueryModel(two_steps, nn.Identity(), dim=3)
    >>> model(torch.ones(1, 4, 3), torch.ones(1, 4), torch.ones(1, 3))
    tensor([0.9600])
    >>> check_model(model)
    """

    def __init__(
        self,
        states: Callable[..., Any],
        readout: nn.Module,
        dim: int,
        *,
        points: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(states):
            raise InvalidInput(
                f"states has type {type(states).__name__}; pass a callable (X, y, queries) -> states."
            )
        if not isinstance(readout, nn.Module):
            raise InvalidInput(
                f"readout has type {type(readout).__name__}; pass a torch module such as nn.Linear."
            )
        owner = getattr(states, "__self__", None)
        self.owner = owner if isinstance(owner, nn.Module) else None
        self.states, self.readout, self.dim = states, readout, count(dim, "dim")
        self.points = None if points is None else count(points, "points")

    @property
    def trains_readout_only(self) -> bool:
        """Whether `states` is a plain function, whose weights are not among the parameters."""
        return self.owner is None and not isinstance(self.states, nn.Module)

    def query_states(self, X: torch.Tensor, y: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """States at several queries after the same examples, (layers + 1, B, T, width)."""
        weight = next(self.parameters(), None)
        if weight is not None:
            X, y, queries = (part.to(weight) for part in (X, y, queries))
        found = self._called(X, y, queries)
        states = list(found) if isinstance(found, (torch.Tensor, tuple, list)) else [found]
        shapes = {
            tuple(s.shape) if isinstance(s, torch.Tensor) else type(s).__name__ for s in states
        }
        if len(states) < 2 or len(shapes) != 1 or states[0].shape[:-1] != queries.shape[:2]:
            raise InvalidInput(
                f"states returned {len(states)} of {', '.join(map(str, shapes))} for X "
                f"{tuple(X.shape)} and queries {tuple(queries.shape)}; it must return at least two of "
                f"{(*queries.shape[:2], 'width')}, the embedded input and one a layer."
            )
        return torch.stack(states)

    def _called(self, X: torch.Tensor, y: torch.Tensor, queries: torch.Tensor) -> Any:
        """What `states` returns; what it raises as `InvalidInput` with the shapes that it was given."""
        try:
            return self.states(X, y, queries)
        except IclTheoryError:
            raise
        except Exception as error:
            shapes = f"X was {tuple(X.shape)} and queries {tuple(queries.shape)}"
            said = (
                f"`states` was called and raised; {shapes}"
                if X.shape[1]
                else f"`states` was called with no examples (n = 0) and must answer; {shapes}"
            )
            raise InvalidInput(f"{said} ({type(error).__name__}: {error}).") from error

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States at the x tokens, each as the query after the examples before, (layers + 1, B, N, width)."""
        self.check(X, y)
        return torch.cat(
            [self.query_states(X[:, :i], y[:, :i], X[:, i : i + 1]) for i in range(X.shape[1])],
            dim=2,
        )

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """X (B, n, d), y (B, n), query (B, d) -> prediction (B,), in one call."""
        return self.read_out(self.query_states(X, y, query[:, None])[-1])[:, 0]

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """The given read-out."""
        return _one_number(self.readout, states)


class CallableModel(SequenceModel):
    """A function of prompts as a sequence model whose only states are its predictions.

    Parameters
    ----------
    function: callable (X (B, n, dim), y (B, n), query (B, dim)) -> (B,), as `numeric.validate` takes
        it, called once a prefix; with `every_prefix`, (X (B, N, dim), y (B, N)) -> (B, N), called
        once, with tensors. A function of one prefix gets float64 arrays, or tensors in its dtype if
        it has `parameters` or `framework == "torch"`.
    dim: feature dimension d.
    points: the most x tokens, or None.
    every_prefix: see `function`.
    empty: the prediction from no example, for which a function of one prefix is not called.

    State 0 is zero, state 1 the predictions, of width 1.

    >>> def mean_label(X, y, query):
    ...     return y.mean(1)
    >>> CallableModel(mean_label, dim=3).predict_all(torch.ones(1, 4, 3), torch.ones(1, 4))
    tensor([[0., 1., 1., 1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[..., Any],
        dim: int,
        *,
        points: int | None = None,
        every_prefix: bool = False,
        empty: float = 0.0,
    ) -> None:
        super().__init__()
        self.function, self.dim = function, count(dim, "dim")
        self.points = None if points is None else count(points, "points")
        self.every_prefix, self.empty = bool(every_prefix), float(empty)
        self._call = array_caller(function)

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Zeros and the predictions, (2, B, N, 1)."""
        predictions = self.predict_all(X, y)[..., None]
        return torch.stack([torch.zeros_like(predictions), predictions])

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """The prediction itself."""
        return states[..., 0]

    def predict_all(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Predictions (B, N) at every x token, from prefixes of 0, ..., N - 1 examples."""
        self.check(X, y)
        if self.every_prefix:
            found = torch.as_tensor(self.function(X, y))
            return _one_each(found, y, "the function")
        X_, y_ = X.double().numpy(force=True), y.double().numpy(force=True)
        predictions = np.full(y_.shape, self.empty)
        for i in range(1, y_.shape[1]):
            predictions[:, i] = self._call(X_[:, :i], y_[:, :i], X_[:, i])
        return torch.from_numpy(predictions).to(X.device)


def check_model(model: SequenceModel, points: int = 6, *, seed: int = 0) -> None:
    """`InvalidInput` unless the model is a usable sequence model on prompts of `points` x tokens.

    Looks at the shapes of hidden states and predictions, NaN, whether the read-out of the last state
    is the prediction, whether two calls agree, and whether a prediction depends on what stands after
    its token, as it does in a model without causal mask or with another layout of tokens.

    >>> from numeric.finite.transformer import Transformer
    >>> check_model(Transformer(dim=3, layers=2, width=16, heads=2))
    """
    if not isinstance(model, SequenceModel):
        raise InvalidInput(
            f"model has type {type(model).__name__}; pass a finite.SequenceModel: finite.Transformer, "
            f"or wrap yours in finite.EmbeddingModel, finite.QueryModel or finite.CallableModel."
        )
    number = integer(points, "points", 2)
    rng = np.random.default_rng(integer(seed, "seed", 0))
    X = torch.from_numpy(rng.standard_normal((2, number, model.dim)))
    y = torch.from_numpy(rng.standard_normal((2, number)))
    states = checked_states(model, X, y)
    with torch.no_grad():
        first = _one_each(model.predict_all(X, y), y, "predict_all")
        last = model.read_out(states[-1])
        again = _one_each(model.predict_all(X, y), y, "predict_all")
    _require_equal(
        first,
        again,
        "the prediction {} when the model is called again with the same prompt; "
        "put it into evaluation mode (model.eval()) and remove what is random",
    )
    _require_equal(
        first,
        last,
        "the prediction {} from the read-out of the last hidden state; "
        "read_out must act on hidden_states(...)[-1]",
    )
    half = number // 2
    later = X.clone(), y.clone()
    later[0][:, half + 1 :] += 1.0
    later[1][:, half:] += 1.0
    with torch.no_grad():
        changed = _one_each(model.predict_all(*later), y, "predict_all")
    _require_equal(
        first[:, : half + 1],
        changed[:, : half + 1],
        f"the prediction {{}} when tokens after it change; the model must be causal, and {_LAYOUT}",
    )
    queries = torch.stack([X[:, -1], X[:, 0]], dim=1)
    with torch.no_grad():
        both = model.read_out(model.query_states(X[:, :-1], y[:, :-1], queries)[-1])
    _require_equal(
        last[:, -1],
        both[:, 0],
        "the prediction for a query {} when another query is asked beside it; queries must not see "
        "each other",
    )


def checked_states(model: SequenceModel, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The hidden states of a model, without gradients, if they have the right shape and are finite."""
    shown = f"for X {tuple(X.shape)} and y {tuple(y.shape)}"
    try:
        with torch.no_grad():
            states = model.hidden_states(X, y)
    except IclTheoryError:
        raise
    except Exception as error:
        advice = "" if isinstance(model, (QueryModel, CallableModel)) else f"; {_LAYOUT}"
        raise InvalidInput(
            f"the model raised {type(error).__name__}: {error}, {shown}{advice}."
        ) from error
    if not isinstance(states, torch.Tensor) or states.ndim != 4 or states.shape[1:3] != y.shape:
        got = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
        raise InvalidInput(
            f"hidden_states returned {got} {shown}; it must be (layers + 1, {y.shape[0]}, "
            f"{y.shape[1]}, width), one state an x token."
        )
    if not bool(torch.isfinite(states).all()):
        layer = int((~torch.isfinite(states)).flatten(1).any(1).nonzero()[0])
        raise InvalidInput(
            f"hidden states of layer {layer} are NaN or infinite {shown}; check the weights and the "
            f"size of the prompts."
        )
    return states


def _one_number(readout: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Predictions (...) of a read-out from states (..., width)."""
    predictions = readout(states)
    if predictions.shape != (*states.shape[:-1], 1):
        raise InvalidInput(
            f"the read-out returned shape {tuple(predictions.shape)} for hidden states "
            f"{tuple(states.shape)}; it must return one number a state, "
            f"{(*states.shape[:-1], 1)}."
        )
    return predictions[..., 0]


def _one_each(found: torch.Tensor, y: torch.Tensor, name: str) -> torch.Tensor:
    """Predictions, if there is a finite one for every x token."""
    if found.shape != y.shape:
        raise InvalidInput(
            f"{name} returned shape {tuple(found.shape)}; it must return {tuple(y.shape)}, one "
            f"prediction an x token."
        )
    if not bool(torch.isfinite(found).all()):
        raise InvalidInput(f"{name} returned NaN or infinite predictions; check its weights.")
    return found


def _require_equal(a: torch.Tensor, b: torch.Tensor, message: str) -> None:
    difference = float((a - b).abs().max())
    if difference > _TOLERANCE * float(a.abs().max()) + _ROUNDING:
        raise InvalidInput(message.format(f"differs by {difference:.3g}") + ".")


def _keywords(backbone: Callable[..., Any]) -> dict[str, bool]:
    """The arguments of Hugging Face models that the backbone has."""
    try:
        target = backbone.forward if isinstance(backbone, nn.Module) else backbone
        known = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}
    wanted = {"inputs_embeds": True, "output_hidden_states": True, "use_cache": False}
    return {name: value for name, value in wanted.items() if name in known}


def _all_states(output: Any, embedded: torch.Tensor) -> list[torch.Tensor]:
    """The hidden states of every layer, the embedded input first."""
    for name in ("hidden_states", "last_hidden_state"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if found is not None:
            output = found
            break
    states = [embedded, output] if isinstance(output, torch.Tensor) else output
    if isinstance(states, (tuple, list)) and len(states) >= 2:
        shapes = {tuple(s.shape) if isinstance(s, torch.Tensor) else type(s) for s in states}
        if len(shapes) == 1 and states[0].shape[:2] == embedded.shape[:2]:
            return list(states)
        got = f"hidden states of shapes {', '.join(map(str, shapes))}"
    else:
        got = f"{type(states).__name__}"
    raise InvalidInput(
        f"the backbone returned {got} for inputs_embeds {tuple(embedded.shape)}; it must return "
        f"tensors ({embedded.shape[0]}, {embedded.shape[1]}, width): the last hidden state, or all "
        f"of them with the embedded input first."
    )
