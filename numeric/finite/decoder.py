"""Linear self-attention that decodes: thoughts are columns that the layer appends to its prompt.

The embedding is that of Javanmard, Mirzasoleiman and Mirrokni (arXiv 2603.01293) after Huang, Wang
and Lee (arXiv 2502.21212). A prompt of n examples is a matrix Z of 2 d + 2 rows x (d), y (1), w (d),
flag (1), with the data columns (x_i; y_i; 0; 0) and thought columns (0; 0; w_s; 1), and

    f(Z) = Z + V Z (Z'K Z) / n,

n being the number of data columns. Decoding appends (0; 0; w_{s+1}; 1), where w_{s+1} are the w rows
of the last column of f(Z). With S = X'X/n and b = X'y/n, the blocks V_31 = P, K_13 = R and
K_24 = rho alone make w_{s+1} = w_s + P (S R w_s + rho b): gradient descent. Exported:
`LinearSelfAttention`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

import icltheory as icl
from icltheory.binary_priors import BinaryPrior, BinarySampler, Bits, require_prior, require_sampler
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import finite, integer
from numeric.binary_samplers import bit_probability
from numeric.finite.decoder_weights import DecoderWeights
from numeric.finite.models import count, generator_of

_BITS = Bits()
_BATCH = 2**24  # numbers that a batch of prompts and its chains occupy


class LinearSelfAttention(DecoderWeights):
    """One layer of linear self-attention that appends thoughts to its prompt.

    Parameters
    ----------
    dim: feature dimension d.
    thoughts: number t >= 1 of steps that `decode` and a call make unless told otherwise.
    form: what is trained. "full": `V` and `K`, (2 d + 2, 2 d + 2) each. "blocks": the blocks `P`, `R`
        (d, d) and `rho` (), all else 0. "scalar": `P` = p I and `R` = r I with numbers p, r, and
        `rho`. A parameter with `requires_grad_(False)` stays as it is.
    start_std: standard deviation of all entries at the start, around P = -0.3 I, R = 0.6 I and
        rho = -0.6.
    seed: of the start.

    Forward: X (B, n, dim), y (B, n), query (B, dim) -> (B,), the prediction query.w_t without noise.
    Computes in float64. Errors: `InvalidInput`.

    >>> model = LinearSelfAttention.gradient_descent(dim=2, step_size=0.5)
    >>> X, y = torch.tensor([[[1.0, 0], [0, 2]]]), torch.tensor([[1.0, 2]])
    >>> model.decode(X, y, steps=2, trajectory=True)[:, 0, 0].data  # S = diag(1/2, 2), b = (1/2, 2)
    tensor([[0.0000, 0.0000],
            [0.2500, 1.0000],
            [0.4375, 1.0000]], dtype=torch.float64)
    """

    def next_column(self, X: Any, y: Any, thoughts: Any) -> torch.Tensor:
        """The last column of f(Z), with all its 2 d + 2 rows, after thoughts w_0, ..., w_s.

        X (B, n, d), y (B, n), thoughts (B, N, s + 1, d) -> (B, N, 2 d + 2). It is (0; 0; w_{s+1}; 1)
        if only P, R and rho are not 0.
        """
        X, y = self._prompt(X, y)
        w = self._tensor(thoughts, "thoughts")
        if w.ndim != 4 or len(w) != len(X) or w.shape[3] != self.dim or w.shape[2] < 1:
            raise InvalidInput(
                f"thoughts has shape {tuple(w.shape)}; pass ({len(X)}, chains, thoughts >= 1, "
                f"{self.dim})."
            )
        V, K = self.matrices()
        columns = _flagged(w)
        last = columns[:, :, -1]
        moved = _attended(_gram(X, y), columns, last @ K[:, self.dim + 1 :].T, X.shape[1]) @ V.T
        return torch.cat([torch.zeros_like(last), last], dim=-1) + moved

    def decode(
        self,
        X: Any,
        y: Any,
        steps: int | None = None,
        noise_std: Any = 0.0,
        samples: int = 1,
        generator: torch.Generator | None = None,
        *,
        sampler: BinarySampler | None = None,
        prior: BinaryPrior = _BITS,
        feedback: bool = False,
        threshold: float | None = None,
        start: Any = None,
        noise: Any = None,
        uniforms: Any = None,
        trajectory: bool = False,
    ) -> torch.Tensor:
        """Append `steps` thoughts to every prompt, in `samples` independent chains.

        Parameters
        ----------
        X, y: prompts, (B, n, d) and (B, n), arrays or tensors.
        steps: number t >= 0 of thoughts; `None` is the model's.
        noise_std: standard deviation of the normal noise added to every thought; a sequence of t
            numbers has one for every step (output noise only: zeros, then one).
        samples: number N of chains a prompt.
        generator: of the noise and of the samples; `None` is one with the seed 0.
        sampler: icl.Logit(0.3), icl.Probit(0.3), icl.Clip() or icl.Round(): binary answers of `prior`
            in place of the last thought or, with `feedback`, of every thought, which is fed back.
        prior: icl.Bits() has the answers 0 and 1, icl.Signs() -1 and 1.
        threshold: of the sampler; `None` is the middle of both answers.
        start: w_0, broadcast to (B, N, d); `None` is 0.
        noise, uniforms: standard normal numbers, and numbers of [0, 1), in place of drawn ones:
            (t, B, N, d) or what broadcasts to it. An answer is the higher one where its uniform number
            is below the sampler's probability. Without feedback only the last uniforms are used.
        trajectory: True returns all thoughts.

        Returns w_t, (B, N, d), or w_0, ..., w_t, (t + 1, B, N, d). Differentiable in the parameters
        and in X and y where no sampler is used: `.detach()` gives numbers.

        >>> model = LinearSelfAttention.gradient_descent(dim=2, step_size=0.5)
        >>> X, y = torch.tensor([[[1.0, 0], [0, 2]]]), torch.tensor([[1.0, 2]])
        >>> model.decode(X, y, 3, noise_std=0.1, samples=4).shape
        torch.Size([1, 4, 2])
        >>> model.decode(X, y, 2)[0, 0].detach().numpy()
        array([0.4375, 1.    ])
        >>> model.decode(X, y, 3, sampler=icl.Round()).tolist()
        [[[1.0, 1.0]]]
        """
        X, y = self._prompt(X, y)
        t = self.thoughts if steps is None else integer(steps, "steps", 0)
        shape = (len(X), count(samples, "samples"), self.dim)
        spread = _schedule(noise_std, t)
        if sampler is not None:
            require_sampler(sampler)
            require_prior(prior)
            if t == 0:
                raise InvalidInput("steps = 0 leaves no thought to sample; pass steps >= 1.")
        source = generator_of(0) if generator is None else generator
        normals = _Draws(noise, "noise", (t, *shape), torch.randn, source)
        numbers = _Draws(uniforms, "uniforms", (t, *shape), torch.rand, source)
        # Without randomness before the answer all chains of a prompt are one.
        alike = start is None and not any(spread) and (sampler is None or not feedback)
        w = X.new_zeros((len(X), 1, self.dim) if alike else shape)
        if start is not None:
            w = w + _fitted(self._tensor(start, "start"), shape, "start")
        found, move = [w], self._mover(X, y, w)
        for s in range(t):
            w = move(w)
            if spread[s]:
                w = w + spread[s] * normals(s).to(w)
            if sampler is not None and (feedback or s == t - 1):
                w = _answers(sampler, prior, threshold, w, numbers(s))
            found = [*found, w] if trajectory else [w]
        found = [w.expand(shape).contiguous() for w in found]
        return torch.stack(found) if trajectory else found[-1]

    def candidates(
        self,
        X: Any,
        y: Any,
        decoding: icl.NoisyDecoding,
        *,
        seed: int = 0,
        sampler: BinarySampler | None = None,
        prior: BinaryPrior = _BITS,
        feedback: bool = False,
        threshold: float | None = None,
        start: Any = None,
        noise: Any = None,
    ) -> np.ndarray:
        """The answers of `decoding.samples` chains on every prompt, (B, N, d), as an array.

        Steps, samples and noise are those of `decoding`; the steps themselves are the model's, and
        decoding.step_size only enters scaled noise. Prompts go through in batches of bounded memory.
        seed: of the noise and the samples. The other arguments are those of `decode`; `noise` given is
        multiplied by the standard deviations of `decoding`.

        Errors: `InvalidInput`; `OutOfDomain` where thoughts overflow.

        >>> import icltheory as icl
        >>> model = LinearSelfAttention.gradient_descent(dim=2, step_size=0.5)
        >>> X, y = np.array([[[1.0, 0], [0, 2]]]), np.array([[1.0, 2]])
        >>> model.candidates(X, y, icl.NoisyDecoding(0.5, 0.1, 3, samples=4)).shape
        (1, 4, 2)
        """
        t, N, spread = _noise_of(decoding)
        X, y = self._prompt(X, y)
        source = generator_of(seed)
        if start is not None:
            start = _fitted(self._tensor(start, "start"), (len(X), N, self.dim), "start")
        if noise is not None:
            noise = _fitted(_double(noise), (t, len(X), N, self.dim), "noise")
        size = max(1, _BATCH // (N * (self.dim + 1) * (t + 6) + X[0].numel()))
        found = []
        with torch.no_grad():
            for low in range(0, len(X), size):
                part = slice(low, low + size)
                w = self.decode(
                    X[part],
                    y[part],
                    t,
                    spread,
                    N,
                    source,
                    sampler=sampler,
                    prior=prior,
                    feedback=feedback,
                    threshold=threshold,
                    start=None if start is None else start[part],
                    noise=None if noise is None else noise[:, part],
                )
                found.append(w.numpy(force=True))
        answers = np.concatenate(found)
        if not np.isfinite(answers).all():
            raise OutOfDomain(
                f"thoughts overflow within {t} steps; take fewer, or a model with smaller steps: "
                f"gradient descent is stable below 2/lam_max(X'X/n)."
            )
        return answers

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        query = self._tensor(query, "query")
        return (self.decode(X, y)[:, 0] * query).sum(-1)

    def _mover(self, X: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Any:
        """The map of one thought (B, N, d) to the next; it keeps the thoughts if they act."""
        d, n = self.dim, X.shape[1]
        V, K = self.matrices()
        value, key, gram = V[d + 1 : -1], K[:, d + 1 :], _gram(X, y)
        acting = (value[:, d + 1 :], key[d + 1 :])
        # A zero block has a gradient, unless it is no parameter.
        kept = self.form == "full" and (torch.is_grad_enabled() or all(x.any() for x in acting))
        columns = w.new_zeros((*w.shape[:2], 0, d + 1))

        def move(w: torch.Tensor) -> torch.Tensor:
            nonlocal columns
            last = _flagged(w)
            if kept:
                columns = torch.cat([columns, last[:, :, None]], dim=2)
            return w + _attended(gram, columns, last @ key.T, n) @ value.T

        return move

    def _prompt(self, X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
        X, y = self._tensor(X, "X"), self._tensor(y, "y")
        if X.ndim != 3 or X.shape[2] != self.dim or y.shape != X.shape[:2] or not X.shape[1]:
            raise InvalidInput(
                f"X has shape {tuple(X.shape)} and y {tuple(y.shape)}; pass (B, n, {self.dim}) and "
                f"(B, n) with n >= 1."
            )
        return X, y

    def _tensor(self, value: Any, name: str) -> torch.Tensor:
        weight = next(self.parameters())
        if not isinstance(value, torch.Tensor):
            value = torch.from_numpy(finite(value, name).copy())
        return value.to(weight)


# -- the layer -------------------------------------------------------------------------------------


def _flagged(w: torch.Tensor) -> torch.Tensor:
    """(w; 1), the rows of thought columns that are not 0."""
    return torch.cat([w, torch.ones_like(w[..., :1])], dim=-1)


def _gram(X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """sum_i (x_i; y_i)(x_i; y_i)', (B, d + 1, d + 1)."""
    data = torch.cat([X, y[..., None]], dim=-1)
    return data.transpose(1, 2) @ data


