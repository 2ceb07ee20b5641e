"""The pictures of docs/board.md: a real hub with a simulated crowd of known quality, in a real Chromium.

python -m tests.e2e.board_pictures docs/images
"""

import io
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image as Picture
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.crowd import LEFT, Crowd, crowd
from data.records import Image, Prompt, Task
from tests.e2e.conftest import ARGUMENTS, CHROMIUM, SCENES, Hub, a_hub

_RATERS, _TASKS, _OVERLAP, _CHECKS = 9, 120, 5, 12
_STYLES = (
    "on a plain ground",
    "large",
    "small",
    "in the middle",
    "to one side",
    "at night",
    "by day",
    "from afar",
    "near",
)


def main(folder: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as root,
        a_hub(Path(root) / "workspace") as hub,
        sync_playwright() as playwright,
    ):
        rate_two_rounds(hub)
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, width, scheme in (
            ("board", 1366, "light"),
            ("board_dark", 1366, "dark"),
            ("board_phone", 390, "light"),
        ):
            page = open_board(chromium, hub, width, scheme)
            is_phone = width < 800
            save(page.screenshot(full_page=not is_phone), folder / f"{name}.png")
            if name == "board":
                page.get_by_role("button", name=LEFT, exact=True).click()
                expect(page.locator(".decisions .card").first).to_be_visible()
                page.wait_for_timeout(1500)  # the view scrolls there, and pictures come as they are seen
                save(page.screenshot(), folder / "board_decisions.png")
            page.context.close()
        chromium.close()


def rate_two_rounds(hub: Hub) -> None:
    """The first over; of the second, the last prompts have no answers yet."""
    people = Crowd(hub.store, crowd(_RATERS))
    for number, ago, hours in ((1, 9.0, 5.0), (2, 3.5, 3.45)):
        prompts, images, tasks = [], [], []
        for index in range(_TASKS):
            text, kinds = SCENES[index % len(SCENES)]
            prompt = Prompt.of(f"{text}, {_STYLES[index // len(SCENES) % len(_STYLES)]}")
            ids = [hub.workspace.add_image(hub._draw(kinds)) for _ in range(2)]
            images += [
                Image(
                    image_id=each,
                    prompt_id=prompt.prompt_id,
                    round=number,
                    width=64,
                    height=64,
                    provenance={"policy_round": number - 1},
                )
                for each in ids
            ]
            task_id = f"r{number}-{index:03d}"
            prompts.append(prompt)
            tasks.append(
                Task(
                    task_id=task_id,
                    round=number,
                    kind="pairwise",
                    prompt_id=prompt.prompt_id,
                    image_ids=tuple(ids),
                    overlap=_OVERLAP,
                )
            )
        asked = people.add_tasks(number, prompts, images, tasks, checks=_CHECKS)
        if number == 2:
            asked = [task for task in asked if task.purpose != "learn" or task.prompt_id in _answered(prompts)]
        people.rate(asked, begin=datetime.now(UTC) - timedelta(hours=ago), hours=hours)
    hub.live.enter("rate", "Waiting for ratings", round=2, rounds=5)


def _answered(prompts: list[Prompt]) -> set[str]:
    """All but the last few."""
    return {prompt.prompt_id for prompt in prompts[: len(SCENES) * len(_STYLES) - 7]}


def open_board(browser: Browser, hub: Hub, width: int, scheme: str) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(f"{hub.server.url}/board?key=the-token")
    expect(page.locator("#board-raters table")).to_be_visible()
    page.get_by_role("combobox", name="Round").click()
    page.get_by_role("option", name="all rounds").click()
    expect(page.locator(".coverage tbody tr")).to_have_count(2)
    page.wait_for_timeout(1000)
    return page


def save(png: bytes, path: Path) -> None:
    """With 256 colours: a screenshot has few, and the repository is not for large files."""
    picture = Picture.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Picture.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
