"""The training loop on a tiny pipeline of real classes: what it collects, how it learns, resumes, what it refuses."""

import errno
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from hitl.core.errors import ConfigError, ModelLoadError, TrainingError, WorkspaceError
from rl import policy_gradient
from rl.algorithms.ddpo import DdpoIs, DdpoSf
from rl.algorithms.dpok import Dpok, DpokAuthors
from rl.config import SampleConfig, TrainConfig
from rl.ddim import ddim_schedule
from rl.families.sd15 import StableDiffusion15
from rl.policy_gradient import RATIO_TOLERANCE, Transitions, update
from rl.pretrain.diffusion import build_scheduler
from rl.randomness import generator
from rl.rollout import Trajectory, collect, draw
from rl.state import TrainingState
from rl.train import train
from rl.value import ValueNetwork
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
GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden.json").read_text())
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
    prompts: Sequence[str] = PROMPTS,
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
        prompts,
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


def test_what_a_group_shares_is_computed_once_and_teaches_the_same(tmp_path: Path):
    """Two groups of four: 2 first states instead of 8. Beside it, every image's first state by itself."""
    pipeline = build_pipeline()
    family = StableDiffusion15(pipeline, torch.device("cpu"))
    rows: list[int] = []
    pipeline.unet.register_forward_hook(lambda unet, inputs, output: rows.append(len(output[0])))
    trajectory = collect(family, PROMPTS, 4, SAMPLE, PLACE)
    assert sum(rows) == 2 * (2 + 8 + 8)  # twice for guidance
    config = replace(TRAIN, images_per_prompt=4, batch_size=6)
    scores = torch.arange(8.0).reshape(2, 4)
    gradients, used = [], []
    for is_shared in (True, False):
        rows.clear()
        state = TrainingState.start(family, config, SAMPLE, tmp_path / str(is_shared), PLACE, None)
        metrics = update(
            state, Dpok(), trajectory, scores, PROMPTS, config, replace(SAMPLE, shared_noise=is_shared), PLACE
        )
        assert metrics["first_pass_log_ratio"] < 2e-3
        gradients.append(torch.cat([torch.as_tensor(parameter.grad).flatten() for parameter in state.parameters]))
        used.append(sum(rows))
    assert used[1] == 2 * (16 + 16)  # the policy and the reference
    assert used[0] <= 2 * (11 + 10)  # a batch's end may cut a group
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_group_shares_its_initial_noise_only_when_asked(is_shared: bool):
    trajectory = collect(build_family(), PROMPTS, 2, replace(SAMPLE, shared_noise=is_shared), PLACE)
    start, after = trajectory.states[:, 0], trajectory.states[:, 1]
    assert torch.equal(start[0], start[1]) is is_shared
    assert not torch.equal(start[1], start[2])
    assert not torch.equal(after[0], after[1])


def test_antithetic_images_leave_their_common_start_in_opposite_directions():
    """Of three members the first two are a pair; the third's partner would be the fourth."""
    sample = replace(SAMPLE, antithetic=True)
    trajectory = collect(build_family(), PROMPTS, 3, sample, PLACE)
    scheduler = build_pipeline().scheduler
    scheduler.set_timesteps(SAMPLE.steps)
    timesteps = scheduler.timesteps
    x, moved = trajectory.states[:3, 0], trajectory.states[:3, 1]
    eps = guided_noise(build_pipeline(), x, timesteps[0], PROMPTS[:1] * 3, SAMPLE.guidance)
    noise = moved - step_distribution(scheduler, eps, int(timesteps[0]), x).mean
    torch.testing.assert_close(noise[0], -noise[1], rtol=1e-3, atol=1e-3)
    assert (noise[2] - noise[0]).abs().max() > 0.5
    assert (noise[2] + noise[0]).abs().max() > 0.5
    with pytest.raises(ConfigError, match=r"sample.antithetic is on and sample.shared_noise is off"):
        replace(sample, shared_noise=False)


