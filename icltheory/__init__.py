"""icltheory: exact theory of in-context linear regression by attention (SymPy only)."""

import sys
from importlib import import_module
from typing import Any

# Names by the module they live in. A module is loaded when one of its names is asked for, so that
# `import icltheory` costs little more than `import sympy`; type checkers read __init__.pyi.
_MODULES = {
    "icltheory.attention": ("LinearAttention", "SoftmaxAttention"),
    "icltheory.baselines": ("bayes_risk_expansion", "least_squares_risk"),
    "icltheory.best_filters": ("best_polynomial_risk", "optimal_ridge", "optimal_solver_risk"),
    "icltheory.best_of_n": (
        "Candidates",
        "normal_maximum_mean",
        "oracle_selection_risk",
    ),
    "icltheory.binary_channel": (
        "BinaryChannel",
        "channel",
        "limit_channel",
        "long_chain_channel",
        "sparse_channel_variances",
    ),
    "icltheory.binary_priors": (
        "Bits",
        "Clip",
        "Logit",
        "Probit",
        "Round",
        "Signs",
        "SparseBits",
    ),
    "icltheory.chain_lengths": (
        "optimal_chain_length",
        "overthinking_threshold",
        "split_law",
        "split_risk",
    ),
    "icltheory.chain_selection": ("chain_candidates",),
    "icltheory.chains": ("NoisyDecoding",),
    "icltheory.chebyshev": ("Chebyshev",),
    "icltheory.commuting": ("CommutingFlow",),
    "icltheory.concentration": (
        "concentration_bound",
        "high_probability_bound",
        "leading_gradient_error",
        "subgaussian_bound",
    ),
    "icltheory.contraction": (
        "best_step_condition",
        "contraction_generating_function",
        "contraction_moment",
        "contraction_moment_limit",
    ),
    "icltheory.contraction_limits": (
        "best_contraction",
        "late_contraction",
        "noise_gain_limit",
    ),
    "icltheory.conventions": ("CONVENTIONS", "Convention", "convention_table"),
    "icltheory.convergence": ("convergence_rates", "limit_point"),
    "icltheory.coordinates": ("CoordinateCumulants",),
    "icltheory.embedding": (
        "block_constant",
        "block_dimension_limit",
        "block_heads",
        "equal_block_constant",
        "width_constant",
    ),
    "icltheory.equivalences": (
        "DescentEquivalent",
        "cosine_constant",
        "edge_cosine",
        "equivalent_descent",
        "frobenius_cost",
        "frobenius_cost_limit",
        "late_decay",
        "matched_steps",
        "matching_constant",
    ),
    "icltheory.errors": (
        "CheckpointError",
        "DivergingMoments",
        "IclTheoryError",
        "InfiniteVariance",
        "InvalidInput",
        "OutOfDomain",
        "TrainingDiverged",
    ),
    "icltheory.expansion": (
        "fourth_moment",
        "leading_bias",
        "leading_covariance",
        "leading_jacobian_error",
        "weight_moment",
    ),
    "icltheory.exponents": ("concentration_exponent", "phase_exponent", "slow_decay_law"),
    "icltheory.finite_prompt": (
        "endpoint_constant",
        "head_expansion",
        "optimal_linear_attention",
        "optimal_valley_constant",
        "valley_constant",
        "valley_drift",
    ),
    "icltheory.flow": ("Flow", "commuting_flow", "gradient_flow"),
    "icltheory.formula": ("Formula", "Reference", "Step"),
    "icltheory.gaussian_output": (
        "mean_jacobian",
        "mean_output",
        "output_covariance",
        "output_error",
        "output_error_expansion",
        "query_averaged_error",
        "response_coefficients",
    ),
    "icltheory.gd_plus_plus": ("GDPlusPlus",),
    "icltheory.gradients": ("infinite_prompt_risk", "output_gradients", "risk_gradients"),
    "icltheory.heads": ("head_floor", "optimal_values", "rank_floor"),
    "icltheory.krylov": ("ConjugateGradient",),
    "icltheory.laws.compound": (
        "GammaScaleMixture",
        "GaussianMixture",
        "RegressionTokens",
        "ScaleMixture",
    ),
    "icltheory.laws.empirical": ("Empirical",),
    "icltheory.laws.gaussian": (
        "gaussian_expectation",
        "isotropic_expectation",
        "tilted_moment",
        "wick_moment",
    ),
    "icltheory.laws.inverse_wishart": ("inverse_wishart_moment",),
    "icltheory.laws.spectra": (
        "edge_density",
        "limit_trace_moment",
        "marchenko_pastur_density",
        "marchenko_pastur_resolvent",
    ),
    "icltheory.laws.tokens": (
        "Gaussian",
        "Laplace",
        "Rademacher",
        "Sphere",
        "TokenLaw",
        "UniformCube",
    ),
    "icltheory.laws.weights": (
        "softmax_expectation",
        "softmax_moment_expansion",
        "softmax_moment_slope",
    ),
    "icltheory.laws.wishart": ("wishart_covariance_moment", "wishart_trace_moment"),
    "icltheory.limit": (
        "consistency_condition",
        "limit_jacobian",
        "limit_linearization",
        "limit_output",
        "limit_risk",
    ),
    "icltheory.linear_risk": ("linear_attention_risk",),
    "icltheory.linear_self_attention": (
        "one_step_risk",
        "outcome_risk",
        "teacher_weights",
        "trained_risk",
        "trained_weights",
    ),
    "icltheory.local": ("local_constant", "local_stationarity", "local_value_sum", "shift_floor"),
    "icltheory.lower_bounds": ("lower_bound",),
    "icltheory.momentum": ("HeavyBall", "Nesterov"),
    "icltheory.one_head": (
        "correction_exponent",
        "gain_bounds",
        "multihead_gain",
        "one_head_bounds",
        "risk_exponent",
    ),
    "icltheory.online_descent": ("OnlineGradientDescent",),
    "icltheory.pair_families": ("pair_constant", "small_score_expansion"),
    "icltheory.pair_scales": ("pair_gain", "pair_scale", "pair_slope", "small_pair_risk"),
    "icltheory.prior": ("prior_crossing", "prior_heads", "prior_risk"),
    "icltheory.product_features": (
        "optimal_product_risk",
        "product_bias",
        "product_head_constant",
        "product_risk",
    ),
    "icltheory.proportional": (
        "approximate_risk",
        "approximation_error",
        "optimal_proportional_risk",
        "proportional_gain",
        "proportional_risk",
    ),
    "icltheory.recovery": ("recovery_length", "recovery_snr"),
    "icltheory.risk": (
        "finite_prompt_risk",
        "head_constant",
        "loss_constant",
        "optimal_finite_prompt_risk",
        "optimal_loss_constant",
    ),
    "icltheory.solver_limits": ("late_solver_risk", "solver_risk_limit"),
    "icltheory.solvers": (
        "GradientDescent",
        "GradientFlow",
        "HyperPower",
        "IterativeNewton",
        "OrdinaryLeastSquares",
        "Ridge",
        "RidgeNewton",
    ),
    "icltheory.spectral": ("Solver",),
    "icltheory.spectral_risk": ("solver_forgetting", "solver_risk"),
    "icltheory.state_evolution": (
        "clip_floor",
        "lock_in_threshold",
        "onsager_coefficient",
        "sampling_floor",
        "state_evolution_map",
    ),
    "icltheory.task": ("LinearRegression",),
    "icltheory.tight_prior": (
        "optimal_tight_prior_constant",
        "tight_prior_constant",
        "tight_prior_threshold",
    ),
    "icltheory.trajectories": ("ClosedForm", "closed_form", "tied_time"),
    "icltheory.verified_sampling": (
        "competitor_error",
        "equivocation",
        "exhaustive_error",
        "pass_at_n",
        "plurality_samples",
        "verified_log_samples",
        "verified_success",
        "vote_samples",
    ),
    "icltheory.voting": ("averaging_excess", "vote_constant", "vote_excess"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("symbols",)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from icltheory.named_calls import exported

        value = exported(getattr(import_module(_HOMES[name]), name))
    elif name in _SUBMODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        from icltheory.errors import unknown_name

        raise unknown_name(__name__, name, __dir__())
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, submodules that are loaded, and what every module has."""
    own = {x for x in globals() if x.startswith("__") or f"{__name__}.{x}" in sys.modules}
    return sorted({*own, *_HOMES, *_SUBMODULES})
