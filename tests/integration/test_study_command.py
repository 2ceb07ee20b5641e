"""`hitl study` by its command line: two folders of pictures or models, votes as people send them, and wrong use."""

import io
import json
import os
import random
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Picture
from scipy import stats

from apps.session import RatingDesk
from data.blind import is_for_judging
from data.integrity import check
from data.records import Prompt
from data.store import Store
from data.study_tasks import making_alone
from data.workspace import Workspace
from hitl.commands import apart
from hitl.commands.hub import running_hub
from hitl.config import load_config
from hitl.core.errors import WorkerError
from hitl.core.live import Live
from hitl.rounds import Hub, Round, _drawn, _probe
from hitl.stages import study as study_stage
from hitl.stages.stage import Desk, Stage
from rl.rollout import draw
from tests.command import Hitl, run_hitl
from tests.facts import a_rater, a_rating, a_task, everything, fill
from tests.people import agree

pytestmark = pytest.mark.long

PROMPTS = [f"a {word}" for word in "fox owl hen bee cat dog pig cow".split()]


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hitl:
    """Runs a command in a new workspace: exit code, stdout and stderr."""
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "w"))
    monkeypatch.chdir(tmp_path)
    run = partial(run_hitl, capsys, monkeypatch)
    assert run("init")[0] == 0
    return run


