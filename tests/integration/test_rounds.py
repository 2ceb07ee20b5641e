"""Whole rounds of the real command on the starter model: they finish, resume, and survive kill -9 without a trace."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from data.records import Rating
from data.store import Store
from data.workspace import STAGES, Workspace
from hitl.report.page import plain
from rl.families.loading import STARTER_FOLDER
from tests.integration.rounds import finish, outcome, start_rounds
from tests.people import agree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "workspace"
    code, out, err = finish(start_rounds(root))
    assert code == 0, err
    assert "report.html" in out
    return root


def test_a_round_leaves_every_stage_a_report_and_no_hub(undisturbed: Path):
    workspace = Workspace(undisturbed)
    assert all(workspace.is_done(1, stage) for stage in STAGES)
    assert "<svg" in (workspace.round_dir(1) / "report.html").read_text()
    assert not workspace.hub_path.exists()
    summary = workspace.manifest(1, "evaluate")
    assert summary is not None
    assert set(summary["summary"]["subjects"]) == {"reference", "policy", "best_of_2"}
    guard = (workspace.manifest(1, "train") or {})["guard"]
    assert (guard["reason"], guard["judges"]) == ("", ["gold"])
    assert [look["epoch"] for look in guard["looks"]] == [0, 2, 3]
    card = (workspace.stage_dir(1, "train") / "policy" / "README.md").read_text()
    assert "KL to the base model" in card
    assert "by 2 raters" in card


def test_the_first_pass_ratio_is_one_and_the_policy_moved(undisturbed: Path):
    rows = [
        json.loads(line) for line in (Workspace(undisturbed).round_dir(1) / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [row["metrics"] for row in rows if row["stage"] == "train"]
    assert len(trained) == 3
    assert all(row["first_pass_log_ratio"] < 1e-2 for row in trained)
    assert trained[0]["kl_per_step"] == 0.0
    assert trained[-1]["kl_per_step"] > 0.0


@pytest.mark.parametrize(
    ("algorithm", "more", "rounds"),
    [("d3po", ["--set", "draw.window=2"], 2), ("diffusion_dpo", ["--set", "fit.force=false"], 1), ("refl", [], 1)],
)
def test_rounds_of_algorithms_that_need_no_reward_or_its_gradient(
    algorithm: str, more: list[str], rounds: int, tmp_path: Path
):
    """d3po's second round draws its images again by the first one's policy; a reward at chance stops no preference."""
    root = tmp_path / "workspace"
    code, _, err = finish(start_rounds(root, "--set", f"train.algorithm={algorithm}", *more, count=rounds))
    assert code == 0, err
    rows = [json.loads(line) for line in (Workspace(root).round_dir(rounds) / "metrics.jsonl").read_text().splitlines()]
    trained = [row["metrics"] for row in rows if row["stage"] == "train"]
    assert len(trained) == 3
    assert all(row["grad_norm"] > 0 for row in trained)
    assert ("reward_mean" in trained[0]) is (algorithm == "refl")


@pytest.mark.parametrize(
    ("more", "terms"),
    [
        (["reward.jpeg_size=-0.5", "reward_settings.jpeg_size.quality=80"], {"clip_head": 1.0, "jpeg_size": -0.5}),
        (["reward.clip_head=0", "reward.clip_score=2", "train.algorithm=draft"], {"clip_score": 2.0}),
    ],
    ids=["scores", "gradient"],
)
def test_a_round_on_several_rewards_ends_the_same_when_it_is_killed_in_training(
    more: list[str], terms: dict[str, float], tmp_path: Path
):
    settings = [part for setting in more for part in ("--set", setting)]
    once, killed = tmp_path / "once", tmp_path / "killed"
    code, _, err = finish(start_rounds(once, *settings))
    assert code == 0, err
    kept = json.loads((Workspace(once).stage_dir(1, "train") / "reward.json").read_text())
    assert kept["reward"] == terms
    assert all(scale != 1 for name, scale in kept["scales"].items() if name != "clip_head")
    assert f"{terms['jpeg_size']:g} x `jpeg_size`" in card(once) if "jpeg_size" in terms else "clip_score" in card(once)
    process = start_rounds(killed, *settings)
    stop_when((Workspace(killed).stage_dir(1, "train") / "policy" / "state.pt").exists, process)
    code, _, err = finish(start_rounds(killed, *settings))
    assert code == 0, err
    assert outcome(killed) == outcome(once)


def card(root: Path) -> str:
    return (Workspace(root).stage_dir(1, "train") / "policy" / "README.md").read_text()


def test_rounds_that_train_all_weights_go_on_from_the_last_and_refuse_a_lora(tmp_path: Path):
    root = tmp_path / "workspace"
    full = ["--set", "train.weights=full", "--set", "train.learning_rate=1e-4"]
    code, _, err = finish(start_rounds(root, *full, count=2))
    assert code == 0, err
    workspace = Workspace(root)
    policies = [workspace.stage_dir(number, "train") / "policy" for number in (1, 2)]
    first, second = (load_file(path / "unet" / "diffusion_pytorch_model.safetensors") for path in policies)
    start = load_file(STARTER_FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
    for one, other in ((start, first), (first, second)):
        assert one.keys() == other.keys()
        assert all(one[name].shape == other[name].shape for name in one)
        steps = [float((one[name].float() - other[name]).abs().max()) for name in one]
        assert 0 < max(steps) < 1e-3  # three steps of Adam: at most about three times the rate
    for number, path in enumerate(policies, 1):
        manifest = workspace.manifest(number, "train")
        weights = (path / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        assert manifest is not None
        assert manifest["checkpoint"] == hashlib.sha256(weights).hexdigest()
        assert "UNet2DConditionModel" in (path / "README.md").read_text()
    scores = pq.read_table(workspace.stage_dir(2, "evaluate") / "scores.parquet").to_pylist()
    assert {row["subject"] for row in scores} == {"reference", "previous", "policy", "best_of_2"}
    code, _, err = finish(start_rounds(root, "--set", "train.weights=lora"))
    assert code == 2
    assert the_error(err) == "error: train.weights is 'lora', but the policy of the last round was trained with 'full'."
    assert not workspace.is_done(3, "draw")


def test_steps_without_noise_are_refused_before_anything_is_drawn(tmp_path: Path):
    code, _, err = finish(start_rounds(tmp_path / "workspace", "--set", "train.algorithm=d3po"))
    assert code == 2
    assert "they have no noise: draw.window is 0" in err
    assert not (tmp_path / "workspace" / "images").exists() or not any((tmp_path / "workspace" / "images").iterdir())


def test_a_fit_outside_a_round_is_the_rounds_own_and_leaves_the_workspace_alone(undisturbed: Path, tmp_path: Path):
    workspace = Workspace(undisturbed)
    config = workspace.round_dir(1) / "config.toml"
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(undisturbed, copy.root)
    shutil.copy(config, copy.config_path)
    before = outcome(copy.root)

    def fit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hitl.cli", "fit", "-w", str(copy.root), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"HITL_THREADS": "1"}
        )

    found = json.loads(fit("--json").stdout)
    theirs = workspace.stage_dir(1, "fit") / "reward"
    for name in ("head.safetensors", "fit.json"):
        assert (Path(found["path"]) / name).read_bytes() == (theirs / name).read_bytes()
    assert outcome(copy.root) == before

    snapshot, out = copy.round_dir(1) / "snapshot.parquet", tmp_path / "mine"
    told = fit("--snapshot", str(snapshot), "--out", str(out), "--set", "fit.seed=5")
    assert "Does it know what raters prefer?" in told.stdout
    assert "comparisons with prompts held out from it" in " ".join(told.stdout.split())
    assert sorted(path.name for path in out.iterdir()) == ["reward", "snapshot.parquet"]
    again = fit("--snapshot", str(snapshot), "--out", str(out))
    assert again.returncode == 1
    assert "is there already and not empty" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_policy_is_judged_outside_a_round_as_in_it_and_on_other_prompts(undisturbed: Path, tmp_path: Path):
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(undisturbed, copy.root)
    before = outcome(copy.root)

    def judged(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hitl.cli", "evaluate", "-w", str(copy.root), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"HITL_THREADS": "1"}
        )

    found = json.loads(judged("--json").stdout)
    manifest = copy.manifest(1, "evaluate")
    assert manifest is not None
    assert found["summary"] == plain(manifest["summary"])
    assert sorted(path.name for path in Path(found["path"]).iterdir()) == [
        "evaluation.json",
        "grid.npz",
        "scores.parquet",
    ]  # the round's pictures are used again
    assert outcome(copy.root) == before

    (tmp_path / "mine.txt").write_text("a red circle\na blue circle\na green square\n")
    out, policy = tmp_path / "mine", str(copy.stage_dir(1, "train") / "policy")
    told = judged("--policy", policy, "--prompts", str(tmp_path / "mine.txt"), "--out", str(out))
    assert told.returncode == 0, told.stderr
    assert "pictures a model" in told.stdout
    assert "KL to the reference" in told.stdout
    assert "Traceback" not in (again := judged("--out", str(out))).stderr
    assert "is there already and not empty" in again.stderr
    for wrong, words in ((tmp_path, "cannot be loaded"), (tmp_path / "none", "There is no folder")):
        assert words in (refused := judged("--policy", str(wrong))).stderr
        assert "Traceback" not in refused.stderr


def test_a_finished_round_is_not_run_again(undisturbed: Path):
    before = outcome(undisturbed)
    answer = subprocess.run(
        [sys.executable, "-m", "hitl.cli", "status", "--json", "-w", str(undisturbed)],
        capture_output=True,
        text=True,
        check=True,
    )
    status = json.loads(answer.stdout)
    assert [entry["number"] for entry in status["rounds"] if entry["finished"]] == [1]
    assert outcome(undisturbed) == before


def test_ten_kills_at_random_moments_leave_the_same_store_and_weights(undisturbed: Path, tmp_path: Path):
    """kill -9 of the hub (the worker dies with it); what an undisturbed run made is what comes out in the end."""
    moments = random.Random(7)
    root = tmp_path / "workspace"
    kills = 0
    while kills < 10:
        process = start_rounds(root)
        time.sleep(moments.uniform(3.0, 14.0))
        if process.poll() is not None:
            break  # the round is done already
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    if kills == 10:
        code, _, err = finish(start_rounds(root))
        assert code == 0, err
    assert kills >= 3
    assert outcome(root) == outcome(undisturbed)


def end_killed_rounds(root: Path, *more: str, ratings: int, count: int = 1) -> None:
    """Rounds whose hub dies by kill -9 after so many ratings, and which are then continued to the end."""
    process = start_rounds(root, *more, count=count)
    journal = Workspace(root).journal_path
    while not journal.exists() or journal.read_bytes().count(b'"event":"rating_added"') < ratings:
        assert process.poll() is None, finish(process)
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    code, _, err = finish(start_rounds(root, *more))
    assert code == 0, err


def test_rounds_that_ask_where_the_fit_is_unsure_end_the_same_when_killed_while_people_rate(tmp_path: Path):
    """kill -9 in the second round, whose pairs the first one's fit chose; 6 of 30 tasks come again, and 6 are gold."""
    settings = ("rate.policy=uncertain", "rate.repeats=0.2", "rate.ratings_per_round=30", "draw.images_per_prompt=4")
    more = [part for setting in settings for part in ("--set", setting)]
    once, killed = tmp_path / "once", tmp_path / "killed"
    code, _, err = finish(start_rounds(once, *more, count=2))
    assert code == 0, err
    with Store.open(Workspace(once)) as store:
        assert {task.policy for task in store.tasks(2) if task.purpose == "learn"} == {"random", "uncertain"}
        assert store.repeats(2)
        assert store.gold_answers(2)
        ratings = len(store.ratings())
    end_killed_rounds(killed, *more, count=2, ratings=ratings - 20)
    assert outcome(killed, 2) == outcome(once, 2)


