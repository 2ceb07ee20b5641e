"""Simulated raters: they use the same HTTP API as people do, and like what the starter world's gold judges like.

A rater's utility of a picture is the verifier's score plus a weighted taste. Everything random about an answer follows
from the rater's seed, its name and the task, so that a run that was killed and continued gets the same answers.
"""

import hashlib
import io
import logging
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import numpy as np
from PIL import Image

from data import RATING_KINDS
from data.pictures import read_picture
from data.rating_kinds import SKIP, RatingKind
from data.records import OVERALL
from data.world import taste, verifier
from data.world.scenes import SIZE
from hitl.core.errors import ConfigError

logger = logging.getLogger(__name__)

Choice = Literal["left", "right", "tie", "both_bad", "skip"]

BAD_SCORE = 0.3
"""Correctness below which a picture is a miss: not one item as wanted."""

BAD_SHARE = 0.5
"""How often two misses are called both bad instead of being compared."""

_NAMESPACE = uuid.UUID("5d0d3c0e-6f2b-5c43-9c55-0d4a3e8f7b11")
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the gold judges say about one picture. `correctness` is None for a prompt outside the world's language."""

    correctness: float | None
    taste: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRater:
    """One rater and how it errs."""

    name: str
    seed: int
    taste_weight: float
    """Utility of a picture: its correctness plus this many times its taste."""
    noise: float = 0.08
    """Temperature of the choice: left is chosen with probability sigmoid(difference of utilities / noise)."""
    tie_width: float = 0.03
    """Pictures whose utilities differ by less are a tie."""
    side_bias: float = 0.0
    """Probability of answering `left` without looking."""
    careless: bool = False
    """Answers at random."""
    adversarial: bool = False
    """Prefers what it should not."""

    def __post_init__(self) -> None:
        if self.noise <= 0 or self.tie_width < 0 or not 0 <= self.side_bias <= 1:
            raise ConfigError(
                f"Rater {self.name!r} has noise {self.noise}, tie_width {self.tie_width}, side_bias {self.side_bias}.",
                hint="Noise must be above 0, tie_width at least 0, and side_bias a probability.",
            )

    def utility(self, judgement: Judgement) -> float:
        """How good a picture is in this rater's eyes."""
        value = (judgement.correctness or 0.0) + self.taste_weight * judgement.taste
        return -value if self.adversarial else value

    def choose(self, task_id: str, image_ids: Sequence[str], judgements: Sequence[Judgement]) -> Choice:
        """The answer to one task; both sequences hold left, then right.

        The noise belongs to the images and not to the sides: shown the other way round, the same image wins (unless the
        side bias strikes). The difference of two Gumbel draws is logistic, which makes the choice Bradley-Terry.
        """
        rng = self._rng(task_id)
        if self.careless:
            return ("left", "right", "tie")[int(rng.choice(3, p=(0.45, 0.45, 0.1)))]
        if rng.random() < self.side_bias:
            return "left"
        feels_bad = rng.random() < BAD_SHARE
        if feels_bad and all(j.correctness is not None and j.correctness < BAD_SCORE for j in judgements):
            return "both_bad"
        left, right = (self.utility(judgement) for judgement in judgements)
        if abs(left - right) < self.tie_width:
            return "tie"
        first, second = rng.gumbel(scale=self.noise, size=2)
        if image_ids[0] > image_ids[1]:
            first, second = second, first
        return "left" if left + first > right + second else "right"

    def answer(
        self,
        kind: RatingKind,
        task_id: str,
        image_ids: Sequence[str],
        judgements: Sequence[Judgement],
        axes: Sequence[str] = (OVERALL,),
    ) -> dict[str, Any]:
        """The payload of an answer of any kind; images and judgements in the order in which they are shown."""
        if kind.screen == "choose":
            seen = [_asked_about(kind.name, judgement) for judgement in judgements]
            return {"choice": self.choose(task_id, image_ids, seen)}
        if kind.screen == "grade":
            return {"grades": {axis: self._grades(f"{task_id}/{axis}", kind.levels, judgements) for axis in axes}}
        felt = self._impressions(task_id, judgements)
        if kind.screen == "best":
            return {"ranks": [1 if image == int(felt.argmax()) else None for image in range(len(felt))]}
        return {"ranks": self._ranks(felt)}

    def _impressions(self, about: str, judgements: Sequence[Judgement]) -> np.ndarray:
        """Utilities as this rater feels them now: with Gumbel noise, so that the order is Plackett-Luce's."""
        rng = self._rng(about)
        noise = rng.gumbel(scale=self.noise, size=len(judgements))
        return noise if self.careless else np.array([self.utility(each) for each in judgements]) + noise

    def _ranks(self, felt: np.ndarray) -> list[int]:
        """Places from the best on; who is nearer than `tie_width` to the one before shares its place."""
        order = np.argsort(-felt, kind="stable")
        apart = np.append(True, -np.diff(felt[order]) >= self.tie_width)
        places = np.empty(len(felt), int)
        places[order] = np.cumsum(apart)
        return [int(each) for each in places]

    def _grades(self, about: str, levels: int, judgements: Sequence[Judgement]) -> list[int]:
        """The scale cut evenly from the worst that a picture can be to the best."""
        best = 1 + self.taste_weight
        low, high = (-best, 0.0) if self.adversarial else (0.0, best)
        if self.careless:
            low, high = -self.noise, 2 * self.noise  # of noise alone
        share = (self._impressions(about, judgements) - low) / (high - low)
        return [int(np.clip(1 + levels * each, 1, levels)) for each in share]

    def dwell_ms(self, task_id: str) -> int:
        """How long it pretends to have looked."""
        return int(self._rng(f"{task_id}/dwell").uniform(600, 3000))

    def rating_id(self, task_id: str) -> str:
        """The same for the same task, so that a rating sent twice is stored once."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.seed}/{self.name}/{task_id}"))

    def _rng(self, about: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}\n{self.name}\n{about}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _asked_about(question: str, judgement: Judgement) -> Judgement:
    """What of a judgement matters where only one side of a picture is asked about."""
    if question == "alignment":
        return Judgement(correctness=judgement.correctness, taste=0.0)
    return Judgement(correctness=None, taste=judgement.taste) if question == "quality" else judgement


def crew(size: int, *, seed: int, taste_weight: float, careless: int = 0, adversarial: int = 0) -> list[SimulatedRater]:
    """`size` raters who want the same but differ in noise, ties and side bias; the last ones are the bad ones.

    Raises:
        ConfigError: there are more bad raters than raters, or none at all.
    """
    if size < 1 or careless < 0 or adversarial < 0 or careless + adversarial > size:
        raise ConfigError(
            f"A crew of {size} cannot hold {careless} careless and {adversarial} adversarial raters.",
            hint="Ask for at least one rater, and for no more bad ones than raters, as in --raters simulated:3.",
        )
    rng = np.random.default_rng([seed, 0x72617465])
    return [
        SimulatedRater(
            name=f"simulated-{number + 1}",
            seed=seed,
            taste_weight=taste_weight,
            noise=float(rng.uniform(0.05, 0.1)),
            tie_width=float(rng.uniform(0.02, 0.04)),
            side_bias=float(rng.uniform(0.0, 0.05)),
            careless=number >= size - careless,
            adversarial=size - careless - adversarial <= number < size - careless,
        )
        for number in range(size)
    ]


def look(png: bytes, prompt: str) -> Judgement:
    """Judge a picture as its file holds it; of another size than the world's it is scaled first.

    Raises:
        OSError: the bytes are no picture.
    """
    picture = read_picture(io.BytesIO(png))
    if picture.shape[:2] != (SIZE, SIZE):
        picture = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))
    verdict = verifier.judge(picture, prompt)
    return Judgement(correctness=None if verdict is None else verdict.score, taste=taste.taste(picture))


@dataclass(slots=True)
class _Seat:
    """A rater at the rating app: its session."""

    rater: SimulatedRater
    url: str
    token: str = ""
    """Of the hub: where people have accounts, a name alone lets no program in either."""
    client: httpx.Client = field(init=False)
    has_joined: bool = False

    def __post_init__(self) -> None:
        # trust_env off: a proxy of the environment cannot reach this machine's own loopback.
        self.client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, trust_env=False)

    def next_tasks(self) -> dict[str, Any]:
        return self.ask("GET", "/api/tasks", params={"limit": 1}).json()

    def release(self, tasks: list[dict[str, Any]]) -> None:
        self.ask("POST", "/api/release", json={"task_ids": [task["task_id"] for task in tasks]})

    def rate(self, task: dict[str, Any], judgements: dict[tuple[str, str], Judgement]) -> None:
        """Look at the pictures of a task, decide, and hand the rating in. Pictures seen before are remembered."""
        task_id, prompt = task["task_id"], task["prompt"]
        seen = [
            self._judge(*place, prompt, judgements) for place in zip(task["image_ids"], task["images"], strict=True)
        ]
        known = [judgement for judgement in seen if judgement is not None]
        payload: dict[str, Any] = {"choice": SKIP}
        if len(known) == len(seen):
            kind = RATING_KINDS.load(task["kind"])
            payload = self.rater.answer(kind, task_id, task["image_ids"], known, task["axes"])
        reply = self.ask(
            "POST",
            "/api/ratings",
            json={
                "rating_id": self.rater.rating_id(task_id),
                "task_id": task_id,
                "kind": task["kind"],
                "payload": payload,
                "image_ids": task["image_ids"],
                "dwell_ms": self.rater.dwell_ms(task_id),
                "shown_as": "original",
                "client_time": datetime.now(UTC).isoformat(),
            },
        )
        if reply.is_client_error:
            raise ConfigError(
                f"The server refused a simulated rating of kind {task['kind']!r}: {reply.text[:200]}",
                hint="Rate with --raters human: simulated raters know the kinds that hitl comes with.",
            )

    def _judge(
        self, image_id: str, path: str, prompt: str, judgements: dict[tuple[str, str], Judgement]
    ) -> Judgement | None:
        """None for a picture that is missing or broken."""
        key = (image_id, prompt)  # two prompts may share a picture, such as an empty one
        if key not in judgements:
            reply = self.ask("GET", f"/{path}")
            if reply.is_error:
                logger.warning("The image %s cannot be had: %s", image_id, reply.text[:200])
                return None
            try:
                judgements[key] = look(reply.content, prompt)
            except OSError as error:
                logger.warning("The image %s cannot be read: %s", image_id, error)
                return None
        return judgements[key]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, joining first when the server does not know this rater (yet, or any more)."""
        if not self.has_joined:
            self._join()
        response = self.client.request(method, path, **options)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._join()
            response = self.client.request(method, path, **options)
        if response.status_code >= 500:
            raise httpx.TransportError(f"{response.status_code} from {path}: {response.text[:200]}")
        return response

    def _join(self) -> None:
        key = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        reply = self.client.post("/api/join", json={"name": self.rater.name, "kind": "simulated"}, headers=key)
        if reply.is_client_error:
            raise ConfigError(
                f"The simulated rater {self.rater.name!r} was not let in: {reply.json()['error']}",
                hint="Rename the rater of that name, or rate without simulated raters.",
            )
        if reply.is_error:
            raise httpx.TransportError(f"{reply.status_code} from /api/join")
        self.has_joined = True