def png(seed: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def a_folder(path: Path, seed: int, prompts: list[str] = PROMPTS, each: int = 2) -> Path:
    """Pictures of prompts, as `datasets` writes an imagefolder."""
    path.mkdir()
    rows = []
    for n, text in enumerate(prompts):
        for index in range(each):
            (path / f"{n}-{index}.png").write_bytes(png(1000 * seed + 10 * n + index))
            rows.append({"file_name": f"{n}-{index}.png", "prompt": text})
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_store(folder: Path) -> Store:
    return Store.open(Workspace(folder / "w"))


def vote(store: Store, study: str, b_wins: dict[str, float], raters: list[str], seed: int = 0) -> None:
    """Every rater is handed all tasks by the desk and answers as the page does, B with that probability by question."""
    rng, live = random.Random(seed), Live()
    live.enter("rate", "Waiting for ratings")
    desk, tasks = RatingDesk(store, live), {task.task_id: task for task in store.study_tasks(study)}
    for name in raters:
        if store.rater_by_name(name.title()) is None:
            store.add_rater(a_rater(name))
        while offered := desk.next_tasks(name, 10)["tasks"]:
            for told in offered:
                task = tasks[told["task_id"]]
                b_is_left = told["image_ids"][0] == task.image_ids[0]
                choice = "left" if (rng.random() < b_wins[task.kind]) == b_is_left else "right"
                store.add_rating(a_rating(task, name, choice, image_ids=tuple(told["image_ids"])))


def test_a_study_of_two_folders_from_its_beginning_to_its_result(hitl: Hitl, tmp_path: Path):
    """B looks better, and fits as well. All 16 pairs of 8 prompts, 3 raters of each: 48 votes on each question."""
    a, b = a_folder(tmp_path / "old", 1), a_folder(tmp_path / "new", 2)
    code, out, err = hitl("study", "new", str(a), str(b), "--votes", "48", "--raters", "3", "--name", "which")
    assert (code, err) == (0, "")
    assert "new (B) against old (A), 16 pairs of 8 prompts, 3 raters of each" in " ".join(out.split())
    assert "48 votes on each question find a difference of" in " ".join(out.split())
    with open_store(tmp_path) as store:
        tasks = store.study_tasks()
        assert len(tasks) == 32
        assert {(task.kind, task.overlap, task.models) for task in tasks} == {
            (kind, 3, ("new", "old")) for kind in ("alignment", "quality")
        }
        for task in tasks:
            image = store.image(task.image_ids[0])
            assert image is not None
            assert is_for_judging(image)
            assert (image.provenance["from"], image.provenance["study"]) == ("new", "which")
            assert (tmp_path / "w" / "images" / image.image_id[:2] / f"{image.image_id}.png").read_bytes() in {
                path.read_bytes() for path in b.glob("*.png")
            }
    code, out, _ = hitl("study", "status")
    assert out.startswith(
        "which: new (B) against old (A); votes on alignment 0 of 48, quality 0 of 48; nobody has voted"
    )
    assert hitl("study", "result")[1] == (
        "which: new (B) against old (A), nobody has voted yet.\n"
        "It is not finished: 96 votes are missing. Who stops when it looks well finds what is not there.\n"
    )
    with open_store(tmp_path) as store:
        vote(store, "which", {"alignment": 0.5, "quality": 0.95}, ["ann", "bob", "cy"])
        assert store.progress(0).studied == store.progress(0).to_study == 96
        said = store.judgements(study="which")
        before = (everything(store), said)
        assert store.comparisons() == []
        assert check(Workspace(tmp_path / "w"), store).differences == []
    with Store.rebuild(Workspace(tmp_path / "w")) as store:
        assert (everything(store), store.judgements(study="which")) == before
    status = json.loads(hitl("study", "status", "--json")[1])["studies"][0]
    assert (status["is_complete"], status["raters"], status["told"]["pairs"]) == (True, 3, 16)
    found = json.loads(hitl("study", "result", "which", "--json")[1])
    alignment, quality = found["answers"]
    assert (quality["question"], quality["verdict"], alignment["verdict"]) == ("quality", "better", "even")
    mine = [each for each in said if each.kind == "quality"]
    shares = [np.mean([each.credit for each in mine if each.rater_id == name]) for name in ("ann", "bob", "cy")]
    assert quality["by_rater"] == pytest.approx(dict(zip(("rater-001", "rater-002", "rater-003"), shares, strict=True)))
    assert quality["sd_of_raters"] == pytest.approx(stats.tstd(shares))
    told = hitl("study", "result")[1]
    assert "quality, which looks better: B is better." in told
    assert "alignment, which shows the text more exactly: even: no difference was found." in told
    assert "It is not finished" not in told


def test_a_backup_has_what_is_told_of_a_study_and_nothing_of_one_that_is_being_made(hitl: Hitl, tmp_path: Path):
    hitl("study", "new", str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2)), *VOTES)
    for name in ("drawn-x/a.png", "made.json"):
        path = tmp_path / "w" / "studies" / "study-2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    (tmp_path / "w" / "imports").mkdir()
    (tmp_path / "w" / "imports" / "now-refused.jsonl").write_text("{}\n")
    assert hitl("backup", str(tmp_path / "w.tar"))[0] == 0
    with tarfile.open(tmp_path / "w.tar") as tar:
        names = {name for name in tar.getnames() if name.split("/")[0] in ("studies", "imports")}
    assert names == {"studies/study-1/study.json", "imports/now-refused.jsonl"}
    assert hitl("restore", str(tmp_path / "w.tar"), "-w", str(tmp_path / "again"))[0] == 0
    assert (tmp_path / "again" / "studies" / "study-1" / "study.json").exists()


def test_what_one_rater_says_and_what_simulated_ones_say_is_said(hitl: Hitl, tmp_path: Path):
    hitl("study", "new", str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2)), *VOTES)
    with open_store(tmp_path) as store:
        vote(store, "study-1", {"alignment": 1.0, "quality": 0.0}, ["ann"])
    out = hitl("study", "result")[1]
    assert "One rater: what is found holds for this one alone." in out
    assert "± " not in out
    assert "over raters not known" in out


VOTES = ("--votes", "16", "--raters", "1")


def test_a_study_of_a_folder_against_itself_shows_different_pictures_of_it(hitl: Hitl, tmp_path: Path):
    a = a_folder(tmp_path / "one", 1, each=4)
    code, out, _ = hitl("study", "new", str(a), str(a), *VOTES)
    assert code == 0
    assert "A and B are the same: an A/A study, which should come out even." in " ".join(out.split())
    with open_store(tmp_path) as store:
        shown = [set(task.image_ids) for task in store.study_tasks() if task.kind == "quality"]
        assert len(shown) == 16
        assert len(set.union(*shown)) == 32  # no picture is both sides'
    assert "what differs is chance" in hitl("study", "result")[1]


