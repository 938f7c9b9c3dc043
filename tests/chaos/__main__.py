"""Plays sweeps on real Ray, PostgreSQL and MLflow while a killer is about, and says which seeds break a promise.

python -m tests.chaos                  # 10 kills
python -m tests.chaos 200 --first 40
python -m tests.chaos --seed 17        # one sweep again
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.chaos.play import Player, Tally
from tests.chaos.servers import surroundings

# So many broken sweeps have something in common.
ENOUGH = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=10, help="how many faults, at least")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--seed", type=int, help="play this seed alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what is left of broken sweeps here")
    options = parser.parse_args()
    began = time.perf_counter()

    def say(sentence: str) -> None:
        print(f"{time.perf_counter() - began:7.1f} s  {sentence}", flush=True)

    tally = Tally()
    seeds = itertools.count(options.first) if options.seed is None else [options.seed]
    # ^C ends it with what was played by then.
    with suppress(KeyboardInterrupt), surroundings() as around:
        player = Player(around, say, tally)
        try:
            for seed in seeds:
                player.play(seed)
                if tally.kills.total() >= options.kills or len(tally.broken) >= ENOUGH:
                    break
        finally:
            if options.keep is not None and tally.broken:
                shutil.copytree(around.folder, options.keep, dirs_exist_ok=True)
    show(tally, time.perf_counter() - began)
    return 1 if tally.violations else 0


def show(tally: Tally, seconds: float) -> None:
    """Print what was played and what was broken."""
    print(f"Kills: {counts(tally.kills)}.")
    print(f"Sessions: {tally.sessions}. Trials that went on from a checkpoint: {tally.continued}.")
    print(f"Drivers gave up, each with one sentence, upon: {counts(tally.gave_up) or 'nothing'}.")
    played = f"{tally.kills.total()} kills, {tally.sweeps} sweeps"
    print(f"{played}, {len(tally.violations)} violations, {seconds:.0f} seconds")
    for violation in tally.violations:
        print(violation[:400])


def counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