def test_a_last_step_without_noise_is_drawn_but_not_trained_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    scheduler = DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=True)
    sample = replace(SAMPLE, window=3)
    trajectory = collect(build_family(scheduler=scheduler), PROMPTS, 2, sample, PLACE)
    assert trajectory.log_probs.shape == (4, 2)
    assert trajectory.states.shape[1] == 3
    assert torch.isfinite(trajectory.log_probs).all()
    run(tmp_path, family=build_family(scheduler=scheduler), sample=sample, config=replace(TRAIN, epochs=1))
    assert "Of the window's 3 steps, step 3 is without noise" in caplog.text


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
    schedule = build_family().process.schedule(5, eta=1.0, window=2)
    assert schedule.timesteps.tolist() == [801, 601, 401, 201, 1]
    assert (schedule.std > 0).tolist() == [True, True, False, False, False]


def test_a_fresh_lora_changes_nothing_and_the_reference_is_the_policy_without_it(moved: Path):
    family = build_family()
    x, t = torch.randn((1, 4, 8, 8), generator=generator("x")), torch.tensor([500])

    def predict() -> Tensor:
        with torch.no_grad():
            return family.predict(x, t, PROMPTS[:1], guidance=2.0)

    bare = predict()
    family.add_lora(rank=2, targets=("to_q", "to_v"), seed=0)
    assert torch.equal(predict(), bare)
    family.drop_policy()
    family.load_policy(moved)
    assert not torch.allclose(predict(), bare, rtol=1e-4)
    with family.reference():
        assert torch.equal(predict(), bare)
    family.drop_policy()
    assert torch.equal(predict(), bare)


def test_a_lora_keeps_its_precision_beside_weights_of_half_of_it(tmp_path: Path):
    """What is saved, loaded beside bfloat16 weights and saved again is the same file."""
    family = build_family()
    for parameter in family.add_lora(rank=2, targets=("to_q", "to_out.0"), seed=0):
        torch.nn.init.normal_(parameter, generator=generator("lora"))
    family.save_policy(tmp_path / "first")
    half = StableDiffusion15(build_pipeline().to(dtype=torch.bfloat16), torch.device("cpu"))
    parameters = half.load_policy(tmp_path / "first")
    half.save_policy(tmp_path / "second")
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert all(parameter.requires_grad for parameter in parameters)
    assert (tmp_path / "first" / LORA_FILE).read_bytes() == (tmp_path / "second" / LORA_FILE).read_bytes()


def test_a_model_that_predicts_something_else_is_refused():
    scheduler = DDIMScheduler.from_config(build_scheduler().config, prediction_type="sample")
    pipeline = build_pipeline(scheduler=scheduler)
    with pytest.raises(ModelLoadError, match="predicts 'sample'"):
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
    family.load_policy(tmp_path / "one")
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