def test_pairs_of_one_picture_are_left_out(hitl: Hitl, tmp_path: Path):
    a, b = a_folder(tmp_path / "a", 1), a_folder(tmp_path / "b", 2)
    for name in ("0-0.png", "3-1.png"):
        (b / name).write_bytes((a / name).read_bytes())
    out = hitl("study", "new", str(a), str(b), *VOTES)[1]
    assert "2 pairs are left out: the two pictures are the same." in out
    with open_store(tmp_path) as store:
        assert len(store.study_tasks()) == 28
    code, _, err = hitl("study", "new", str(a), str(a_folder(tmp_path / "c", 1)), *VOTES)
    assert code == 2
    assert "All 16 pictures of a and c are the same" in err


def test_pictures_of_several_sizes_are_warned_of(hitl: Hitl, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    a, b = a_folder(tmp_path / "a", 1), a_folder(tmp_path / "b", 2)
    (b / "0-0.png").write_bytes(png(99, side=9))
    hitl("study", "new", str(a), str(b), *VOTES)
    assert "several sizes, by which raters may tell" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("new a b --votes 0", "The study would have 0 votes by 4 raters of each pair"),
        ("new a b --raters 0", "400 votes by 0 raters"),
        ("new a nowhere", "nowhere is nothing that can be compared"),
        ("new reference 7", "Round 7 has no trained policy. | No round is trained yet."),
        (
            "new a b",
            "A and B share 16 pairs of pictures; 400 votes by 4 raters of each need 100. | Ask for --votes 64.",
        ),
        ("new a other --votes 8", "A and B share no prompt: of 9, such as 'a fox'"),
        ("new a a --votes 999", "A and B share 8 pairs"),
        ("new a b --votes 8 --name ../x", "'../x' cannot be a study's name"),
        ("new a broken --votes 8", "metadata.jsonl row 1 names the image 'none.png'"),
        ("new a b --prompts no.txt --votes 8", "no.txt"),
        ("result", "Which study? | There is none yet: hitl study new A B"),
        ("result x", "There is no study 'x'."),
    ],
)
def test_wrong_use_is_said_in_words(hitl: Hitl, tmp_path: Path, words: str, message: str):
    a_folder(tmp_path / "a", 1)
    a_folder(tmp_path / "b", 2)
    a_folder(tmp_path / "other", 3, prompts=["an Owl"])
    a_folder(tmp_path / "broken", 4)
    (tmp_path / "broken" / "metadata.jsonl").write_text('{"file_name": "none.png", "prompt": "a fox"}\n')
    code, out, err = hitl("study", *words.split())
    assert code in (1, 2)
    assert out == ""
    assert "Traceback" not in err
    told = " | ".join(line.removeprefix("error: ").removeprefix("hint:  ") for line in err.splitlines())
    assert message in told
    with open_store(tmp_path) as store:
        assert store.study_tasks() == store.images() == []


def test_a_name_is_used_once_and_the_next_one_has_a_number(hitl: Hitl, tmp_path: Path):
    a, b = str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2))
    assert hitl("study", "new", a, b, *VOTES)[0] == hitl("study", "new", a, b, *VOTES)[0] == 0
    code, _, err = hitl("study", "new", a, b, *VOTES, "--name", "study-2")
    assert (code, "There is a study 'study-2' already." in err) == (2, True)
    assert hitl("study", "result")[0] != 0  # which of the two is not said
    names = [each["name"] for each in json.loads(hitl("study", "status", "--json")[1])["studies"]]
    assert names == ["study-1", "study-2"]


# -- while a hub runs -------------------------------------------------------------------------------------------------


