"""Fuzzes for so many minutes and lists what is wrong, each kind once; the exit code is 1 where anything is."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter

from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.watch import Finding, Id, Tally, for_minutes, fuzz, grown


def main() -> int:
    """Reads the command line, fuzzes and prints."""
    words = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    words.add_argument("--minutes", type=float, default=10.0, help="how long")
    words.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="the same seed makes the same cases")
    words.add_argument("--only", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS), help="these subjects")
    words.add_argument("--case", nargs="*", default=[], metavar="SUBJECT:SEED:NUMBER", help="these cases alone")
    words.add_argument("--processes", type=int, default=2, help="so many beside one another")
    asked = words.parse_args()
    seeds, tally = grown(), Tally.of(asked.only)
    chosen = [each.split(":") for each in asked.case]
    cases = (Id(subject, int(seed), int(number)) for subject, seed, number in chosen)
    try:
        found = fuzz(cases if chosen else for_minutes(asked.minutes, asked.seed, tally), tally, seeds, asked.processes)
    finally:
        shutil.rmtree(seeds)
    done = (f"{count} {name} ({tally.seconds[name]:.0f} s)" for name, count in tally.cases.items())
    print(f"seed {asked.seed}: {', '.join(done)}")
    show(found, whole=bool(chosen))
    return 1 if found else 0


def show(found: list[Finding], *, whole: bool) -> None:
    """Each kind of finding once, with how often it was and its first case."""
    often = Counter(each.wrong for each in found)
    for wrong, count in often.most_common():
        first = next(each for each in found if each.wrong == wrong)
        print(f"\n{count} x {first}\n{first.detail if whole else first.detail[-700:]}")
    print(f"\n{len(found)} cases went wrong, in {len(often)} ways." if found else "\nNothing went wrong.")


if __name__ == "__main__":
    sys.exit(main())