@pytest.mark.parametrize("kind", ["ranking", "best", "grades", "good_bad"])
def test_rounds_of_every_kind_with_checks_end_the_same_when_killed_while_people_rate(kind: str, tmp_path: Path):
    settings = (f"rate.kind={kind}", "rate.repeats=0.2", "rate.ratings_per_round=30", "draw.images_per_prompt=8")
    more = [part for setting in settings for part in ("--set", setting)]
    once, killed = tmp_path / "once", tmp_path / "killed"
    code, _, err = finish(start_rounds(once, *more))
    assert code == 0, err
    with Store.open(Workspace(once)) as store:
        assert store.repeats(1)
        assert store.gold_answers(1)
    end_killed_rounds(killed, *more, ratings=18)
    assert outcome(killed) == outcome(once)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(undisturbed: Path, tmp_path: Path):
    root = tmp_path / "workspace"
    process = start_rounds(root)
    metrics = Workspace(root).round_dir(1) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and '"train"' in metrics.read_text()):
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert "Starting another one" in err
    assert outcome(root) == outcome(undisturbed)


def test_two_at_once_are_told_who_holds_the_store(tmp_path: Path):
    root = tmp_path / "workspace"
    first = start_rounds(root, count=9)  # long enough to be still there when the second has come and gone
    while not Workspace(root).hub_path.exists():
        time.sleep(0.1)
        assert first.poll() is None
    code, _, err = finish(start_rounds(root))
    assert code == 1
    assert str(first.pid) in err
    assert "Traceback" not in err
    first.send_signal(signal.SIGINT)
    code, _, err = finish(first)
    assert code == 130
    assert "To go on: hitl round" in err


