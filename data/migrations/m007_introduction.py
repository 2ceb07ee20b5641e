"""What a rater agreed to before they rated, and that they have been through the guide and its practice."""

STATEMENTS = (
    """
    CREATE TABLE consents (
        position BIGINT NOT NULL,
        rater_id VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        language VARCHAR NOT NULL,
        text VARCHAR NOT NULL,
        given_at TIMESTAMP NOT NULL
    )
    """,
    """
    CREATE TABLE practices (
        rater_id VARCHAR NOT NULL,
        outcome VARCHAR NOT NULL,
        ended_at TIMESTAMP NOT NULL
    )
    """,
)