def test_ratings_in_whole_numbers_teach_what_the_same_floats_do(tmp_path: Path):
    def stars(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (brightness(images, prompts) * 500).round().int()

    metrics = run(tmp_path / "int", reward=stars, sample=QUICK)
    run(tmp_path / "float", reward=lambda images, prompts: stars(images, prompts).float(), sample=QUICK)
    one, other = (load_file(tmp_path / kind / LORA_FILE) for kind in ("int", "float"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics[0]["grad_norm"] > 0  # else there was nothing to cut down


def test_a_kl_budget_raises_the_price_until_the_policy_stays_within_it(tmp_path: Path, moved: Path):
    """The policy has moved further than 0.001 nats: the price doubles every epoch, and again in the next round."""
    algorithm = Dpok(kl_target=0.001)
    first = run(tmp_path / "one", algorithm=algorithm, sample=QUICK, start_from=moved)
    assert [values["kl_scale"] for values in first] == [1.0, 2.0]
    (second,) = run(
        tmp_path / "two",
        algorithm=algorithm,
        sample=QUICK,
        start_from=tmp_path / "one",
        config=replace(TRAIN, epochs=1),
    )
    assert second["kl_scale"] == 4.0


def test_replay_learns_from_the_newest_transitions_again_as_they_were_drawn(tmp_path: Path):
    """8 fresh transitions an epoch and 11 kept: of 8, of 8 + 8, of 8 + 11 transitions 0, 8 and 11 are stale."""
    config = replace(TRAIN, epochs=3, replay=11)
    metrics = run(tmp_path, config=config, sample=QUICK)
    assert [values["stale_share"] for values in metrics] == [0, 8 / 16, pytest.approx(11 / 19)]
    assert max(values["first_pass_log_ratio"] for values in metrics) < 2e-3  # of the fresh ones
    assert metrics[2]["approx_kl"] > 1e-4  # the stale ones' ratios are not 1
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["replay"]
    assert len(kept["prompts"]) == 11
    run(tmp_path / "two", config=replace(config, epochs=2), sample=QUICK)
    before = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["replay"]
    for name, tensor in kept["tensors"].items():
        assert torch.equal(tensor[8:], before["tensors"][name][:3]), name
    assert kept["prompts"][8:] == before["prompts"][:3]


def test_replay_is_refused_where_older_transitions_teach_something_wrong(tmp_path: Path):
    config = replace(TRAIN, replay=8, algorithm="ddpo_sf")
    with pytest.raises(ConfigError, match="'ddpo_sf' is right for fresh samples alone"):
        run(tmp_path, algorithm=DdpoSf(), config=config, sample=QUICK)
    with pytest.raises(ConfigError, match="in bfloat16 an older transition's log-probability is off"):
        run(tmp_path, family=Half(), config=config, sample=APART)
    run(tmp_path, config=replace(TRAIN, replay=8, epochs=1), sample=QUICK)
    for changed, sample in (({"replay": 4}, QUICK), ({}, replace(QUICK, eta=0.5)), ({}, replace(QUICK, guidance=2.0))):
        with pytest.raises(ConfigError, match=r"(train.replay|sample.eta|sample.guidance) is .* begun with"):
            run(tmp_path, config=replace(TRAIN, **{"replay": 8, **changed}), sample=sample)


def test_of_one_epoch_replay_keeps_any_transitions_and_not_the_first_prompts(tmp_path: Path):
    run(tmp_path, config=replace(TRAIN, replay=12, epochs=1, prompts_per_epoch=6), sample=QUICK, prompts=list("abcdef"))
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["replay"]["prompts"]
    assert len(kept) == 12  # of 24: the first would be 4 of each of 3 prompts
    assert len(set(kept)) > 3


def test_replay_is_not_carried_into_a_round_with_another_reward(tmp_path: Path):
    run(tmp_path / "one", config=replace(TRAIN, replay=8), sample=QUICK)
    metrics = run(tmp_path / "two", config=replace(TRAIN, replay=8), sample=QUICK, start_from=tmp_path / "one")
    assert metrics[0]["stale_share"] == 0


def transitions_of(
    folder: Path, steps: Sequence[dict[str, float]], *, level_steps: bool = False, value: ValueNetwork | None = None
) -> Transitions:
    """Transitions of two images of one prompt, scored 0 and 1, over steps with these alpha-bars; latents are drawn."""
    config = replace(TRAIN, images_per_prompt=2, level_steps=level_steps)
    apart = replace(QUICK, shared_noise=False)  # the latents are
    state = TrainingState.start(build_family(), config, apart, folder, PLACE, None)
    state.value, state.epoch_of_value = value, 1
    trajectory = Trajectory(
        prompts=PROMPTS[:1] * 2,
        images=torch.zeros((2, 3, 64, 64), dtype=torch.uint8),
        states=torch.randn((2, len(steps) + 1, 4, 8, 8), generator=generator("states")),
        log_probs=torch.zeros(2, len(steps)),
        latents=torch.zeros(2, 4, 8, 8),
        schedule=ddim_schedule(
            torch.tensor([step["t"] for step in steps]),
            torch.tensor([step["abar_t"] for step in steps]),
            torch.tensor([step["abar_prev"] for step in steps]),
            eta=1.0,
            window=len(steps),
            predicts_velocity=False,
        ),
    )
    return Transitions.of(state, Dpok(), trajectory, torch.tensor([[0.0, 1.0]]), PROMPTS[:1], config, apart)


def test_levelling_the_steps_divides_out_how_far_the_noise_moves_the_mean(tmp_path: Path):
    """Weight of step i is sigma / |c_eps| over its mean, from the float64 numbers of fixtures/golden.json."""
    steps = GOLDEN["sd15_ddim50_eta1"]
    plain = torch.tensor([step["sigma"] / abs(step["c_eps"]) for step in steps])
    levelled = transitions_of(tmp_path / "levelled", steps, level_steps=True).weights
    torch.testing.assert_close(levelled, (plain / plain.mean()).repeat(2), rtol=1e-3, atol=0)
    assert transitions_of(tmp_path / "plain", steps).weights.tolist() == [1.0] * 2 * len(steps)


class FirstNumber(ValueNetwork):
    """A value function whose answer can be read off the latent."""

    def forward(self, x_t: Tensor, text: Tensor, step: Tensor) -> Tensor:
        return x_t.flatten(1)[:, 0]


def test_what_the_value_function_adds_to_the_groups_mean_is_subtracted(tmp_path: Path):
    """Scores 0 and 1 are the advantages -1 and 1; of V = v, w each step subtracts (v - w)/2 and (w - v)/2."""
    steps = GOLDEN["sd15_ddim50_eta1"][:2]
    found = transitions_of(tmp_path, steps, value=FirstNumber(256, 16, 2))
    (v0, v1), (w0, w1) = found.x_t[:, 0, 0, 0].reshape(2, 2).tolist()
    assert found.relative.tolist() == [-1.0, -1.0, 1.0, 1.0]
    expected = [-1 - (v0 - w0) / 2, -1 - (v1 - w1) / 2, 1 - (w0 - v0) / 2, 1 - (w1 - v1) / 2]
    assert found.advantages.tolist() == pytest.approx(expected, abs=1e-6)
    assert min(abs(v0 - w0), abs(v1 - w1)) > 0.1  # else the test could not tell a sign


def test_updates_share_the_transitions_as_evenly_as_they_can(tmp_path: Path):
    """8 transitions in 5 updates: 2, 2, 2, 1 and 1, where equal chunks of 2 would make only 4 updates."""
    run(tmp_path, config=replace(TRAIN, epochs=1, updates_per_epoch=5), sample=QUICK)
    steps = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["state"][0]["step"]
    assert float(steps) == 5
    with pytest.raises(ConfigError, match=r"updates_per_epoch is 9, but an epoch has 8 transitions"):
        run(tmp_path / "more", config=replace(TRAIN, updates_per_epoch=9), sample=QUICK)


# -- half precision ---------------------------------------------------------------------------------------------------


class Half(StableDiffusion15):
    """In bfloat16, and rounded otherwise when a gradient is wanted of it or when asked: what another batch shape does
    on a GPU. (On a CPU a row's result does not depend on the other rows.)
    """

    def __init__(self, error: float = 0.0) -> None:
        super().__init__(build_pipeline().to(dtype=torch.bfloat16), torch.device("cpu"))
        self.error = error

    def predict(self, x_t: Tensor, timesteps: Tensor, prompts: Sequence[str], *, guidance: float) -> Tensor:
        output = super().predict(x_t, timesteps, prompts, guidance=guidance)
        last_place = torch.randn(output.shape, generator=generator("rounding")) * 2**-8
        return output + self.error * last_place if len(x_t) == 3 else output  # batches of 3 learn, of 4 draw


APART = replace(QUICK, shared_noise=False)
"""With a shared start a batch of 3 transitions would ask for the noise of fewer states."""


def test_half_precision_learns_with_the_ratio_of_the_batches_it_learns_from(tmp_path: Path):
    """Rounding puts the rollout's log-probabilities off by more than is let pass; what is learned from is not."""
    config = replace(TRAIN, images_per_prompt=3, updates_per_epoch=2)  # 12 transitions: batches of 3 throughout
    metrics = run(tmp_path, family=Half(error=1.0), config=config, sample=APART)
    assert all(values["rollout_log_ratio"] > RATIO_TOLERANCE for values in metrics)
    assert [values["first_pass_log_ratio"] for values in metrics] == [0.0, 0.0]
    assert metrics[0]["grad_norm"] > 0
    assert metrics[1]["kl_per_step"] > 0


def test_half_precision_explains_rounding_and_no_more(tmp_path: Path):
    config = replace(TRAIN, images_per_prompt=3)
    with pytest.raises(TrainingError, match=r"ratio is not 1 .* \(allowed: 79\)"):
        run(tmp_path, family=Half(error=100.0), config=config, sample=APART)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_after_rounding_is_accounted_for_the_ratio_is_1_at_every_step(tmp_path: Path, moved: Path, dtype: torch.dtype):
    """Before any clamp, with latents of float32 in all precisions: what is stored is what the step was drawn to."""
    family = StableDiffusion15(build_pipeline().to(dtype=dtype), torch.device("cpu"))
    sample = replace(SAMPLE, steps=6, window=6)
    state = TrainingState.start(family, TRAIN, sample, tmp_path, PLACE, moved)
    trajectory = collect(family, PROMPTS, 4, sample, PLACE)
    assert trajectory.states.dtype == trajectory.log_probs.dtype == torch.float32
    found = Transitions.of(state, Dpok(), trajectory, torch.arange(8.0).reshape(2, 4), PROMPTS, TRAIN, sample)
    batches = [*torch.randperm(48, generator=generator("order")).split(5)]
    if dtype != torch.float32:
        drawn, found.log_probs = found.log_probs, found.log_probs.clone()
        for rows in batches:
            found.settle(rows, found.evaluate(family, rows, sample))
        error, explained, step = found.moved_by_rounding(drawn, dtype, sample.guidance)
        assert error <= explained
        assert 0 <= step < 6
    worst = torch.zeros(6)
    for rows in batches:
        steps = found.evaluate(family, rows, sample)
        difference = (steps.log_prob.detach() - steps.old_log_prob).abs()
        worst = worst.scatter_reduce(0, found.step[rows], difference, "amax")
    assert (worst < Dpok().log_ratio_range(256) / 10).all(), worst


def test_the_clip_range_in_nats_grows_with_the_latent_where_the_log_probability_is_a_mean():
    """1e-4 of the mean over 4 x 64 x 64 numbers is 1.64 nats, and four times that at twice the side."""
    assert DpokAuthors().log_ratio_range(4 * 64 * 64) == pytest.approx(1.6384, rel=1e-4)
    assert DpokAuthors().log_ratio_range(4 * 128 * 128) == pytest.approx(4 * 1.6384, rel=1e-4)
    assert Dpok().log_ratio_range(4 * 64 * 64) == Dpok().log_ratio_range(4 * 128 * 128) == pytest.approx(math.log(1.2))


def test_gradient_checkpointing_keeps_fewer_activations_in_the_mode_that_training_runs_in(tmp_path: Path, moved: Path):
    """Bytes that autograd keeps for the gradient, of an evaluation as training does it; the gradient stays the same."""
    kept, gradients = {}, {}
    for wanted in (False, True):
        family = build_family()
        config = replace(TRAIN, gradient_checkpointing=wanted)
        state = TrainingState.start(family, config, SAMPLE, tmp_path / str(wanted), PLACE, moved)
        trajectory = collect(family, PROMPTS, 2, SAMPLE, PLACE)
        found = Transitions.of(state, Dpok(), trajectory, torch.arange(4.0).reshape(2, 2), PROMPTS, config, SAMPLE)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = Dpok().loss(found.evaluate(family, torch.arange(8), SAMPLE))
        kept[wanted] = sum(sizes.values())
        gradients[wanted] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, state.parameters)])
    assert kept[True] < 0.5 * kept[False]
    torch.testing.assert_close(gradients[True], gradients[False])


