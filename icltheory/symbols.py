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
gamma = sp.Symbol("gamma", positive=True)
kappa = sp.Symbol("kappa", positive=True)
a = sp.Symbol("a", real=True)
rho = sp.Symbol("rho", nonnegative=True)
local_std = sp.Symbol("local_std", positive=True)
prior_var = sp.Symbol("prior_var", positive=True)
prior_norm = sp.Symbol("prior_norm", nonnegative=True)
H = sp.Symbol("H", integer=True, positive=True)
rank = sp.Symbol("rank", integer=True, positive=True)
y = sp.Symbol("y", positive=True)
kappa_4 = sp.Symbol("kappa_4", real=True)
kappa_6 = sp.Symbol("kappa_6", real=True)
a0, b0 = sp.symbols("a0 b0", real=True)
level = sp.Symbol("level", positive=True)
lam_min = sp.Symbol("lam_min", positive=True)
lam_max = sp.Symbol("lam_max", positive=True)
frobenius = sp.Symbol("frobenius", positive=True)
trace = sp.Symbol("trace", positive=True)
steps = sp.Symbol("steps", integer=True, nonnegative=True)
condition = sp.Symbol("condition", positive=True)
accuracy = sp.Symbol("accuracy", positive=True)
nu = sp.Symbol("nu", integer=True, nonnegative=True)
ratio = sp.Symbol("ratio", positive=True)
gap = sp.Symbol("gap", integer=True, nonnegative=True)
eta = sp.Symbol("eta", positive=True)
alpha = sp.Symbol("alpha", positive=True)
penalty = sp.Symbol("penalty", positive=True)
tilt = sp.Symbol("tilt", real=True)
squared_bias = sp.Symbol("squared_bias", positive=True)
temperature = sp.Symbol("temperature", positive=True)
snr = sp.Symbol("snr", positive=True)
gain = sp.Symbol("gain", positive=True)
channel_std = sp.Symbol("channel_std", positive=True)
error_fraction = sp.Symbol("error_fraction", nonnegative=True)
success = sp.Symbol("success", nonnegative=True)
false_negative = sp.Symbol("false_negative", nonnegative=True)
false_positive = sp.Symbol("false_positive", nonnegative=True)
margin = sp.Symbol("margin", positive=True)
readout_scale = sp.Symbol("readout_scale", positive=True)
log_loss = sp.Symbol("log_loss", nonnegative=True)
log_loss_var = sp.Symbol("log_loss_var", nonnegative=True)
z = sp.Symbol("z", positive=True)
noise_std = sp.Symbol("noise_std", nonnegative=True)
samples = sp.Symbol("samples", integer=True, positive=True)
label_noise_var = sp.Symbol("label_noise_var", nonnegative=True)
label_noise_ratio = sp.Symbol("label_noise_ratio", nonnegative=True)
sample_noise = sp.Symbol("sample_noise", positive=True)
budget = sp.Symbol("budget", integer=True, positive=True)


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
        SymbolInfo(gamma, "limit of dimension over prompt length, d/n", "> 0", r"\gamma"),
        SymbolInfo(kappa, "limit of k sqrt(d), inverse temperature of a head", "> 0", r"\kappa"),
        SymbolInfo(a, "sum of values times scores, or scale of linear attention", "real", "a"),
        SymbolInfo(rho, "mean of a local example over the query", ">= 0", r"\rho"),
        SymbolInfo(local_std, "standard deviation of local examples", "> 0", r"\tau"),
        SymbolInfo(prior_var, "trace of the coefficients' covariance", "> 0", r"\omega^{2}"),
        SymbolInfo(prior_norm, "squared norm of the prior mean", ">= 0", "n_0"),
        SymbolInfo(H, "number of heads", "integer >= 1", "H"),
        SymbolInfo(rank, "total rank of the score matrices", "integer >= 1", "r"),
        SymbolInfo(y, "t d/H of equal block heads", "> 0", "y"),
        SymbolInfo(a0, "start of the score scale a, A = a I", "real", "a_0"),
        SymbolInfo(b0, "start of b", "real", "b_0"),
        SymbolInfo(level, "fraction of its limit that a b reaches", "> 0", r"\ell"),
        SymbolInfo(kappa_4, "fourth cumulant of a standardised coordinate", "real", r"\kappa_4"),
        SymbolInfo(kappa_6, "sixth cumulant of a standardised coordinate", "real", r"\kappa_6"),
        SymbolInfo(lam_min, "smallest nonzero eigenvalue of the Gram matrix", "> 0", r"\lambda_-"),
        SymbolInfo(lam_max, "largest eigenvalue of the Gram matrix", "> 0", r"\lambda_+"),
        SymbolInfo(frobenius, "Frobenius norm of the square of the Gram matrix", "> 0", "F"),
        SymbolInfo(trace, "trace of the Gram matrix", "> 0", r"\operatorname{tr}S"),
        SymbolInfo(steps, "number of steps of a solver or a chain", "integer >= 0", "t"),
        SymbolInfo(condition, "condition number lam_max/lam_min", ">= 1", r"\kappa"),
        SymbolInfo(accuracy, "largest residual that is allowed", "> 0", r"\epsilon"),
        SymbolInfo(nu, "|n - d|, sizes of the Gram matrix", "integer >= 0", r"\nu"),
        SymbolInfo(ratio, "reach of gradient descent over that of Newton", "> 0", "x"),
        SymbolInfo(gap, "number of examples after a given one", "integer >= 0", "g"),
        SymbolInfo(eta, "step size of gradient descent", "> 0", r"\eta"),
        SymbolInfo(alpha, "scale of the start of Newton's iteration", "> 0", r"\alpha"),
        SymbolInfo(z, "variable of a generating function", "> 0", "z"),
        SymbolInfo(noise_std, "standard deviation of the noise of a thought", ">= 0", r"\sigma"),
        SymbolInfo(samples, "number of sampled chains", "integer >= 1", "N"),
        SymbolInfo(
            label_noise_var,
            "label noise variance, for coefficients of variance 1",
            ">= 0",
            r"\sigma_y^{2}",
        ),
        SymbolInfo(label_noise_ratio, "limit of label_noise_var/n", ">= 0", r"\rho_y"),
        SymbolInfo(sample_noise, "noise_std^2/samples", "> 0", r"\varsigma"),
        SymbolInfo(budget, "number of thoughts of all chains together", "integer >= 1", "C"),
        SymbolInfo(penalty, "penalty of ridge regression", "> 0", r"\lambda_r"),
        SymbolInfo(
            tilt,
            "inverse temperature of the weights exp(-tilt loss) of candidates",
            "real",
            r"\theta",
        ),
        SymbolInfo(squared_bias, "squared error |w - w*|^2 of the chain without noise", "> 0", "B"),
        SymbolInfo(temperature, "temperature of a binary sampler", "> 0", "T"),
        SymbolInfo(
            snr,
            "signal-to-noise ratio gain^2/channel_std^2 of a binary channel",
            "> 0",
            r"\mathrm{snr}",
        ),
        SymbolInfo(
            gain, "gain of the binary channel u = gain w* + channel_std G", "> 0", r"\kappa"
        ),
        SymbolInfo(
            channel_std, "noise of the binary channel u = gain w* + channel_std G", "> 0", r"\omega"
        ),
        SymbolInfo(error_fraction, "fraction of wrong bits", "0 <= error_fraction <= 1", r"\rho"),
        SymbolInfo(success, "probability that one sample is right", "0 <= success <= 1", "P"),
        SymbolInfo(
            false_negative, "probability that a verifier rejects a right answer", "0 to 1", "f_n"
        ),
        SymbolInfo(
            false_positive, "probability that a verifier accepts a wrong answer", "0 to 1", "f_p"
        ),
        SymbolInfo(margin, "distance of a state from the threshold over its noise", "> 0", "x"),
        SymbolInfo(readout_scale, "factor of the answer, 1/c for the block R = c I", "> 0", "u"),
        SymbolInfo(log_loss, "mean of -ln P(right bit) a coordinate", ">= 0", r"\mathcal{L}"),
        SymbolInfo(
            log_loss_var, "variance of ln P(right bit) a coordinate", ">= 0", r"\mathcal{V}"
        ),
        SymbolInfo(time, "time of the flow, step size times steps on half the risk", ">= 0", "t"),
    )
}

