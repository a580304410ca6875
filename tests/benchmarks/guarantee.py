"""How often a harmful encoder is handed over, tested and untested: `python -m tests.benchmarks.guarantee [sweeps]`.

Then how often a harmless encoder passes, by the number of premises.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests import simulated_sweeps
from tests.simulated_sweeps import KINDS, PREMISES, SETTINGS, Outcome

SAMPLES = 400  # of each number of premises in the table of power


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    """One line of the table: both rates with their 95% intervals."""
    tested, naive = (
        "{:6.1%} ({:.1%} to {:.1%})".format(*simulated_sweeps.interval(harmful))
        for harmful in ([o.tested for o in outcomes], [o.naive for o in outcomes])
    )
    handed = sum(outcome.tested is not None for outcome in outcomes) / len(outcomes)
    return f"{name:<14}{len(outcomes):>7}{tested:>26}{naive:>28}{handed:>14.1%}"


def main() -> None:
    started = time.perf_counter()
    outcomes = simulated_sweeps.run_all(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    print(f"margin {SETTINGS.margin:g}%, language margin {SETTINGS.language_margin:g}%, alpha {SETTINGS.alpha:g}")
    print(f"{'sweeps':<14}{'number':>7}{'harmful, tested':>26}{'harmful, best of selection':>28}{'handed over':>14}")
    for kind in KINDS:
        print(line(kind, [outcome for outcome in outcomes if outcome.kind == kind]))
    for premises in PREMISES:
        print(line(f"{premises} premises", [outcome for outcome in outcomes if outcome.premises == premises]))
    print(line("all", outcomes))
    print("\na harmless encoder passes, by premises and by the size of its changes")
    print(f"{'noise':<8}" + "".join(f"{n:>8}" for n in (60, 125, 250, 500, 1000, 2000)))
    for noise in (0.03, 0.1, 0.2):
        candidate = simulated_sweeps.harmless(noise)
        shares = [simulated_sweeps.passes(candidate, n, SAMPLES) for n in (60, 125, 250, 500, 1000, 2000)]
        print(f"{noise:<8}" + "".join(f"{share:>8.0%}" for share in shares))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
