"""Facts as tables, judgements as views.

No foreign keys: DuckDB then refuses harmless updates of the referenced row. What they would guard is checked before an
event is recorded. Lists are only ever inserted, never updated. Times are UTC without a zone.
"""

STATEMENTS = (
    """
    CREATE TABLE store_state (
        schema_version INTEGER NOT NULL,
        journal_seq BIGINT NOT NULL,
        journal_hash VARCHAR NOT NULL,
        journal_bytes BIGINT NOT NULL
    )
    """,
    f"INSERT INTO store_state VALUES (0, 0, '{'0' * 64}', 0)",
    """
    CREATE TABLE prompts (
        prompt_id VARCHAR PRIMARY KEY,
        position BIGINT NOT NULL,
        text VARCHAR NOT NULL,
        task VARCHAR NOT NULL,
        split VARCHAR NOT NULL
    )
    """,
    # The same bytes can be drawn again in a later round (a fixed seed, an unchanged policy): one row for each.
    """
    CREATE TABLE images (
        image_id VARCHAR NOT NULL,
        prompt_id VARCHAR NOT NULL,
        round INTEGER NOT NULL,
        position BIGINT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        provenance VARCHAR NOT NULL,
        PRIMARY KEY (image_id, round, prompt_id)
    )
    """,
    """
    CREATE TABLE rounds (
        number INTEGER NOT NULL,
        state VARCHAR NOT NULL,
        started_at TIMESTAMP NOT NULL,
        finished_at TIMESTAMP,
        config_sha VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE tasks (
        task_id VARCHAR PRIMARY KEY,
        position BIGINT NOT NULL,
        round INTEGER NOT NULL,
        kind VARCHAR NOT NULL,
        prompt_id VARCHAR NOT NULL,
        image_ids VARCHAR[] NOT NULL,
        overlap INTEGER NOT NULL,
        policy VARCHAR NOT NULL,
        propensity DOUBLE NOT NULL
    )
    """,
    """
    CREATE TABLE raters (
        rater_id VARCHAR PRIMARY KEY,
        name VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        created_at TIMESTAMP NOT NULL
    )
    """,
    """
    CREATE TABLE ratings (
        rating_id VARCHAR PRIMARY KEY,
        position BIGINT NOT NULL,
        task_id VARCHAR NOT NULL,
        rater_id VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        payload VARCHAR NOT NULL,
        image_ids VARCHAR[] NOT NULL,
        dwell_ms BIGINT NOT NULL,
        client_time VARCHAR NOT NULL,
        server_time TIMESTAMP NOT NULL,
        app_version VARCHAR NOT NULL,
        voids VARCHAR,
        is_skip BOOLEAN NOT NULL,
        is_undo BOOLEAN NOT NULL
    )
    """,
    # What the rating kind derived from a rating; written with it, and again by a rebuild.
    """
    CREATE TABLE outcomes (
        rating_id VARCHAR NOT NULL,
        image_a VARCHAR NOT NULL,
        image_b VARCHAR NOT NULL,
        outcome VARCHAR NOT NULL,
        both_bad BOOLEAN NOT NULL,
        left_side VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE metrics (
        round INTEGER NOT NULL,
        stage VARCHAR NOT NULL,
        step BIGINT NOT NULL,
        name VARCHAR NOT NULL,
        value DOUBLE,
        PRIMARY KEY (round, stage, step, name)
    )
    """,
    """
    CREATE VIEW standing_ratings AS
    SELECT ratings.*
    FROM ratings
    ANTI JOIN (SELECT voids FROM ratings WHERE voids IS NOT NULL) AS voided ON voided.voids = ratings.rating_id
    WHERE NOT ratings.is_undo
    """,
    """
    CREATE VIEW comparisons AS
    SELECT
        standing.rating_id, standing.task_id, tasks.round, tasks.prompt_id, prompts.text AS prompt, standing.rater_id,
        outcomes.image_a, outcomes.image_b, outcomes.outcome, outcomes.both_bad, outcomes.left_side,
        prompts.task, prompts.split
    FROM standing_ratings AS standing
    JOIN outcomes USING (rating_id)
    JOIN tasks ON tasks.task_id = standing.task_id
    JOIN prompts ON prompts.prompt_id = tasks.prompt_id
    """,
)
