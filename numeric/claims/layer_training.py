"""Groups of softmax layers trained in one program, and what the multi-head claims read off them.

A `Layer` is a setting with several seeds; `train_layers` trains all layers of one shape and prompt
length together, with coefficients and label noise averaged out of the loss, and measures every layer
on fresh prompts. Exported besides: rows of risks and of learned parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import icltheory as icl
from numeric.arrays import task_arrays
from numeric.claims.base import Effort
from numeric.claims.head_experiments import TRAINED, signed
from numeric.claims.rows import estimate_row
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate, stream
from numeric.samplers import prompt_floats, sample_prompts

BATCH = 64
# Trained risks and parameters carry an allowance of 5 %: their control is a 12 % change.
CONTROL = 1.12
NEAR, FAR = 10**7, 10**8  # prompt lengths at which limits are read off
# Steps of a training, of those of an `Effort`: with labels averaged out fewer are enough. The
# learning rate is _RATE/sqrt(d), and falls with the number of steps beyond _PATH: the noise of the
# gradients makes the values of a pair smaller and its scores larger, by up to rate * steps, and the
# risk rises with the scores (by 5 % at d = 20, n = 100, three times as many steps and this rate).
_STEPS, _RATE, _PATH = 0.22, 0.1, 2_000
# Scores at the start, times dim: entries of that size in dimension 20 would start with saturated
# softmax weights, and leave a noise in 8 matrices that needs many more steps to die out.
_SCORES = 0.4
_SCATTER = 0.1  # resolution that the scatter of few seeds may leave to a learned parameter
_LARGEST_SAMPLE = 100_000  # prompts that a trained layer is measured on, at most


@dataclass(frozen=True)
class Layer:
    """A softmax layer to be trained on prompts of length n, from `seeds` starts.

    values, value_size: signs and size of the values at the start. width: rank of every head, or None.
    scalar: scores k_h I. second_pair: heads 3 and 4 start with this score instead, and values 1/40.
    options: others of `finite.SoftmaxAttention`, which go before these.
    """

    task: icl.LinearRegression
    n: int
    heads: int
    seeds: int = 3
    values: str = "opposite"
    value_size: float = 4.0
    width: int | None = None
    scalar: bool = False
    second_pair: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> dict[str, Any]:
        """The setting of its rows."""
        noise = float(self.task.noise_var)
        return {
            "d": int(self.task.dim),
            "n": self.n,
            **({"noise": noise} if noise else {}),
            "heads": self.heads,
        }

    def start(self, seed: int) -> Any:
        """The model before training."""
        import torch

        from numeric import finite

        dim = int(self.task.dim)
        start: dict[str, Any] = {
            "head_width": self.width,
            "scores": "scalar" if self.scalar else "matrix",
            "values": self.values,
            "value_size": self.value_size,
            "score_std": 0.1 if self.width else _SCORES / dim,
            **self.options,
        }
        model = finite.SoftmaxAttention(dim, self.heads, seed=seed, **start)
        if self.second_pair:
            pair = self.second_pair * torch.tensor([1.0, -1.0], dtype=torch.float64)
            with torch.no_grad():
                model.A[2:4] += pair[:, None, None] * torch.eye(dim, dtype=torch.float64)
                model.v[2:4] /= 40
        return model


@dataclass(frozen=True, eq=False)
class Trained:
    """What the seeds of a layer became: their mean risk with its sampling error, scores and values (S, H).

    scalar_share: |k_h| sqrt(d) over the norm of A_h Sigma, 1 for a scalar head, (S, H).
    combined_share: the same for sum_h v_h A_h, (S,). models: the trained models, (S,).
    """

    risk: Estimate
    scales: np.ndarray
    values: np.ndarray
    scalar_share: np.ndarray
    combined_share: np.ndarray
    models: tuple[Any, ...] = ()

    @property
    def products(self) -> np.ndarray:
        """sum_h v_h k_h, (S,)."""
        return (self.scales * self.values).sum(1)

    @property
    def balance(self) -> np.ndarray:
        """1 - |sum_h v_h|/sum_h |v_h|, (S,): 1 for values that add up to 0."""
        return 1 - np.abs(self.values.sum(1)) / np.abs(self.values).sum(1)

    @property
    def opposition(self) -> np.ndarray:
        """|k_1 - k_2|/(|k_1| + |k_2|) of a pair, (S,): 1 for scores of opposite signs."""
        first, second = self.scales.T
        return np.abs(first - second) / (np.abs(first) + np.abs(second))

    @property
    def pair_scale(self) -> np.ndarray:
        """|k_1 - k_2|/2 of a pair, (S,)."""
        first, second = self.scales.T
        return np.abs(first - second) / 2


def train_layers(
    layers: Sequence[Layer],
    effort: Effort,
    *,
    rate: float | None = None,
    batch: int = BATCH,
    longer: float = 1.0,
) -> list[Trained]:
    """Train every seed of every layer, and measure it on fresh prompts.

    rate: learning rate times sqrt(dim). longer: factor of the number of steps.
    """
    if rate is None:
        rate = _RATE * min(1.0, _PATH / effort.training_steps)
    starts = [[layer.start(seed) for seed in range(layer.seeds)] for layer in layers]
    for dim in {int(layer.task.dim) for layer in layers}:
        chosen = [i for i, layer in enumerate(layers) if layer.task.dim == dim]
        train_models(
            [model for i in chosen for model in starts[i]],
            [layers[i] for i in chosen for _ in starts[i]],
            [seed for i in chosen for seed in range(layers[i].seeds)],
            steps=round(longer * _STEPS * effort.training_steps),
            batch=batch,
            rate=rate / math.sqrt(dim),
        )
    return [_read(layer, models, effort) for layer, models in zip(layers, starts, strict=True)]


def train_models(
    models: Sequence[Any],
    layers: Sequence[Layer],
    seeds: Sequence[int],
    *,
    steps: int,
    batch: int,
    rate: float,
) -> None:
    """Train started models of these layers in place, coefficients and label noise averaged out."""
    from numeric import finite

    finite.train_many(
        models,
        [(layer.task, layer.n) for layer in layers],
        steps=max(1, steps),
        seeds=seeds,
        batch_size=batch,
        learning_rate=rate,
        average_labels=True,
        progress=False,
    )


def _read(layer: Layer, models: list[Any], effort: Effort) -> Trained:
    from numeric import finite

    prompts = min(effort.prompts // 2, _LARGEST_SAMPLE)
    risks = [
        finite.label_averaged_risk(
            model, layer.task, layer.n, prompts=prompts, seed=50_000 + 100 * layer.n + seed
        )
        for seed, model in enumerate(models)
    ]
    values = np.array([model.values() for model in models])
    whitened = np.array([model.score_matrices() for model in models])
    whitened = whitened @ task_arrays(layer.task).feature_cov
    combined = np.einsum("sh,shij->sij", values, whitened)
    scales, share = _scalar_part(whitened)
    error = math.sqrt(sum(r.standard_error**2 for r in risks)) / len(risks)
    risk = Estimate(float(np.mean([r.value for r in risks])), error, prompts * len(risks))
    return Trained(risk, scales, values, share, _scalar_part(combined)[1], tuple(models))


def _scalar_part(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k = tr A/d, and the share |k| sqrt(d)/|A| (Frobenius)."""
    dim = matrices.shape[-1]
    scales = np.trace(matrices, axis1=-2, axis2=-1) / dim
    return scales, np.abs(scales) * math.sqrt(dim) / np.linalg.norm(matrices, axis=(-2, -1))