def test_people_who_rate_are_asked_for_a_study_that_is_made_meanwhile(hitl: Hitl, tmp_path: Path):
    """By a page that has been told before that there is nothing to rate."""
    a, b = str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2))
    with running_hub(None, ["server.port=0"], create=False) as served:
        served.hub.live.enter("rate", "Waiting for ratings")
        rater = httpx.Client(base_url=served.server.url, trust_env=False)
        rater.post("/api/join", json={"name": "Ann"}).raise_for_status()
        agree(rater)
        assert rater.get("/api/tasks").json()["tasks"] == []
        code, out, err = hitl("study", "new", a, b, *VOTES)
        assert (code, err) == (0, "")
        assert "People who rate now are asked when they have nothing else to rate." in " ".join(out.split())
        offered = rater.get("/api/tasks").json()["tasks"]
        assert offered
        assert {task["kind"] for task in offered} <= {"alignment", "quality"}
        assert len(served.hub.store.study_tasks("study-1")) == 32
        standing = hitl("study", "status")[1]
        assert standing.startswith("study-1: b (B) against a (A); votes on alignment 0 of 16")
        assert "People who rate now are asked" in standing
        code, _, err = hitl("study", "new", a, b, *VOTES, "--name", "study-1")
        assert (code, "There is a study 'study-1' already." in err) == (2, True)
        rater.close()
    assert "Next: hitl serve -w" in hitl("study", "status")[1]
    with open_store(tmp_path) as store:
        assert len(store.study_tasks()) == 32
        assert check(Workspace(tmp_path / "w"), store).differences == []


def test_a_hub_takes_in_what_a_command_made_and_nothing_else(hitl: Hitl, tmp_path: Path):
    (tmp_path / "made.json").write_text("{}")
    with running_hub(None, ["server.port=0"], create=False) as served:
        hub = httpx.Client(base_url=served.server.url, trust_env=False)
        assert hub.post("/api/studies", json={"name": "x"}).status_code == 403
        hub.headers["Authorization"] = f"Bearer {served.token}"
        for name, message in (("x", "No study 'x' is made"), ("../..", "cannot be a study's name"), ("", "is made")):
            told = hub.post("/api/studies", json={"name": name})
            assert told.status_code == 400
            assert message in told.json()["error"]
        assert served.hub.store.study_tasks() == []
        hub.close()


def test_a_round_that_made_its_tasks_at_the_same_time_keeps_all_of_them(hitl: Hitl, tmp_path: Path):
    """It counts from those that it saw, of which a study is none."""
    first = a_task("r0001-00000")
    with open_store(tmp_path) as store:
        fill(store, first)
        store.start_round(1, "sha")
        seen = len(store.tasks(1))
    hitl("study", "new", str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2)), *VOTES)
    with open_store(tmp_path) as store:
        assert len(store.tasks(1)) == seen + 32
        more = [replace(first, task_id=f"r0001-{number:05d}") for number in range(seen, seen + 40)]
        assert store.add_tasks(more) == 40


def test_two_studies_are_not_made_at_the_same_time(hitl: Hitl, tmp_path: Path):
    a, b = str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2))
    with making_alone(Workspace(tmp_path / "w")):
        code, _, err = hitl("study", "new", a, b, *VOTES)
    assert (code, "Another `hitl study new` is at work" in err) == (1, True)
    assert hitl("study", "new", a, b, *VOTES)[0] == 0