def _attended(
    gram: torch.Tensor, columns: torch.Tensor, keys: torch.Tensor, n: int
) -> torch.Tensor:
    """Z (Z'K z)/n, (B, N, 2 d + 2), from keys = K z: rows x, y of the data, w and flag of thoughts."""
    e = gram.shape[-1]
    thoughts = (columns @ keys[..., e:, None]).transpose(-2, -1) @ columns
    return torch.cat([keys[..., :e] @ gram, thoughts[..., 0, :]], dim=-1) / n


# -- arguments -------------------------------------------------------------------------------------


def _answers(sampler: Any, prior: Any, threshold: Any, w: Any, uniforms: Any) -> torch.Tensor:
    """The binary answers that uniform numbers draw at thoughts w."""
    chance = bit_probability(sampler, w.numpy(force=True), prior, threshold=threshold)
    higher = uniforms.to(w) < torch.from_numpy(np.asarray(chance)).to(w)
    return float(prior.low) + float(prior.gap) * higher.to(w)


class _Draws:
    """Random numbers of one step after the other, given or drawn when they are asked for."""

    def __init__(self, given: Any, name: str, shape: tuple[int, ...], draw: Any, source: Any):
        self.shape, self.draw, self.source = shape[1:], draw, source
        if given is None:
            self.given = None
        else:
            self.given = _fitted(_double(given), shape, name)

    def __call__(self, step: int) -> torch.Tensor:
        if self.given is not None:
            return self.given[step]
        return self.draw(self.shape, generator=self.source, dtype=torch.float64)


