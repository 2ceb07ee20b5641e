"""A linear layer with a LoRA on it, in fewer and larger operations than PEFT's own forward.

PEFT casts the input to the LoRA's float32, scales, adds and casts back, each a pass over the activations, and autograd
passes over them again. Here both products add to what is there: on a CPU a fifth less time for a pass with its gradient
in bfloat16, and a twelfth in float32 (`benchmarks/results/passes.json`).
"""

from typing import Any, no_type_check

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def fuse(denoiser: nn.Module) -> None:
    """Give PEFT's LoRA linear layers the forward of this file; they stay PEFT's in all else.

    Not in float16: the LoRA's gradients, of the precision of the products here, would underflow.
    """
    for module in denoiser.modules():
        if type(module) is Linear and module.base_layer.weight.dtype != torch.float16:
            # Its class and not its own attribute: torch.compile would take a block for each layer's own apart.
            module.__class__ = FusedLinear


@no_type_check  # at run time, where torch.compile would trace the checker, too
class FusedLinear(Linear):
    """PEFT's layer with one LoRA on it, that is not merged."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.disable_adapters:
            return self.base_layer(x)
        (adapter,) = self.active_adapters
        base, down, up = self.base_layer, self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return _LoraLinear.apply(x, base.weight, base.bias, down, up, self.scaling[adapter])


@no_type_check
class _LoraLinear(torch.autograd.Function):
    """x W^T + b + scale x A^T B^T, with a gradient to x, A and B; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.flatten(0, -2)
        down, up = down.to(x.dtype), (up * scale).to(x.dtype)
        inner = rows @ down.T
        result = F.linear(x, weight, bias)  # as the frozen layer's own: a LoRA of 0 changes no bit of it
        result.view(-1, result.shape[-1]).addmm_(inner, up.T)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (rows, inner, weight, down, up) = grads, ctx.saved_tensors
        of_rows = grad.flatten(0, -2)
        of_inner = of_rows @ up
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_rows @ weight).addmm_(of_inner, down).view(*grad.shape[:-1], -1)
        of_down, of_up = of_inner.T @ rows, of_rows.T @ inner
        return of_x, None, None, of_down.float(), of_up.float() * ctx.scale, None
