"""Time several calls in turns, so that other work on the machine slows all of them equally."""

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def interleaved(calls: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, list[float]]:
    """Seconds of each call, ``repeats`` times in turn."""
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and range, for JSON."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(times: list[float], base: list[float]) -> dict[str, float]:
    """Median and range of the ratio to ``base`` in the same turn."""
    return spread(value / one for value, one in zip(times, base, strict=True))


def shown(values: dict[str, float]) -> str:
    """Median and range, for a table."""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"
