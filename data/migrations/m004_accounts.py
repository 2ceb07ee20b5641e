"""Who may do what: accounts beside the raters, and invites. A rater without a row here only gave a name."""

STATEMENTS = (
    """
    CREATE TABLE accounts (
        rater_id VARCHAR NOT NULL,
        role VARCHAR NOT NULL,
        is_disabled BOOLEAN NOT NULL,
        password_hash VARCHAR,
        sessions INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE invites (
        invite_id VARCHAR PRIMARY KEY,
        position BIGINT NOT NULL,
        token_hash VARCHAR NOT NULL,
        role VARCHAR NOT NULL,
        rater_id VARCHAR,
        created_at TIMESTAMP NOT NULL,
        expires_at TIMESTAMP NOT NULL,
        used_at TIMESTAMP,
        used_by VARCHAR,
        revoked_at TIMESTAMP
    )
    """,
    # Updated rows leave their old bytes in the file; one that held what was to be erased is written anew.
    "ALTER TABLE store_state ADD COLUMN has_erased BOOLEAN DEFAULT FALSE",
)