# -- what stops a run, and how the next one goes on -------------------------------------------------------------------


def the_error(err: str) -> str:
    """What the command says went wrong: one sentence, and no more than that."""
    assert "Traceback" not in err
    (sentence,) = [line for line in err.splitlines() if line.startswith("error:")]
    return sentence


def stop_when(claim: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 240) -> None:
    """Ctrl-C as soon as the claim is true."""
    end = time.monotonic() + timeout_s
    while not claim():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err


@contextlib.contextmanager
def person_at(root: Path, process: subprocess.Popen[str], name: str) -> Iterator[httpx.Client]:
    """Somebody's browser, signed in at the hub of a run that was just started."""
    hub_path = Workspace(root).hub_path
    end = time.monotonic() + 120
    while not hub_path.exists():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(0.05)
    with httpx.Client(base_url=json.loads(hub_path.read_text())["url"], trust_env=False, timeout=30) as client:
        client.post("/api/join", json={"name": name}).raise_for_status()
        agree(client)
        yield client


def test_a_policy_of_another_model_is_refused_and_the_named_model_goes_on(undisturbed: Path, tmp_path: Path):
    root, other = tmp_path / "workspace", tmp_path / "other"
    shutil.copytree(undisturbed, root)
    shutil.copytree(STARTER_FOLDER, other)
    rows = ({"text": text, "split": split} for text, split in (("a red circle", "train"), ("a star", "held_out")))
    (root / "prompts.txt").write_text("\n".join(map(json.dumps, rows)))
    settings = ("--set", f"model.name={other}", "--set", "prompts.file=prompts.txt")
    code, out, err = finish(start_rounds(root, *settings))
    assert (code, out) == (2, "")
    assert the_error(err) == f"error: model.name is '{other}', but round 1's policy is one of 'starter'."
    assert "hint:  Set model.name to 'starter' again" in err
    assert not Workspace(root).is_done(2, "draw")
    stop_when(lambda: Workspace(root).is_done(2, "draw"), start_rounds(root))


