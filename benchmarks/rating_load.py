"""Raters without a browser, many of them: what `benchmarks.rating` loads a hub with. Runs in a process of its own.

Each does what the rating page does: asks for the next tasks when fewer than three are at hand, fetches pictures that it
has not seen, thinks, and sends its answer. How long each answer took is written to the standard output as JSON.

The HTTP is spoken by hand: a client library takes more of the two cores than the server does.
"""

import argparse
import asyncio
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_AHEAD = 3


@dataclass(slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Browser:
    """One connection that is kept open, and its cookie."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.host, self.port = where.hostname or "", where.port or 80
        self.cookie = ""
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        if self.cookie:
            head += f"Cookie: {self.cookie}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + content)
        try:
            status = int((await self.reader.readline()).split(b" ", 2)[1])
            headers: dict[str, str] = {}
            while line := (await self.reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            reply = Reply(status, headers, await self.reader.readexactly(int(headers.get("content-length", "0"))))
        except (IndexError, ValueError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionError("the hub hung up") from error
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].partition(";")[0]
        return reply

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


@dataclass(slots=True)
class Load:
    """What was seen, by the second since the start."""

    started: float = field(default_factory=time.monotonic)
    posts: list[tuple[float, float, int]] = field(default_factory=list)
    """Of each answer: when it was sent, how many milliseconds until it was acknowledged, how many raters there were."""
    asked: list[float] = field(default_factory=list)
    """Milliseconds of each request for tasks."""
    acknowledged: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    raters: int = 0

    def fail(self, why: str) -> None:
        self.failures[why] = self.failures.get(why, 0) + 1


async def rate(load: Load, url: str, number: int, chance: random.Random, until: float, think_s: float) -> None:
    browser, seen, queue = Browser(url), set(), []
    rated: set[str] = set()
    try:
        texts = json.loads((await browser.ask("GET", "/api/welcome")).body)
        agreed = {"consent": texts["version"], "language": texts["language"]}
        await browser.ask("POST", "/api/join", {"name": f"rater {number}", "kind": "human", **agreed})
        load.raters += 1
        while time.monotonic() < until:
            try:
                if len(queue) < _AHEAD:
                    began = time.monotonic()
                    reply = await browser.ask("GET", f"/api/tasks?limit={_AHEAD + 1}")
                    load.asked.append(1000 * (time.monotonic() - began))
                    if reply.status != 200:
                        load.fail(f"tasks {reply.status}")
                        await asyncio.sleep(1)
                        continue
                    known = {task["task_id"] for task in queue} | rated
                    queue += [task for task in json.loads(reply.body)["tasks"] if task["task_id"] not in known]
                if not queue:
                    await asyncio.sleep(1)
                    continue
                task = queue.pop(0)
                for path in task["images"]:
                    if path not in seen:
                        await browser.ask("GET", f"/{path}")
                        seen.add(path)
                await asyncio.sleep(chance.expovariate(1 / think_s))
                await _answer(load, browser, task, chance)
                rated.add(task["task_id"])
            except (ConnectionError, OSError) as error:
                load.fail(type(error).__name__)
                browser.close()
                await asyncio.sleep(1)
    finally:
        browser.close()


async def _answer(load: Load, browser: Browser, task: dict[str, Any], chance: random.Random) -> None:
    body = {
        "rating_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "task_id": task["task_id"],
        "kind": task["kind"],
        "payload": {"choice": chance.choice(["left", "right"])},
        "image_ids": task["image_ids"],
        "dwell_ms": 900,
        "client_time": "2026-11-20T13:00:00+00:00",
    }
    while True:  # as the page does: until it is acknowledged
        began = time.monotonic()
        reply = await browser.ask("POST", "/api/ratings", body)
        if reply.status == 200:
            load.posts.append((began - load.started, 1000 * (time.monotonic() - began), load.raters))
            load.acknowledged.append(body["rating_id"])
            return
        load.fail(f"ratings {reply.status}")
        await asyncio.sleep(0.4)


async def run(url: str, raters: int, seconds: float, ramp_s: float, think_s: float) -> Load:
    load = Load()
    until = time.monotonic() + seconds
    at_work = []
    for number in range(raters):
        due = load.started + ramp_s * number / raters
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        at_work.append(asyncio.create_task(rate(load, url, number, random.Random(number), until, think_s)))
    await asyncio.gather(*at_work)
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--raters", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds until all are there")
    parser.add_argument("--think", type=float, default=4.0, help="mean seconds from picture to answer")
    arguments = parser.parse_args()
    load = asyncio.run(run(arguments.url, arguments.raters, arguments.seconds, arguments.ramp, arguments.think))
    told = {"posts": load.posts, "asked": load.asked, "acknowledged": load.acknowledged, "failures": load.failures}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