def _double(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _fitted(value: torch.Tensor, shape: tuple[int, ...], name: str) -> torch.Tensor:
    try:
        return value.expand(shape)
    except RuntimeError as error:
        raise InvalidInput(
            f"{name} has shape {tuple(value.shape)}; pass {shape} or what broadcasts to it."
        ) from error


def _noise_of(decoding: Any) -> tuple[int, int, list[float]]:
    """Steps, samples, and the standard deviation of the noise of every step."""
    if not isinstance(decoding, icl.NoisyDecoding):
        raise InvalidInput(
            f"decoding has type {type(decoding).__name__}; pass icl.NoisyDecoding(step_size=0.5, "
            f"noise_std=0.1, steps=4)."
        )
    values = (decoding.steps, decoding.samples, decoding.noise_var)
    if any(value.free_symbols for value in values):
        raise InvalidInput(f"{decoding} still contains symbols; numbers are needed here.")
    std = math.sqrt(decoding.noise_var)
    return (
        int(decoding.steps),
        int(decoding.samples),
        [std * float(f) for f in decoding.noise_factors()],
    )


def _schedule(noise_std: Any, steps: int) -> list[float]:
    """The standard deviation of the noise of every step."""
    values = finite(noise_std, "noise_std")
    if values.shape not in ((), (steps,)) or (values < 0).any():
        raise InvalidInput(
            f"noise_std = {noise_std} is no number >= 0, nor a sequence of {steps}, one a step."
        )
    return np.broadcast_to(values, (steps,)).tolist()