def test_a_study_that_was_cut_off_while_it_was_taken_in_is_made_as_if_it_had_not_been(
    hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("study", "new", str(a_folder(tmp_path / "a", 1)), str(a_folder(tmp_path / "b", 2)), *VOTES)
    with monkeypatch.context() as patched:

        def cut(store: Store, tasks: Any) -> None:
            raise WorkerError("cut off", hint="again")

        patched.setattr(Store, "add_tasks", cut)
        assert hitl(*words)[0] == 1
    assert hitl(*words)[0] == 0
    with open_store(tmp_path) as store:
        assert ({task.study for task in store.study_tasks()}, len(store.study_tasks())) == ({"study-1"}, 32)
        assert len(store.images()) == 32


# -- models -----------------------------------------------------------------------------------------------------------


class Drawing:
    """Stands for the worker: draws noise of the model's name and the place, and remembers what it was told."""

    specs: list[dict[str, Any]]

    def __init__(self) -> None:
        pass

    def run(self, spec: Path, metrics: Path, on_progress: Any) -> None:
        told = json.loads(spec.read_text())
        type(self).specs.append(told)
        rows = []
        for side in told["inputs"]["sides"]:
            for each in side["wanted"]:
                file = f"{side['side']}-{each['prompt_id']}-{each['index']}.png"
                seed = int(each["prompt_id"], 16) % 10**6 + 17 * each["index"] + len(side["checkpoint"])
                (Path(told["apart"]) / file).write_bytes(png(seed))
                rows.append({**each, "side": side["side"], "file": file, "seed": f"0/study/{each['index']}"})
        result = {"images": rows, "provenance": {"model": "starter", "steps": 20}}
        (Path(told["apart"]) / "result.json").write_text(json.dumps(result))

    def stop(self) -> None:
        pass


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> type[Drawing]:
    Drawing.specs = []
    monkeypatch.setattr(apart, "Worker", Drawing)
    return Drawing


def trained(folder: Path, number: int, weights: bytes = b"some weights") -> Path:
    """A round whose policy is there."""
    workspace = Workspace(folder / "w")
    policy = workspace.stage_dir(number, "train") / "policy"
    policy.mkdir(parents=True)
    (policy / "pytorch_lora_weights.safetensors").write_bytes(weights)
    workspace.write_manifest(number, "train", {"checkpoint": f"sha-{number}"})
    return policy


def test_a_policy_against_the_reference_on_held_out_prompts(hitl: Hitl, tmp_path: Path, drawing: type[Drawing]):
    """20 pairs of the 19 held-out prompts that there are of five tasks: a second pair of one."""
    policy = trained(tmp_path, 3)
    few = ("--set", "prompts.held_out_per_task=4")
    code, out, err = hitl("study", "new", "reference", "3", "--votes", "40", "--raters", "2", *few)
    assert (code, err) == (0, "")
    assert "policy of round 3 (B) against reference (A), 20 pairs of 19 prompts" in " ".join(out.split())
    (spec,) = drawing.specs
    a, b = spec["inputs"]["sides"]
    assert (a["checkpoint"], b["checkpoint"]) == ("", str(policy))
    assert a["wanted"] == b["wanted"]  # the same prompts and seeds
    with open_store(tmp_path) as store:
        held_out = {prompt.prompt_id for prompt in store.prompts("held_out")}
        assert {each["prompt_id"] for each in a["wanted"]} == held_out
        task = store.study_tasks()[0]
        image = store.image(task.image_ids[0])
        assert image is not None
        assert task.models == ("policy of round 3", "reference")
        assert {key: image.provenance[key] for key in ("policy_round", "checkpoint", "model")} == {
            "policy_round": 3,
            "checkpoint": "sha-3",
            "model": "starter",
        }
    assert not (tmp_path / "w" / "studies" / "study-1" / "drawn").exists()


def test_a_policy_against_itself_is_drawn_from_other_seeds(hitl: Hitl, tmp_path: Path, drawing: type[Drawing]):
    """Once by its number and once by its folder: the same weights."""
    trained(tmp_path, 1)
    assert hitl("study", "new", "1", "1", "--votes", "30", "--raters", "1")[0] == 0
    a, b = drawing.specs[0]["inputs"]["sides"]
    seeds = [{(each["prompt_id"], each["index"]) for each in side["wanted"]} for side in (a, b)]
    assert len(seeds[0]) == len(seeds[1]) == 30
    assert seeds[0].isdisjoint(seeds[1])


def test_a_file_of_weights_and_a_folder_of_pictures_and_prompts_of_ones_own(
    hitl: Hitl, tmp_path: Path, drawing: type[Drawing]
):
    """The file stands in a folder under diffusers' name while it is used; of three prompts one is on both sides."""
    (tmp_path / "style.safetensors").write_bytes(b"weights of somebody")
    (tmp_path / "mine.txt").write_text("a fox\na unicorn\na dragon\n")
    pictures = a_folder(tmp_path / "pictures", 1)
    words = (str(pictures), "style.safetensors", "--prompts", "mine.txt", "--votes", "2", "--raters", "1")
    code, out, err = hitl("study", "new", *words)
    assert (code, err) == (0, "")
    assert "style (B) against pictures (A), 2 pairs of 1 prompt," in " ".join(out.split())
    (side,) = drawing.specs[0]["inputs"]["sides"]
    assert (side["side"], Path(side["checkpoint"]).name) == ("b", "checkpoint-b")
    assert {each["text"] for each in side["wanted"]} == {"a fox"}


def test_a_round_goes_on_beside_a_study_and_learns_from_none_of_it(hitl: Hitl, tmp_path: Path, drawing: type[Drawing]):
    """A study made while round 1 is rated: its ids are none that the round gives, and its images none that it learns
    from.
    """
    trained(tmp_path, 1)
    with open_store(tmp_path) as store:
        fill(store, a_task("t"))
        store.start_round(1, "sha")
    assert hitl("study", "new", "reference", "1", "--votes", "10", "--raters", "1")[0] == 0
    workspace = Workspace(tmp_path / "w")
    with open_store(tmp_path) as store:
        assert {task.round for task in store.study_tasks()} == {1}
        assert len({task.task_id for task in store.tasks(1)}) == 21
        assert store.progress(1).needed == 1
        config = load_config(workspace.config_path, [])
        hub = Hub(workspace=workspace, store=store, config=config)
        round = Round(hub=hub, number=1, config=config, prompts=[Prompt.of("a green heart")])
        own = {image.image_id for image in store.images(1) if not is_for_judging(image)}
        assert len(own) == 2
        assert {each["image_id"] for each in [*_drawn(round), *_probe(round)]} == own


# -- drawn by the real stage ------------------------------------------------------------------------------------------


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches that the stage drew, in this process. What stands there as -1 is a kill at that one."""
    drawn: list[int] = []

    class InThisProcess:
        def run(self, spec: Path, metrics: Path, on_progress: Any) -> None:
            study_stage.run(Stage.read(spec), Desk())

        def stop(self) -> None:
            pass

    def counted(family: Any, prompts: Any, **told: Any) -> Any:
        if drawn and drawn[0] == -len(drawn):
            raise WorkerError("The worker died.", hint="Run the same command again.")
        drawn.append(len(prompts))
        return draw(family, prompts, **told)

    monkeypatch.setattr(apart, "Worker", InThisProcess)
    monkeypatch.setattr(study_stage, "draw", counted)
    return drawn


def test_drawing_that_was_cut_off_goes_on_where_it_was(
    hitl: Hitl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draws: list[int]
):
    """Of two sides with two batches each the second side's first is cut off. The study is that of another workspace
    where nothing was; and with other settings nothing is used of what was drawn."""

    def new(*more: str) -> int:
        few = ("prompts.held_out_per_task=1", "evaluate.steps=2", "draw.batch_size=3")
        settings = [part for each in few for part in ("--set", each)]
        return hitl("study", "new", "reference", "reference", "--votes", "5", "--raters", "1", *settings, *more)[0]

    def asked() -> list[tuple[str, tuple[str, ...]]]:
        with Store.open(Workspace(Path(os.environ["HITL_WORKSPACE"]))) as store:
            return [(task.kind, task.image_ids) for task in store.study_tasks()]

    def cut_off() -> None:
        draws[:] = [-3]
        assert new() == 1
        assert draws == [-3, 3, 2]
        draws.clear()

    cut_off()
    assert new() == 0
    assert draws == [3, 2]
    goes_on = asked()
    assert not [*(tmp_path / "w" / "studies").rglob("*.png")]
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "undisturbed"))
    assert hitl("init")[0] == 0
    draws.clear()
    assert new() == 0
    assert draws == [3, 2, 3, 2]
    assert asked() == goes_on
    monkeypatch.setenv("HITL_WORKSPACE", str(tmp_path / "other settings"))
    assert hitl("init")[0] == 0
    cut_off()
    assert new("--set", "evaluate.steps=3") == 0
    assert draws == [3, 2, 3, 2]
