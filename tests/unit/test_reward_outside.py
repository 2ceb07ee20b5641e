"""Rewards that are somebody else's code: a service over HTTP, a function; and several as one, by hand."""

import json
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitl.core.errors import ConfigError, RewardError, UnknownName
from reward_models.load import load_reward
from reward_models.rewards.function import FunctionReward
from reward_models.rewards.http import HttpReward
from reward_models.rewards.weighted_sum import Term, WeightedSum
from tests.fixtures.reward_service import Answer, pictures, redness, serve

IMAGES = torch.randint(0, 256, (5, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PROMPTS = [f"picture {n}" for n in range(5)]


def scores(*values: Any) -> Answer:
    return 200, json.dumps({"scores": values}).encode()


def test_a_service_sees_every_pixel_and_prompt_in_requests_of_a_chunk():
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Answer:
        asked.append(body)
        return redness(body)

    with serve(answer) as url:
        found = HttpReward.load(url, chunk=2)(IMAGES, PROMPTS)
    torch.testing.assert_close(found, IMAGES[:, 0].float().mean(dim=(1, 2)) / 255)
    assert [body["prompts"] for body in asked] == [PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:]]
    seen = np.stack([picture for body in asked for picture in pictures(body)])
    assert np.array_equal(seen, IMAGES.permute(0, 2, 3, 1).numpy())


def test_a_service_that_is_busy_is_asked_again():
    statuses = iter([503, 429, 200])

    def answer(body: dict[str, Any]) -> Answer:
        status = next(statuses)
        return (status, b"later") if status != 200 else redness(body)

    with serve(answer) as url:
        started = time.monotonic()
        assert HttpReward.load(url, backoff_s=0.02)(IMAGES, PROMPTS).shape == (5,)
    assert time.monotonic() - started >= 0.02 + 0.04
    assert next(statuses, None) is None


@pytest.mark.parametrize(
    ("answer", "message", "attempts"),
    [
        ((500, b"out of memory"), "in 3 attempts; the last: 500 Internal Server Error: 'out of memory'", 3),
        ((400, b"no prompts"), "refuses the images: 400 Bad Request: 'no prompts'", 1),
        ((200, b"<html>Login</html>"), "no JSON object with `scores`, but '<html>Login</html>'", 1),
        ((200, b"[0.5]"), "no JSON object with `scores`", 1),
        ((200, b'{"rewards": [1]}'), "no JSON object with `scores`", 1),
        (scores(1.0, 2.0), r"scores of shape (2,) for 5 images", 1),
        (scores(1.0, 2.0, 3.0, float("nan"), 5.0), "1 of 5 images a score that is not finite, first image 4", 1),
        (scores(1.0, 2.0, 3.0, None, 5.0), "something else than numbers", 1),
        (scores("a", "b", "c", "d", "e"), "something else than numbers", 1),
    ],
)
def test_an_answer_that_is_no_scores_is_refused(answer: Answer, message: str, attempts: int):
    asked = []
    with serve(lambda body: (asked.append(body), answer)[1]) as url, pytest.raises(RewardError) as caught:
        HttpReward.load(url, backoff_s=0.001, retries=2)(IMAGES, PROMPTS)
    assert message in caught.value.message
    assert caught.value.hint
    assert len(asked) == attempts


def test_a_service_that_takes_too_long_or_is_not_there_is_given_up():
    gone = threading.Event()

    def slow(body: dict[str, Any]) -> Answer:
        gone.wait(5)
        return redness(body)

    with serve(slow) as url:
        with pytest.raises(RewardError, match="in 2 attempts; the last: ReadTimeout"):
            HttpReward.load(url, timeout_s=0.05, backoff_s=0.001, retries=1)(IMAGES, PROMPTS)
        gone.set()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RewardError, match="in 1 attempts; the last: ConnectError"):
            HttpReward.load(url, retries=0)(IMAGES, PROMPTS)


def test_a_service_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(redness) as url:
        assert len(HttpReward.load(url, retries=0)(IMAGES, PROMPTS)) == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "127.0.0.1:8000"},
        {"url": "http://"},
        {"url": "http://a:b"},
        {"url": "http://a", "timeout_s": 0},
        {"url": "http://a", "chunk": 0},
    ],
    ids=str,
)
def test_settings_of_a_service_that_cannot_be_used_are_refused(settings: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"http\."):
        load_reward("http", settings)


