"""A campaign: cases by seed, a table at the end, status 1 if one failed."""

import collections
import random
import sys
import time
from collections.abc import Callable


class Campaign:
    """Runs cases and prints what became of them.

    Args:
        name: Title of the table.
        seconds: No case starts after so many; None is no limit.
    """

    def __init__(self, name: str, seconds: float | None = None):
        self.name, self.seconds, self.start = name, seconds, time.perf_counter()
        self.passed, self.failed = collections.Counter(), collections.defaultdict(list)
        self.notes = collections.defaultdict(collections.Counter)

    def run(self, seed: int, cases: int, check: Callable[[int, random.Random], tuple[str, str | None, str | None]]):
        """`check(seed, rng)` of each seed gives the case's row, what is wrong (None: nothing), and a note to count.

        A case depends on its seed alone: `--cases 1 --seed <that>` repeats it.
        """
        for one in range(seed, seed + cases):
            if self.seconds is not None and time.perf_counter() - self.start > self.seconds:
                print(f"stopped after {one - seed} of {cases} cases: out of time", flush=True)
                break
            row, fault, note = check(one, random.Random(one))
            if note:
                self.notes[row][note] += 1
            if fault is None:
                self.passed[row] += 1
            else:
                self.failed[row].append(fault)
                print(f"FAILED {row}, --seed {one}: {fault}", flush=True)

    def finish(self, allowed: float = 0) -> bool:
        """Prints the table; True if there were cases and no more than a share `allowed` of them failed."""
        good, bad = self.passed.total(), sum(map(len, self.failed.values()))
        print(f"\n### {self.name}\n\n| case | passed | of | first fault; notes |\n|---|---:|---:|---|")
        for row in sorted({*self.passed, *self.failed}):
            notes = [f"{times} {note}" for note, times in self.notes[row].items()]
            said = "; ".join([*self.failed[row][:1], *notes]).replace("|", "\\|")
            print(f"| {row} | {self.passed[row]} | {self.passed[row] + len(self.failed[row])} | {said} |")
        took = time.perf_counter() - self.start
        rate = (good + bad) / took * 60
        print(f"| **all** | **{good}** | **{good + bad}** | {took / 60:.1f} min, {rate:.0f} cases a minute |\n")
        sys.stdout.flush()
        return good + bad > 0 and bad <= allowed * (good + bad)
