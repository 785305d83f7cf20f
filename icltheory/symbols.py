"""The canonical symbols: every formula of the toolkit is written in these.

Each symbol has one meaning, one domain and one LaTeX form, listed in `TABLE` and read through
`describe`. Names are ASCII and serve as keyword arguments of compiled formulas.
"""

from dataclasses import dataclass
from typing import Any

import sympy as sp

d = sp.Symbol("d", integer=True, positive=True)
n = sp.Symbol("n", integer=True, positive=True)
noise_var = sp.Symbol("noise_var", nonnegative=True)
t = sp.Symbol("t", positive=True)
k = sp.Symbol("k", positive=True)
v = sp.Symbol("v", real=True)
lam = sp.Symbol("lam", nonnegative=True)
b = sp.Symbol("b", real=True)
score_scale = sp.Symbol("score_scale", real=True)
s = sp.Symbol("s", nonnegative=True)
beta = sp.Symbol("beta", positive=True)
tau = sp.Symbol("tau", positive=True)
delta = sp.Symbol("delta", positive=True)
time = sp.Symbol("time", nonnegative=True)
g = sp.Symbol("g", nonnegative=True)
share = sp.Symbol("share", real=True)


@dataclass(frozen=True)
class SymbolInfo:
    """Meaning, domain and LaTeX of one symbol.

    >>> describe(noise_var)
    SymbolInfo(symbol=noise_var, meaning='label noise variance', domain='>= 0', latex='\\\\sigma^{2}')
    """

    symbol: Any
    meaning: str
    domain: str
    latex: str

    @property
    def name(self) -> str:
        """The ASCII name, which is also the keyword of a compiled formula."""
        return self.symbol.name


TABLE: dict[sp.Symbol, SymbolInfo] = {
    info.symbol: info
    for info in (
        SymbolInfo(d, "feature dimension", "integer >= 1", "d"),
        SymbolInfo(n, "prompt length (number of examples)", "integer >= 1", "n"),
        SymbolInfo(noise_var, "label noise variance", ">= 0", r"\sigma^{2}"),
        SymbolInfo(t, "squared score scale k^2 of a scalar head", "> 0", "t"),
        SymbolInfo(k, "score scale of a scalar head", "> 0", "k"),
        SymbolInfo(v, "value scale of a head", "real", "v"),
        SymbolInfo(lam, "eigenvalue of the Gram matrix", ">= 0", r"\lambda"),
        SymbolInfo(b, "label entry of the read-out row of the value matrix", "real", "b"),
        SymbolInfo(score_scale, "factor of the scores, score = c z_i'K'Qz", "real", "c"),
        SymbolInfo(s, "standard deviation of the scores of a prompt", ">= 0", "s"),
        SymbolInfo(beta, "standard deviation of the scores over sqrt(2 log n)", "> 0", r"\beta"),
        SymbolInfo(tau, "standard deviation of the score scale over queries", "> 0", r"\tau"),
        SymbolInfo(delta, "probability of failure", "> 0", r"\delta"),
        SymbolInfo(g, "score scale tau k of a scalar head on local examples", ">= 0", "g"),
        SymbolInfo(share, "part of the deviation from the prior mean that is read", "real", "a"),
        SymbolInfo(time, "time of the flow, step size times steps on half the risk", ">= 0", "t"),
    )
}

# Matrix symbols differ in dimension; their meaning goes by their name.
MATRICES: dict[str, str] = {
    "A": "feature-feature block of the merged key-query matrix",
    "u": "label-feature row of the merged key-query matrix",
    "v": "feature entries of the read-out row of the value matrix",
    "U": "merged key-query matrix K'Q",
    "V": "value matrix",
    "K": "key matrix",
    "Q": "query matrix",
    "z": "query token",
    "r": "loss gradient at the output",
    "m1": "softmax-weighted mean of the tokens",
    "C": "softmax-weighted covariance of the tokens",
}

LATEX_NAMES: dict[sp.Symbol, str] = {symbol: info.latex for symbol, info in TABLE.items()}


def describe(symbol: Any) -> SymbolInfo:
    """Meaning, domain and LaTeX of `symbol`; a symbol of the user's own is described as such."""
    if isinstance(symbol, sp.MatrixSymbol):
        meaning = MATRICES.get(symbol.name, "given by the user")
        rows, columns = symbol.shape
        domain = f"real vector of length {rows}" if columns == 1 else f"real {rows} x {columns}"
        return SymbolInfo(symbol, meaning, domain, sp.latex(symbol))
    known = TABLE.get(symbol)
    if known is not None:
        return known
    return SymbolInfo(symbol, "given by the user", _domain(symbol), sp.latex(symbol))


def _domain(symbol: sp.Symbol) -> str:
    if symbol.is_positive:
        return "> 0"
    if symbol.is_nonnegative:
        return ">= 0"
    return "real" if symbol.is_real else "unspecified"