# Matrix symbols differ in dimension; their meaning goes by their name. A_1, A_2, ... and v_1, v_2, ...
# belong to heads.
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
    "G": "product b A of value and score block",
}
_OF_HEADS = {"A": "score matrix", "v": "value scale"}

# Letters of derivations, which no formula has: what their titles write in words, as LaTeX.
LETTERS: dict[sp.Symbol, str] = {
    sp.Symbol("q_h'Sigma theta", real=True): r"q_h^{\top} \Sigma \theta",
    sp.Symbol("q'Sigma theta", real=True): r"q^{\top} \Sigma \theta",
    sp.Symbol("b_h'Sigma b_l", real=True): r"b_h^{\top} \Sigma b_l",
    sp.Symbol("b_h'Sigma q_l b_l'Sigma q_h", real=True): (
        r"b_h^{\top} \Sigma q_l \, b_l^{\top} \Sigma q_h"
    ),
    sp.Symbol("mean_s", real=True): r"\bar{s}",
    sp.Symbol("dw_i/dk"): r"\frac{d w_i}{d k}",
}
LATEX_NAMES: dict[sp.Symbol, str] = {
    **{symbol: info.latex for symbol, info in TABLE.items()},
    **LETTERS,
}


def describe(symbol: Any) -> SymbolInfo:
    """Meaning, domain and LaTeX of `symbol`; a symbol of the user's own is described as such."""
    if isinstance(symbol, sp.MatrixSymbol):
        meaning = MATRICES.get(symbol.name) or _of_head(symbol)
        rows, columns = symbol.shape
        domain = f"real vector of length {rows}" if columns == 1 else f"real {rows} x {columns}"
        return SymbolInfo(symbol, meaning, domain, sp.latex(symbol))
    known = TABLE.get(symbol)
    if known is not None:
        return known
    return SymbolInfo(symbol, _of_head(symbol), _domain(symbol), sp.latex(symbol))


def _of_head(symbol: Any) -> str:
    letter, _, number = symbol.name.partition("_")
    numbered = letter in _OF_HEADS and number.isdecimal()
    return f"{_OF_HEADS[letter]} of head {number}" if numbered else "given by the user"


def _domain(symbol: sp.Symbol) -> str:
    if symbol.is_positive:
        return "> 0"
    if symbol.is_nonnegative:
        return ">= 0"
    return "real" if symbol.is_real else "unspecified"
