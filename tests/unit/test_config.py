"""Settings: read, changed, checked, written with their help, and hashed."""

import dataclasses
import itertools
import json
import tomllib
from pathlib import Path

import pytest

from hitl.config import RunConfig, load_config, parse_config, to_toml
from hitl.core.errors import ConfigError


def test_what_is_written_reads_back_the_same(tmp_path: Path):
    path = tmp_path / "hitl.toml"
    config = load_config(path, ["train.epochs=3", "prompts.file=mine.txt", "algorithm.kl_weight=0.5", "fit.l2=[1.0]"])
    path.write_text(to_toml(config))
    assert load_config(path, []) == config
    assert (config.train.epochs, config.prompts.file, config.fit.l2) == (3, "mine.txt", (1.0,))
    assert config.algorithm == {"kl_weight": 0.5}


def test_rewards_are_added_to_the_fitted_one_and_it_is_left_out_by_weight_0(tmp_path: Path):
    path = tmp_path / "hitl.toml"
    assert load_config(path, []).reward == {"clip_head": 1.0}
    assert load_config(path, ["reward.jpeg_size=-0.1"]).reward == {"clip_head": 1.0, "jpeg_size": -0.1}
    path.write_text("[reward]\nclip_score = 1\n[reward_settings.clip_score]\nchunk = 8\n")  # before there were others
    config = load_config(path, ["reward.clip_head=0", "reward_settings.jpeg_size.quality=80"])
    assert config.reward == {"clip_head": 0.0, "clip_score": 1.0}
    assert config.reward_settings == {"clip_score": {"chunk": 8}, "jpeg_size": {"quality": 80}}
    path.write_text(to_toml(config))
    assert load_config(path, []) == config
    assert parse_config(json.loads(json.dumps(dataclasses.asdict(config)))) == config  # a stage's spec is JSON


