"""What is kept: prompts, images, tasks, ratings, rounds. Plain Python and DuckDB; never torch, never gradio."""

from hitl.core.registry import Registry

RATING_KINDS = Registry(
    "rating kind",
    {
        "pairwise": "data.rating_kinds.pairwise:PAIRWISE",
        "alignment": "data.rating_kinds.pairwise:ALIGNMENT",
        "quality": "data.rating_kinds.pairwise:QUALITY",
        "ranking": "data.rating_kinds.ranking:RANKING",
        "best": "data.rating_kinds.ranking:BEST",
        "grades": "data.rating_kinds.grades:GRADES",
        "good_bad": "data.rating_kinds.grades:GOOD_BAD",
    },
    group="hitl.rating_kinds",
)
