"""numeric: evaluates, samples, trains and compares what icltheory derives."""

from numeric.compile import Evaluator as Evaluator
from numeric.compile import compile as compile
