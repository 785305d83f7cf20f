"""Attention networks whose weights are written down and that run an algorithm, one step a layer.

The constructive theorem of Fu et al. (arXiv 2310.17086), corrected and shortened. Attention has the activation max(z, 0)/N over N key columns, a residual path, and
a linear MLP with residual, written as the ReLU network max(W h, 0) - max(-W h, 0). Since

    max(z, 0) V - max(-z, 0) V = z V,

two heads with opposite keys and opposite values are one linear head; the printed proof gives them
equal values, and |z| V. Exported: `ReluLayer`, `ConstructedTransformer`, `newton_transformer`,
`gradient_transformer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from icltheory.errors import InvalidInput
from numeric.arrays import integer
from numeric.decoding_display import Shown
from numeric.finite.models import count, spread

_STARTS = ("S", "I")
_LAYOUTS = ("short", "published")
_SIGNS = ("corrected", "printed")
Tokens = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class ReluLayer(Shown):
    """Heads of ReLU attention and a linear MLP, both added to the residual stream.

    name: what the layer does. query, key, value: (heads, width, width), acting on columns.
    mlp: (width, width).
    """

    name: str
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mlp: torch.Tensor

    def __call__(self, h: torch.Tensor, keys: int, causal: bool = False) -> torch.Tensor:
        """The next columns from h (B, columns, width); the first `keys` columns are attended to.

        `causal`: column c attends to columns up to c only.
        """
        seen, attended = h[:, :keys], torch.zeros_like(h)
        for query, key, value in zip(self.query, self.key, self.value, strict=True):
            scores = (h @ query.T) @ (seen @ key.T).transpose(1, 2)
            weights = scores.clamp_min(0) / keys
            if causal:
                weights = weights.tril()
            attended = attended + weights @ (seen @ value.T)
        h = h + attended
        mapped = h @ self.mlp.T
        return h + mapped.clamp_min(0) - (-mapped).clamp_min(0)


class ConstructedTransformer(nn.Module):
    """Layers with given weights, and the tokens that they expect.

    It has no parameters to train. Forward: X (B, n, dim), y (B, n), query (B, dim) -> (B,), the last
    coordinate of the query column after the last layer, with n = `prompt_length`, which the weights
    contain. Computes in float64. `blocks` names the coordinates of a column.
    """

    framework = "torch"

    def __init__(
        self,
        dim: int,
        prompt_length: int,
        layers: list[ReluLayer],
        blocks: dict[str, slice],
        tokens: Tokens,
        keys: int,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.prompt_length, self.causal = dim, prompt_length, causal
        self.layers, self.blocks = layers, blocks
        self._tokens, self._keys = tokens, keys

    def states(self, X: Any, y: Any, query: Any) -> torch.Tensor:
        """All columns before and after every layer, (layers + 1, B, columns, width).

        The query is the last column.
        """
        X, y, query = (torch.as_tensor(a, dtype=torch.float64) for a in (X, y, query))
        shape = (len(X), self.prompt_length, self.dim)
        if X.shape != shape or y.shape != shape[:2] or query.shape != shape[::2]:
            raise InvalidInput(
                f"X has shape {tuple(X.shape)}, y {tuple(y.shape)} and query {tuple(query.shape)}; "
                f"the weights are those of {self.prompt_length} examples in {self.dim} dimensions."
            )
        found = [self._tokens(X, y, query)]
        for layer in self.layers:
            found.append(layer(found[-1], self._keys, self.causal))
        return torch.stack(found)

    def forward(self, X: Any, y: Any, query: Any) -> torch.Tensor:
        return self.states(X, y, query)[-1, :, -1, self.blocks["y"].start]

    def __repr__(self) -> str:
        names = ", ".join(layer.name for layer in self.layers)
        return f"ConstructedTransformer({len(self.layers)} layers: {names})"


def newton_transformer(
    dim: int,
    prompt_length: int,
    steps: int,
    scale: float,
    start: str = "S",
    *,
    layout: str = "short",
    signs: str = "corrected",
    causal: bool = False,
) -> ConstructedTransformer:
    """A network that predicts x_q' M_k X'y with k steps of M <- 2 M - M S M.

    Parameters
    ----------
    dim, prompt_length, steps: d, n >= 1, k >= 0; all are in the weights.
    scale, start: M_0 = scale * S ("S") or scale * identity ("I"). The network has the value of the
        iterate for every prompt; it converges where scale * lam_max^2 ("S"), scale * lam_max ("I")
        is below 2.
    layout: "short" has columns (a; x; y), of which only the examples are attended to, and k + 2
        layers from S, k + 1 from the identity. "published" has the tokens x_1, y_1, x_2, ..., x_q
        with positions, full attention over all of them, and the k + 8 layers of the paper, 3 before
        the steps and 5 after. The paper takes the primitives of these layers from Akyürek et al.
        (arXiv 2211.15661); here they are exact: a copy attends with the weight max(1 - m^2, 0) to
        the column at distance m from its source.
    signs: "corrected" gives both heads of a pair opposite values; "printed" equal ones, which
        computes |z| in place of z.
    causal: a causal mask, under which every column has the iterate of its own prefix and the
        prediction is another one.

    Errors: `InvalidInput`. Source: V20.

    >>> X = torch.tensor([[[1.0, 0], [1, 1], [0, 2], [1, -1]]])
    >>> y, query = X @ torch.tensor([1.0, -2]), torch.tensor([[0.5, 1]])
    >>> round(newton_transformer(2, 4, 1, 1 / 9, "I")(X, y, query).item(), 12)
    -1.5
    >>> [len(newton_transformer(2, 4, 1, 0.1, layout=kind).layers) for kind in ("short", "published")]
    [3, 9]
    """
    for name, value, known in (
        ("start", start, _STARTS),
        ("layout", layout, _LAYOUTS),
        ("signs", signs, _SIGNS),
    ):
        if value not in known:
            raise InvalidInput(f"{name} = {value!r} is not one of {', '.join(known)}.")
    d, n = count(dim, "dim"), count(prompt_length, "prompt_length")
    k = integer(steps, "steps", 0)
    build = _short if layout == "short" else _published
    return build(d, n, k, spread(scale, "scale"), start, signs == "printed", bool(causal))


def gradient_transformer(
    dim: int, prompt_length: int, steps: int, step_size: float
) -> ConstructedTransformer:
    """A network of k layers that predicts with k >= 1 steps of gradient descent from w = 0.

    Columns (x; r) hold the residuals r_j = y_j - x_j.w; a layer subtracts step_size sum_j
    (x_c.x_j) r_j from every column, so that the query column, which starts at 0, ends at -x_q.w; the
    last MLP turns the sign. Source: von Oswald et al. (arXiv 2212.07677).

    >>> X = torch.tensor([[[1.0, 0], [1, 1], [0, 2], [1, -1]]])
    >>> y, query = X @ torch.tensor([1.0, -2]), torch.tensor([[0.5, 1]])
    >>> round(gradient_transformer(2, 4, 2, 1 / 9)(X, y, query).item(), 12)  # Newton, 1 step
    -1.5
    """
    d, n, k = count(dim, "dim"), count(prompt_length, "prompt_length"), count(steps, "steps")
    size = _Blocks(x=d, y=1)
    layers = [
        size.layer(
            f"step {i + 1}",
            linear=(-n * spread(step_size, "step_size") * size("x", "x"), size("x", "x")),
            value=size("y", "y"),
            mlp=-2 * size("y", "y") if i == k - 1 else None,
        )
        for i in range(k)
    ]

    def tokens(X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return size.columns(x=_with(X, query), y=_with(y, torch.zeros_like(y[:, 0]))[..., None])

    return ConstructedTransformer(d, n, layers, size.slices, tokens, n)


class _Blocks:
    """Named blocks of the coordinates of a column, maps between them, and layers made of these."""

    def __init__(self, *, printed: bool = False, **sizes: int) -> None:
        self.printed, self.slices, self.width = printed, {}, 0
        for name, size in sizes.items():
            self.slices[name] = slice(self.width, self.width + size)
            self.width += size

    def __call__(self, to: str, source: str) -> torch.Tensor:
        """The map of block `source` into block `to`; the shorter of both counts."""
        matrix = torch.zeros(self.width, self.width, dtype=torch.float64)
        torch.diagonal(matrix[self.slices[to], self.slices[source]]).fill_(1.0)
        return matrix

    def columns(self, **values: torch.Tensor) -> torch.Tensor:
        """Columns (B, columns, width) with these blocks (B, columns, size), and zero elsewhere."""
        first = next(iter(values.values()))
        h = torch.zeros(*first.shape[:2], self.width, dtype=torch.float64)
        for name, value in values.items():
            h[..., self.slices[name]] = value
        return h

    def layer(
        self,
        name: str,
        *,
        linear: tuple[torch.Tensor, torch.Tensor] | None = None,
        choice: tuple[torch.Tensor, torch.Tensor] | None = None,
        value: torch.Tensor | None = None,
        mlp: torch.Tensor | None = None,
    ) -> ReluLayer:
        """`linear` (query, key) is a pair of heads, `choice` one head, whose scores are >= 0."""
        zero = torch.zeros(self.width, self.width, dtype=torch.float64)
        value = zero if value is None else value
        if linear is not None:
            query, key = linear
            other = value if self.printed else -value
            heads = [(query, key, value), (query, -key, other)]
        elif choice is not None:
            heads = [(*choice, value)]
        else:
            heads = []
        parts = (
            (torch.stack(part) for part in zip(*heads, strict=True)) if heads else [zero[:0]] * 3
        )
        query, key, value = parts
        return ReluLayer(name, query, key, value, zero if mlp is None else mlp)


def _with(examples: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Example columns, then the query column."""
    return torch.cat([examples, query[:, None]], dim=1)


