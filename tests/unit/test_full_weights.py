"""Training all of a denoiser's weights (train.weights = full) on a tiny pipeline: gradients, the reference, files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from hitl.core.errors import ConfigError
from rl import ALGORITHMS
from rl.algorithms.dpok import Dpok
from rl.algorithms.draft import Refl
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.policy_gradient import update
from rl.preferences import Comparisons
from rl.randomness import generator
from rl.rollout import collect, draw
from rl.state import TrainingState
from rl.train import train, train_on_comparisons
from tests.fixtures.tiny_pipeline import build_family, build_pipeline

pytestmark = pytest.mark.long

PROMPTS = ["a red circle", "two blue hearts"]
PLACE = (0, 1)
SAMPLE = SampleConfig(steps=2, guidance=1.5, window=2, batch_size=8)
FULL = TrainConfig(
    weights="full",
    learning_rate=1e-3,
    epochs=1,
    prompts_per_epoch=2,
    images_per_prompt=2,
    noises_per_image=1,
    batch_size=3,
)
LORA = replace(FULL, weights="lora", lora_rank=2)
LORA_FILE = "pytorch_lora_weights.safetensors"
SCORES = torch.tensor([[0.0, 1.0], [3.0, 2.0]])


class Brightness:
    """With a gradient."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.differentiable(images / 255, prompts)

    def differentiable(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def halved() -> StableDiffusion15:
    return StableDiffusion15(build_pipeline().to(dtype=torch.bfloat16), torch.device("cpu"))


def predict(family: StableDiffusion15) -> Tensor:
    """Without guidance, so that one pass of the UNet gives the same."""
    x = torch.randn((2, 4, 8, 8), generator=generator("x"))
    with torch.no_grad():
        return family.predict(x, torch.tensor([500, 100]), PROMPTS, guidance=1.0)


def stock_prediction(unet: UNet2DConditionModel) -> Tensor:
    pipeline = build_pipeline()
    x = torch.randn((2, 4, 8, 8), generator=generator("x"))
    tokens = pipeline.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return unet(x, torch.tensor([500, 100]), pipeline.text_encoder(tokens)[0]).sample


def run(folder: Path, *, config: TrainConfig = FULL, **more: Any) -> list[dict[str, float]]:
    """Train with DPOK; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    options: dict[str, Any] = {"family": build_family(), "algorithm": Dpok(), "reward": Brightness()} | more
    train(
        prompts=PROMPTS,
        config=config,
        sample=SAMPLE,
        folder=folder,
        place=PLACE,
        on_epoch=lambda epoch, values: metrics.append(values),
        **options,
    )
    return metrics


# -- what is learned --------------------------------------------------------------------------------------------------


def updated(family: StableDiffusion15, config: TrainConfig, folder: Path) -> TrainingState:
    """After one update, on the images that the reference draws; the gradients are still there, and uncut."""
    state = TrainingState.start(family, replace(config, max_grad_norm=1e9), SAMPLE, folder, PLACE, None)
    trajectory = collect(family, PROMPTS, 2, SAMPLE, PLACE)
    update(state, Dpok(), trajectory, SCORES, PROMPTS, replace(config, max_grad_norm=1e9), SAMPLE, PLACE)
    return state


def test_a_loras_gradient_is_that_of_all_weights_seen_through_it(tmp_path: Path):
    """y = (W + BA)x with B = 0: dL/dB is dL/dW times A transposed, on every layer that carries a LoRA."""
    with_lora, whole = build_family(), build_family()
    updated(with_lora, replace(LORA, learning_rate=1e-30), tmp_path / "lora")
    state = updated(whole, replace(FULL, learning_rate=1e-30), tmp_path / "full")
    weights = dict(with_lora._denoiser.named_parameters())
    gradients = {name: each.grad for name, each in whole._denoiser.named_parameters()}
    assert len(gradients) == len(state.parameters) == len([*build_pipeline().unet.parameters()])
    layers = [name.removesuffix(".lora_B.policy.weight") for name in weights if ".lora_B." in name]
    assert len(layers) > 20
    for layer in layers:
        down, up = (weights[f"{layer}.lora_{half}.policy.weight"] for half in "AB")
        expected = gradients[f"{layer}.weight"] @ down.detach().T
        torch.testing.assert_close(up.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_in_half_precision_gradients_are_those_of_float32_rounded_and_summed_in_float32(tmp_path: Path):
    exact, rounded = build_family(), halved()
    expected = torch.cat([torch.as_tensor(p.grad).flatten() for p in updated(exact, FULL, tmp_path / "a").parameters])
    parameters = updated(rounded, FULL, tmp_path / "b").parameters
    assert {each.dtype for each in parameters} == {torch.float32}
    assert {each.dtype for each in rounded._denoiser.parameters()} == {torch.bfloat16}
    assert all(each.grad is None for each in rounded._denoiser.parameters())  # handed over, and kept once
    found = torch.cat([torch.as_tensor(each.grad).flatten() for each in parameters])
    assert float((found - expected).norm() / expected.norm()) < 0.1
    assert not torch.equal(found, found.to(torch.bfloat16).float())  # a sum of several batches


def test_in_half_precision_changes_that_are_too_small_for_it_add_up():
    """A norm's weight is 1, and the next bfloat16 is 1 + 1/128: of steps of 1/1000 the first three round to nothing."""
    family = halved()
    (name, kept), *_ = [
        (name, each)
        for (name, _), each in zip(family._denoiser.named_parameters(), family.add_full(), strict=True)
        if name.endswith("norm1.weight")
    ]
    seen = []
    for _ in range(8):
        kept.data += 1 / 1000
        family.parameters_changed()
        seen.append(float(family._denoiser.get_parameter(name).detach()[0]))
    assert float(kept.detach()[0]) == pytest.approx(1.008)
    assert seen == [1.0] * 3 + [1 + 1 / 128] * 5


def test_gradient_checkpointing_gives_the_same_gradient(tmp_path: Path):
    found = []
    for wanted in (False, True):
        family = halved()
        state = updated(family, replace(FULL, gradient_checkpointing=wanted), tmp_path / str(wanted))
        assert family._denoiser.is_gradient_checkpointing is wanted
        assert family._reference.is_gradient_checkpointing is wanted
        found.append(torch.cat([torch.as_tensor(each.grad).flatten() for each in state.parameters]))
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=0.02 * float(found[0].abs().max()))


