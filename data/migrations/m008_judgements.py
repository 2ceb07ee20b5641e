"""Tasks whose answers judge models: which two drew the images, and for which study people are asked."""

STATEMENTS = (
    "ALTER TABLE tasks ADD COLUMN models VARCHAR[]",
    "ALTER TABLE tasks ADD COLUMN study VARCHAR",
)
