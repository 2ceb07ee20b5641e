"""The head that tunes the backbone: it starts as the linear head, sees what that cannot, and touches nothing else."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import reward_models
from hitl.core.errors import ConfigError, ModelLoadError, WorkspaceError
from reward_models.answers import Answer
from reward_models.backbone import STARTER, Backbone, joint_features
from reward_models.choice_model import losses_of_scores
from reward_models.choices import Choices, as_choices
from reward_models.config import RewardFitConfig
from reward_models.features import Pictures
from reward_models.fit import fit_reward
from reward_models.heads.finetune import FinetuneHead, factors, fit_finetune, with_lora
from reward_models.heads.linear import LinearHead, fit_linear
from reward_models.readings import READINGS
from reward_models.rewards.clip_head import ClipHead
from reward_models.saved import HEAD_FILE, read_head

pytestmark = pytest.mark.long

STARTER_FOLDER = Path(reward_models.__file__).parent / "starter_clip"
SIDE = 16
VIT = {"layers": 3, "width": 32, "head_width": 16, "image_size": SIDE, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 153, "hf_tokenizer_name": "local", "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "vit": VIT,
    "vit with its own attention": VIT | {"block_type": "custom", "qk_norm": True},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 32},
    "timm": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224},
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 32},
}
PROMPTS = tuple(
    f"{number} {colour} stars" for number in ("two", "three") for colour in ("red", "blue", "green", "pink", "cyan")
)


def write_clip(folder: Path, tower: str) -> Path:
    """An open_clip folder with random weights and the starter's tokenizer."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER_FOLDER / name, folder / name)
    config = json.loads((STARTER_FOLDER / "open_clip_config.json").read_text())
    config["model_cfg"] = {"embed_dim": 8, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    config["preprocess_cfg"]["size"] = TOWERS[tower]["image_size"]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(8, TOWERS[tower], TEXT)
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):  # 0 at first, which would hide all that a block does
                torch.nn.init.ones_(parameter)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("vit") / "clip", "vit")


def picture(image_id: str) -> np.ndarray:
    """Four grey squares of 8 pixels: one for each of the vision transformer's patches, dark or light."""
    rng = np.random.default_rng([ord(each) for each in image_id])
    light = rng.integers(0, 2, (2, 2, 1))
    noise = rng.integers(-20, 21, (SIDE, SIDE, 3))
    return (128 + noise + np.kron(2 * light - 1, np.full((8, 8, 1), 80))).astype(np.uint8)


def liked(image_id: str) -> int:
    """1 when the two upper squares are alike: no weighing of the squares one by one tells."""
    upper = picture(image_id)[4, [4, 12]].mean(1) > 128
    return int(upper[0] == upper[1])


def make_answers(per_prompt: int = 120, images: int = 30, seed: int = 0) -> list[Answer]:
    rng = np.random.default_rng(seed)
    found = []
    for prompt in PROMPTS:
        for _ in range(per_prompt):
            one, other = (f"{prompt}/{number}" for number in rng.choice(images, 2, replace=False))
            better = liked(one) - liked(other) or int(rng.choice([-1, 1]))
            found.append(
                Answer(prompt=prompt, rater="ann", images=(one, other), values=(1, 2) if better > 0 else (2, 1))
            )
    return found


def make_rows(**settings) -> list[dict]:
    return [
        {
            "round": 1,
            "prompt": answer.prompt,
            "rater_id": answer.rater,
            "image_a": answer.images[0],
            "image_b": answer.images[1],
            "outcome": "a" if answer.values == (1, 2) else "b",
            "left": "a",
        }
        for answer in make_answers(**settings)
    ]


