"""What a rating says about images that are not a pair: ranks and grades."""

STATEMENTS = (
    """
    CREATE TABLE image_values (
        rating_id VARCHAR NOT NULL,
        axis VARCHAR NOT NULL,
        image_ids VARCHAR[] NOT NULL,
        "values" INTEGER[] NOT NULL,
        levels INTEGER
    )
    """,
    # All that stands, in the columns of a snapshot. Of grades those of one axis are learned from.
    """
    CREATE VIEW answers AS
    SELECT
        round, task_id, prompt_id, prompt, task, split, rater_id, image_a, image_b, outcome, both_bad, left_side,
        NULL::VARCHAR[] AS images, NULL::INTEGER[] AS "values", NULL::INTEGER AS levels
    FROM comparisons
    UNION ALL
    SELECT
        tasks.round, standing.task_id, tasks.prompt_id, prompts.text, prompts.task, prompts.split, standing.rater_id,
        NULL, NULL, NULL, false, NULL, image_values.image_ids, image_values."values", image_values.levels
    FROM standing_ratings AS standing
    JOIN image_values USING (rating_id)
    JOIN tasks ON tasks.task_id = standing.task_id
    JOIN prompts ON prompts.prompt_id = tasks.prompt_id
    WHERE image_values.axis = 'overall'
    """,
)
