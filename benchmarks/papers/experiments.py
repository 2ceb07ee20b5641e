"""The experiments there are."""

from benchmarks.papers import algorithms, ddpo_rewards, dpok_bias, dpok_kl, dpok_tasks, label_efficiency

EXPERIMENTS = {
    each.EXPERIMENT.name: each.EXPERIMENT
    for each in (dpok_tasks, dpok_kl, dpok_bias, algorithms, ddpo_rewards, label_efficiency)
}