# -- policy and reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [build_family, halved])
def test_the_policy_starts_as_the_reference_which_stays_what_it_was_to_the_bit(build: Any, tmp_path: Path):
    family = build()
    untouched = predict(build())
    family.add_full()
    assert torch.equal(predict(family), untouched)
    family.drop_policy()
    metrics = run(tmp_path, family=family, config=replace(FULL, epochs=2))
    assert metrics[0]["kl_per_step"] == 0.0
    assert metrics[1]["kl_per_step"] > 1e-4
    policy = predict(family)
    assert not torch.allclose(policy, untouched, rtol=1e-3)
    with family.reference():
        assert torch.equal(predict(family), untouched)
        with family.reference():
            pass
        assert torch.equal(predict(family), untouched)
    assert torch.equal(predict(family), policy)
    family.drop_policy()
    assert torch.equal(predict(family), untouched)
    family.load_policy(tmp_path)
    assert torch.equal(predict(family), policy)


@pytest.mark.parametrize("name", ["ddpo_is", "nft", "refl", "diffusion_dpo", "best_of_n"])
def test_every_kind_of_algorithm_trains_them_and_diffusers_own_class_reads_them(name: str, tmp_path: Path):
    family, metrics = build_family(), []
    where: dict[str, Any] = {"folder": tmp_path, "place": PLACE, "on_epoch": lambda _, values: metrics.append(values)}
    config = replace(FULL, algorithm=name)
    if name == "diffusion_dpo":
        images = draw(family, PROMPTS * 2, steps=2, guidance=1.5, seeds=[("draw", i) for i in range(4)], batch_size=4)
        compared = Comparisons(
            images=images,
            prompts=PROMPTS * 2,
            first=torch.tensor([0, 1]),
            second=torch.tensor([2, 3]),
            outcome=torch.tensor([1, -1]),
        )
        train_on_comparisons(family, ALGORITHMS.load(name)(), compared, None, config, SAMPLE, **where)
    else:
        algorithm = Refl(ceiling=9.0, last_steps=2) if name == "refl" else ALGORITHMS.load(name)()
        train(family, algorithm, Brightness(), PROMPTS, config, SAMPLE, **where)
    untouched = build_pipeline().unet
    saved = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    torch.testing.assert_close(predict(family), stock_prediction(saved), rtol=1e-4, atol=1e-5)
    with family.reference():
        assert torch.equal(predict(family), predict(build_family()))
    moved = [not torch.equal(*pair) for pair in zip(saved.parameters(), untouched.parameters(), strict=True)]
    assert sum(moved) / len(moved) > 0.9 if name != "best_of_n" else not any(moved)
    assert all(values["grad_norm"] > 0 for values in metrics)
    assert len(metrics) == (name != "best_of_n")


