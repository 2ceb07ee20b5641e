"""Images whose files are gone or damaged, so that they cannot be shown any more."""

STATEMENTS = (
    """
    CREATE TABLE withdrawn_images (
        image_id VARCHAR PRIMARY KEY,
        reason VARCHAR NOT NULL,
        withdrawn_at TIMESTAMP NOT NULL
    )
    """,
)
