"""Claims of the papers: each a statement, a prediction, an experiment and a negative control."""

from numeric.claims.base import CLAIMS as CLAIMS
from numeric.claims.base import Claim as Claim
from numeric.claims.base import ClaimResult as ClaimResult
from numeric.claims.base import Effort as Effort
from numeric.claims.base import Part as Part
