"""How fast the rating app answers, what it loses, and how many raters it bears: real Chromium, real hub processes.

    python -m benchmarks.rating --out benchmarks/results/rating.json
    python -m benchmarks.rating --only crowd --figure docs/images/rating_crowd.png --out benchmarks/results/rating.json

`page`     one rater at one page: from a key to the frame that acknowledges it; from the moment when the next pair is
           due (120 ms after the key) to the frame that shows it; from a click on the link to a page that can be rated.
`durable`  simulated raters who each think 4 s in the mean: from an answer's first byte to its acknowledgement, which
           the server gives when the rating is on the disk. First at rest, then while another workspace trains.
`keys`     some pages at once, each pressing random keys, 5 in a second while fewer than 20 wait: what the store holds
           at the end is compared with what was pressed, in order. On the way: the memory of each page after a
           collection. Who takes 11.5 s for a pair gives as many ratings in 8 hours as each of the pages gives here.
`crowd`    ever more simulated raters and then all of them, ten minutes in all: where it bends.

Each part is kept as soon as it is measured. The baseline of `page` is Gradio's own way of answering a click on the same
machine in the same minute; that of `durable` is the machine at rest.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright

from benchmarks.machine import describe
from benchmarks.rating_hub import Hub, a_hub, make_workspace, stored, training
from data.records import standing_ratings
from data.store import Store
from data.workspace import Workspace

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TARGETS = {
    "key_to_paint_p95_ms": 50.0,
    "next_pair_p95_ms": 50.0,
    "durable_p50_ms": 20.0,
    "durable_p95_ms": 150.0,
    "cold_page_s": 2.0,
}
FULL = {"pairs": 200, "raters": 100, "seconds": 60.0, "pages": 4, "ratings": 2500, "crowd": 1000, "crowd_s": 600.0}
SMALL = {"pairs": 6, "raters": 3, "seconds": 3.0, "pages": 2, "ratings": 6, "crowd": 6, "crowd_s": 6.0}
_ACKNOWLEDGE_MS = 120  # as in rate.js

_STOPWATCH = """
(() => {
  const seen = window.seen = { paint: [], next: [], unacknowledged: 0, keyAt: 0 };
  const painted = (then) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => then(performance.now());
    channel.port2.postMessage(0);
  });
  document.addEventListener('keydown', (event) => {
    seen.keyAt = event.timeStamp;
    painted((now) => {
      seen.paint.push(now - event.timeStamp);
      if (!document.querySelector('.picked, .rejected')) seen.unacknowledged += 1;
    });
  }, { capture: true });
  document.addEventListener('DOMContentLoaded', () => new MutationObserver((changes) => {
    if (!seen.keyAt || !changes.some((change) => change.oldValue !== change.target.dataset.task)) return;
    const due = seen.keyAt + ACKNOWLEDGE_MS;
    painted((now) => {
      const there = Array.from(document.querySelectorAll('.card img'));
      if (there.length === 2 && there.every((picture) => picture.complete)) seen.next.push(now - due);
    });
  }).observe(document.documentElement, { subtree: true, attributeFilter: ['data-task'], attributeOldValue: true }));
})();
""".replace("ACKNOWLEDGE_MS", str(_ACKNOWLEDGE_MS))

_PRESS = """
([count, seed]) => {
  window.pressed = [];
  const keys = [['ArrowLeft', 'left'], ['ArrowRight', 'right'], ['t', 'tie'], ['b', 'both_bad']];
  let state = seed;
  const draw = () => { state = (state * 1103515245 + 12345) % 2147483648; return keys[Math.floor(state / 536870912)]; };
  const chip = document.querySelector('[data-waiting-keys]');
  const timer = setInterval(() => {
    if (window.pressed.length >= count) { clearInterval(timer); return; }
    if (document.querySelector('.hitl-screen').dataset.view !== 'rate') return;
    if (!chip.hidden && parseInt(chip.textContent, 10) >= 20) return;
    const [key, choice] = draw();
    window.pressed.push(choice);
    document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  }, 200);
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="seconds instead of half an hour: that it runs")
    parser.add_argument("--no-training", action="store_true", help="`durable` at rest only")
    parser.add_argument("--figure", type=Path, help="where the plot of `crowd` goes")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"what": "the rating app under a browser and under load", "targets": TARGETS}
    if arguments.out and arguments.out.exists():
        result = json.loads(arguments.out.read_text())
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder), SMALL if arguments.small else FULL, not arguments.no_training)
        command = f"python -m benchmarks.rating --only {name}{' --small' if arguments.small else ''}"
        result[name] = {"command": command, "machine": describe(), **found}
        print(json.dumps({name: {**found, "steps": "…"} if "steps" in found else found}, indent=2))
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        if name == "crowd" and arguments.figure:
            draw_crowd(result["crowd"], arguments.figure)


