"""What is kept: prompts, images, tasks, ratings, rounds. Plain Python and DuckDB; never torch, never gradio."""

from hitl.core.registry import Registry

RATING_KINDS = Registry(
    "rating kind",
    {"pairwise": "data.rating_kinds.pairwise:PAIRWISE"},
    group="hitl.rating_kinds",
)
