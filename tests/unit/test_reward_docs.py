"""docs/rewards.md is true: its table, its settings and its examples, which are run from the page itself."""

import importlib.util
import re
import sys
import threading
import tomllib
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from hitl.commands.rewards import examine
from hitl.config import parse_config
from reward_models import REWARDS
from reward_models.load import load_reward

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
IMAGES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
IMAGES[1, 0] = 255
PROMPTS = ["a black square", "a red square"]


def example(language: str, has: str) -> str:
    """The one block of that language with these words."""
    (found,) = (block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if has in block)
    return found


def test_the_table_has_every_reward_and_tells_which_have_a_gradient():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| (yes|no|if all have) \|", PAGE, re.MULTILINE))
    assert sorted(rows) == REWARDS.names()
    for name, gradient in rows.items():
        assert (gradient != "no") is examine(name)["differentiable"], name


def test_a_reward_is_used_in_three_lines():
    told: dict[str, Any] = {"images": IMAGES, "prompts": PROMPTS}
    exec(example("python", "load_reward("), told)
    assert told["scores"].shape == (2,)


def test_the_settings_of_a_round_are_settings():
    config = parse_config(tomllib.loads(example("toml", "[reward]")))
    assert config.reward == {"clip_head": 1.0, "jpeg_size": -0.1}
    assert load_reward("jpeg_size", config.reward_settings["jpeg_size"])(IMAGES, PROMPTS).shape == (2,)


def test_one_file_and_one_line_make_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "redness.py").write_text(example("python", "class Redness:"))
    ((name, target),) = re.findall(r'^ +"(\w+)": "([\w.]+:\w+)",$', example("python", '"redness":'), re.MULTILINE)
    spec = importlib.util.spec_from_file_location(target.partition(":")[0], tmp_path / "redness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(REWARDS._entries, name, target)
    reward = load_reward("redness", {"gain": 2})
    assert reward(IMAGES, PROMPTS).tolist() == [0.0, 2.0]
    assert reward.differentiable(torch.rand(1, 3, 4, 4, requires_grad=True), [""]).requires_grad
    assert parse_config({"reward": {"redness": 0.5}}).reward == {"clip_head": 1.0, "redness": 0.5}
    assert examine("redness")["about"].startswith("How red the picture is")


def test_the_service_on_the_page_speaks_the_protocol():
    code = example("python", "ThreadingHTTPServer(").replace("ThreadingHTTPServer((", "server = Server((")
    told: dict[str, Any] = {}
    exec(code.partition("server = ")[0], told)
    told["Redness"].log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), told["Redness"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        reward = load_reward("http", {"url": f"http://127.0.0.1:{server.server_address[1]}/score", "retries": 0})
        assert reward(IMAGES, PROMPTS).tolist() == [0.0, 1.0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