def run(
    url: str, raters: Sequence[SimulatedRater], stop: threading.Event, *, poll_s: float = 1.0, token: str = ""
) -> None:
    """Rate whatever the server at `url` offers, until all rounds are done or `stop` is set.

    The raters take turns in this one thread: rating number i of a round, repeats and gold counted, is rater i mod k's,
    also after a restart, so which rater rates which task does not depend on timing. Between rounds, and while the
    server is away, they wait.

    Raises:
        ConfigError: the server does not let a rater in, or does not take its ratings.
    """
    seats = [_Seat(rater, url, token) for rater in raters]
    judgements: dict[tuple[str, str], Judgement] = {}
    turn, idle, knows_turn = 0, 0, False
    try:
        while not stop.is_set():
            try:
                reply = seats[turn].next_tasks()
                if reply["tasks"] and not knows_turn:
                    knows_turn = True
                    due = int(reply["progress"]["done"]) % len(seats)
                    if due != turn:
                        seats[turn].release(reply["tasks"])
                        turn = due
                        continue
                if reply["tasks"]:
                    seats[turn].rate(reply["tasks"][0], judgements)
                    idle = 0
                elif reply["state"] == "finished":
                    return
                else:
                    idle += 1
                turn = (turn + 1) % len(seats)
            except httpx.TransportError as error:
                logger.debug("The rating server does not answer: %s", error)
                idle = len(seats)
            if idle >= len(seats):  # nobody has anything to rate
                knows_turn, turn, idle = False, 0, 0
                stop.wait(poll_s)
    finally:
        for seat in seats:
            seat.client.close()