def test_without_a_price_on_it_the_kl_is_measured_on_a_few_steps(tmp_path: Path, moved: Path):
    """The reference is asked for every fourth transition of 8, and says of those what it says where all are asked."""
    family = build_family()
    state = TrainingState.start(family, TRAIN, SAMPLE, tmp_path, PLACE, moved)
    trajectory, scores = collect(family, PROMPTS, 2, SAMPLE, PLACE), torch.arange(4.0).reshape(2, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_gradient, "_MEASURED", 2)
        few = Transitions.of(state, DdpoIs(), trajectory, scores, PROMPTS, TRAIN, SAMPLE)
    every = Transitions.of(state, Dpok(), trajectory, scores, PROMPTS, TRAIN, SAMPLE)
    known = ~few.reference_output.isnan().flatten(1).any(dim=1)
    assert known.nonzero().flatten().tolist() == [0, 4]
    torch.testing.assert_close(few.reference_output[known], every.reference_output[known])
    steps = few.evaluate(family, torch.arange(8), SAMPLE)
    assert (~steps.kl.isnan()).tolist() == known.tolist()
    assert torch.isfinite(DdpoIs().loss(steps))


def test_float32_keeps_the_rollouts_log_probabilities(tmp_path: Path):
    (metrics,) = run(tmp_path, config=replace(TRAIN, epochs=1), sample=QUICK)
    assert "rollout_log_ratio" not in metrics


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