# -- one page ---------------------------------------------------------------------------------------------------------


def one_page(folder: Path, sizes: dict[str, Any], _: bool) -> dict[str, Any]:
    """Every pair is of pictures that this browser has not seen before: 512 x 512, some 300 kB."""
    count = sizes["pairs"]
    pictures = next(n for n in itertools.count(2) if n * (n - 1) // 2 >= 2 * count)
    workspace = make_workspace(folder / "rated", tasks=2 * count, pictures=pictures)
    with a_hub(workspace) as hub, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        cold = [_cold_page(browser, hub, number) for number in range(5)]
        person = browser.new_context(viewport={"width": 1366, "height": 768})
        person.add_init_script(_STOPWATCH)
        page = join(person, hub, "at the page")
        page.evaluate("Object.assign(window.seen, { paint: [], next: [], unacknowledged: 0 })")  # not of the typing
        for number in range(count):
            when_ready(page)
            before = page.locator("[data-task]").first.get_attribute("data-task")
            page.keyboard.press(("ArrowLeft", "ArrowRight", "t", "b")[number % 4])
            page.wait_for_function(
                "(before) => document.querySelector('[data-task]').dataset.task !== before", arg=before
            )
        page.wait_for_timeout(300)
        seen = page.evaluate("window.seen")
        gradio = _gradio_event(browser, hub, count)
        browser.close()
    return {
        "load_1min": os.getloadavg()[0],
        "key_to_paint": quantiles(seen["paint"]),
        "keys_not_acknowledged_in_that_frame": seen["unacknowledged"],
        "next_pair_after_it_is_due": quantiles(seen["next"]),
        "cold_page_s": {"median": round(statistics.median(cold), 2), "largest": round(max(cold), 2)},
        "baseline_gradio_event": gradio,
    }


def _cold_page(browser: Browser, hub: Hub, number: int) -> float:
    """Seconds from the address to pictures that can be rated, in a browser with an empty cache, without the typing."""
    person = browser.new_context(viewport={"width": 1366, "height": 768})
    page = person.new_page()
    started = time.perf_counter()
    page.goto(hub.url)
    page.locator("form [data-consent]:not(:empty)").wait_for()
    arrived = time.perf_counter() - started
    page.get_by_label("Your name").fill(f"newcomer {number}")
    started = time.perf_counter()
    page.keyboard.press("Enter")
    when_ready(page)
    ready = time.perf_counter() - started
    person.close()
    return arrived + ready


def _gradio_event(browser: Browser, hub: Hub, count: int) -> dict[str, float]:
    """From a change of the board's radio button to its plot's answer, by Gradio's own queue: the way not taken."""
    token = json.loads(hub.workspace.hub_path.read_text())["token"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{hub.url}/board?key={token}")
    page.locator("#board-now .figures").wait_for(timeout=60_000)
    call = page.evaluate(
        """async (count) => {
          const config = await (await fetch('config')).json();
          const event = config.dependencies.find((each) => each.inputs.length === 0) || config.dependencies[0];
          const times = [];
          for (let i = 0; i < count; i += 1) {
            const began = performance.now();
            const session_hash = 'bench' + i;
            await fetch('gradio_api/queue/join', { method: 'POST', headers: { 'Content-Type': 'application/json' },
              body: JSON.stringify({ data: [], fn_index: event.id, session_hash }) });
            const stream = (await fetch('gradio_api/queue/data?session_hash=' + session_hash)).body.getReader();
            let text = '';
            while (!text.includes('process_completed')) {
              const { value, done } = await stream.read();
              if (done) break;
              text += new TextDecoder().decode(value);
            }
            stream.cancel();
            times.push(performance.now() - began);
          }
          return times;
        }""",
        min(count, 60),
    )
    context.close()
    return quantiles(call)


def join(context: BrowserContext, hub: Hub, name: str) -> Page:
    """The rating page with its first pair on it. The one place that knows how a rater gets there."""
    page = context.new_page()
    page.goto(hub.url)
    page.locator("form [data-consent]:not(:empty)").wait_for()
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    when_ready(page)
    return page


def when_ready(page: Page) -> None:
    page.locator('.hitl-screen[data-ready="yes"]').wait_for(state="attached", timeout=120_000)


# -- until it is on the disk ------------------------------------------------------------------------------------------


def until_durable(folder: Path, sizes: dict[str, Any], with_training: bool) -> dict[str, Any]:
    raters, seconds = sizes["raters"], sizes["seconds"]
    result: dict[str, Any] = {"raters": raters, "seconds": seconds}
    conditions = ["at_rest", "under_training"] if with_training else ["at_rest"]
    for condition in conditions:
        workspace = make_workspace(folder / condition, tasks=10_000, pictures=150, pixels=64)
        with a_hub(workspace) as hub:
            if condition == "under_training":
                with training(folder / "trained") as still_trains:
                    told = _load(hub, raters, seconds)
                    if not still_trains():
                        raise SystemExit("error: the training ended before the ratings did.\nhint:  Run it again.")
            else:
                told = _load(hub, raters, seconds)
        told.pop("steps")
        compared = _compare(workspace, told.pop("acknowledged"))
        result[condition] = {**told, **compared}
    return result


def _load(hub: Hub, raters: int, seconds: float, *, ramp_s: float = 5.0) -> dict[str, Any]:
    """What raters without a browser saw, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.rating_load", hub.url, "--raters", str(raters)]
    command += ["--seconds", str(seconds), "--ramp", str(min(ramp_s, seconds / 2))]
    cpu, started = hub.cpu_s(), time.monotonic()
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    took = time.monotonic() - started
    times = [milliseconds for _, milliseconds, _ in told["posts"]]
    return {
        "load_1min": round(os.getloadavg()[0], 2),
        "durable": quantiles(times),
        "tasks_asked": quantiles(told["asked"]),
        "ratings_per_s": round(len(times) / took, 1),
        "hub_cores": round((hub.cpu_s() - cpu) / took, 2),
        "hub_mib": round(hub.memory_mib()),
        "failures": told["failures"],
        "acknowledged": told["acknowledged"],
        "steps": told["posts"],
    }


def _compare(workspace: Workspace, acknowledged: list[str]) -> dict[str, int]:
    kept = Counter(rating.rating_id for rating in stored(workspace))
    return {
        "lost": len(set(acknowledged) - kept.keys()),
        "doubled": sum(count > 1 for count in kept.values()),
        "ratings": len(acknowledged),
    }


# -- ten thousand keys ------------------------------------------------------------------------------------------------


def many_keys(folder: Path, sizes: dict[str, Any], _: bool) -> dict[str, Any]:
    pages, ratings = sizes["pages"], sizes["ratings"]
    workspace = make_workspace(folder / "rated", tasks=pages * ratings + 20 * pages, pictures=160, pixels=64)
    with a_hub(workspace) as hub, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        before = hub.memory_mib()
        # A context, which is a browser of its own, for each: nothing of one page is in another's storage.
        contexts = [browser.new_context(viewport={"width": 1366, "height": 768}) for _ in range(pages)]
        opened = [join(context, hub, f"hand {number}") for number, context in enumerate(contexts)]
        sessions = [context.new_cdp_session(page) for context, page in zip(contexts, opened, strict=True)]
        started = time.monotonic()
        for number, page in enumerate(opened):
            page.evaluate(_PRESS, [ratings, number + 1])
        memory = []
        for share in (0.1, 0.25, 0.5, 0.75, 1.0):
            wait_for_pages(opened, lambda page, share=share: page.evaluate("window.pressed.length") >= share * ratings)
            memory.append([{"ratings": round(share * ratings), **_memory(session)} for session in sessions])
        sent = "Object.keys(localStorage).every((key) => !key.startsWith('hitl.outbox.'))"
        idle = "document.querySelector('[data-waiting-keys]').hidden"
        wait_for_pages(opened, lambda page: page.evaluate(f"{sent} && {idle}"))
        opened[0].wait_for_timeout(1000)
        took = time.monotonic() - started
        pressed = [page.evaluate("window.pressed") for page in opened]
        names = [f"hand {number}" for number in range(pages)]
        after = hub.memory_mib()
        browser.close()
    lost, doubled, wrong = _what_became(workspace, dict(zip(names, pressed, strict=True)))
    return {
        "pages": pages,
        "keys": sum(map(len, pressed)),
        "seconds": round(took),
        "ratings_per_s": round(sum(map(len, pressed)) / took, 1),
        "lost": lost,
        "doubled": doubled,
        "another_choice_than_was_pressed": wrong,
        "page_memory_after": _mean_memory(memory),
        "hub_mib": {"before": round(before), "after": round(after)},
        "load_1min": round(os.getloadavg()[0], 2),
    }


def wait_for_pages(pages: list[Page], claim: Callable[[Page], bool]) -> None:
    deadline = time.monotonic() + 3600
    for page in pages:
        while not claim(page):
            if time.monotonic() > deadline:
                raise SystemExit("error: a page got stuck.\nhint:  Open the hub in a browser and press some keys.")
            page.wait_for_timeout(500)


def _memory(session: CDPSession) -> dict[str, float]:
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return {
        "heap_mib": found["JSHeapUsedSize"] / 2**20,
        "nodes": found["Nodes"],
        "listeners": found["JSEventListeners"],
    }


def _mean_memory(memory: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    return [{key: round(statistics.mean(page[key] for page in pages), 2) for key in pages[0]} for pages in memory]


def _what_became(workspace: Workspace, pressed: dict[str, list[str]]) -> tuple[int, int, int]:
    """Keys without a rating, ratings beyond the keys, and ratings that say something else, in order page by page."""
    with Store.open(workspace) as store:
        names = {rater.rater_id: rater.name for rater in store.raters()}
        kept: dict[str, list[str]] = {name: [] for name in pressed}
        for rating in standing_ratings(store.ratings()):
            kept[names[rating.rater_id]].append(rating.payload["choice"])
    lost = sum(max(0, len(keys) - len(kept[name])) for name, keys in pressed.items())
    doubled = sum(max(0, len(kept[name]) - len(keys)) for name, keys in pressed.items())
    wrong = sum(a != b for name, keys in pressed.items() for a, b in zip(keys, kept[name], strict=False))
    return lost, doubled, wrong


# -- a crowd ----------------------------------------------------------------------------------------------------------


def crowd(folder: Path, sizes: dict[str, Any], _: bool) -> dict[str, Any]:
    raters, seconds = sizes["crowd"], sizes["crowd_s"]
    workspace = make_workspace(folder / "rated", tasks=10_000, pictures=150, pixels=64, overlap=20)
    with a_hub(workspace) as hub:
        told = _load(hub, raters, seconds, ramp_s=0.4 * seconds)
    posts = told.pop("steps")
    compared = _compare(workspace, told.pop("acknowledged"))
    parts = max(1, min(40, len(posts) // 6))
    width = seconds / parts
    steps = []
    for number in range(parts):
        inside = [post for post in posts if number * width <= post[0] < (number + 1) * width]
        if len(inside) >= 2:
            times = [milliseconds for _, milliseconds, _ in inside]
            steps.append(
                {
                    "at_s": round((number + 0.5) * width, 1),
                    "raters": max(there for *_, there in inside),
                    "ratings_per_s": round(len(inside) / width, 1),
                    **quantiles(times),
                }
            )
    last_good = [step["raters"] for step in steps if step["p95_ms"] <= TARGETS["durable_p95_ms"]]
    return {"raters": raters, "seconds": seconds, "think_s": 4.0, **told, **compared,
            "raters_within_target": max(last_good, default=0), "steps": steps}  # fmt: skip


def draw_crowd(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from benchmarks.figure import INK, MUTED, ORANGE, STYLE, TEAL, VIOLET

    steps = found["steps"]
    minutes = [step["at_s"] / 60 for step in steps]
    with plt.rc_context(STYLE):
        figure, (above, below) = plt.subplots(2, 1, figsize=(7.2, 4.8), sharex=True, height_ratios=[3, 2])
        above.plot(minutes, [step["p95_ms"] for step in steps], color=ORANGE, label="19 of 20 ratings")
        above.plot(minutes, [step["p50_ms"] for step in steps], color=TEAL, label="half of the ratings")
        above.axhline(TARGETS["durable_p95_ms"], color=MUTED, linewidth=0.8, linestyle=":")
        above.text(minutes[-1], TARGETS["durable_p95_ms"], "150 ms", color=MUTED, ha="right", va="bottom")
        above.set_yscale("log")
        above.set_ylabel("acknowledged within (ms)")
        above.legend(frameon=False, loc="lower right")
        above.set_title("When more and more people rate at once", loc="left", color=INK)
        below.plot(minutes, [step["ratings_per_s"] for step in steps], color=VIOLET, label="ratings stored in a second")
        below.set_ylabel("ratings / s", color=VIOLET)
        below.set_xlabel("minutes")
        beside = below.twinx()
        beside.grid(visible=False)
        beside.fill_between(minutes, [step["raters"] for step in steps], color=MUTED, alpha=0.15, linewidth=0)
        beside.set_ylabel("raters")
        beside.set_ylim(0)
        figure.tight_layout()
        figure.savefig(path, dpi=160)
        plt.close(figure)


def quantiles(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cut = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    return {
        "count": len(times),
        "p50_ms": round(cut[49], 1),
        "p95_ms": round(cut[94], 1),
        "largest_ms": round(max(times), 1),
    }


PARTS: dict[str, Callable[[Path, dict[str, Any], bool], dict[str, Any]]] = {
    "page": one_page,
    "durable": until_durable,
    "keys": many_keys,
    "crowd": crowd,
}

if __name__ == "__main__":
    main()
