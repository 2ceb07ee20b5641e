"""The rules of `benchmarks.time_to_quality`: when a run is there, which settings go on, and what a ratio may claim."""

from typing import Any

from benchmarks.time_to_quality import SWEEP_SEED, is_reached, share, summary


def run(side: str, settings: dict[str, Any], seed: int, means: list[float], cap: float) -> dict[str, Any]:
    """Ten seconds an epoch; the reference's pictures have mean 50 and standard deviation 20."""
    curve = [
        {
            "images": 64 * i,
            "seconds": 20.0 * i,
            "cpu_seconds": 10.0 * i,
            "mean": mean,
            "std": 20.0 / (i + 1),
            "correctness": 0.8 - 0.1 * i,
        }
        for i, mean in enumerate([50.0, *means])
    ]
    return {"side": side, "settings": settings, "seed": seed, "cap": cap, "curve": curve}


def test_the_goal_is_the_reference_mean_and_one_of_its_deviations():
    """50 + 20 = 70, whatever the deviation of the policy's own pictures has become: 10."""
    assert not is_reached(run("ours", {}, 1, [69.9], 30)["curve"])
    assert is_reached(run("ours", {}, 1, [70.0], 30)["curve"])


def test_the_fastest_of_a_sweep_goes_on_or_else_the_one_that_rose_most():
    slow, fast, steep = ({"learning_rate": rate} for rate in (1.0, 2.0, 3.0))
    runs = [
        run("ours", slow, SWEEP_SEED, [55, 60, 75], 30),
        run("ours", fast, SWEEP_SEED, [60, 71], 30),
        run("ours", fast, 1, [60, 65, 70], 90),
        run("trl", slow, SWEEP_SEED, [51, 52, 53], 30),
        run("trl", steep, SWEEP_SEED, [49, 51, 54], 30),
        run("trl", steep, 1, [50] * 9, 90),
    ]
    found = summary(runs, [1], 30, 90)
    assert (found["ours"]["correctness"], found["ours"]["correctness_of_reference"]) == (0.5, 0.8)  # after three epochs
    assert (found["ours"]["settings"], found["trl"]["settings"]) == (fast, steep)
    assert found["ours"]["share_of_trl"] == {
        "is": "at most",  # TRL spent its 90 seconds and was not there
        "cpu_seconds": 0.333,
        "seconds": 0.333,
        "images": 0.333,
        "meets_target": False,
    }


def test_no_share_where_most_of_ours_were_not_there():
    spent = {"cpu_seconds": 10.0, "seconds": 10.0, "images": 64}
    there, not_there = ({**spent, "by_seed": [{"reached": reached}] * 3} for reached in (True, False))
    assert set(share(not_there, there)) == {"is"}
    assert share(there, there)["is"] == "equal to"
