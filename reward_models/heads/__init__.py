"""Heads: what turns a backbone's features into a score and how sure it is. Each is one file, saved as plain tensors.

A head is fitted on choices (`reward_models.choices`) and keeps the rules of `Head`; `tests/contract/test_heads.py`
checks them. Scores and their standard deviations are relative to the features that the head was centred on: what
images of all prompts share cannot be learned from comparisons and would only blow the deviation up.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Head(Protocol):
    """Differentiable in the features, and so in the pixels behind them."""

    def predict(
        self, features: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Score and its posterior standard deviation."""
        ...

    def centred_on(self, features: Float[Tensor, "reference features"]) -> "Head":
        """The same head with scores of mean 0 on these features."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Head": ...


HEADS: dict[str, str] = {
    "linear": "reward_models.heads.linear:LinearHead",
    "mlp": "reward_models.heads.mlp:MlpHead",
    "ensemble": "reward_models.heads.ensemble:EnsembleHead",
    "finetune": "reward_models.heads.finetune:FinetuneHead",
    "imagereward": "reward_models.heads.mlp:MlpHead",
}