def test_simulated_raters_that_fail_stop_the_run_in_one_sentence_and_the_next_loses_nothing(tmp_path: Path):
    """A person has taken the second one's name, and has rated four pairs of the round."""
    root = tmp_path / "workspace"
    process = start_rounds(root, raters="human")
    answered = 0
    with person_at(root, process, "simulated-2") as person:

        def has_rated_four() -> bool:
            nonlocal answered
            for task in person.get("/api/tasks?limit=1").json()["tasks"]:
                rating = {"rating_id": str(uuid.uuid4()), "payload": {"choice": "left"}, "dwell_ms": 900}
                rating |= {"client_time": datetime.now(UTC).isoformat()}
                rating |= {key: task[key] for key in ("task_id", "kind", "image_ids")}
                person.post("/api/ratings", json=rating).raise_for_status()
                answered += 1
            return answered == 4

        stop_when(has_rated_four, process)

    def ratings() -> dict[str, Rating]:
        with Store.open(Workspace(root)) as store:
            return {rating.rating_id: rating for rating in store.ratings()}

    before = ratings()
    assert len(before) == 4
    code, out, err = finish(start_rounds(root, raters="simulated:2"))
    assert (code, out) == (2, "")
    assert the_error(err).startswith("error: The simulated rater 'simulated-2' was not let in: ")
    assert "belongs to a human rater" in the_error(err)
    stopped = ratings()
    assert before.items() <= stopped.items()
    assert len(stopped) < 15
    assert not Workspace(root).is_done(1, "rate")
    code, _, err = finish(start_rounds(root, raters="simulated:1"))
    assert code == 0, err
    after = ratings()
    assert stopped.items() <= after.items()
    with Store.open(Workspace(root)) as store:
        learned = [rating.task_id for rating in store.ratings(purpose="learn")]
        assert len(set(learned)) == len(learned) == 15


def test_the_server_stays_for_three_seconds_so_that_open_pages_learn_that_all_is_done(
    undisturbed: Path, tmp_path: Path
):
    root = tmp_path / "workspace"
    shutil.copytree(undisturbed, root)
    (Workspace(root).round_dir(1) / "report.html").unlink()  # all that is left to do, and quickly done
    process = start_rounds(root, raters="human")
    heard: list[float] = []
    with person_at(root, process, "Anna") as page:
        while process.poll() is None:
            try:
                state = page.get("/api/tasks").json()["state"]
            except httpx.TransportError:
                break
            # Once hub.json is gone the server only lives on for as long as the worker takes to end.
            if state == "finished" and Workspace(root).hub_path.exists():
                heard.append(time.monotonic())
            time.sleep(0.1)
    code, _, err = finish(process)
    assert code == 0, err
    assert 2.0 < heard[-1] - heard[0] < 10.0  # a page asks every second, a busy machine answers late
