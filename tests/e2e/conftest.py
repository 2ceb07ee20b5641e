"""A real hub and a real Chromium: what the browser tests drive."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from apps.server import RunningServer, build_server, serve
from data.records import Image, Prompt, Rating, Task
from data.store import Store
from data.workspace import Workspace
from data.world.scenes import Scene, place, render
from hitl.config import RateConfig
from hitl.core.live import Live

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCENES = [
    ("a red circle and a blue square", [("red", "circle"), ("blue", "square")]),
    ("three yellow stars", [("yellow", "star")] * 3),
    ("a green heart", [("green", "heart")]),
    ("a purple triangle above a pink cross", [("purple", "triangle"), ("pink", "cross")]),
]

expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong


@dataclass
class Hub:
    """A running rating app over a store that tests may look into."""

    store: Store
    workspace: Workspace
    live: Live
    rate: RateConfig
    server: RunningServer = field(init=False)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def serve(self, port: int = 0) -> None:
        app = build_server(
            self.store,
            self.workspace,
            self.live,
            token="the-token",
            secret=str(self.workspace.root),
            rate=self.rate,
        )
        self.server = serve(app, "127.0.0.1", port)

    def add_round(self, number: int, tasks: int, *, overlap: int = 1, kind: str = "pairwise", images: int = 2) -> None:
        """A round of drawn images, as the draw stage would leave it."""
        self.store.start_round(number, "sha")
        made = []
        for index in range(tasks):
            text, kinds = SCENES[index % len(SCENES)]
            prompt = Prompt.of(text)
            self.store.add_prompts([prompt])
            ids = [self.workspace.add_image(self._draw(kinds)) for _ in range(images)]
            self.store.add_images(
                Image(image_id=image_id, prompt_id=prompt.prompt_id, round=number, width=64, height=64)
                for image_id in ids
            )
            made.append(
                Task(
                    task_id=f"r{number}-{index:03d}",
                    round=number,
                    kind=kind,
                    prompt_id=prompt.prompt_id,
                    image_ids=tuple(ids),
                    overlap=overlap,
                )
            )
        self.store.add_tasks(made)

    def standing(self) -> list[Rating]:
        """Answers and skips that were not taken back, in order of arrival."""
        rows = self.store.ratings()
        voided = {row.voids for row in rows}
        return [row for row in rows if row.payload and row.rating_id not in voided]

    def choices(self) -> list[str]:
        return [row.payload["choice"] for row in self.standing()]

    def _draw(self, kinds: list[tuple[str, str]]) -> bytes:
        background = str(self.rng.choice(["white", "silver", "slate", "black"]))
        file = io.BytesIO()
        Picture.fromarray(render(Scene(background, place(kinds, self.rng)))).save(file, "PNG")
        return file.getvalue()


@contextlib.contextmanager
def a_hub(folder: Path, *, port: int = 0, rate: RateConfig | None = None) -> Iterator[Hub]:
    """Empty, and waiting for people: a test adds its rounds."""
    workspace, live = Workspace(folder), Live()
    with Store.open(workspace, create=True) as store:
        live.enter("rate", "Waiting for ratings", round=1, rounds=5)
        hub = Hub(store, workspace, live, rate or RateConfig())
        hub.serve(port)
        try:
            yield hub
        finally:
            hub.server.stop()


@pytest.fixture
def rate() -> RateConfig:
    """A test that waits for leases to run out, or asks for more axes, parametrises this."""
    return RateConfig()


@pytest.fixture
def hub(tmp_path: Path, rate: RateConfig) -> Iterator[Hub]:
    with a_hub(tmp_path / "workspace", rate=rate) as served:
        yield served


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A person's browser, at a laptop's size."""
    person = browser.new_context(viewport={"width": 1366, "height": 768})
    yield person
    person.close()


def open_page(context: BrowserContext, hub: Hub, name: str, *, practice: bool = False) -> Page:
    """The rating page, signed in as `name`, who agreed to what is kept; at the guide if `practice` is wanted."""
    page = context.new_page()
    page.goto(hub.server.url)
    sign_in(page, name, practice=practice)
    return page


def sign_in(page: Page, name: str, *, practice: bool = False) -> None:
    """On the first page, with no more than a name; past the guide unless `practice` is wanted."""
    expect(page.get_by_role("button", name="Start rating")).to_be_visible()
    expect(page.locator("form [data-consent]")).not_to_be_empty()  # what they agree to is there to be read
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    if not practice:
        past_practice(page)


def past_practice(page: Page) -> None:
    """Agree, if this rater came in before the text was there to agree to; skip practice, if they have not had it."""
    views = ('[data-view="consent"]', '[data-view="guide"]', '[data-view="rate"]', '[data-view="wait"]')
    expect(page.locator(f".hitl-screen:is({', '.join(views)})")).to_have_count(1)
    if page.locator('.hitl-screen[data-view="consent"]').count():
        expect(page.locator('.card-page[data-view="consent"] [data-consent]')).not_to_be_empty()
        page.get_by_role("button", name="I agree").click()
        expect(page.locator(f".hitl-screen:is({', '.join(views[1:])})")).to_have_count(1)
    if page.locator('.hitl-screen[data-view="guide"]').count():
        page.get_by_role("button", name="Skip practice").click()


def when_ready(page: Page) -> None:
    """Wait until a choice counts for the pictures on the screen."""
    expect(page.locator('.hitl-screen[data-ready="yes"]')).to_have_count(1)