def length(images: torch.Tensor, prompts: Sequence[str]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def wrong_shape(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    return torch.zeros(len(prompts), 1)


def infinite(images: torch.Tensor, prompts: Sequence[str]) -> np.ndarray:
    return np.array([0.0, np.inf])


NUMBER = 3
HERE = "tests.unit.test_reward_outside"


def test_any_function_is_a_reward():
    found = FunctionReward.load(f"{HERE}:length")(IMAGES[:2], ["ab", "c"])
    assert (found.tolist(), found.dtype) == ([2.0, 1.0], torch.float32)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("length", "is 'length'"),
        (":length", "is ':length'"),
        ("no.such.module:f", "cannot be imported: No module named 'no'"),
        (f"{HERE}:absent", "has no attribute 'absent'"),
        (f"{HERE}:NUMBER", "is a int, not a function"),
    ],
)
def test_a_function_that_is_not_there_is_refused(path: str, message: str):
    with pytest.raises(ConfigError) as caught:
        FunctionReward.load(path)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [("wrong_shape", r"shape \(2, 1\) for 2 images"), ("infinite", "not finite, first image 2: inf")],
)
def test_a_function_that_gives_no_scores_is_refused(name: str, message: str):
    with pytest.raises(RewardError, match=message):
        FunctionReward.load(f"{HERE}:{name}")(IMAGES[:2], PROMPTS[:2])


def table(*values: float) -> Any:
    """A reward that gives each image of IMAGES its place in a table."""
    return lambda images, prompts: torch.tensor(values)[[PROMPTS.index(prompt) for prompt in prompts]]


def test_a_weighted_sum_by_hand():
    """2 * (1, 3) / 0.5 - 1 * (10, 20) / 5 = (4, 12) - (2, 4)."""
    terms = (
        Term(name="a", reward=table(1.0, 3.0), weight=2.0, scale=0.5),
        Term(name="b", reward=table(10.0, 20.0), weight=-1.0, scale=5.0),
    )
    assert WeightedSum(terms=terms)(IMAGES[:2], PROMPTS[:2]).tolist() == [2.0, 8.0]


def test_scales_are_the_standard_deviations_over_given_images():
    """(1, 3, 5, 7, 9) has variance 8. A term that never changes has scale 1, one that is left out its own."""
    terms = (
        Term(name="a", reward=table(1.0, 3.0, 5.0, 7.0, 9.0), weight=1.0),
        Term(name="flat", reward=table(*[4.0] * 4, 4.000001), weight=1.0, scale=7.0),
        Term(name="kept", reward=table(0.0, 0.0, 0.0, 0.0, 9.0), weight=1.0, scale=3.0),
    )
    scaled = WeightedSum(terms=terms).scaled_on(IMAGES, PROMPTS, but=["kept"])
    assert [term.scale for term in scaled.terms] == [pytest.approx(8**0.5), 1.0, 3.0]
    assert scaled(IMAGES[4:], PROMPTS[4:]).item() == pytest.approx(9 / 8**0.5 + 4 + 3)


class Brightness:
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.differentiable(images.float() / 255, prompts)

    def differentiable(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


def test_a_sum_has_a_gradient_when_all_its_terms_have_one():
    """d/dpixel of 3 * mean / 2 is 1.5 over the number of pixels and channels."""
    bright = Term(name="bright", reward=Brightness(), weight=3.0, scale=2.0)
    pixels = torch.rand(2, 3, 4, 4, requires_grad=True)
    WeightedSum(terms=(bright,)).differentiable(pixels, ["", ""]).sum().backward()
    assert pixels.grad is not None
    torch.testing.assert_close(pixels.grad, torch.full_like(pixels, 1.5 / 48))
    mixed = WeightedSum(terms=(bright, Term(name="file size", reward=table(1.0), weight=1.0)))
    with pytest.raises(ConfigError, match="file size cannot be learned from by a gradient"):
        mixed.differentiable(pixels, ["", ""])


def test_a_sum_is_loaded_from_tables():
    reward = load_reward(
        "weighted_sum",
        {"terms": [{"reward": "jpeg_size", "settings": {"quality": 50}}, {"reward": "jpeg_size", "weight": -1.0}]},
    )
    low, high = (load_reward("jpeg_size", {"quality": quality})(IMAGES, PROMPTS) for quality in (50, 95))
    torch.testing.assert_close(reward(IMAGES, PROMPTS), low - high)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("jpg_size", {}, UnknownName, "no reward called 'jpg_size'"),
        ("jpeg_size", {"quality": "high"}, ConfigError, "jpeg_size.quality is 'high': input should be a valid integer"),
        ("jpeg_size", {"qualty": 3}, ConfigError, "jpeg_size has no setting 'qualty'"),
        ("http", {}, ConfigError, "needs to be told its 'url'"),
        ("weighted_sum", {"terms": []}, ConfigError, "no term with a weight"),
        ("weighted_sum", {"terms": [{"weight": 1.0}]}, ConfigError, "A term of the weighted sum is"),
        ("weighted_sum", {"terms": [{"reward": "jpeg_size", "wieght": 1.0}]}, ConfigError, "A term of the weighted"),
        ("weighted_sum", {"terms": [{"reward": "jpeg_size", "scale": 0.0}]}, ConfigError, "and scale 0.0"),
        ("weighted_sum", {"terms": [{"reward": "jpeg_size", "weight": float("nan")}]}, ConfigError, "has weight nan"),
    ],
)
def test_what_cannot_be_loaded_is_refused(name: str, settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        load_reward(name, settings)


def test_more_prompts_than_images_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="2 images came with 5 prompts"):
        FunctionReward.load(f"{HERE}:length")(IMAGES[:2], PROMPTS)
