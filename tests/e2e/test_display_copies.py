"""Large pictures in the browser: a copy is shown, zooming fetches the original, and the rating says which it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from data.records import Image, Prompt, Task
from hitl.config import RateConfig
from tests.fixtures.large_pictures import photo_like_png

from .conftest import Hub, a_hub, open_page, when_ready
from .test_rating import press_slowly, wait_for

pytestmark = pytest.mark.e2e

SIDE, TASKS = 384, 4


def add_large_round(hub: Hub) -> None:
    """Pairs of large pictures; of the first pair one alone is large."""
    prompt = Prompt.of("clouds over the sea")
    hub.store.add_prompts([prompt])
    hub.store.start_round(1, "sha")
    tasks = []
    for number in range(TASKS):
        sides = (SIDE, 64 if number == 0 else SIDE)
        ids = [hub.workspace.add_image(photo_like_png(side, 2 * number + n)) for n, side in enumerate(sides)]
        hub.store.add_images(
            Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=side, height=side)
            for image_id, side in zip(ids, sides, strict=True)
        )
        tasks.append(
            Task(task_id=f"t{number}", round=1, kind="pairwise", prompt_id=prompt.prompt_id, image_ids=tuple(ids))
        )
    hub.store.add_tasks(tasks)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Hub]:
    with a_hub(tmp_path / "workspace") as hub:
        add_large_round(hub)
        yield hub


def shown(page: Page) -> list[str]:
    """What the pictures on the screen are: the last part of their addresses, if it is `display`, else `original`."""
    addresses = page.locator(".card img").evaluate_all("found => found.map((image) => image.src)")
    return ["display" if address.endswith("/display") else "original" for address in addresses]


def test_copies_are_shown_and_zooming_fetches_the_originals(large: Hub, context: BrowserContext) -> None:
    page = open_page(context, large, "Anna")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    when_ready(page)
    assert shown(page) == ["display"] * 2  # of which one picture is small: both are shown alike
    press_slowly(page, "ArrowLeft")
    when_ready(page)
    before = page.locator(".card img").first.bounding_box()
    assert not [url for url in asked if "/image/" in url and not url.endswith("/display")]
    page.keyboard.press(" ")
    expect(page.locator(".card img[data-original]")).to_have_count(0)
    assert shown(page) == ["original"] * 2
    assert page.locator(".card img").evaluate_all("found => found.map((image) => image.alt)") == [
        "Left picture",
        "Right picture",
    ]
    page.keyboard.press(" ")  # back at the size of before, and the originals stay
    assert page.locator(".card img").first.bounding_box() == before
    press_slowly(page, "ArrowRight")
    when_ready(page)
    assert shown(page) == ["display"] * 2
    page.keyboard.press(" ")
    expect(page.locator(".card img[data-original]")).to_have_count(0)
    press_slowly(page, "ArrowRight")  # the next pair is zoomed too
    when_ready(page)
    expect(page.locator(".card img[data-original]")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    wait_for(lambda: len(large.standing()) == TASKS)
    assert [rating.shown_as for rating in large.standing()] == ["display", "original", "original", "original"]
    assert len(list(large.workspace.display_dir.rglob("*.webp"))) == 2 * TASKS


def test_nobody_waits_for_an_original(large: Hub, context: BrowserContext) -> None:
    """Zoomed, with originals that do not come: the choice counts, and was made from the copies."""
    held: list[Route] = []
    page = open_page(context, large, "Anna")
    page.route(lambda url: "/image/" in url and not url.endswith("/display"), lambda route: held.append(route))
    when_ready(page)
    page.keyboard.press(" ")
    while len(held) < 2:  # Playwright tells of requests only while it waits itself
        page.wait_for_timeout(20)
    press_slowly(page, "ArrowLeft")
    wait_for(lambda: len(large.standing()) == 1)
    assert large.standing()[0].shown_as == "display"
    when_ready(page)
    for route in held[:2]:
        route.continue_()  # too late: another pair is on the screen
    page.wait_for_timeout(300)
    assert shown(page) == ["display"] * 2


def test_without_a_copy_the_original_is_shown(large: Hub, context: BrowserContext) -> None:
    context.route("**/display", lambda route: route.abort())
    page = open_page(context, large, "Anna")
    when_ready(page)
    assert shown(page) == ["original"] * 2
    press_slowly(page, "ArrowLeft")
    wait_for(lambda: len(large.standing()) == 1)
    assert large.standing()[0].shown_as == "original"


@pytest.mark.parametrize("rate", [RateConfig(display_copies=False)])
def test_a_project_can_do_without_copies(hub: Hub, context: BrowserContext) -> None:
    add_large_round(hub)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    assert shown(page) == ["original"] * 2
    assert not hub.workspace.display_dir.exists()