@pytest.mark.parametrize(
    ("algorithm", "weights"),
    [
        pytest.param(Dpok(kl_target=1e-3), "lora", id="dpok"),
        pytest.param(DdpoIs(memory=6, memory_least=3), "lora", id="ddpo", marks=pytest.mark.long),
        pytest.param(Dpok(kl_target=1e-3), "full", id="full", marks=pytest.mark.long),
    ],
)
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path: Path, algorithm: Dpok | DdpoIs, weights: str):
    config = replace(TRAIN, epochs=4, updates_per_epoch=2, value_function=True, replay=5)
    policy = LORA_FILE
    if weights == "full":
        config = replace(config, weights="full", learning_rate=1e-3)
        policy = "unet/diffusion_pytorch_model.safetensors"
    whole = run(tmp_path / "whole", algorithm=algorithm, config=config, sample=QUICK)
    assert len({values["kl_scale"] for values in whole}) > 1 or isinstance(algorithm, DdpoIs)
    told: dict[int, dict[str, float]] = {}
    batches: list[Tensor] = []

    def tell(epoch: int, values: dict[str, float]) -> None:
        told[epoch] = values
        if epoch == 2 and len(batches) == 2:
            raise Killed  # told of, not kept: the epoch is repeated, and told of again

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        batches.append(images)
        if len(batches) == 5:
            raise Killed  # in the middle of the fourth epoch
        return brightness(images, prompts)

    for _ in range(2):
        with pytest.raises(Killed):
            run(tmp_path / "parts", algorithm=algorithm, config=config, sample=QUICK, reward=reward, on_epoch=tell)
        assert not (tmp_path / "parts" / policy).exists()
    run(tmp_path / "parts", algorithm=algorithm, config=config, sample=QUICK, reward=reward, on_epoch=tell)
    assert len(batches) == 6
    assert torch.equal(batches[1], batches[2])
    metrics = [told[epoch] for epoch in sorted(told)]
    assert (tmp_path / "parts" / policy).read_bytes() == (tmp_path / "whole" / policy).read_bytes()
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert {"weights", "optimizer", "value", "value_optimizer"} <= states[0].keys()
    assert {len(scores) for scores in states[0]["memory"].values()} == ({6} if isinstance(algorithm, DdpoIs) else set())
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


