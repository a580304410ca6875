"""Trials until within 5% of the optimum, and the time of a proposal: `python -m tests.benchmarks.search`.

The problem is that of `tests/search_problem.py`. A search is told each trial's edge, or its whole displacement alone.
"""

from __future__ import annotations

import statistics
import time

from adiabatic_ray.search import searcher
from adiabatic_ray.search.searcher import ConstrainedSearch, Search
from tests.search_problem import OPTIMUM, settings, trained

SEEDS = range(100)  # of random search, groups of 20 have medians between 11.5 and 66.5
NEAR = 0.95
# After so many trials a search has failed; none of the quantiles below comes near it.
LIMITS = {"gp": 60, "tpe": 200, "random": 1000}


def trials_until_near(sampler: str, candidates: str, seed: int, limit: int) -> int:
    """How many trials a search needs until one is within 5% of the optimum; `limit` if none is."""
    search = searcher.create(settings(sampler=sampler, candidates=candidates), seed, trials=limit)
    for number in range(1, limit + 1):
        choice = search.propose(number)
        assert choice is not None
        record = trained(number, choice)
        gain = record.gain_at_edge if candidates == "edge" else record.gain if record.feasible else 0.0
        if gain is not None and gain >= NEAR * OPTIMUM:
            return number
        search.tell(record)
    return limit


def seconds_of_a_proposal(sampler: str, trials: int) -> float:
    """The median time of a proposal after so many trials, each of which was chosen at random."""
    chance, search = (ConstrainedSearch(settings(sampler=name), 0, startup=10) for name in ("random", sampler))
    for number in range(1, trials + 1):
        search.resume(trained(number, _next(chance, number)))
    return statistics.median(_seconds(search, trials + i) for i in range(1, 4))


def _next(search: Search, number: int) -> dict[str, object]:
    choice = search.propose(number)
    assert choice is not None
    return choice


def _seconds(search: Search, number: int) -> float:
    started = time.perf_counter()
    choice = _next(search, number)
    seconds = time.perf_counter() - started
    search.tell(trained(number, choice))
    return seconds


def main() -> None:
    print(f"trials until within 5% of the optimum, {len(SEEDS)} seeds: median, that of the first 20, 80% within, most")
    for candidates in ("edge", "whole"):
        for sampler, limit in LIMITS.items():
            counts = [trials_until_near(sampler, candidates, seed, limit) for seed in SEEDS]
            median, of_20, within = (
                statistics.median(counts),
                statistics.median(counts[:20]),
                sorted(counts)[len(counts) * 4 // 5 - 1],
            )
            print(f"  {candidates:5} {sampler:6} {median:6g} {of_20:6g} {within:6} {max(counts):6}", flush=True)
    print("seconds of a proposal after so many trials")
    for sampler in ("gp", "tpe"):
        times = {trials: seconds_of_a_proposal(sampler, trials) for trials in (10, 50, 100, 300)}
        print(f"  {sampler:4}", ", ".join(f"{trials}: {seconds:.3f}" for trials, seconds in times.items()), flush=True)


if __name__ == "__main__":
    main()
