"""A reward that a service computes: JSON over HTTP, pictures as base64 PNG. Nothing is ever unpickled."""

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hitl.core.errors import ConfigError, RewardError
from reward_models.prompts import require_one_each
from reward_models.scores import checked_scores

_START = "Start the service, or set `url` to where it listens; docs/rewards.md has the protocol and an example."


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReward:
    """POST {"images": [...], "prompts": [...]} -> {"scores": [...]}. The environment's proxy is not asked."""

    url: str
    timeout_s: float = 60.0
    """For one answer."""
    retries: int = 4
    """How often a request is sent again that was not answered, or with 429 or 5xx."""
    backoff_s: float = 1.0
    """Before the first of them; twice as long before each one after it."""
    chunk: int = 16
    """Images in one request."""

    def __post_init__(self) -> None:
        try:
            host = httpx.URL(self.url).host if self.url.startswith(("http://", "https://")) else ""
        except httpx.InvalidURL:
            host = ""
        if not host:
            raise ConfigError(f"http.url is {self.url!r}.", hint="Use an address such as http://127.0.0.1:8000/score.")
        for name, least in (("timeout_s", 0.001), ("retries", 0), ("backoff_s", 0), ("chunk", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"http.{name} is {getattr(self, name)}.", hint=f"It must be {least} or more.")

    @classmethod
    def load(
        cls, url: str, *, timeout_s: float = 60.0, retries: int = 4, backoff_s: float = 1.0, chunk: int = 16
    ) -> "HttpReward":
        """The service at that address; it is first asked when there are images."""
        return cls(url=url, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s, chunk=chunk)

    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The service's scores.

        Raises:
            RewardError: it does not answer, or with something else than one finite number for each image.
        """
        require_one_each(images, prompts)
        pictures = [_png(picture) for picture in images.permute(0, 2, 3, 1).cpu().numpy()]
        parts = []
        with httpx.Client(timeout=self.timeout_s, trust_env=False) as client:
            for start in range(0, len(pictures), self.chunk):
                rows = slice(start, start + self.chunk)
                answer = self._answer(client, {"images": pictures[rows], "prompts": list(prompts[rows])})
                parts.append(checked_scores(self._scores(answer), len(pictures[rows]), self.url))
        return torch.cat(parts)

    def _answer(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        failure = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff_s * 2 ** (attempt - 1))
            try:
                answer = client.post(self.url, json=body)
            except httpx.RequestError as error:  # it does not listen, is too slow, or hung up
                failure = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 200:
                return answer
            failure = f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]!r}"
            if answer.status_code != 429 and answer.status_code < 500:  # asking again would change nothing
                raise RewardError(f"{self.url} refuses the images: {failure}", hint=_START)
        raise RewardError(f"{self.url} gave no scores in {self.retries + 1} attempts; the last: {failure}", hint=_START)

    def _scores(self, answer: httpx.Response) -> Any:
        try:
            scores = answer.json()["scores"]
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(
                f"{self.url} answers no JSON object with `scores`, but {answer.text[:200]!r}.", hint=_START
            ) from error
        return scores


def _png(picture: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
