"""Formulas of the settings of a plan, where there are some. Used by `numeric.plan`."""

from __future__ import annotations

import warnings

from icltheory.binary_channel import BinaryChannel, channel
from icltheory.binary_priors import BinarySampler
from icltheory.chains import NoisyDecoding
from icltheory.errors import DivergingMoments
from icltheory.formula import Formula
from numeric.planner_binary import AVERAGE, GREEDY, MAJORITY, SAMPLE
from numeric.planner_techniques import MEAN, ONE, Choice, Problem


def choice_formula(problem: Problem, choice: Choice) -> Formula | None:
    """The predicted risk or error probability of a setting as a Formula, or `None`.

    One chain and the mean of N are exact. For binary priors with criterion "coordinate": rounding, samples
    and majorities in the Gaussian channel, where n and d are large.
    """
    averaged = choice.technique in (MEAN, AVERAGE)
    decoding = NoisyDecoding(
        choice.step_size,
        problem.noise_std,
        choice.steps,
        samples=choice.samples if averaged else 1,
        label_noise_var=problem.label_noise_var,
    )
    with warnings.catch_warnings():
        # A plan's chains end before rare prompts carry the spread between prompts.
        warnings.simplefilter("ignore", DivergingMoments)
        if problem.prior is None:
            exact = choice.technique in (ONE, MEAN)
            return decoding.risk(problem.n, problem.d) if exact else None
        if problem.criterion != "coordinate":
            return None
        seen = channel(decoding, problem.prior, problem.n, problem.d)
    return _coordinate(problem, choice, seen)


def _coordinate(problem: Problem, choice: Choice, seen: BinaryChannel) -> Formula | None:
    if choice.technique == GREEDY or (choice.technique == AVERAGE and choice.temperature == 0):
        return seen.greedy_error(choice.threshold)
    if problem.noise_std:
        return None
    if choice.technique == SAMPLE:
        return seen.sample_error(_sampler(problem, choice), choice.threshold)
    if choice.technique == MAJORITY:
        return seen.majority_error(_sampler(problem, choice), choice.samples, choice.threshold)
    return None


def _sampler(problem: Problem, choice: Choice) -> BinarySampler:
    return type(problem.sampler)(choice.temperature)  # type: ignore[call-arg]