def test_a_state_of_before_all_weights_could_be_trained_goes_on(tmp_path: Path):
    run(tmp_path / "whole", sample=QUICK)
    run(tmp_path / "old", sample=QUICK, config=replace(TRAIN, epochs=1))
    path = tmp_path / "old" / "state.pt"
    state = torch.load(path, weights_only=True)
    state["lora"] = state.pop("weights")
    del state["settings"]["train.weights"]
    torch.save(state, path)
    run(tmp_path / "old", sample=QUICK)
    assert (tmp_path / "old" / LORA_FILE).read_bytes() == (tmp_path / "whole" / LORA_FILE).read_bytes()


def test_a_resumed_run_takes_the_learning_rate_it_is_given(tmp_path: Path):
    run(tmp_path, config=replace(TRAIN, epochs=1), sample=QUICK)
    run(tmp_path, config=replace(TRAIN, epochs=2, learning_rate=1e-4), sample=QUICK)
    (group,) = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == 1e-4


@pytest.mark.parametrize("name", ["train.lora_rank", "train.lora_targets", "train.value_function", "sample.window"])
def test_a_round_that_was_begun_refuses_to_go_on_with_another_shape(tmp_path: Path, name: str):
    run(tmp_path, config=replace(TRAIN, epochs=1), sample=QUICK)
    other = {"lora_rank": 3, "lora_targets": ("to_q",), "value_function": True}
    key = name.split(".")[1]
    config = replace(TRAIN, **{key: other[key]}) if key in other else TRAIN
    with pytest.raises(ConfigError, match=f"{name} is .* begun with") as caught:
        run(tmp_path, config=config, sample=replace(QUICK, window=1) if key == "window" else QUICK)
    assert "state.pt" in caught.value.hint
    (tmp_path / "state.pt").unlink()  # what the hint says
    assert len(run(tmp_path, config=config, sample=QUICK)) == 2


@pytest.mark.parametrize(
    ("targets", "seen"),
    [(("to_q", "to_w"), "'to_w', which is not the end"), (("norm1",), "'norm1', which is a (Layer|Group)Norm")],
)
def test_a_target_that_cannot_carry_a_lora_is_refused(tmp_path: Path, targets: tuple[str, ...], seen: str):
    with pytest.raises(ConfigError, match=seen) as caught:
        run(tmp_path, config=replace(TRAIN, lora_targets=targets), sample=QUICK)
    assert "to_out.0" in caught.value.hint


