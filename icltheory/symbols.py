"""The canonical symbols: every formula of the toolkit is written in these.

Each symbol has one meaning, one domain and one LaTeX form, listed in `TABLE` and read through
`describe`. Names are ASCII and serve as keyword arguments of compiled formulas.
"""

from dataclasses import dataclass

import sympy as sp

d = sp.Symbol("d", integer=True, positive=True)
n = sp.Symbol("n", integer=True, positive=True)
noise_var = sp.Symbol("noise_var", nonnegative=True)
t = sp.Symbol("t", positive=True)
k = sp.Symbol("k", positive=True)
v = sp.Symbol("v", real=True)
lam = sp.Symbol("lam", nonnegative=True)


@dataclass(frozen=True)
class SymbolInfo:
    """Meaning, domain and LaTeX of one symbol.

    >>> describe(noise_var)
    SymbolInfo(symbol=noise_var, meaning='label noise variance', domain='>= 0', latex='\\\\sigma^{2}')
    """

    symbol: sp.Symbol
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
    )
}

LATEX_NAMES: dict[sp.Symbol, str] = {symbol: info.latex for symbol, info in TABLE.items()}


def describe(symbol: sp.Symbol) -> SymbolInfo:
    """Meaning, domain and LaTeX of `symbol`; a symbol of the user's own is described as such."""
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
