"""Errors that a person can act on: what was seen, what was expected, and a hint that says what to do next."""

SMALLER_BATCHES = "add --set train.batch_size=32 --set sample.batch_size=16 --set draw.batch_size=8."
"""Hint for a machine that ran out of memory: `--set` reaches a round that has begun, hitl.toml does not."""


class HitlError(Exception):
    """Base of every expected failure. The command line prints message and hint, without a traceback.

    `exit_code` is 1 for a failure of the work and 2 for wrong use or configuration.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(HitlError, ValueError):
    """A setting, flag or argument that cannot be used."""

    exit_code = 2


class UnknownName(HitlError, LookupError):
    """A name that is in none of the lists it was looked up in."""

    exit_code = 2


class WorkspaceError(HitlError):
    """The folder is missing, incomplete, of another version, or cannot be written."""


class StoreError(HitlError):
    """The store or its journal cannot be opened, is held by another process, or disagrees with itself."""


class DiskFull(WorkspaceError, StoreError):
    """There is no room for what was to be written. Nothing of it was."""


class NotEnoughRatings(HitlError):
    """A stage needs more ratings than there are."""


class RewardAtChance(HitlError):
    """The fitted reward model cannot be told from a coin."""


class WorsePolicy(HitlError):
    """People judged the last policy's pictures worse than another model's, beyond noise."""


class ModelLoadError(HitlError):
    """A model folder, file or hub id that cannot be loaded."""


class RewardError(HitlError):
    """A reward gave no scores: its service does not answer, or what it answers is not one number for each image."""


class WorkerError(HitlError):
    """The worker process failed or died. What it had finished is kept."""


class TrainingError(HitlError):
    """Training cannot go on: the policy ratio is off, a loss is not finite, or an invariant is broken."""
