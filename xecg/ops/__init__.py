"""Public ops: exact recurrences and their neighbours, forward and backward, with states, on every backend that serves them."""

from xecg.ops._dispatch import backends, use_backend
from xecg.ops.conv1d import causal_conv1d, causal_conv1d_step, causal_conv1d_step_
from xecg.ops.gated import gated
from xecg.ops.linear import linear
from xecg.ops.mlstm import MLSTMState, mlstm, mlstm_step, mlstm_step_
from xecg.ops.norm import norm
from xecg.ops.slstm import SLSTMState, slstm, slstm_step, slstm_step_

__all__ = [
    "MLSTMState",
    "SLSTMState",
    "backends",
    "causal_conv1d",
    "causal_conv1d_step",
    "causal_conv1d_step_",
    "gated",
    "linear",
    "mlstm",
    "mlstm_step",
    "mlstm_step_",
    "norm",
    "slstm",
    "slstm_step",
    "slstm_step_",
    "use_backend",
]
