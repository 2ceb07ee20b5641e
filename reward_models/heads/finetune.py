"""The linear head on a backbone whose last blocks learned from the ratings too, for thousands of comparisons.

The backbone learns by a LoRA (Hu et al. 2021, arXiv:2106.09685): to a frozen weight W the product B A of two narrow
matrices is added, with B = 0 at the start. The text tower stays as it is: all images of a prompt share its text, so
what tells them apart are the image's features, which the text only weighs; and prompts are then encoded once.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hitl.core.errors import ConfigError
from reward_models.backbone import Backbone, joint_features
from reward_models.choice_model import ChoiceModel, Posterior
from reward_models.choices import Choices
from reward_models.features import Pictures
from reward_models.heads.linear import LinearHead
from reward_models.heads.mlp import Batch, batches, block_scale
from reward_models.readings import Reading

BLOCKS = 2
RANK = 8
_ADAPTER = "taste"
_TRUST = np.array([1.0, 0.3, 0.1, 0.03, 0.01])
_HELD_OUT = 5
"""One in so many prompts is kept from the LoRA."""
_BATCH = 64
"""Answers, of twice as many pictures at most, whose activations in the last blocks a step holds. Whole prompts come
together, so one with many answers can make it a few times more."""


@dataclass(frozen=True, slots=True)
class FinetuneHead:
    """A linear head with its posterior, on the features of the backbone that `adapt` gives.

    The posterior is that of the linear weights with the backbone taken as it came out.
    """

    linear: LinearHead
    lora: dict[str, tuple[Tensor, Tensor]]
    """Name of a weight of the backbone's model -> (A, B)."""

    def predict(
        self, features: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        return self.linear.predict(features)

    def centred_on(self, features: Float[Tensor, "reference features"]) -> "FinetuneHead":
        return replace(self, linear=self.linear.centred_on(features))

    def adapt(self, backbone: Backbone) -> Backbone:
        """The backbone with W + B A for each W (section 4.1 of the paper): as fast as the plain one, and a new one.

        What the LoRA leaves alone is shared between the two.
        """
        adapted = replace(backbone, model=_copy(backbone.model, [*self.lora]))
        with torch.no_grad():
            for name, (down, up) in self.lora.items():
                weight = adapted.model.get_parameter(name)
                weight += (up.flatten(1) @ down.flatten(1)).view_as(weight).to(weight)
        return adapted

    def tensors(self) -> dict[str, Tensor]:
        factors = {f"lora.{name}.{part}": pair[n] for name, pair in self.lora.items() for n, part in enumerate("AB")}
        return {f"linear.{name}": value for name, value in self.linear.tensors().items()} | factors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "FinetuneHead":
        parts = {
            part: {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            for part in ("linear.", "lora.")
        }
        names = sorted({name.rpartition(".")[0] for name in parts["lora."]})
        lora = {name: (parts["lora."][f"{name}.A"], parts["lora."][f"{name}.B"]) for name in names}
        return cls(LinearHead.from_tensors(parts["linear."]), lora)


def fit_finetune(
    features: Float[Tensor, "things features"],
    choices: Choices,
    *,
    backbone: Backbone,
    pictures: Pictures,
    text: Float[Tensor, "things width"],
    reading: Reading,
    l2: float,
    seed: int,
    weights: Float[np.ndarray, "choices"] | None = None,
    epochs: int = 4,
    rank: int = RANK,
    blocks: int = BLOCKS,
    learning_rate: float = 6e-3,
    weight_decay: float = 0.1,
) -> FinetuneHead:
    """Train the LoRA and a linear head together on the choices' likelihood, then fit the linear head and its posterior
    anew, at `l2`, on the features that came out. With 0 epochs it is the linear head.

    Features that learned from the answers tell them too well: a head fitted on the same answers would be far too sure.
    So the LoRA does not see a fifth of the prompts, and in the last fit all answers count less by the factor, out of a
    few, with which the others predict these best (a tempered posterior: Grünwald and van Ommen 2017, arXiv:1412.3730).

    `features` are the plain backbone's, and `pictures` and `text` what they are of, one for each thing; `reading` is
    which features the linear head reads, before and after. The linear weights begin at the linear head's, and weight
    decay pulls them back to it, not to 0. The passed backbone is left as it was, and so is the caller's random state.

    Raises:
        ConfigError: the image tower has no blocks that this file knows.
    """
    counted = np.ones(len(choices)) if weights is None else np.asarray(weights, dtype=float)
    unseen = _held_out(choices, counted, seed) if epochs else np.zeros(len(choices), bool)
    seen = counted * ~unseen
    begin = _posterior(_choice_model(features, choices, reading), l2, seen)
    device = backbone.device
    centre, weight = features.mean(0).to(device), torch.from_numpy(begin.weight).float().to(device)
    unit = 1 / block_scale(features).to(device)
    fixed = np.asarray(choices.extras @ begin.extras)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        tuned = replace(backbone, model=with_lora(backbone.model, blocks=blocks, rank=rank))
        away = nn.Parameter(torch.zeros_like(weight))
        trained = [each for each in tuned.model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW([*trained, away], lr=learning_rate, weight_decay=weight_decay)
        total = max(epochs * math.ceil(int((seen > 0).sum()) / _BATCH), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(step / total, 1))
        )
        for _ in range(epochs):
            for rows in batches(choices, seen, _BATCH):
                batch = Batch.of(choices, rows, fixed, seen)
                image = tuned.image_features(pictures.take(batch.things.numpy()))
                read = joint_features(image, text[batch.things].to(device))
                loss = batch.loss(((read - centre) @ (weight + away * unit)).cpu())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    found = FinetuneHead(LinearHead.of(begin), factors(tuned.model))
    end = _choice_model(joint_features(pictures.features(found.adapt(backbone)), text), choices, reading)
    trust = 1.0
    if unseen.any():
        fits = end.fit(np.full(len(_TRUST), l2), np.outer(seen, _TRUST))
        trust = _TRUST[((counted * unseen) @ end.losses(fits)).argmin()]
    return replace(found, linear=LinearHead.of(_posterior(end, l2, counted * trust)))


def _choice_model(features: Float[Tensor, "things features"], choices: Choices, reading: Reading) -> ChoiceModel:
    # Raters' slopes come after the features' scale is taken, as in the fit: a penalty then means the same.
    return reading.model(features.numpy(), choices.with_slopes(np.ones(len(choices)))).with_slopes(choices.slope)


def _posterior(model: ChoiceModel, l2: float, weights: Float[np.ndarray, "choices"]) -> Posterior:
    return model.posterior(l2, weights, model.fit(np.array([l2]), weights[:, None], tolerance=1e-3))


def _held_out(choices: Choices, weights: Float[np.ndarray, "choices"], seed: int) -> Bool[np.ndarray, "choices"]:
    """The choices about a fifth of the prompts; of fewer than five, none."""
    prompts = np.unique(choices.prompt[weights > 0])
    drawn = np.random.default_rng([seed, 2]).permutation(prompts)[: len(prompts) // _HELD_OUT]
    return (weights > 0) & np.isin(choices.prompt, drawn)


def with_lora(model: nn.Module, *, blocks: int, rank: int) -> Any:
    """A copy that shares the weights and carries a LoRA on the layers of its last blocks.

    On an attention's `in_proj_weight` as a parameter: PEFT's layer for a whole nn.MultiheadAttention adds the LoRA of
    its `out_proj` twice, and changes the frozen weights by a rounding error with every pass.
    """
    from peft import LoraConfig, inject_adapter_in_model  # most fits try no such head, and the import takes a second

    layers, parameters = [], []
    for prefix, block in _blocks(model)[-blocks:]:
        for name, module in block.named_modules(prefix=prefix):
            # An nn.MultiheadAttention's out_proj is of another type, and its forward never runs.
            if type(module) in (nn.Linear, nn.Conv2d):
                layers.append(name)
            elif isinstance(getattr(module, "in_proj_weight", None), nn.Parameter):
                parameters.append(f"{name}.in_proj_weight")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, target_parameters=parameters or None)
    with warnings.catch_warnings():
        # PEFT 0.18 says so of any module that it wraps for a parameter, and that is not torch's own.
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return inject_adapter_in_model(config, _copy(model, []), _ADAPTER)


def _blocks(model: nn.Module) -> Sequence[tuple[str, nn.Module]]:
    """The image tower's blocks by their names in the model, first to last."""
    stages = [f"layer{number}" for number in (1, 2, 3, 4)]
    modules = dict(model.named_modules())
    for places in (["transformer.resblocks"], ["trunk.blocks"], stages):  # open_clip's transformer, timm's; a ResNet
        names = [f"visual.{place}" for place in places]
        if all(isinstance(modules.get(name), nn.ModuleList | nn.Sequential) for name in names):
            return [(f"{name}.{number}", block) for name in names for number, block in modules[name].named_children()]
    tower = type(modules.get("visual")).__name__
    raise ConfigError(
        f"The head `finetune` knows no blocks in the image tower {tower} of this backbone.",
        hint="Take `finetune` off fit.heads, or use a backbone with a vision transformer or open_clip's ResNet.",
    )


def factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each weight that carries a LoRA, by the weight's name in the plain model."""
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    found = {}
    for name, layer in layers.items():
        down, up = (each[_ADAPTER].weight.detach().cpu() for each in (layer.lora_A, layer.lora_B))
        plain = name.replace(".base_layer", "")  # a layer inside a module that PEFT wrapped for its parameter
        found[f"{plain}.{getattr(layer, 'parameter_name', 'weight')}"] = down, up
    return found


def _copy(model: nn.Module, changed: Sequence[str]) -> nn.Module:
    """A copy of the model that shares all weights but these."""
    shared = {id(weight): weight for name, weight in model.named_parameters() if name not in changed}
    return copy.deepcopy(model, shared)
