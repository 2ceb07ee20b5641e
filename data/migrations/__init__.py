"""The store's schema as numbered steps. Append-only: a step that was released is never edited."""

from data.migrations import (
    m001_initial,
    m002_image_values,
    m003_presentation,
    m004_accounts,
    m005_checks_of_all_kinds,
    m006_withdrawn_images,
    m007_introduction,
    m008_judgements,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    m001_initial.STATEMENTS,
    m002_image_values.STATEMENTS,
    m003_presentation.STATEMENTS,
    m004_accounts.STATEMENTS,
    m005_checks_of_all_kinds.STATEMENTS,
    m006_withdrawn_images.STATEMENTS,
    m007_introduction.STATEMENTS,
    m008_judgements.STATEMENTS,
)
"""SQL statements by version: entry i leads from version i to version i + 1, in one transaction."""

LATEST = len(MIGRATIONS)
