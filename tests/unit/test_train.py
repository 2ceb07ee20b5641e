"""The training loop on a tiny pipeline of real classes: what it collects, how it learns, resumes, what it refuses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from hitl.core.errors import ModelLoadError, TrainingError
from rl.algorithms.ddpo import DdpoIs, DdpoSf
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.pretrain.diffusion import build_scheduler
from rl.randomness import generator
from rl.rollout import collect, draw
from rl.train import train
from tests.fixtures.tiny_pipeline import build_family, build_pipeline

PROMPTS = ["a red circle", "two blue hearts"]
PLACE = (0, 1)
SAMPLE = SampleConfig(steps=3, guidance=2.0, window=2, batch_size=8)
QUICK = SampleConfig(steps=2, guidance=1.0, window=2, batch_size=8)
"""For tests to which neither guidance nor the deterministic tail matters: a third of the work."""
TRAIN = TrainConfig(
    epochs=2,
    prompts_per_epoch=2,
    images_per_prompt=2,
    batch_size=3,
    learning_rate=1e-2,
    lora_rank=2,
    value_function=False,
)
LORA_FILE = "pytorch_lora_weights.safetensors"


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.float().mean(dim=(1, 2, 3)) / 255


def constant(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.full((len(images),), 0.7)


def run(
    folder: Path,
    *,
    family: StableDiffusion15 | None = None,
    algorithm: Any = None,
    reward: Callable[[Tensor, Sequence[str]], Tensor] = brightness,
    config: TrainConfig = TRAIN,
    sample: SampleConfig = SAMPLE,
    **more: Any,
) -> list[dict[str, float]]:
    """Train; each epoch's metrics."""
    metrics: list[dict[str, float]] = []
    train(
        family or build_family(),
        algorithm or Dpok(),
        reward,
        PROMPTS,
        config,
        sample,
        folder=folder,
        place=PLACE,
        **{"on_epoch": lambda epoch, values: metrics.append(values), **more},
    )
    return metrics


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LoRA that one epoch has moved, without the optimiser's state."""
    folder = tmp_path_factory.mktemp("moved")
    run(folder, config=replace(TRAIN, epochs=1))
    (folder / "state.pt").unlink()
    return folder


def guided_noise(pipeline: Any, x: Tensor, t: Tensor, prompts: Sequence[str], guidance: float) -> Tensor:
    """Stock classifier-free guidance in two passes, with nothing of ours."""

    def embed(texts: Sequence[str]) -> Tensor:
        tokens = pipeline.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return pipeline.text_encoder(tokens)[0]

    with torch.no_grad():
        without = pipeline.unet(x, t, embed([""] * len(x))).sample
        return without + guidance * (pipeline.unet(x, t, embed(prompts)).sample - without)


def step_distribution(scheduler: DDIMScheduler, eps: Tensor, t: int, x: Tensor) -> Normal:
    """The Gaussian of diffusers' step with eta = 1, read off its own outputs for the noises 0 and 1."""
    mean = scheduler.step(eps, t, x, eta=1.0, variance_noise=torch.zeros_like(x)).prev_sample
    return Normal(mean, scheduler.step(eps, t, x, eta=1.0, variance_noise=torch.ones_like(x)).prev_sample - mean)


# -- what is collected ------------------------------------------------------------------------------------------------


def test_log_probabilities_and_the_deterministic_tail_are_those_of_stock_diffusers():
    pipeline = build_pipeline()
    trajectory = collect(StableDiffusion15(pipeline, torch.device("cpu")), PROMPTS, 2, SAMPLE, PLACE)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(SAMPLE.steps)
    for i, t in enumerate(scheduler.timesteps[: SAMPLE.window]):
        before, after = trajectory.states[:, i], trajectory.states[:, i + 1]
        eps = guided_noise(pipeline, before, t, trajectory.prompts, SAMPLE.guidance)
        expected = step_distribution(scheduler, eps, int(t), before).log_prob(after).sum(dim=(1, 2, 3))
        torch.testing.assert_close(trajectory.log_probs[:, i], expected, rtol=1e-4, atol=1e-2)
    x = trajectory.states[:, -1]
    for t in scheduler.timesteps[SAMPLE.window :]:
        eps = guided_noise(pipeline, x, t, trajectory.prompts, SAMPLE.guidance)
        x = scheduler.step(eps, int(t), x, eta=0.0).prev_sample
    with torch.no_grad():
        decoded = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample
    expected_images = pipeline.image_processor.postprocess(decoded, output_type="pt") * 255
    assert (trajectory.images - expected_images).abs().max() <= 0.51  # rounding to whole grey levels
    assert trajectory.prompts == ["a red circle", "a red circle", "two blue hearts", "two blue hearts"]


