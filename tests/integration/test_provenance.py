"""Real rounds by the command line: what is to be recorded is, `hitl show` tells it, an erasure leaves no trace."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.store import Store
from data.workspace import Workspace
from rl.families.revision import revision_of
from tests.integration.rounds import finish, start_rounds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def hitl(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hitl.cli", *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rounds") / "mine"
    code, _, err = finish(start_rounds(root, count=2), timeout_s=600)
    assert code == 0, err
    return root


@pytest.fixture
def root(two_rounds: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_rounds, tmp_path / "mine")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unknowns(facts: Any) -> list[str]:
    if isinstance(facts, list):
        return [found for each in facts for found in unknowns(each)]
    if not isinstance(facts, dict):
        return []
    return [*facts.get("unknown", []), *(found for each in facts.values() for found in unknowns(each))]


def test_the_chain_of_an_image_is_whole_and_true_to_the_files(root: Path):
    workspace = Workspace(root)
    with Store.open(workspace) as store:
        image = store.images(2)[0]
        answered = len(store.comparisons())
        names = {rater.name for rater in store.raters()}
    facts = json.loads(hitl("show", image.image_id[:12], "-w", root, "--json", "--names"))
    assert unknowns(facts) == []
    policy = facts["drawn_by"]
    weights = root / "rounds/0001/train/policy/pytorch_lora_weights.safetensors"
    assert facts["provenance"]["checkpoint"] == policy["checkpoint"] == sha256(weights)
    assert (
        policy["origin"]["reward"]
        == policy["reward"]["reward"]
        == sha256(root / "rounds/0001/fit/reward/head.safetensors")
    )
    snapshot = policy["reward"]["snapshot"]
    assert snapshot["sha256"] == policy["origin"]["snapshot"] == sha256(root / "rounds/0001/snapshot.parquet")
    assert set(snapshot["raters"]) == names
    assert snapshot["comparisons"] == pq.read_table(root / "rounds/0001/snapshot.parquet").num_rows < answered
    assert policy["began_from"]["revision"] == facts["provenance"]["revision"] == revision_of("starter")
    later = json.loads(hitl("show", "checkpoint", "2", "-w", root, "--json"))
    assert later["origin"]["began_from"] == policy["checkpoint"]
    judged = workspace.manifest(2, "evaluate")
    assert judged is not None
    assert judged["provenance"]["checkpoint"] == later["checkpoint"]
    assert judged["provenance"]["versions"] == later["origin"]["versions"]


def test_an_erased_rater_is_nowhere_in_a_finished_workspace_and_it_goes_on(root: Path):
    """What models learned from them is fitted and trained anew as docs/provenance.md says."""
    workspace = Workspace(root)
    with Store.open(workspace) as store:
        gone = store.raters()[0]
    hitl("fit", "-w", root, "--set", "fit.force=true", "--set", "fit.folds=2")
    reports = {path: path.read_bytes() for path in root.rglob("report.json")}
    told = hitl("raters", "erase", gone.name, "--ratings", "delete", "--yes", "-w", root)
    for word in ("rounds/0002/snapshot.parquet", "rounds/0001/train/policy", "The receipt:"):
        assert word in told
    named = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in (gone.rater_id, gone.name))
    ]
    assert named == []
    for path in root.rglob("snapshot.parquet"):
        assert gone.rater_id not in pq.read_table(path)["rater_id"].to_pylist()
    assert any(path.read_bytes() != before for path, before in reports.items())
    for number in (1, 2):
        manifest = workspace.manifest(number, "rate")
        assert manifest is not None
        assert manifest["snapshot"] == sha256(root / f"rounds/{number:04d}/snapshot.parquet")
    for part in ("fit", "train", "evaluate", "report.html"):
        place = root / "rounds/0002" / part
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    before = workspace.manifest(2, "rate")
    code, _, err = finish(start_rounds(root, count=1, raters="simulated:2"))
    assert code == 0, err
    assert workspace.manifest(2, "rate") == before
    anew = workspace.manifest(2, "fit")
    assert anew is not None
    assert anew["report"]["raters"] == 1
    assert unknowns(json.loads(hitl("show", "checkpoint", "2", "-w", root, "--json"))) == []
