"""An export of many ratings takes no more memory than one of few."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.database import Database
from data.records import Prompt
from data.store import Store
from data.workspace import Workspace
from tests.fixtures.rated import png

PROMPTS, IMAGES = 500, 64
_FILL = (
    """
    INSERT INTO raters
    SELECT 'r' || i, 'Rater ' || i, 'human', TIMESTAMP '2026-11-01' FROM range(20) AS all_of(i)
    """,
    """
    INSERT INTO images
    SELECT image_id, prompt_id, 1, prompts.position * 1000 + i, 12, 12, '{"model": "starter", "policy_round": 1}'
    FROM prompts, unnest($images::VARCHAR[]) WITH ORDINALITY AS drawn(image_id, i)
    """,
    """
    INSERT INTO tasks (task_id, position, round, kind, prompt_id, image_ids, overlap, policy, propensity, purpose)
    SELECT
        'task ' || i, i, 1, 'pairwise', prompts.prompt_id,
        [$images[1 + (i % 64)::INTEGER], $images[1 + ((i + 1 + i // 64) % 64)::INTEGER]], 1, 'random', 0.5, 'learn'
    FROM range($ratings) AS all_of(i) JOIN prompts ON prompts.position % 500 = i % 500
    WHERE i % 64 <> (i + 1 + i // 64) % 64 ORDER BY i
    """,
    """
    INSERT INTO ratings (
        rating_id, position, task_id, rater_id, kind, payload, image_ids, dwell_ms, client_time, server_time,
        app_version, is_skip, is_undo
    )
    SELECT
        md5(task_id), position, task_id, 'r' || (position % 20), 'pairwise', '{"choice": "left"}', image_ids, 900,
        '2026-11-01T12:00:00+00:00', TIMESTAMP '2026-11-01' + to_seconds(position), '0.1.0', FALSE, FALSE
    FROM tasks ORDER BY position
    """,
    "INSERT INTO outcomes SELECT rating_id, image_ids[1], image_ids[2], 'a', FALSE, 'a' FROM ratings",
)
_PEAK = """
import resource, sys
from hitl.cli import main
sys.argv = ["hitl", "export", *sys.argv[1:]]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def a_workspace(root: Path, ratings: int) -> Workspace:
    """A store of about so many ratings (by SQL: one by one would take minutes), of few and small images."""
    workspace = Workspace(root)
    ids = [workspace.add_image(png(seed)) for seed in range(IMAGES)]
    with Store.open(workspace, create=True) as store:
        store.add_prompts(Prompt.of(f"prompt number {i} of a green heart") for i in range(PROMPTS))
    database = Database.open(workspace.store_path)
    with database.writing(), database.transaction() as writer:
        for statement in _FILL:
            values = {"images": ids, "ratings": ratings}
            writer.execute(statement, {name: value for name, value in values.items() if f"${name}" in statement})
    with database.writing():
        database.checkpoint()
    database.close()
    return workspace


def peak_mib(workspace: Workspace, out: Path, *words: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(out), *words, "-w", str(workspace.root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stderr.splitlines()[-1])


@pytest.mark.slow
def test_the_memory_of_an_export_does_not_grow_with_the_ratings(tmp_path: Path):
    few, many = (a_workspace(tmp_path / str(count), count) for count in (50_000, 200_000))
    for out, words in (
        ("all.parquet", ()),
        ("facts", ("--format", "jsonl")),
        ("votes", ("--format", "trl")),
        ("pairs", ("--format", "diffusion-dpo", "--image-format", "jpeg")),
    ):
        small = peak_mib(few, tmp_path / f"few-{out}", *words)
        large = peak_mib(many, tmp_path / f"many-{out}", *words)
        print(f"{out}: {small} MiB for 50,000 ratings, {large} for 200,000")
        assert large < small + 60
    table = pq.ParquetFile(tmp_path / "many-all.parquet")
    assert table.metadata.num_rows > 190_000