def test_the_same_place_gives_the_same_bits_and_another_place_other_images():
    family = build_family()
    first, again, other = (collect(family, PROMPTS, 2, SAMPLE, place) for place in (PLACE, PLACE, (0, 2)))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.images, other.images)


def test_images_do_not_depend_on_how_many_are_drawn_at_once():
    family = build_family()
    together = collect(family, PROMPTS, 2, SAMPLE, PLACE)
    apart = collect(family, PROMPTS, 2, replace(SAMPLE, batch_size=1), PLACE)
    torch.testing.assert_close(together.states, apart.states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_group_shares_its_initial_noise_only_when_asked(is_shared: bool):
    trajectory = collect(build_family(), PROMPTS, 2, replace(SAMPLE, shared_noise=is_shared), PLACE)
    start, after = trajectory.states[:, 0], trajectory.states[:, 1]
    assert torch.equal(start[0], start[1]) is is_shared
    assert not torch.equal(start[1], start[2])
    assert not torch.equal(after[0], after[1])


def test_a_last_step_without_noise_is_drawn_but_not_trained():
    scheduler = DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=True)
    trajectory = collect(build_family(scheduler=scheduler), PROMPTS, 2, replace(SAMPLE, window=3), PLACE)
    assert trajectory.log_probs.shape == (4, 2)
    assert trajectory.states.shape[1] == 3
    assert torch.isfinite(trajectory.log_probs).all()


def test_drawing_is_what_the_stock_pipeline_draws():
    pipeline = build_pipeline()
    seeds = [("draw", 0), ("draw", 1)]
    ours = draw(
        StableDiffusion15(pipeline, torch.device("cpu")), PROMPTS, steps=4, guidance=3.0, seeds=seeds, batch_size=1
    )
    assert_same_pictures(ours, stock_images(pipeline, seeds, steps=4, guidance=3.0))


def stock_images(pipeline: Any, seeds: Sequence[tuple[object, ...]], *, steps: int, guidance: float) -> Tensor:
    latents = torch.stack([torch.randn((4, 8, 8), generator=generator(*seed)) for seed in seeds])
    images = pipeline(
        PROMPTS, latents=latents, num_inference_steps=steps, guidance_scale=guidance, eta=0.0, output_type="pt"
    ).images
    return (images * 255).round().to(torch.uint8)


