"""Calls of every op and files of every kind, damaged at random until time is up: `make fuzz MINUTES=20`.

    python python/fuzz.py --minutes 20 --seed 7

First what is kept in tests/data/fuzz, then rounds of new seeds. Whatever fails ends up in build/fuzz, in the form of the corpus:
once the fault is gone, move it to tests/data/fuzz, where the quick tests read it again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "build" / "fuzz"
CALLS, FILES = 500, 40  # of a round: of ops, and of files of each kind


def main() -> int:
    """Status 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="by default the time")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")  # of torch, about nested and sparse tensors
    from tests.kernels import mutations
    from tests.support import corpus
    from tests.support.mutation import sweep
    from tests.util.test_mutated import KINDS

    end, seed, counts = time.monotonic() + 60 * options.minutes, options.seed, Counter[str]()
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for kind, chosen in KINDS.items():
            (work / kind).mkdir()
            chosen.make(work / kind / "good")
        said += mutations.run_all(corpus.read_cases()).failures
        for kind, chosen in KINDS.items():
            kept = corpus.replay(corpus.CORPUS / kind, work / kind / "good", chosen.names, chosen.read, work / kind)
            said += [f"{kind}: {file}: {fault}" for file, fault in kept.items()]
        print(f"the corpus: {len(said)} failures", *said, sep="\n", flush=True)
        while time.monotonic() < end:
            report = mutations.sweep(seed, CALLS)
            counts += report.counts
            said += report.failures
            if report.failed:
                corpus.add_cases(report.failed, FOUND)
            for kind, chosen in KINDS.items():
                found = sweep(work / kind / "good", chosen.names, chosen.read, FILES, seed, work / kind, FOUND / kind)
                counts += found.counts
                said += [f"{kind}, seed {seed}: {fault}: {example}" for fault, example in found.faults.items()]
            seed += 1
    print(f"seeds {options.seed} to {seed - 1}: {dict(sorted(counts.items()))}")
    print(*said, f"{len(said)} failures" + (f", kept in {FOUND}" if said else ""), sep="\n")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
