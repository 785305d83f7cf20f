"""How many examples rounding needs to find every bit: signal-to-noise ratio and prompt length.

Source: derived here. Exported: `recovery_snr`, `recovery_length`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.binary_channel import channel, long_chain_channel, sparse_channel_variances
from icltheory.binary_priors import SOURCES, SparseBits, require_prior
from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import delta as delta_symbol
from icltheory.symbols import n as length_symbol

_X = sp.Symbol("x", positive=True)


def recovery_snr(prior: Any, d: Any = dim_symbol, delta: Any = delta_symbol) -> Formula:
    """The signal-to-noise ratio at which rounding fails with probability at most delta, for all d bits.

    By Q(x) <= exp(-x^2/2)/2 and a union bound: (8/gap^2) ln(d/(2 delta)).

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Bits, Signs
    >>> recovery_snr(Signs()).expr, recovery_snr(Bits()).expr
    (2*log(d/(2*delta)), 8*log(d/(2*delta)))
    """
    dim = checks.positive_integer(d, "d", "d=20")
    failure = checks.positive(delta, "delta", "0.01")
    bound = dim * sp.exp(-((_X * require_prior(prior).gap / 2) ** 2) / 2) / 2
    # ln(bound at x = 0) - x^2 gap^2/8 = ln delta
    slope = -sp.log(bound.subs(_X, 1) / bound.subs(_X, 0))
    return Formula(
        "signal-to-noise ratio that rounds all bits rightly",
        sp.log(bound.subs(_X, 0) / failure) / slope,
        validity=sp.S(failure < 1),
        references=SOURCES,
        steps=(Step("union bound, x^2 the signal-to-noise ratio", bound),),
    )


def recovery_length(
    prior: Any, d: Any = dim_symbol, delta: Any = delta_symbol, *, chain: str = "one step"
) -> Formula:
    """Prompt length at which rounding after the chain fails with probability at most delta.

    `chain`: "one step" (without noise; sparse bits by their exact larger variance), or "long" for
    infinitely many steps with n < d. Under the Gaussian channel.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Signs
    >>> recovery_length(Signs()).expr, recovery_length(Signs(), 20, 0.01).evalf(6)
    (2*(d + 1)*log(d/(2*delta)), 290.126)
    """
    needed = recovery_snr(prior, d, delta)
    if chain == "one step":
        one = NoisyDecoding(1, 0, 1)
        ratio = channel(one, prior, d=d).signal_to_noise.expr
        if isinstance(prior, SparseBits):
            ratio = 1 / sparse_channel_variances(one, prior.ones, d=d)["one"].expr
    elif chain == "long":
        ratio = long_chain_channel(prior, d=d).signal_to_noise.expr
    else:
        raise InvalidInput(f"chain = {chain!r}; pass 'one step' or 'long'.")
    unknown, target = sp.symbols("n snr", positive=True, cls=sp.Dummy)
    condition = sp.numer(sp.together(ratio.subs(length_symbol, unknown) - target))
    (length,) = sp.roots(sp.Poly(condition, unknown))
    return Formula(
        f"prompt length for rounding all bits rightly, {chain}",
        sp.factor(length).subs(target, needed.expr),
        validity=needed.validity,
        references=SOURCES,
        steps=(*needed.steps, Step("signal-to-noise ratio", ratio)),
    )