class World:
    """A backbone and what a head is fitted on."""

    def __init__(self, clip: str, folder: Path, answers: list[Answer]) -> None:
        self.backbone = Backbone.load(clip)
        self.things = sorted({(image, answer.prompt) for answer in answers for image in answer.images})
        self.choices: Choices = as_choices(answers, self.things)
        self.pictures = Pictures.read([image for image, _ in self.things], picture, self.backbone, folder)
        self.text = self.backbone.text_features([prompt for _, prompt in self.things])
        self.features = self.features_of(self.backbone)

    def features_of(self, backbone: Backbone) -> torch.Tensor:
        return joint_features(self.pictures.features(backbone), self.text)

    def fit(self, choices: Choices | None = None, **settings) -> FinetuneHead:
        return fit_finetune(
            self.features,
            choices or self.choices,
            backbone=self.backbone,
            pictures=self.pictures,
            text=self.text,
            **{"reading": READINGS[0], "l2": 30.0, "seed": 0} | settings,
        )

    def scores(self, head: FinetuneHead) -> torch.Tensor:
        return head.predict(self.features_of(head.adapt(self.backbone)))[0]

    def held_out_accuracy(self, scores: torch.Tensor, held_out: np.ndarray) -> float:
        """Of pairs with one liked picture, on the choices of a mask."""
        value = np.array([liked(image) for image, _ in self.things])
        matrix = self.choices.scores[self.choices.chosen] - self.choices.scores[other_of(self.choices)]
        taste = matrix @ value
        return float(((matrix @ scores.numpy() > 0) == (taste > 0))[held_out & (taste != 0)].mean())


def other_of(choices: Choices) -> np.ndarray:
    return choices.starts[:-1] * 2 + 1 - choices.chosen


