"""numeric: evaluates, samples, trains and compares what icltheory derives.

`numeric.finite` is the only door to torch; importing `numeric` does not load it.
"""

from numeric.block_optimum import optimal_block_risk as optimal_block_risk
from numeric.block_optimum import prompt_length_for as prompt_length_for
from numeric.compare import Comparison as Comparison
from numeric.compare import compare as compare
from numeric.compile import Evaluator as Evaluator
from numeric.compile import compile as compile
from numeric.concentration import concentration_figure as concentration_figure
from numeric.concentration import expected_error as expected_error
from numeric.concentration import output_moments as output_moments
from numeric.concentration import simulated_error as simulated_error
from numeric.drift import finite_prompt_flow as finite_prompt_flow
from numeric.drift import valley_drift as valley_drift
from numeric.exponents import local_exponent as local_exponent
from numeric.feature_risk import feature_expansion as feature_expansion
from numeric.finite_prompt import block_risk as block_risk
from numeric.finite_prompt import block_risk_gradient as block_risk_gradient
from numeric.flow import FlowSolution as FlowSolution
from numeric.flow import integrate as integrate
from numeric.flow_rates import FlowRates as FlowRates
from numeric.flow_rates import flow_limit as flow_limit
from numeric.flow_rates import flow_rates as flow_rates
from numeric.gradients import output_gradients as output_gradients
from numeric.long_prompts import long_prompt_moments as long_prompt_moments
from numeric.montecarlo import Estimate as Estimate
from numeric.montecarlo import monte_carlo_constant as monte_carlo_constant
from numeric.montecarlo import monte_carlo_risk as monte_carlo_risk
from numeric.prompt_moments import prompt_moments as prompt_moments
from numeric.prompt_moments import weight_moment_derivatives as weight_moment_derivatives
from numeric.risk import exact_risk as exact_risk
from numeric.risk import optimal_risk as optimal_risk
from numeric.token_simulation import OutputSample as OutputSample
from numeric.token_simulation import sample_tokens as sample_tokens
from numeric.token_simulation import simulate_output as simulate_output
from numeric.tokens import leading_bias as leading_bias
from numeric.tokens import leading_covariance as leading_covariance
from numeric.tokens import limit_jacobian as limit_jacobian
from numeric.tokens import limit_output as limit_output
from numeric.tokens import nonlinearity as nonlinearity
from numeric.tokens import token_cgf as token_cgf
from numeric.tokens import weight_moment as weight_moment
from numeric.trajectories import closed_trajectory as closed_trajectory
from numeric.trajectories import tied_trajectory as tied_trajectory
from numeric.validate import measure_risk as measure_risk
from numeric.validate import validate as validate