def test_a_round_goes_on_from_the_last_ones_weights_and_moments(tmp_path: Path):
    run(tmp_path / "first")
    family = build_family()
    (metrics,) = run(
        tmp_path / "second",
        family=family,
        reward=lambda images, prompts: torch.zeros(len(images)),
        algorithm=Dpok(kl_weight=0.0),
        start_from=tmp_path / "first",
    )
    assert metrics["kl_per_step"] > 1e-4  # to the pretrained model, not to the last round's
    assert metrics["grad_norm"] == 0.0  # so that what moves it are the moments
    first, second = (UNet2DConditionModel.from_pretrained(tmp_path / name / "unet") for name in ("first", "second"))
    assert not torch.equal(first.conv_out.weight, second.conv_out.weight)
    steps = torch.load(tmp_path / "second" / "state.pt", weights_only=True)["optimizer"]["state"][0]["step"]
    assert float(steps) == 2


def test_in_half_precision_a_resumed_training_predicts_as_it_did(tmp_path: Path):
    first, resumed = halved(), halved()
    run(tmp_path, family=first)
    TrainingState.start(resumed, FULL, SAMPLE, tmp_path, PLACE, None)
    assert torch.equal(predict(resumed), predict(first))
    with resumed.reference():
        assert not torch.equal(predict(resumed), predict(first))


# -- files ------------------------------------------------------------------------------------------------------------


def test_beside_weights_of_half_the_precision_they_keep_theirs(tmp_path: Path):
    """What is saved, loaded beside bfloat16 weights and saved again is the same file."""
    family = build_family()
    for i, parameter in enumerate(family.add_full()):
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator("full", i))
    family.save_policy(tmp_path / "first")
    half = halved()
    half.load_policy(tmp_path / "first")
    half.save_policy(tmp_path / "second")
    first, second = (next((tmp_path / name / "unet").glob("*.safetensors")) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    exact = UNet2DConditionModel.from_pretrained(tmp_path / "first" / "unet").conv_out.weight
    assert torch.equal(half._denoiser.conv_out.weight, exact.to(torch.bfloat16))


def test_the_file_does_not_tell_where_the_model_lay(tmp_path: Path):
    build_pipeline().save_pretrained(tmp_path / "secret")
    family = StableDiffusion15.load(str(tmp_path / "secret"))
    family.add_full()
    family.save_policy(tmp_path / "policy")
    told = (tmp_path / "policy" / "unet" / "config.json").read_text()
    assert "secret" not in told
    assert json.loads(told)["_class_name"] == "UNet2DConditionModel"


@pytest.mark.parametrize("first", [LORA, FULL], ids=["lora", "full"])
def test_a_training_that_is_begun_anew_with_the_other_weights_leaves_none_of_the_first(
    first: TrainConfig, tmp_path: Path
):
    second = FULL if first is LORA else LORA
    run(tmp_path, config=first)
    with pytest.raises(ConfigError, match=f"train.weights is {second.weights}, but .* begun with") as caught:
        run(tmp_path, config=second)
    assert "state.pt" in caught.value.hint
    (tmp_path / "state.pt").unlink()  # what the hint says
    run(tmp_path, config=second)
    assert ((tmp_path / LORA_FILE).exists(), (tmp_path / "unet").exists()) == (second is LORA, second is FULL)
    family = build_family()
    family.load_policy(tmp_path)
    family.require_policy(second.weights, rank=second.lora_rank, targets=second.lora_targets)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [LORA, FULL], ids=["lora", "full"])
def test_a_later_round_refuses_the_other_kind_of_weights(first: TrainConfig, tmp_path: Path):
    second = FULL if first is LORA else LORA
    run(tmp_path / "first", config=first)
    with pytest.raises(ConfigError, match=f"train.weights is '{second.weights}', but .* '{first.weights}'") as caught:
        run(tmp_path / "second", config=second, start_from=tmp_path / "first")
    assert "first round" in caught.value.hint


def test_other_settings_of_a_lora_change_nothing(tmp_path: Path):
    run(tmp_path)
    assert run(tmp_path, config=replace(FULL, lora_rank=3, lora_targets=("to_q",))) == []  # finished


def test_float16_is_refused(tmp_path: Path):
    family = StableDiffusion15(build_pipeline().to(dtype=torch.float16), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"float16, but train\.weights is full") as caught:
        run(tmp_path, family=family)
    assert "bfloat16" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "seen"),
    [({"weights": "all"}, "train.weights is 'all'"), ({"learning_rate": 2e-3}, "train.learning_rate is 0.002")],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], seen: str):
    with pytest.raises(ConfigError, match=seen):
        replace(FULL, **change)
