"""The experiments there are."""

from benchmarks.papers import dpok_bias, dpok_kl, dpok_tasks

EXPERIMENTS = {each.EXPERIMENT.name: each.EXPERIMENT for each in (dpok_tasks, dpok_kl, dpok_bias)}
