"""numeric: evaluates, samples, trains and compares what icltheory derives.

`numeric.finite` is the only door to torch; importing `numeric` does not load it.
"""

from numeric.compare import Comparison as Comparison
from numeric.compare import compare as compare
from numeric.compile import Evaluator as Evaluator
from numeric.compile import compile as compile
from numeric.montecarlo import Estimate as Estimate
from numeric.montecarlo import monte_carlo_constant as monte_carlo_constant
from numeric.montecarlo import monte_carlo_risk as monte_carlo_risk
from numeric.prompt_moments import prompt_moments as prompt_moments
from numeric.risk import exact_risk as exact_risk
from numeric.risk import optimal_risk as optimal_risk
from numeric.validate import measure_risk as measure_risk
from numeric.validate import validate as validate
