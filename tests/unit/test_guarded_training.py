"""A training that is watched: stopped where it does harm, the best policy kept, and cut off as if it had not been."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.checkpoints import sha256_of_weights
from data.guard import Look, Rule
from data.judged_images import JudgedImages
from data.workspace import Workspace
from hitl.config import load_config, parse_config
from hitl.core.errors import ConfigError, DiskFull
from hitl.stages import guard as guards
from hitl.stages.guard import Guard, make_guard
from hitl.stages.stage import Desk, Stage
from reward_models.backbone import Backbone
from reward_models.rewards.clip_score import ClipScore
from rl.algorithms.dpok import Dpok
from rl.config import SampleConfig, TrainConfig
from rl.families.sd15 import StableDiffusion15
from rl.rollout import draw
from rl.train import train
from tests.fixtures.tiny_pipeline import build_family

pytestmark = pytest.mark.long

LORA_FILE = "pytorch_lora_weights.safetensors"
SAMPLE = SampleConfig(steps=2, guidance=1.0, window=2, batch_size=8)
TRAIN = TrainConfig(
    epochs=4, prompts_per_epoch=2, images_per_prompt=8, updates_per_epoch=1, lora_rank=2, learning_rate=0.03
)
TOLD = ("a red circle", "two blue hearts")
HELD_OUT = [
    {"prompt_id": f"p{number}", "text": text, "task": "colour"}
    for number, text in enumerate(("a red star", "a blue star", "a green star", "a red heart", "a green circle"))
]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.float().mean(dim=(1, 2, 3)) / 255


def darkness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return -brightness(images, prompts)


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load()


def a_stage(root: Path, **guard: Any) -> Stage:
    config = parse_config(
        {
            "train": {"epochs": TRAIN.epochs},
            "evaluate": {"steps": 2},
            "sample": {"guidance": 1.0, "steps": 2, "window": 2},
            "guard": {"every": 2, "prompts": 5, **guard},
        }
    )
    stage = Stage(
        name="train",
        workspace=Workspace(root),
        round=1,
        config=config,
        inputs={"held_out": HELD_OUT, "policy_round": 0},
    )
    stage.folder.mkdir(parents=True, exist_ok=True)
    return stage


def a_guard(stage: Stage, family: StableDiffusion15, backbone: Backbone, judge: Any, **rule: float) -> Guard:
    limits = {"min_diversity": 0.0, "kl_budget": stage.config.guard.kl_budget, **rule}
    return Guard(
        stage,
        family,
        brightness,
        {"judge": judge},
        backbone,
        HELD_OUT,
        Rule(looks=2, **limits),  # type: ignore[arg-type]
    )


def trained(
    stage: Stage,
    guard: Any,
    family: StableDiffusion15,
    epochs: list[int] | None = None,
    cut: int = 0,
    start_from: Path | None = None,
) -> Path:
    """Train against the brightness; the folder of the policy. `cut` dies while that epoch is told."""
    folder = stage.folder / "policy"

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == cut:
            raise Cut
        if epochs is not None:
            epochs.append(epoch)

    train(
        family,
        Dpok(kl_weight=0.0),
        brightness,
        TOLD,
        replace(TRAIN, epochs=stage.config.train.epochs),
        SAMPLE,
        folder=folder,
        place=(0, 1),
        start_from=start_from,
        on_epoch=on_epoch,
        watch=guard,
    )
    return folder


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / LORA_FILE) for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(a_stage(tmp_path_factory.mktemp("unwatched")), None, build_family())


@pytest.fixture(scope="module")
def hacked(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> tuple[Stage, Guard, list[int]]:
    """Bright pictures are rewarded, and the judge likes dark ones."""
    stage, epochs, family = a_stage(tmp_path_factory.mktemp("hacked")), [], build_family()
    guard = a_guard(stage, family, backbone, darkness)
    trained(stage, guard, family, epochs)
    return stage, guard, epochs


def test_a_training_that_climbs_what_the_judge_dislikes_is_stopped_and_its_start_kept(
    hacked: tuple[Stage, Guard, list[int]],
):
    stage, guard, epochs = hacked
    found = guard.result()
    assert found["reason"] == "hacking"
    assert epochs == [*range(1, found["epoch"] + 1)]
    assert found["epoch"] < TRAIN.epochs
    assert found["kept"] == 0
    weights = load_file(stage.folder / "policy" / LORA_FILE)
    assert all(not weights[name].any() for name in weights if "lora_B" in name)  # the reference's own
    assert found["words"].startswith(f"Training was stopped after epoch {found['epoch']} of 4: the learned reward rose")
    assert found["words"].endswith("Kept is the one it started from.")
    rows = [json.loads(line) for line in (stage.workspace.round_dir(1) / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["guard"] * len(found["looks"])
    assert rows[-1]["metrics"]["judgement_high"] < 0 < rows[-1]["metrics"]["reward_low"]
    # The next round goes on with the moments of the policy that it starts from.
    assert torch.load(stage.folder / "policy" / "state.pt", weights_only=True)["epoch"] == 0


def test_a_training_that_the_judge_agrees_with_ends_with_the_bits_of_an_unwatched_one(
    tmp_path: Path, backbone: Backbone, unwatched: Path
):
    stage, family = a_stage(tmp_path), build_family()
    guard = a_guard(stage, family, backbone, brightness)
    assert same(trained(stage, guard, family), unwatched)
    assert (guard.result()["reason"], guard.result()["kept"], guard.result()["words"]) == ("", 4, "")
    assert [look["epoch"] for look in guard.result()["looks"]] == [0, 2, 4]
    guard.tidy(sha256_of_weights(stage.folder / "policy"))
    assert sorted(path.name.split("-")[0] for path in guard.folder.iterdir()) == ["kept", "looks.json"]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_watched_training_that_was_cut_off_ends_as_if_it_had_not_been(
    tmp_path: Path, backbone: Backbone, hacked: tuple[Stage, Guard, list[int]], cut: int
):
    stage = a_stage(tmp_path)
    family = build_family()
    with pytest.raises(Cut):
        trained(stage, a_guard(stage, family, backbone, darkness), family, cut=cut)
    family = build_family()
    guard = a_guard(stage, family, backbone, darkness)
    assert same(trained(stage, guard, family), hacked[0].folder / "policy")
    assert guard.result() == hacked[1].result()


def test_a_training_that_was_cut_off_in_a_look_makes_that_look_again(
    tmp_path: Path, backbone: Backbone, hacked: tuple[Stage, Guard, list[int]]
):
    stage, family, asked = a_stage(tmp_path), build_family(), []

    def dies_at_its_second_look(images: Tensor, prompts: Sequence[str]) -> Tensor:
        asked.append(len(images))
        if len(asked) == 2:
            raise Cut
        return darkness(images, prompts)

    with pytest.raises(Cut):
        trained(stage, a_guard(stage, family, backbone, dies_at_its_second_look), family)
    family = build_family()
    guard = a_guard(stage, family, backbone, darkness)
    trained(stage, guard, family)
    assert guard.result() == hacked[1].result()
    # And once more after its end, as when the hub was killed before it had read the result.
    family, told = build_family(), []
    again = a_guard(stage, family, backbone, darkness)
    assert same(trained(stage, again, family, told), hacked[0].folder / "policy")
    assert told == []
    assert again.result() == hacked[1].result()


def test_the_best_policy_is_kept_where_a_judge_turns_against_the_training(
    tmp_path: Path, backbone: Backbone, unwatched: Path
):
    """The judge likes brightness for two epochs, and from the fourth on nothing at all; the policy of two is kept."""
    stage, family, looks = a_stage(tmp_path), build_family(), []

    def fickle(images: Tensor, prompts: Sequence[str]) -> Tensor:
        looks.append(0)
        return brightness(images, prompts) * 100 - (1000.0 if len(looks) > 2 else 0.0)

    guard = a_guard(stage, family, backbone, fickle)
    folder = trained(stage, guard, family)
    assert (guard.result()["reason"], guard.result()["epoch"], guard.result()["kept"]) == ("hacking", 4, 2)
    two, family = a_stage(tmp_path / "two"), build_family()
    config = parse_config({"train": {"epochs": 2}})
    assert same(folder, trained(replace(two, config=config), None, family))


def test_a_kl_budget_ends_the_training_and_keeps_a_policy_within_it(tmp_path: Path, backbone: Backbone):
    stage, family = a_stage(tmp_path, kl_budget=1e-6), build_family()
    guard = a_guard(stage, family, backbone, brightness)
    trained(stage, guard, family)
    found = guard.result()
    assert (found["reason"], found["epoch"], found["kept"]) == ("kl", 2, 0)
    assert found["looks"][0]["kl"] == 0
    assert found["looks"][1]["kl"] > 1e-6


def test_a_training_begun_anew_forgets_what_was_seen_of_the_first(
    tmp_path: Path, backbone: Backbone, hacked: tuple[Stage, Guard, list[int]]
):
    stage, family = a_stage(tmp_path), build_family()
    with pytest.raises(Cut):
        trained(stage, a_guard(stage, family, backbone, brightness), family, cut=3)
    (stage.folder / "policy" / "state.pt").unlink()
    family = build_family()
    guard = a_guard(stage, family, backbone, darkness)
    assert [look.epoch for look in guard.looks] == [0, 2]
    guard.looks[0] = replace(guard.looks[0], judges=hacked[1].looks[0].judges)
    trained(stage, guard, family)
    assert guard.result() == hacked[1].result()


def test_a_training_that_was_begun_without_a_guard_goes_on_without_one(
    tmp_path: Path, backbone: Backbone, unwatched: Path
):
    stage, family = a_stage(tmp_path), build_family()
    with pytest.raises(Cut):
        trained(stage, None, family, cut=3)
    family = build_family()
    guard = a_guard(stage, family, backbone, darkness)
    assert same(trained(stage, guard, family), unwatched)
    assert guard.result()["looks"] == []


def test_looks_of_other_pictures_are_not_compared(tmp_path: Path, backbone: Backbone):
    stage, family = a_stage(tmp_path), build_family()
    with pytest.raises(Cut):
        trained(stage, a_guard(stage, family, backbone, brightness), family, cut=3)
    other = replace(stage, config=parse_config({"guard": {"images_per_prompt": 3}}))
    assert a_guard(other, family, backbone, darkness).looks == []


def test_a_later_round_is_held_against_the_references_diversity_which_the_first_has_seen(
    tmp_path: Path, backbone: Backbone, hacked: tuple[Stage, Guard, list[int]], monkeypatch: pytest.MonkeyPatch
):
    """Read from the first round where that looked at the same pictures, and else drawn: the same numbers."""
    second = replace(hacked[0], round=2, inputs={"held_out": HELD_OUT, "policy_round": 1})
    family = build_family()
    drawn = a_guard(replace(second, workspace=Workspace(tmp_path)), family, backbone, darkness)
    expected = drawn._diversity_of_reference()
    monkeypatch.setattr("hitl.stages.guard.draw", None)
    assert a_guard(second, family, backbone, darkness)._diversity_of_reference() == pytest.approx(expected)
    assert expected == pytest.approx(hacked[1].looks[0].diversity)


# -- the pictures that the next round starts from ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[brightness, darkness], ids=["kept the last", "kept the first"])
def first_round(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Stage:
    """One that is over, with the pictures of the policy that it kept."""
    stage, family = a_stage(tmp_path_factory.mktemp("first")), build_family()
    guard = a_guard(stage, family, backbone, request.param)
    guard.tidy(sha256_of_weights(trained(stage, guard, family)))
    assert guard.keeps == (4 if request.param is brightness else 0)
    return stage


def next_round(first: Stage, root: Path, **settings: Any) -> Stage:
    shutil.copytree(first.workspace.root, root)
    config = parse_config(asdict(first.config) | settings)
    inputs = {"held_out": HELD_OUT, "policy_round": 1}
    return replace(first, workspace=Workspace(root), round=2, config=config, inputs=inputs)


def kept_pictures(stage: Stage) -> Path:
    (path,) = stage.workspace.stage_dir(1, "train").glob("guard/kept-*.npz")
    return path


def test_the_next_round_starts_from_the_pictures_of_the_policy_that_was_kept(
    tmp_path: Path, backbone: Backbone, first_round: Stage, monkeypatch: pytest.MonkeyPatch
):
    """The look at its start is, bit for bit, the one that draws them; the next look draws."""
    drawn: list[int] = []

    def counted(*given: Any, **told: Any) -> Tensor:
        drawn.append(0)
        return draw(*given, **told)

    monkeypatch.setattr(guards, "draw", counted)
    looks, draws = [], []
    for name in ("with", "without"):
        stage, family = next_round(first_round, tmp_path / name), build_family()
        if name == "without":
            kept_pictures(stage).unlink()
        guard = a_guard(stage, family, backbone, darkness)
        drawn.clear()
        trained(stage, guard, family, start_from=stage.checkpoint(1))
        looks.append(guard.looks)
        draws.append(len(drawn))
    assert looks[0] == looks[1]
    assert len(looks[0]) > 1
    assert draws == [len(looks[0]) - 1, len(looks[0])]


def test_pictures_that_are_not_those_of_the_start_are_drawn_anew(
    tmp_path: Path, backbone: Backbone, first_round: Stage
):
    def known(stage: Stage) -> bool:
        return a_guard(stage, build_family(), backbone, darkness)._drawn_before() is not None

    stage = next_round(first_round, tmp_path / "same")
    assert known(stage)
    assert not known(next_round(first_round, tmp_path / "larger batches", draw={"batch_size": 3}))
    assert not known(next_round(first_round, tmp_path / "other seeds", project={"seed": 1}))
    assert not known(replace(stage, inputs={"held_out": HELD_OUT, "policy_round": 0}))
    path, weights = kept_pictures(stage), stage.checkpoint(1) / LORA_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not known(stage)
    path.write_bytes(whole)
    assert known(stage)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")  # as by a training that was done again
    assert not known(stage)


def test_the_round_after_lets_go_of_the_pictures_that_it_started_from(
    tmp_path: Path, backbone: Backbone, first_round: Stage
):
    stage, family = next_round(first_round, tmp_path / "next"), build_family()
    before = kept_pictures(stage)
    guard = a_guard(stage, family, backbone, brightness)
    guard.tidy(sha256_of_weights(trained(stage, guard, family, start_from=stage.checkpoint(1))))
    assert not before.exists()
    assert len([*guard.folder.glob("*.npz")]) == 1


def test_a_disk_that_is_too_full_for_pictures_stops_no_training(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, hacked: tuple[Stage, Guard, list[int]]
):
    def no_room(found: JudgedImages, path: Path) -> None:
        raise DiskFull(f"The disk is full: {path} could not be written.", hint="Free some space.")

    monkeypatch.setattr(JudgedImages, "save", no_room)
    stage, family = a_stage(tmp_path), build_family()
    guard = a_guard(stage, family, backbone, darkness)
    guard.tidy(sha256_of_weights(trained(stage, guard, family)))
    assert guard.result() == hacked[1].result()
    assert [path.name for path in guard.folder.iterdir()] == ["looks.json"]


# -- who judges -------------------------------------------------------------------------------------------------------


def judges_of(root: Path, held_out: Sequence[dict[str, str]], **guard: Any) -> dict[str, Any]:
    stage = replace(a_stage(root, **guard), inputs={"held_out": held_out, "policy_round": 0})
    guard_ = make_guard(stage, Desk(), build_family(), brightness)
    assert guard_ is not None
    return guard_.judges


def test_gold_judges_the_starters_world_and_a_zero_shot_score_any_other(tmp_path: Path):
    assert [*judges_of(tmp_path, HELD_OUT)] == ["gold"]
    other = [*HELD_OUT, {"prompt_id": "x", "text": "a fox in the snow", "task": ""}]
    assert isinstance(judges_of(tmp_path, other)["clip_score"], ClipScore)
    assert [*judges_of(tmp_path, other, judges=["jpeg_size"])] == ["jpeg_size"]


def test_prompts_of_a_look_are_of_all_tasks_evenly(tmp_path: Path):
    rows = [{"prompt_id": f"{task}{n}", "text": "a red star", "task": task} for task in "ab" for n in range(4)]
    stage = replace(a_stage(tmp_path, prompts=3), inputs={"held_out": rows, "policy_round": 0})
    guard = make_guard(stage, Desk(), build_family(), brightness)
    assert guard is not None
    assert [prompt["prompt_id"] for prompt in guard.prompts] == ["a0", "b0", "a1"]


def test_there_is_no_guard_without_held_out_prompts_or_where_it_is_off(tmp_path: Path):
    stage = a_stage(tmp_path)
    assert make_guard(replace(stage, inputs={}), Desk(), build_family(), brightness) is None
    assert make_guard(a_stage(tmp_path, on=False), Desk(), build_family(), brightness) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["guard.judges=['jpeg']"], "There is no judge 'jpeg' for guard.judges."),
        (["guard.judges=['clip_head']"], "There is no judge 'clip_head' for guard.judges."),
        (["guard.judges=['jpeg_size']", "reward.jpeg_size=-1"], "which training climbs: its weight in [reward] is -1"),
        (["guard.on_stop=stop"], "guard.on_stop is 'stop'."),
        (["guard.min_diversity=2"], "guard.min_diversity is 2.0, but must be 0 to 1."),
        (["guard.every=0"], "guard.every is 0, but must be 1 or more."),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, settings: list[str], message: str):
    with pytest.raises(ConfigError) as refusal:
        load_config(tmp_path / "hitl.toml", settings)
    assert message in refusal.value.message


def test_looks_are_told_as_json(hacked: tuple[Stage, Guard, list[int]]):
    kept = json.loads((hacked[1].folder / "looks.json").read_text())
    assert [Look.from_dict(row) for row in kept["looks"]] == hacked[1].looks
    json.dumps(hacked[1].result())