def assert_same_pictures(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for a grey level here and there, where rounding fell the other way."""
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


# -- the family -------------------------------------------------------------------------------------------------------


def test_schedule_of_five_steps():
    timesteps, before, after = build_family().schedule(5)
    assert timesteps.tolist() == [801, 601, 401, 201, 1]
    torch.testing.assert_close(after[:-1], before[1:])
    torch.testing.assert_close(after[-1], torch.tensor(1 - 0.00085))


def test_a_fresh_lora_changes_nothing_and_the_reference_is_the_policy_without_it(moved: Path):
    family = build_family()
    x, t = torch.randn((1, 4, 8, 8), generator=generator("x")), torch.tensor([500])

    def predict() -> Tensor:
        with torch.no_grad():
            return family.predict_noise(x, t, family.encode(PROMPTS[:1]), guidance=2.0)

    bare = predict()
    family.add_lora(rank=2, targets=("to_q", "to_v"), seed=0)
    assert torch.equal(predict(), bare)
    family.drop_lora()
    family.load_lora(moved)
    assert not torch.allclose(predict(), bare, rtol=1e-4)
    with family.reference():
        assert torch.equal(predict(), bare)
    family.drop_lora()
    assert torch.equal(predict(), bare)


def test_a_lora_keeps_its_precision_beside_weights_of_half_of_it(tmp_path: Path):
    """What is saved, loaded beside bfloat16 weights and saved again is the same file."""
    family = build_family()
    for parameter in family.add_lora(rank=2, targets=("to_q", "to_out.0"), seed=0):
        torch.nn.init.normal_(parameter, generator=generator("lora"))
    family.save_lora(tmp_path / "first")
    half = StableDiffusion15(build_pipeline().to(dtype=torch.bfloat16), torch.device("cpu"))
    parameters = half.load_lora(tmp_path / "first")
    half.save_lora(tmp_path / "second")
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert all(parameter.requires_grad for parameter in parameters)
    assert (tmp_path / "first" / LORA_FILE).read_bytes() == (tmp_path / "second" / LORA_FILE).read_bytes()


def test_a_model_that_predicts_something_else_is_refused():
    scheduler = DDIMScheduler.from_config(build_scheduler().config, prediction_type="v_prediction")
    pipeline = build_pipeline(scheduler=scheduler)
    with pytest.raises(ModelLoadError, match="v_prediction"):
        StableDiffusion15(pipeline, torch.device("cpu"))


def test_a_folder_that_is_no_pipeline_is_refused_with_a_hint(tmp_path: Path):
    with pytest.raises(ModelLoadError) as caught:
        StableDiffusion15.load(str(tmp_path))
    assert "model_index.json" in caught.value.hint


# -- ratio, KL, gradients ---------------------------------------------------------------------------------------------


def test_the_ratio_is_1_on_the_first_pass_also_after_the_policy_moved_and_in_other_batches(tmp_path: Path):
    """Collected by 4, learned from by 3 in another order; measured before any clamp."""
    metrics = run(tmp_path, config=replace(TRAIN, epochs=3, updates_per_epoch=2))
    assert max(values["first_pass_log_ratio"] for values in metrics) < 2e-3
    assert metrics[0]["approx_kl"] > 1e-4  # the second update's ratio is not


def test_kl_is_zero_at_the_reference_and_then_the_one_of_torch_distributions(tmp_path: Path):
    seen: list[Tensor] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(images)
        return brightness(images, prompts)

    metrics = run(tmp_path / "two", reward=reward)
    run(tmp_path / "one", config=replace(TRAIN, epochs=1))
    family, policy, reference = build_family(), build_pipeline(), build_pipeline()
    family.load_lora(tmp_path / "one")
    policy.load_lora_weights(tmp_path / "one")
    chosen = [prompt for prompt in PROMPTS]
    trajectory = collect(family, chosen, 2, SAMPLE, (*PLACE, 1))
    if not torch.equal(trajectory.images, seen[1]):
        chosen.reverse()  # the order of an epoch's prompts is shuffled
        trajectory = collect(family, chosen, 2, SAMPLE, (*PLACE, 1))
    assert torch.equal(trajectory.images, seen[1])
    scheduler = reference.scheduler
    scheduler.set_timesteps(SAMPLE.steps)
    kl = []
    for i, t in enumerate(scheduler.timesteps[: SAMPLE.window]):
        x = trajectory.states[:, i]
        ours, theirs = (
            step_distribution(scheduler, guided_noise(pipeline, x, t, trajectory.prompts, 2.0), int(t), x)
            for pipeline in (policy, reference)
        )
        kl.append(kl_divergence(ours, theirs).sum(dim=(1, 2, 3)))
    assert metrics[0]["kl_per_step"] == 0
    assert metrics[1]["kl_per_step"] == pytest.approx(float(torch.stack(kl).mean()), rel=0.02)
    assert metrics[1]["kl_per_step"] > 0.01


def test_the_price_of_kl_pulls_a_policy_that_moved_back_to_the_reference(tmp_path: Path, moved: Path):
    """With a reward that tells nothing apart the KL is the whole gradient: it must not be cut off from the graph."""
    config = replace(TRAIN, epochs=3)
    priced = run(
        tmp_path / "a", algorithm=Dpok(kl_weight=1.0), reward=constant, config=config, sample=QUICK, start_from=moved
    )
    free = run(
        tmp_path / "b", algorithm=Dpok(kl_weight=0.0), reward=constant, config=config, sample=QUICK, start_from=moved
    )
    assert priced[0]["kl_per_step"] > 0.01
    assert priced[0]["grad_norm"] > 1e-3
    assert priced[-1]["kl_per_step"] < 0.7 * priced[0]["kl_per_step"]
    assert [values["grad_norm"] for values in free] == [0.0] * 3


def test_on_the_first_pass_all_algorithms_take_the_same_step(tmp_path: Path):
    """The ratio's gradient is the score function's where the ratio is 1, and the KL's is 0 at the reference."""
    moments = []
    for algorithm in (Dpok(), DdpoIs(), DdpoSf()):
        folder = tmp_path / type(algorithm).__name__
        run(folder, algorithm=algorithm, config=replace(TRAIN, epochs=1), sample=QUICK)
        state = torch.load(folder / "state.pt", weights_only=True)["optimizer"]["state"]
        moments.append(torch.cat([one["exp_avg"].flatten() for one in state.values()]))  # 0.1 x the gradient
    assert moments[0].norm() > 1e-3
    for other in moments[1:]:
        torch.testing.assert_close(other, moments[0], rtol=1e-3, atol=1e-6)


def test_levelling_the_steps_divides_out_how_far_the_noise_moves_the_mean(tmp_path: Path):
    """Weight of step i is proportional to sigma / |c_eps|, with mean 1: so two settings differ in the gradient."""
    levelled, plain = (
        run(tmp_path / str(flag), config=replace(TRAIN, epochs=1, level_steps=flag), sample=QUICK)[0]
        for flag in (True, False)
    )
    assert levelled["reward_mean"] == plain["reward_mean"]
    assert levelled["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-3)


# -- a toy that must be solved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_brightness_rises_when_it_is_rewarded_and_falls_when_it_is_punished(tmp_path: Path, sign: int):
    """Same seeds before and after, so that the mean change is the policy's; it must be 4 standard errors and more."""
    family, sample = build_family(), replace(SAMPLE, steps=4, guidance=1.0, batch_size=32)
    before = brightness(collect(family, PROMPTS, 12, sample, ("judge",)).images, [])
    run(
        tmp_path,
        family=family,
        algorithm=Dpok(kl_weight=0.0),
        reward=lambda images, prompts: sign * brightness(images, prompts),
        config=replace(TRAIN, epochs=4, prompts_per_epoch=4, images_per_prompt=8, batch_size=64, lora_rank=4),
        sample=sample,
    )
    change = sign * (brightness(collect(family, PROMPTS, 12, sample, ("judge",)).images, []) - before)
    assert change.mean() > 4 * change.std() / len(change) ** 0.5
    assert change.mean() > 2 * before.reshape(2, 12).std(dim=1).mean()


# -- resuming, files --------------------------------------------------------------------------------------------------


def assert_same_state(one: Any, other: Any, where: str = "state") -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_state(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_state(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


class Killed(BaseException):
    """Stands for a signal in the middle of a run."""


def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path: Path):
    config = replace(TRAIN, epochs=4, updates_per_epoch=2, value_function=True)
    whole = run(tmp_path / "whole", config=config, sample=QUICK)
    metrics: list[dict[str, float]] = []

    def stop_after_two(epoch: int, values: dict[str, float]) -> None:
        metrics.append(values)
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "parts", config=config, sample=QUICK, on_epoch=stop_after_two)
    assert not (tmp_path / "parts" / LORA_FILE).exists()
    metrics += run(tmp_path / "parts", config=config, sample=QUICK)
    assert (tmp_path / "parts" / LORA_FILE).read_bytes() == (tmp_path / "whole" / LORA_FILE).read_bytes()
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert {"lora", "optimizer", "value", "value_optimizer"} <= states[0].keys()
    assert_same_state(*states)
    timeless = [
        [{name: value for name, value in values.items() if not name.startswith("seconds")} for values in one]
        for one in (whole, metrics)
    ]
    assert timeless[0] == timeless[1]
    assert len(whole) == 4


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path: Path):
    run(tmp_path, config=replace(TRAIN, epochs=1))
    weights = (tmp_path / LORA_FILE).read_bytes()
    assert run(tmp_path, config=replace(TRAIN, epochs=1)) == []
    assert (tmp_path / LORA_FILE).read_bytes() == weights


def test_a_round_goes_on_from_the_last_ones_lora_and_moments(tmp_path: Path):
    run(tmp_path / "first", config=replace(TRAIN, epochs=1))
    (metrics,) = run(
        tmp_path / "second", reward=constant, config=replace(TRAIN, epochs=1), start_from=tmp_path / "first"
    )
    assert metrics["kl_per_step"] > 0.01  # to the pretrained model, not to the last round's
    steps = torch.load(tmp_path / "second" / "state.pt", weights_only=True)["optimizer"]["state"][0]["step"]
    assert float(steps) == 2


def test_the_saved_lora_draws_the_same_pictures_in_a_stock_pipeline(moved: Path):
    family, stock = build_family(), build_pipeline()
    family.load_lora(moved)
    seeds = [("draw", 0), ("draw", 1)]
    ours = draw(family, PROMPTS, steps=3, guidance=2.0, seeds=seeds, batch_size=2)
    without = stock_images(stock, seeds, steps=3, guidance=2.0)
    stock.load_lora_weights(moved)
    assert_same_pictures(ours, stock_images(stock, seeds, steps=3, guidance=2.0))
    assert (ours.int() - without.int()).abs().max() > 3


def test_every_prompt_is_visited_equally_often(tmp_path: Path):
    seen: list[str] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.extend(prompts)
        return constant(images, prompts)

    run(tmp_path, reward=reward, config=replace(TRAIN, epochs=4, prompts_per_epoch=1), sample=QUICK)
    groups = seen[::2]
    assert sorted(groups) == sorted(PROMPTS * 2)
    assert {*groups[:2]} == {*groups[2:]} == {*PROMPTS}


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_policy_that_changed_between_collecting_and_learning_is_refused(tmp_path: Path, moved: Path):
    pipeline = build_pipeline()

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        for name, parameter in pipeline.unet.named_parameters():
            if "lora_A" in name:
                parameter.data.mul_(1.5)
        return brightness(images, prompts)

    with pytest.raises(TrainingError, match="ratio is not 1"):
        run(
            tmp_path,
            family=StableDiffusion15(pipeline, torch.device("cpu")),
            reward=reward,
            start_from=moved,
            algorithm=DdpoSf(),
        )
    assert not (tmp_path / LORA_FILE).exists()


def test_learning_in_another_precision_than_collecting_is_refused(tmp_path: Path):
    pipeline = build_pipeline()

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        pipeline.unet.to(torch.bfloat16).to(torch.float32)  # rounds the weights
        return brightness(images, prompts)

    with pytest.raises(TrainingError) as caught:
        run(tmp_path, family=StableDiffusion15(pipeline, torch.device("cpu")), reward=reward)
    assert "ratio is not 1" in caught.value.message
    assert "precision" in caught.value.hint


def test_a_policy_that_is_not_a_number_is_refused_as_a_wrong_ratio(tmp_path: Path):
    pipeline = build_pipeline()

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        pipeline.unet.conv_out.bias.data.fill_(torch.nan)
        return brightness(images, prompts)

    with pytest.raises(TrainingError, match="reaches nan nats"):
        run(tmp_path, family=StableDiffusion15(pipeline, torch.device("cpu")), reward=reward)


def test_a_reward_that_is_not_a_number_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, reward=lambda images, prompts: brightness(images, prompts) * torch.nan)