def test_terms_of_a_weighted_sum_are_written_and_read(tmp_path: Path):
    terms = [{"reward": "jpeg_size", "weight": 0.5, "settings": {"quality": 80}}, {"reward": "clip_score"}]
    config = parse_config({"reward": {"weighted_sum": 1}, "reward_settings": {"weighted_sum": {"terms": terms}}})
    (tmp_path / "hitl.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "hitl.toml", []) == config


def test_a_workspace_from_before_there_were_rewards_to_choose(tmp_path: Path):
    before = "\n".join(line for line in to_toml(RunConfig()).splitlines() if not line.startswith("clip_head ="))
    (tmp_path / "hitl.toml").write_text(before.replace("[reward]\n", "").replace("[reward_settings]\n", ""))
    assert load_config(tmp_path / "hitl.toml", []) == RunConfig()


def test_every_setting_is_written_under_a_help_of_its_own():
    lines = to_toml(RunConfig()).splitlines()
    sections = tomllib.loads("\n".join(lines))
    assert {field.name for field in dataclasses.fields(RunConfig)} == set(sections)
    for before, line in itertools.pairwise(lines):
        if line and line[0].isalpha():
            assert before.startswith("# "), line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epoch=3", "train.epochs"),
        ("trains.epochs=3", "train.epochs"),
        ("train.epochs=many", "train.epochs is 'many'"),
        ("train.epochs", "needs section.key=value"),
        ("epochs=3", "needs section.key=value"),
        ("draw.batch_size=0", "draw.batch_size is 0, but must be 1 or more"),
        ("draw.steps=0", "draw.steps is 0"),
        ("draw.images_per_prompt=1", "a comparison needs 2"),
        ("evaluate.steps=0", "evaluate.steps is 0"),
        ("evaluate.best_of=99", "there are 4 images"),
        ("model.dtype=fp16", "model.dtype is 'fp16'"),
        ("model.device=gpu", "model.device is 'gpu'"),
        ("prompts.per_task=0", "prompts.per_task is 0"),
        ("project.seed=-1", "project.seed is -1"),
        ("rate.kind=foo", "rate.kind is 'foo'"),
        ("rate.overlap=0", "rate.overlap is 0"),
        ("rate.policy=clever", "rate.policy is 'clever'"),
        ("rate.explore=0.2", "rate.explore is 0.2, but must be 0.3 to 1. Use 0.3."),
        ("rate.explore=1.5", "rate.explore is 1.5"),
        ("rate.repeats=0.3", "rate.repeats is 0.3, but must be 0 to 0.2"),
        ("rate.gold=-0.1", "rate.gold is -0.1"),
        ("rate.blind=0.6", "rate.blind is 0.6, but must be 0 to 0.5"),
        ("rate.near_duplicate=2", "rate.near_duplicate is 2"),
        ("simulated.careless=-1", "simulated.careless is -1"),
        ("reward.jpg_size=1.0", "There is no reward 'jpg_size' for [reward]. Did you mean jpeg_size"),
        ("reward.clip_head=0", "The weights of [reward] are {'clip_head': 0.0}"),
        ("reward.jpeg_size=inf", "Use finite numbers"),
        ("reward.jpeg_size=much", "reward.jpeg_size is 'much'"),
        ("reward_settings.jpg_size.quality=80", "There is no reward 'jpg_size' for [reward_settings]."),
        ("reward_settings.clip_head.folder=x", "Set those of [fit] instead."),
        ("train.epochs.more=3", "train.epochs is {'more': 3}"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_anything_runs(tmp_path: Path, setting: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "hitl.toml", [setting])
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


def test_less_exploration_has_to_be_asked_for_twice(tmp_path: Path):
    config = load_config(tmp_path / "hitl.toml", ["rate.explore=0.1", "rate.force_explore=true"])
    assert config.rate.explore == 0.1
    with pytest.raises(ConfigError, match=r"rate\.explore is 0"):
        load_config(tmp_path / "hitl.toml", ["rate.explore=0", "rate.force_explore=true"])


def test_a_file_that_is_not_toml_is_named(tmp_path: Path):
    path = tmp_path / "hitl.toml"
    path.write_text("[train\nepochs = 3")
    with pytest.raises(ConfigError, match=r"hitl\.toml is not valid TOML"):
        load_config(path, [])


def test_a_prompts_file_of_the_current_folder_is_found_from_any_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.txt").write_text("a red fox\n")
    monkeypatch.chdir(tmp_path)
    settings = ["prompts.file=mine.txt"]
    assert load_config(tmp_path / "w" / "hitl.toml", settings).prompts.file == str(tmp_path / "mine.txt")
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "w" / "hitl.toml", settings).prompts.file == "mine.txt"


def test_the_hash_leaves_out_only_where_the_app_is_served():
    config = parse_config({})
    assert parse_config({"server": {"port": 1}}).sha256 == config.sha256
    assert parse_config({"draw": {"steps": 11}}).sha256 != config.sha256


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["server.proxies=['everybody']"], "server.proxies has 'everybody'"),
        (["server.proxies=['*']"], "server.proxies has '*'"),
        (["server.public_url=lab.example"], "server.public_url is 'lab.example'"),
        (["server.public_url=https://a@lab.example"], "server.public_url is"),
        (["server.public_url=https://lab.example/rate"], "has the path '/rate', but server.root_path is ''"),
        (["server.root_path=rate"], "server.root_path is 'rate'"),
        (["server.root_path=/rate/"], "server.root_path is '/rate/'"),
        (["server.root_path=/.."], "server.root_path is '/..'"),
    ],
)
def test_where_the_app_is_served_is_checked(tmp_path: Path, settings: list[str], said: str):
    with pytest.raises(ConfigError) as refusal:
        load_config(tmp_path / "hitl.toml", settings)
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("settings", "is_local"),
    [
        ([], True),
        (["server.host=::1"], True),
        (["server.host=localhost"], True),
        (["server.host=127.8.8.8"], True),
        (["server.host=0.0.0.0"], False),
        (["server.host="], False),
        (["server.host=lab-3"], False),
        (["server.proxies=['127.0.0.1']"], False),
        (["server.public_url=https://lab.example/"], False),
        (["server.root_path=/a/rate-1", "server.public_url=https://lab.example/a/rate-1/"], False),
    ],
)
def test_only_a_loopback_address_without_a_proxy_is_this_machine_alone(
    tmp_path: Path, settings: list[str], is_local: bool
):
    assert load_config(tmp_path / "hitl.toml", settings).server.is_local is is_local
