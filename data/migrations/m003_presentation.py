"""How a task was shown, and tasks that check the rater: repeats and gold, whose answers are no comparisons.

Columns of a released table are only ever added: the rows that are there then say what was always so.
"""

STATEMENTS = (
    "ALTER TABLE tasks ADD COLUMN purpose VARCHAR DEFAULT 'learn'",
    "ALTER TABLE tasks ADD COLUMN repeats VARCHAR",
    "ALTER TABLE tasks ADD COLUMN worse VARCHAR",
    "ALTER TABLE ratings ADD COLUMN decide_ms BIGINT",
    "ALTER TABLE ratings ADD COLUMN input_device VARCHAR",
    "ALTER TABLE ratings ADD COLUMN screen_size VARCHAR",
    "ALTER TABLE ratings ADD COLUMN shown_as VARCHAR",
    # A view keeps the columns that its `*` meant when it was made.
    """
    CREATE OR REPLACE VIEW standing_ratings AS
    SELECT ratings.*
    FROM ratings
    ANTI JOIN (SELECT voids FROM ratings WHERE voids IS NOT NULL) AS voided ON voided.voids = ratings.rating_id
    WHERE NOT ratings.is_undo
    """,
    """
    CREATE OR REPLACE VIEW comparisons AS
    SELECT
        standing.rating_id, standing.task_id, tasks.round, tasks.prompt_id, prompts.text AS prompt, standing.rater_id,
        outcomes.image_a, outcomes.image_b, outcomes.outcome, outcomes.both_bad, outcomes.left_side,
        prompts.task, prompts.split, tasks.propensity
    FROM standing_ratings AS standing
    JOIN outcomes USING (rating_id)
    JOIN tasks ON tasks.task_id = standing.task_id
    JOIN prompts ON prompts.prompt_id = tasks.prompt_id
    WHERE tasks.purpose = 'learn'
    """,
    """
    CREATE OR REPLACE VIEW answers AS
    SELECT
        round, task_id, prompt_id, prompt, task, split, rater_id, image_a, image_b, outcome, both_bad, left_side,
        NULL::VARCHAR[] AS images, NULL::INTEGER[] AS "values", NULL::INTEGER AS levels,
        propensity
    FROM comparisons
    UNION ALL
    SELECT
        tasks.round, standing.task_id, tasks.prompt_id, prompts.text, prompts.task, prompts.split, standing.rater_id,
        NULL, NULL, NULL, false, NULL, image_values.image_ids, image_values."values", image_values.levels,
        tasks.propensity
    FROM standing_ratings AS standing
    JOIN image_values USING (rating_id)
    JOIN tasks ON tasks.task_id = standing.task_id
    JOIN prompts ON prompts.prompt_id = tasks.prompt_id
    WHERE image_values.axis = 'overall' AND tasks.purpose = 'learn'
    """,
    # One row for each screen that a rater answered twice, of however many pairs of images it speaks.
    """
    CREATE VIEW repeats AS
    SELECT
        again.rating_id, first.rating_id AS first_rating_id, tasks.round, again.rater_id,
        avg((said.outcome = before.outcome)::INTEGER) AS agreement,
        avg(([said.outcome, before.outcome] IN (['a', 'b'], ['b', 'a']))::INTEGER) AS reversal,
        bool_and(said.left_side <> before.left_side) AS is_swapped
    FROM tasks
    JOIN standing_ratings AS again ON again.task_id = tasks.task_id
    JOIN standing_ratings AS first ON first.task_id = tasks.repeats AND first.rater_id = again.rater_id
    JOIN outcomes AS said ON said.rating_id = again.rating_id
    JOIN outcomes AS before
        ON before.rating_id = first.rating_id AND before.image_a = said.image_a AND before.image_b = said.image_b
    WHERE tasks.purpose = 'repeat'
    GROUP BY again.rating_id, first.rating_id, tasks.round, again.rater_id
    """,
    # One row for each gold task that was answered. Both bad says nothing about which is worse.
    """
    CREATE VIEW gold_answers AS
    SELECT
        standing.rating_id, standing.task_id, tasks.round, standing.rater_id,
        avg((outcomes.outcome = CASE WHEN outcomes.image_a = tasks.worse THEN 'b' ELSE 'a' END)::INTEGER) AS correct
    FROM tasks
    JOIN standing_ratings AS standing ON standing.task_id = tasks.task_id
    JOIN outcomes USING (rating_id)
    WHERE tasks.purpose = 'gold' AND NOT outcomes.both_bad AND tasks.worse IN (outcomes.image_a, outcomes.image_b)
    GROUP BY standing.rating_id, standing.task_id, tasks.round, standing.rater_id
    """,
)
