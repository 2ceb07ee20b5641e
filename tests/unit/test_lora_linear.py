"""Our forward of a LoRA linear layer beside PEFT's own: what it gives, its gradients, and where it stays away."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from rl.families.lora_linear import fuse
from rl.randomness import generator


def layers(dtype: torch.dtype = torch.float32, bias: bool = True, alpha: int = 4) -> Any:
    """A model with one LoRA linear layer whose LoRA does something, still with PEFT's forward."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"inner": nn.Linear(12, 20, bias=bias)}).to(dtype).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=alpha, target_modules=["inner"]), model, "policy")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator(name))
    return model


def passed(layer: Any, x: Tensor) -> list[Tensor]:
    """The output, and the gradients to x and the LoRA of its weighted sum."""
    x = x.clone().requires_grad_()
    output = layer(x)
    weights = torch.randn(output.shape, generator=generator("weights"))
    learned = [parameter for name, parameter in layer.named_parameters() if "lora_" in name]
    return [output.detach(), *torch.autograd.grad((output.float() * weights).sum(), [x, *learned])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [4, 10])
@pytest.mark.parametrize("shape", [(3, 12), (2, 5, 12)])
def test_it_gives_what_peft_gives(shape: tuple[int, ...], alpha: int, bias: bool):
    model = layers(bias=bias, alpha=alpha)
    x = torch.randn(shape, generator=generator("x"))
    theirs = passed(model["inner"], x)
    fuse(model)
    for ours, wanted in zip(passed(model["inner"], x), theirs, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_in_bfloat16_it_is_as_near_the_exact_result_as_peft():
    """Exact: the same rounded weights in float64. Both round the output; ours also what is between the products."""
    x = torch.randn((64, 12), generator=generator("x")).bfloat16()
    model = layers(torch.bfloat16)
    theirs = passed(model["inner"], x)
    fuse(model)
    ours = passed(model["inner"], x)
    exact = passed(copy.deepcopy(layers(torch.bfloat16)).double()["inner"], x.double())
    for mine, rival, truth in zip(ours, theirs, exact, strict=True):
        scale = truth.norm()
        assert (mine.double() - truth).norm() < 6e-3 * scale
        assert (mine.double() - truth).norm() < 3 * (rival.double() - truth).norm() + 1e-3 * scale
    assert {tensor.dtype for tensor in ours[2:]} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_of_zero_and_one_switched_off_change_no_bit(dtype: torch.dtype):
    model = layers(dtype)
    fuse(model)
    layer, x = model["inner"], torch.randn((6, 12), generator=generator("x")).to(dtype)
    plain = layer.base_layer(x)
    assert not torch.equal(layer(x), plain)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), plain)
    layer.enable_adapters(True)
    layer.lora_B["policy"].weight.data.zero_()
    assert torch.equal(layer(x), plain)


def test_a_copied_model_uses_its_own_weights():
    model = layers()
    fuse(model)
    twin, x = copy.deepcopy(model), torch.ones(1, 12)
    before = model["inner"](x)
    twin["inner"].lora_B["policy"].weight.data.zero_()
    assert torch.equal(model["inner"](x), before)
    assert not torch.equal(twin["inner"](x), before)


def test_in_float16_peft_keeps_its_forward():
    """A gradient of 1e-8 to the LoRA is none in float16."""
    model = layers(torch.float16)
    fuse(model)
    x = torch.full((1, 12), 1e-4, dtype=torch.float16)
    (1e-4 * model["inner"](x).float()).sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)
