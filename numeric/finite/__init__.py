"""finite: PyTorch models of the specifications, their training, and saved weights."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from icltheory.errors import unknown_name as _unknown_name
from icltheory.named_calls import exported as _exported
from numeric.finite.adapters import CallableModel as CallableModel
from numeric.finite.adapters import EmbeddingModel as EmbeddingModel
from numeric.finite.adapters import QueryModel as QueryModel
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
from numeric.finite.decoder import LinearSelfAttention as LinearSelfAttention
from numeric.finite.decoder_training import train_decoder as train_decoder
from numeric.finite.decoder_weights import LearnedDescent as LearnedDescent
from numeric.finite.ensemble import train_many as train_many
from numeric.finite.identification import Identification as Identification
from numeric.finite.identify import identify as identify
from numeric.finite.models import LinearAttention as LinearAttention
from numeric.finite.models import SoftmaxAttention as SoftmaxAttention
from numeric.finite.readout import Readouts as Readouts
from numeric.finite.readout import fit_readouts as fit_readouts
from numeric.finite.shipping import shipped as shipped
from numeric.finite.solver_models import SolverModel as SolverModel
from numeric.finite.tokens import TokenAttention as TokenAttention
from numeric.finite.training import TrainingRun as TrainingRun
from numeric.finite.training import train as train
from numeric.finite.transformer import SequenceModel as SequenceModel
from numeric.finite.transformer import Transformer as Transformer

for _name, _value in list(globals().items()):
    if not _name.startswith("_") and getattr(_value, "__module__", "").startswith("numeric.finite"):
        globals()[_name] = _exported(_value)

if not _TYPE_CHECKING:  # for which every name would exist

    def __getattr__(name):
        raise _unknown_name(__name__, name, globals())