@pytest.fixture(scope="module")
def world(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(str(clip), tmp_path_factory.mktemp("pictures"), make_answers())


def test_at_the_start_it_is_the_linear_head(world):
    ours, theirs = world.fit(epochs=0), fit_linear(world.features, world.choices, l2=30.0)
    found = world.features_of(ours.adapt(world.backbone))
    for mine, other in zip(ours.predict(found), theirs.predict(world.features), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_a_taste_that_the_frozen_features_hide_is_learned(world):
    """Three of ten prompts are held out; a coin is right on half."""
    held_out = np.isin(world.choices.prompt, [0, 1, 2])
    weights = (~held_out).astype(float)
    frozen = fit_linear(world.features, world.choices, l2=30.0, weights=weights).predict(world.features)[0]
    tuned = world.scores(world.fit(weights=weights, epochs=30))
    assert world.held_out_accuracy(frozen, held_out) < 0.65
    assert world.held_out_accuracy(tuned, held_out) > 0.95


def test_a_fifth_of_the_prompts_is_kept_from_the_lora_but_not_from_the_last_fit(world):
    """Two of ten prompts: turning their answers round changes the linear weights alone."""
    choices, one = world.choices, world.fit(epochs=1)
    changes = []
    for prompt in range(len(PROMPTS)):
        mine = choices.prompt == prompt
        turned = replace(choices, chosen=np.where(mine, other_of(choices), choices.chosen))
        two = world.fit(epochs=1, choices=turned)
        changes.append(any(not torch.equal(one.lora[name][1], two.lora[name][1]) for name in one.lora))
        assert not torch.equal(one.linear.weight, two.linear.weight)
    assert sum(changes) == len(PROMPTS) - 2


def test_answers_that_follow_nothing_are_not_believed(world):
    """The tuned features tell the coins it saw apart; of prompts held out it is hardly worse than a coin's log 2."""
    choices, rng = world.choices, np.random.default_rng(0)
    coins = replace(choices, chosen=np.where(rng.random(len(choices)) < 0.5, choices.chosen, other_of(choices)))
    held_out = np.isin(choices.prompt, [0, 1, 2])
    weights = (~held_out).astype(float)
    scores = world.scores(world.fit(choices=coins, weights=weights, epochs=30)).double().numpy()
    losses, _ = losses_of_scores(coins, scores, weights)
    assert losses[held_out].mean() < math.log(2) + 0.05


def test_equal_seeds_give_equal_heads_and_the_callers_random_state_is_left_as_it_was(world):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (world.fit(epochs=1, seed=seed).tensors() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["linear.weight"], other["linear.weight"])


def test_only_the_last_blocks_change_and_the_passed_backbone_does_not(world):
    before = {name: value.clone() for name, value in world.backbone.model.state_dict().items()}
    head = world.fit(epochs=1)
    adapted = head.adapt(world.backbone)
    after = adapted.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == head.lora.keys()
    assert {name.split(".resblocks.")[1][0] for name in changed} == {"1", "2"}
    assert all(name.startswith("visual.transformer") for name in changed)
    assert all(torch.equal(before[name], value) for name, value in world.backbone.model.state_dict().items())
    assert adapted.fingerprint != world.backbone.fingerprint
    assert not any(parameter.requires_grad for parameter in adapted.model.parameters())


@pytest.mark.parametrize(
    ("tower", "weights"),
    [
        ("vit", {"attn.in_proj_weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}),
        (
            "vit with its own attention",
            {"attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"},
        ),
        ("resnet", {"conv1.weight", "conv2.weight", "conv3.weight", "downsample.0.weight"}),
        ("timm", {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}),
    ],
)
def test_what_was_trained_is_what_is_added_to_the_weights(tower, weights, tmp_path):
    """PEFT's forward with its LoRA against the plain model with W + B A, for each tower."""
    backbone = Backbone.load(str(write_clip(tmp_path / "clip", tower)))
    model = backbone.model
    trained = with_lora(model, blocks=1, rank=3)
    for name, parameter in trained.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    head = FinetuneHead(LinearHead(*(torch.zeros(17), torch.zeros(17, 0), torch.zeros(17))), factors(trained))
    assert {name.split(".", 4 if tower != "resnet" else 3)[-1] for name in head.lora} == weights
    merged = head.adapt(backbone).model
    side = TOWERS[tower]["image_size"]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = trained.encode_image(images)
    change = (model.encode_image(images) - expected).abs().max()
    assert (merged.encode_image(images) - expected).abs().max() < 1e-3 * change
    expected.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained.parameters() if parameter.requires_grad)


def test_a_tower_without_known_blocks_is_refused(tmp_path):
    world = World(str(write_clip(tmp_path / "clip", "convnext")), tmp_path / "pictures", make_answers(4, 4))
    with pytest.raises(ConfigError, match="no blocks in the image tower TimmModel") as refusal:
        world.fit()
    assert "Take `finetune` off fit.heads" in refusal.value.hint


def config_for(backbone: str, **changes) -> RewardFitConfig:
    return RewardFitConfig(
        **{"backbone": backbone, "heads": ("finetune",), "mlp_from": 1, "l2": (30.0,), "folds": 2} | changes
    )


@pytest.mark.parametrize("backbone", ["vit", STARTER])
def test_a_saved_head_scores_as_it_was_fitted_and_is_judged_with_the_others(backbone, clip, tmp_path):
    name = str(clip) if backbone == "vit" else backbone
    reference = [(f"{prompt}/{number}", prompt) for prompt in PROMPTS for number in range(40, 44)]
    config = config_for(name, heads=("linear", "finetune"))
    rows = make_rows(per_prompt=8, images=8)
    cache, folder = tmp_path / "cache", tmp_path / "reward"
    report = fit_reward(rows, picture, config, cache, folder, reference_images=reference)
    assert [each.head for each in report.candidates] == ["linear", "finetune"]

    report = fit_reward(rows, picture, config_for(name), cache, folder, reference_images=reference)
    assert report.head == "finetune"
    assert report.fingerprint == Backbone.load(name).fingerprint
    assert [path.name for path in cache.iterdir()] == [report.fingerprint]
    reward = ClipHead.load(folder)
    images = torch.from_numpy(np.stack([picture(image) for image, _ in reference])).permute(0, 3, 1, 2)
    mean, deviation = reward.with_deviation(images, [prompt for _, prompt in reference])
    assert mean.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert mean.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    assert (deviation > 0).all()
    saved = load_file(folder / HEAD_FILE)
    again = read_head(folder).head.tensors()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)


def test_a_gradient_reaches_every_pixel_and_finite_differences_confirm_it(world):
    reward = ClipHead(backbone=(head := world.fit(epochs=3)).adapt(world.backbone), head=head, mean=0.0, std=1.0)
    images = (world.pictures.take(np.array([0])).float() / 255).requires_grad_(True)
    (gradient,) = torch.autograd.grad(reward.differentiable(images, [PROMPTS[0]]).sum(), images)
    assert (gradient != 0).all()
    direction, step = gradient / gradient.norm(), 1e-2
    with torch.no_grad():
        ends = [reward.differentiable(images + sign * step * direction, [PROMPTS[0]]).item() for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=2e-2)


def test_the_next_round_compares_itself_with_a_tuned_head_on_the_tuned_heads_own_features(clip, tmp_path):
    probe = [(f"{prompt}/{number}", prompt) for prompt in PROMPTS for number in range(50, 54)]
    rows, config = make_rows(per_prompt=20), config_for(str(clip))
    fit_reward(rows, picture, config, tmp_path / "cache", tmp_path / "one", probe=probe)
    newer = [row | {"round": 2} for row in make_rows(per_prompt=5, seed=1)]
    later = {"probe": probe, "previous": tmp_path / "one"}
    report = fit_reward(rows + newer, picture, config, tmp_path / "cache", tmp_path / "two", **later)
    assert report.previous is not None
    assert report.drift is not None
    one, two = (ClipHead.load(tmp_path / name) for name in ("one", "two"))
    images = torch.from_numpy(np.stack([picture(image) for image, _ in probe])).permute(0, 3, 1, 2)
    away = [
        (scores - scores.reshape(-1, 4).mean(1).repeat_interleave(4)).double()
        for scores in (each(images, [prompt for _, prompt in probe]) for each in (one, two))
    ]
    assert report.drift.shift == pytest.approx((away[1] - away[0]).square().mean().sqrt().item(), rel=1e-3)


def test_too_few_answers_and_missing_pictures(clip, tmp_path):
    rows = make_rows(per_prompt=4)
    config = config_for(str(clip), heads=("linear", "finetune"), mlp_from=1000)
    report = fit_reward(rows, picture, config, tmp_path / "cache", tmp_path / "reward")
    assert [each.head for each in report.candidates] == ["linear"]

    def missing(image_id: str) -> np.ndarray:
        raise FileNotFoundError(image_id)

    # The features are all there: the tuned head alone has to see the pictures again.
    fit_reward(rows, missing, config, tmp_path / "cache", tmp_path / "reward")
    with pytest.raises(WorkspaceError, match="cannot be read"):
        fit_reward(rows, missing, config_for(str(clip)), tmp_path / "cache", tmp_path / "reward")


def test_a_damaged_file_is_named(clip, tmp_path):
    fit_reward(make_rows(per_prompt=4), picture, config_for(str(clip)), tmp_path / "cache", tmp_path / "reward")
    tensors = load_file(tmp_path / "reward" / HEAD_FILE)
    name = next(name for name in tensors if name.endswith(".B"))
    save_file({each: value for each, value in tensors.items() if each != name}, tmp_path / "reward" / HEAD_FILE)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        ClipHead.load(tmp_path / "reward")


def test_pictures_of_any_size_are_kept_at_the_backbones_and_once(world, tmp_path):
    sizes = {"small": (16, 16), "wide": (24, 48), "tall": (40, 20)}
    rng = np.random.default_rng(0)
    originals = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    asked = ["wide", "small", "tall", "wide"]
    found = Pictures.read(asked, originals.__getitem__, world.backbone, tmp_path)
    assert found.pixels.shape == (3, 3, SIDE, SIDE)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(found.take(np.array([1]))[0], torch.from_numpy(originals["small"]).permute(2, 0, 1))
    features = found.features(world.backbone)
    for row, name in enumerate(asked):
        exact = world.backbone.image_features(torch.from_numpy(originals[name]).permute(2, 0, 1)[None])
        torch.testing.assert_close(features[row : row + 1], exact, atol=2e-3, rtol=0)
