"""icltheory: exact theory of in-context linear regression by attention (SymPy only)."""

from icltheory.attention import LinearAttention as LinearAttention
from icltheory.attention import SoftmaxAttention as SoftmaxAttention
from icltheory.errors import CheckpointError as CheckpointError
from icltheory.errors import IclTheoryError as IclTheoryError
from icltheory.errors import InfiniteVariance as InfiniteVariance
from icltheory.errors import InvalidInput as InvalidInput
from icltheory.errors import OutOfDomain as OutOfDomain
from icltheory.errors import TrainingDiverged as TrainingDiverged
from icltheory.formula import Formula as Formula
from icltheory.formula import Reference as Reference
from icltheory.formula import Step as Step
from icltheory.task import LinearRegression as LinearRegression
