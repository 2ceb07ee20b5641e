"""How long somebody has to wait, by a clock that the test turns."""

import pytest

from apps.limits import BackOff, RateLimit, network_of, whole_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_wrong_try_after_the_free_ones_waits_twice_as_long_up_to_the_longest(clock: Clock):
    """3 are free; then 1, 2, 4, 8, 10, 10 seconds."""
    back_off = BackOff(free=3, longest_s=10, clock=clock)
    assert [back_off.start("anna") for _ in range(3)] == [0, 0, 0]
    waits = []
    for _ in range(6):
        waits.append(back_off.start("anna"))
        clock.now += waits[-1] / 2
        assert back_off.start("anna") == waits[-1] / 2  # asking too early neither counts nor helps
        clock.now += waits[-1] / 2
        assert back_off.start("anna") == 0
    assert waits == [1, 2, 4, 8, 10, 10]
    assert back_off.start("ben") == 0


def test_a_right_try_makes_the_wrong_ones_before_it_forgotten_or_only_does_not_count(clock: Clock):
    back_off = BackOff(free=2, clock=clock)
    for forgive, wait_s in ((True, 0), (False, 1)):
        assert [back_off.start(str(forgive)) for _ in range(2)] == [0, 0]
        back_off.succeed(str(forgive), forgive=forgive)
        assert back_off.start(str(forgive)) == 0
        assert back_off.start(str(forgive)) == wait_s


def test_wrong_tries_of_an_hour_ago_are_forgotten(clock: Clock):
    back_off = BackOff(free=1, clock=clock)
    assert [back_off.start("anna") for _ in range(2)] == [0, 1]
    clock.now += 3601
    assert back_off.start("anna") == 0
    assert back_off.start("anna") == 1


def test_names_without_end_take_no_memory_without_end(clock: Clock):
    back_off = BackOff(free=1, clock=clock)
    for number in range(25_000):
        back_off.start(f"name {number}")
    assert len(back_off._tries) <= 10_000
    assert back_off.start("name 24999") == 1


def test_a_burst_is_let_through_and_then_so_many_a_second(clock: Clock):
    """4 at once; after half a second at 4 a second there are 2 more."""
    limit = RateLimit(per_second=4, burst=4, clock=clock)
    assert [limit.take("anna") for _ in range(5)] == [0, 0, 0, 0, 0.25]
    clock.now += 0.5
    assert [limit.take("anna") for _ in range(3)] == [0, 0, 0.25]
    assert limit.take("ben") == 0
    clock.now += 3600
    assert [limit.take("anna") for _ in range(5)] == [0, 0, 0, 0, 0.25]


def test_five_ratings_a_second_for_an_hour_are_never_slowed_down(clock: Clock):
    """Each is sent, its tasks are asked for, and now and then it is undone: some 3 requests."""
    limit = RateLimit(per_second=40, burst=400, clock=clock)
    for _ in range(5 * 3600):
        clock.now += 0.2
        assert [limit.take("anna") for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("unknown", "unknown"),
    ],
)
def test_one_subscriber_is_one_network(address: str, network: str):
    assert network_of(address) == network


@pytest.mark.parametrize(("wait_s", "told"), [(0.01, 1), (1, 1), (1.2, 2), (300, 300)])
def test_a_wait_is_told_in_whole_seconds_and_never_too_short(wait_s: float, told: int):
    assert whole_seconds(wait_s) == told