def _scatter(values: Any) -> float:
    """Standard error of the mean over seeds."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


# -- rows ------------------------------------------------------------------------------------------


def risk_row(
    layer: Layer,
    found: Trained,
    prediction: float,
    allowance: float = TRAINED,
    setting: dict[str, Any] | None = None,
) -> Row:
    """The mean risk of the seeds against its prediction."""
    shown = {**(setting or {}), **layer.label}
    if layer.heads <= 2:
        shown |= {"learned k": signed(found.scales[0]), "learned v": signed(found.values[0])}
    return estimate_row(shown, prediction, found.risk, allowance)


def parameter_row(
    layer: Layer, quantity: str, prediction: float, values: np.ndarray, allowance: float = TRAINED
) -> Row:
    """A learned parameter, averaged over seeds, against its prediction; the error is their scatter."""
    return compare(
        {**layer.label, "quantity": quantity, "seeds": layer.seeds},
        prediction,
        float(np.mean(values)),
        max(_scatter(values), 1e-6 * abs(prediction)),
        allowance,
        required=allowance + _SCATTER,
    )


def paired_ratio(layer: Layer, found: Trained, k: float, v: float, effort: Effort) -> Estimate:
    """Risk of the trained layers over that of the pair of scores +-k and values +-v, on the same
    prompts: most of the sampling noise is common to both."""
    import torch

    from numeric import finite

    arrays, n = task_arrays(layer.task), layer.n
    pair = finite.SoftmaxAttention(arrays.dim, 2, scores="scalar")
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    pair.load_state_dict({"k": k * signs, "v": v * signs})
    risks = [finite.LabelAveragedRisk(m, layer.task) for m in (*found.models, pair)]
    columns: list[np.ndarray] = []

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        X, _, query, _ = map(torch.from_numpy, sample_prompts(arrays, n, size, rng))
        with torch.no_grad():
            drawn = [risk(X, query).numpy() for risk in risks]
        columns.append(np.stack([np.mean(drawn[:-1], axis=0), drawn[-1]]))
        return drawn[-1]

    prompts = min(2 * effort.prompts, _LARGEST_SAMPLE)
    reference = stream(draw, prompt_floats(arrays, n), prompts=prompts, seed=60_000 + n)
    trained, base = np.concatenate(columns, axis=1)
    ratio = float(trained.mean() / base.mean())
    error = float(np.std(trained - ratio * base) / math.sqrt(prompts) / reference.value)
    return Estimate(ratio, error, prompts)


def seeds_mean(function: Any, rows: Iterable[Any]) -> float:
    """Mean of a prediction over seeds."""
    return float(np.mean([function(row) for row in rows]))
