"""How often somebody may try: wrong passwords cost time, and no rater has the server to themselves. All in memory."""

import ipaddress
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]

_MOST_KEYS = 10_000
_FORGET_S = 3600


@dataclass(slots=True)
class _Tries:
    count: int
    last: float


@dataclass(slots=True)
class BackOff:
    """After `free` tries that failed each further one waits twice as long as the one before, `longest_s` at most."""

    free: int
    longest_s: float = 300
    clock: Clock = time.monotonic
    _tries: dict[str, _Tries] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, key: str) -> float:
        """Begin a try: 0, or the seconds to wait first. It counts as failed until `succeed`, so many at once do too."""
        with self._lock:
            now = self.clock()
            tries = self._tries.get(key)
            if tries is None or now - tries.last > _FORGET_S:
                tries = _Tries(0, now)
            wait_s = tries.last + self._pause_s(tries.count) - now
            if wait_s > 0:
                return wait_s
            self._make_room(now)
            self._tries[key] = _Tries(tries.count + 1, now)
            return 0

    def succeed(self, key: str, *, forgive: bool = True) -> None:
        """The try was right. With `forgive` the failed ones before it are forgotten too."""
        with self._lock:
            tries = self._tries.get(key)
            if tries is not None:
                tries.count = 0 if forgive else tries.count - 1

    def _pause_s(self, failed: int) -> float:
        return 0 if failed < self.free else min(2.0 ** min(failed - self.free, 30), self.longest_s)

    def _make_room(self, now: float) -> None:
        """Names that nobody has can be tried without end: the memory for them has one. A tenth goes at a time."""
        if len(self._tries) < _MOST_KEYS:
            return
        stale = [key for key, tries in self._tries.items() if now - tries.last > self.longest_s]
        for key in stale or list(self._tries)[: _MOST_KEYS // 10]:
            del self._tries[key]


@dataclass(slots=True)
class _Bucket:
    left: float
    last: float


@dataclass(slots=True)
class RateLimit:
    """Up to `burst` requests at once, and `per_second` in the long run."""

    per_second: float
    burst: int
    clock: Clock = time.monotonic
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str) -> float:
        """Count a request: 0, or the seconds to wait first."""
        with self._lock:
            now = self.clock()
            bucket = self._buckets.setdefault(key, _Bucket(self.burst, now))
            bucket.left = min(self.burst, bucket.left + (now - bucket.last) * self.per_second)
            bucket.last = now
            if bucket.left < 1:
                return (1 - bucket.left) / self.per_second
            bucket.left -= 1
            return 0


def whole_seconds(wait_s: float) -> int:
    """For a person, and for Retry-After: never so early that the next try is refused again."""
    return max(1, math.ceil(wait_s))


def network_of(address: str) -> str:
    """Whose tries count together: an IPv4 address, or the /64 that one subscriber gets in IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
