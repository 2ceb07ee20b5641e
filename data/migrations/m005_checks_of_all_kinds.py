"""Repeats and gold of every rating kind: the views hold what was answered, in one form; `data.check_answers` judges."""

STATEMENTS = (
    "ALTER TABLE tasks ADD COLUMN better VARCHAR",
    # A choice between two images as ranks, beside the ranks and grades.
    """
    CREATE VIEW given_values AS
    SELECT
        rating_id, 'overall' AS axis, [image_a, image_b] AS image_ids,
        CASE outcome WHEN 'a' THEN [1, 2] WHEN 'b' THEN [2, 1] ELSE [1, 1] END AS "values",
        NULL::INTEGER AS levels, both_bad
    FROM outcomes
    UNION ALL
    SELECT rating_id, axis, image_ids, "values", levels, FALSE FROM image_values
    """,
    # One row for each screen that a rater answered twice. Of a single image there is no other order than the one.
    """
    CREATE OR REPLACE VIEW repeats AS
    SELECT
        again.rating_id, first.rating_id AS first_rating_id, tasks.round, again.rater_id,
        any_value(
            len(again.image_ids) = 1
            OR NOT list_bool_or(list_transform(list_zip(first.image_ids, again.image_ids), lambda two: two[1] = two[2]))
        ) AS is_swapped,
        list({before: before."values", again: said."values", levels: said.levels} ORDER BY said.axis) AS said
    FROM tasks
    JOIN standing_ratings AS again ON again.task_id = tasks.task_id
    JOIN standing_ratings AS first ON first.task_id = tasks.repeats AND first.rater_id = again.rater_id
    JOIN given_values AS said ON said.rating_id = again.rating_id
    JOIN given_values AS before
        ON before.rating_id = first.rating_id AND before.axis = said.axis AND before.image_ids = said.image_ids
    WHERE tasks.purpose = 'repeat'
    GROUP BY again.rating_id, first.rating_id, tasks.round, again.rater_id
    """,
    # One row for each gold task that was answered. Both bad says nothing about which is worse.
    """
    CREATE OR REPLACE VIEW gold_answers AS
    SELECT
        standing.rating_id, standing.task_id, tasks.round, standing.rater_id, tasks.worse, tasks.better,
        list({axis: said.axis, image_ids: said.image_ids, "values": said."values", levels: said.levels}) AS said
    FROM tasks
    JOIN standing_ratings AS standing ON standing.task_id = tasks.task_id
    JOIN given_values AS said USING (rating_id)
    WHERE
        tasks.purpose = 'gold' AND NOT said.both_bad
        AND list_contains(said.image_ids, coalesce(tasks.worse, tasks.better))
    GROUP BY standing.rating_id, standing.task_id, tasks.round, standing.rater_id, tasks.worse, tasks.better
    """,
)
