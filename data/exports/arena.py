"""Votes as arenas keep them: which of two models won, one JSON line to a vote."""

import json
from pathlib import Path

from data.exports.source import Source, Ties, Written

TIES: tuple[Ties, ...] = ("keep", "drop")
SPLITS = ("train", "validation", "test")

LOAD = """\
import json
with open("FOLDER/votes.jsonl", encoding="utf-8") as file:
    votes = [json.loads(line) for line in file]
print(votes[0]["model_a"], votes[0]["model_b"], votes[0]["winner"])"""


def write(source: Source, folder: Path) -> Written:
    rows = alike = 0
    with (folder / "votes.jsonl").open("w", encoding="utf-8") as file:
        for vote in source.votes(with_models=True):
            tie = "tie (bothbad)" if vote.both_bad else "tie"
            told = {
                "question_id": vote.prompt_id,
                "model_a": vote.models[0],
                "model_b": vote.models[1],
                "winner": {1.0: "model_a", 0.0: "model_b"}.get(vote.label, tie),
                "judge": vote.rater,
                "anony": True,
                "tstamp": vote.server_time.timestamp(),
                "prompt": vote.prompt,
                "image_a": f"images/{source.place(vote.images[0], folder / 'images')}",
                "image_b": f"images/{source.place(vote.images[1], folder / 'images')}",
                "split": vote.split,
            }
            rows += 1
            alike += vote.models[0] == vote.models[1]
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
    return Written(
        rows={"votes": rows},
        load=LOAD,
        notes=(
            f"Of {rows} votes {alike} are between two images of one model. They say nothing about models: leave out "
            "those with `model_a` equal to `model_b` before you rank.",
            "`model_a` was displayed on the left (or first). `prompt`, `image_a`, `image_b` and `split` are additions.",
        ),
    )
