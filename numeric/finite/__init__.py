"""finite: PyTorch models of the specifications, their training, and saved weights."""

from numeric.finite.adapters import CallableModel as CallableModel
from numeric.finite.adapters import EmbeddingModel as EmbeddingModel
from numeric.finite.adapters import check_model as check_model
from numeric.finite.averaged import AveragedRisk as AveragedRisk
from numeric.finite.averaged import LabelAveragedRisk as LabelAveragedRisk
from numeric.finite.averaged import label_averaged_risk as label_averaged_risk
from numeric.finite.checkpoint import load as load
from numeric.finite.checkpoint import save as save
from numeric.finite.construct import ConstructedTransformer as ConstructedTransformer
from numeric.finite.construct import gradient_transformer as gradient_transformer
from numeric.finite.construct import newton_transformer as newton_transformer
from numeric.finite.contrasts import LSTM as LSTM
from numeric.finite.contrasts import LoopedLinearAttention as LoopedLinearAttention
from numeric.finite.curriculum import Curriculum as Curriculum
from numeric.finite.ensemble import train_many as train_many
from numeric.finite.models import LinearAttention as LinearAttention
from numeric.finite.models import SoftmaxAttention as SoftmaxAttention
from numeric.finite.readout import Readouts as Readouts
from numeric.finite.readout import fit_readouts as fit_readouts
from numeric.finite.solver_models import SolverModel as SolverModel
from numeric.finite.tokens import TokenAttention as TokenAttention
from numeric.finite.training import TrainingRun as TrainingRun
from numeric.finite.training import train as train
from numeric.finite.transformer import SequenceModel as SequenceModel
from numeric.finite.transformer import Transformer as Transformer