def test_a_convolution_can_carry_a_lora(tmp_path: Path):
    run(tmp_path, config=replace(TRAIN, epochs=1, lora_targets=("conv1", "to_q")), sample=QUICK)
    assert any(".conv1.lora_A" in name for name in load_file(tmp_path / LORA_FILE))


def test_a_later_round_refuses_a_lora_of_another_rank_or_on_other_modules(tmp_path: Path, moved: Path):
    for change in ({"lora_rank": 4}, {"lora_targets": ("to_q", "to_v")}):
        with pytest.raises(ConfigError, match=f"train.{next(iter(change))} is") as caught:
            run(tmp_path, config=replace(TRAIN, **change), sample=QUICK, start_from=moved)
        assert "first round" in caught.value.hint
    run(
        tmp_path,
        config=replace(TRAIN, epochs=1, lora_targets=("attn1.to_q", "attn2.to_q", "to_k", "to_v", "to_out.0")),
        sample=QUICK,
        start_from=moved,
    )


def test_a_full_disk_is_said_in_words_and_the_old_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path, config=replace(TRAIN, epochs=1), sample=QUICK)
    before = (tmp_path / "state.pt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="The disk is full"):
        run(tmp_path, sample=QUICK)
    assert (tmp_path / "state.pt").read_bytes() == before


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
    family.load_policy(moved)
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


def test_every_task_is_visited_equally_often_and_every_prompt_within_it(tmp_path: Path):
    seen: list[str] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.extend(prompts)
        return constant(images, prompts)

    colours = ["a red circle", "a blue circle", "a green circle"]
    config = replace(TRAIN, epochs=2, prompts_per_epoch=6)
    run(
        tmp_path,
        reward=reward,
        prompts=[*colours, "two blue hearts"],
        tasks=["colour"] * 3 + ["count"],
        config=config,
        sample=QUICK,
    )
    groups = seen[::2]
    assert groups[1::2] == ["two blue hearts"] * 6
    assert sorted(groups[0::2]) == sorted(colours * 2)
    assert {*groups[0:6:2]} == {*colours}


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

    with pytest.raises(TrainingError, match="reaches nan nats") as caught:
        run(tmp_path, family=StableDiffusion15(pipeline, torch.device("cpu")), reward=reward)
    assert "train.learning_rate below 0.01" in caught.value.hint


def test_a_run_that_diverged_starts_anew_as_its_hint_says(tmp_path: Path):
    """The state of the epoch before would bring the same gradient back at any rate."""
    run(tmp_path, config=replace(TRAIN, epochs=1), sample=QUICK)
    with pytest.raises(TrainingError, match="gradient is not finite") as caught:
        run(tmp_path, algorithm=Dpok(kl_weight=1e38), config=replace(TRAIN, learning_rate=1e-3), sample=QUICK)
    assert "train.learning_rate below 0.001" in caught.value.hint
    assert len(run(tmp_path, config=replace(TRAIN, learning_rate=1e-4), sample=QUICK)) == TRAIN.epochs


def test_noise_too_small_to_learn_from_is_refused_before_anything_is_drawn(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"No step can be trained") as caught:
        run(tmp_path, sample=replace(QUICK, eta=1e-5))
    assert "sample.eta" in caught.value.hint


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm"])
def test_a_training_setting_outside_its_range_is_refused_by_name(name: str, value: float):
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=f"train.{name} is {value}"):
        TrainConfig(**wrong)


def test_a_score_that_is_not_finite_is_refused_with_its_image_and_prompt(tmp_path: Path):
    """Epoch 1 draws two images of each prompt; the fourth gets no number."""

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        wrong.append(prompts[3])
        return torch.tensor([0.1, 0.2, 0.3, torch.nan])

    wrong: list[str] = []
    with pytest.raises(TrainingError, match="gave 1 of 4 images a score that is not finite") as caught:
        run(tmp_path, reward=reward, sample=QUICK)
    assert f"first image 4, of {wrong[0]!r}: nan" in caught.value.message


def test_a_reward_of_another_shape_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"scores of shape \(4, 1\) for 4 images") as caught:
        run(tmp_path, reward=lambda images, prompts: torch.zeros(4, 1), sample=QUICK)
    assert "shape (4,)" in caught.value.hint