def _short(
    d: int, n: int, k: int, scale: float, start: str, printed: bool, causal: bool
) -> ConstructedTransformer:
    """The k + 1 or k + 2 layers of V20 on columns (a; x; y)."""
    size = _Blocks(printed=printed, a=d, x=d, y=1)
    first = size.layer(
        "start", linear=(size("x", "x"), size("x", "x")), value=n * scale * size("a", "x")
    )
    step = size.layer(
        "Newton",
        linear=(-n / 2 * size("a", "x"), size("a", "a")),
        value=size("a", "a"),
        mlp=size("a", "a"),
    )
    last = size.layer("read-out", linear=(n * size("x", "a"), size("x", "x")), value=size("y", "y"))
    layers = [first] * (start == "S") + [step] * k + [last]

    def tokens(X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        x = _with(X, query)
        a = scale * x if start == "I" else torch.zeros_like(x)
        return size.columns(a=a, x=x, y=_with(y, torch.zeros_like(y[:, 0]))[..., None])

    return ConstructedTransformer(d, n, layers, size.slices, tokens, n, causal)


def _published(
    d: int, n: int, k: int, scale: float, start: str, printed: bool, causal: bool
) -> ConstructedTransformer:
    """k + 8 layers on the tokens x_1, y_1, ..., x_n, y_n, x_q with full attention.

    Beside a, x and y a column has the blocks `examples` (x in the columns of the x_i only: keys that
    leave labels and the query out), `sum`, `weights`, `product` (scratch of the read-out), and its
    `position` (1, p, p^2), the same again for columns of examples only (`is_example`), and
    `is_query`.
    """
    size = _Blocks(
        printed=printed,
        a=d,
        x=d,
        examples=d,
        sum=d,
        weights=d,
        product=1,
        position=3,
        is_example=3,
        is_query=1,
        y=1,
    )
    N = 2 * n + 1
    layers = [
        size.layer("copy labels", choice=_distance(size, 1), value=N * size("y", "x")),
        size.layer("copy examples", choice=_distance(size, 0), value=N * size("examples", "x")),
        size.layer(
            "start",
            linear=(size("examples", "x"), size("examples", "examples")),
            value=N * scale * size("a", "examples"),
        )
        if start == "S"
        else size.layer("start", mlp=scale * size("a", "x")),
    ]
    layers += [
        size.layer(
            "Newton",
            linear=(-N / 2 * size("examples", "a"), size("examples", "examples")),
            value=size("a", "a"),
            mlp=size("a", "a"),
        )
    ] * k
    is_first = size("is_query", "position")  # 1 - p^2 in the place of is_query
    is_first[size.slices["is_query"].start, size.slices["position"].stop - 1] = -1.0
    scratch = ("examples", "sum", "weights", "product")
    layers += [
        size.layer(
            "sum y_j a_j",
            linear=(size("y", "position"), size("y", "y")),
            value=N * size("sum", "a"),
        ),
        size.layer(
            "move the sum",
            choice=(size("is_query", "is_query"), is_first),
            value=N * size("weights", "sum"),
        ),
        size.layer(
            "multiply by x_q",
            linear=(size("weights", "x"), size("weights", "weights")),
            value=N * size("product", "position"),
        ),
        size.layer(
            "move the product",
            choice=(size("is_query", "is_query"), size("is_query", "is_query")),
            value=N * size("y", "product"),
        ),
        size.layer("erase", mlp=-sum((size(name, name) for name in scratch), 0 * size("y", "y"))),
    ]

    def tokens(X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        labels = torch.zeros_like(X)
        labels[..., 0] = y
        x = _with(torch.stack([X, labels], dim=2).flatten(1, 2), query)
        p = torch.arange(N, dtype=torch.float64)
        position = torch.stack([p**0, p, p**2], dim=-1).expand(len(X), N, 3)
        query_column = (p == N - 1)[:, None].double()
        example = (p % 2 == 0)[:, None].double() - query_column
        return size.columns(
            x=x,
            position=position,
            is_example=position * example,
            is_query=query_column.expand(len(X), N, 1),
        )

    return ConstructedTransformer(d, n, layers, size.slices, tokens, N, causal)


def _distance(size: _Blocks, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key with the score 1 - (p_j - p_c - shift)^2 in the columns c of examples, else 0."""
    query = torch.zeros(size.width, size.width, dtype=torch.float64)
    # e (1 - (p + s)^2), 2 e (p + s) and -e against the 1, p_j and p_j^2 of the key column.
    query[size.slices["position"], size.slices["is_example"]] = torch.tensor(
        [[1.0 - shift**2, -2.0 * shift, -1.0], [2.0 * shift, 2.0, 0.0], [-1.0, 0.0, 0.0]],
        dtype=torch.float64,
    )
    return query, size("position", "position")
