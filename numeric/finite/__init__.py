"""finite: PyTorch models of the specifications, their training, and saved weights."""

from numeric.finite.averaged import AveragedRisk as AveragedRisk
from numeric.finite.checkpoint import load as load
from numeric.finite.checkpoint import save as save
from numeric.finite.curriculum import Curriculum as Curriculum
from numeric.finite.ensemble import train_many as train_many
from numeric.finite.models import LinearAttention as LinearAttention
from numeric.finite.models import SoftmaxAttention as SoftmaxAttention
from numeric.finite.tokens import TokenAttention as TokenAttention
from numeric.finite.training import TrainingRun as TrainingRun
from numeric.finite.training import train as train
from numeric.finite.transformer import SequenceModel as SequenceModel
from numeric.finite.transformer import Transformer as Transformer
