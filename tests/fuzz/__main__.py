"""Hostile input for a number of minutes, at what reads model text, files, options and requests.

    python -m tests.fuzz --minutes 5 [--seed 7] [--target markup]

A case is a target, a seed and a number, and can be done again. Chunks of cases run in processes of
their own, so that a crash or an endless loop is a finding too. Each finding is a line with the
command that repeats it; the last line is one JSON object. Exit code 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from itertools import cycle, islice

from tests.fuzz.targets import TARGETS

CHUNK = 400  # cases of one process
CHUNK_SECONDS = 900


def run_chunk(target: str, seed: int, first: int, cases: int) -> int:
    """Runs cases in this process, prints a JSON line for each finding; how many there were."""
    found = 0
    with TARGETS[target]() as check:
        for number in range(first, first + cases):
            print(json.dumps({"case": number}), flush=True)  # what a crash was in
            try:
                check(random.Random(f"{target} {seed} {number}"))
            except Exception as error:
                found += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__} in {place.name}: {error}"
                print(json.dumps({"finding": number, "what": what[:2000]}), flush=True)
    return found


def start_chunk(target: str, seed: int, first: int, cases: int) -> tuple[int, list[str]]:
    """The same in a process of its own: cases done, findings."""
    command = [sys.executable, "-m", "tests.fuzz", f"--target={target}", f"--seed={seed}"]
    command += [f"--first={first}", f"--cases={cases}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHUNK_SECONDS)
        output, end = done.stdout, f"ended with {done.returncode}: {done.stderr[-2000:]}"
        healthy = done.returncode in (0, 1)
    except subprocess.TimeoutExpired as error:
        output, end, healthy = (error.stdout or b"").decode(), "did not come to an end", False
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    begun = [line["case"] for line in lines if "case" in line]
    findings = [
        _finding(command, line["finding"], line["what"]) for line in lines if "what" in line
    ]
    if not healthy:
        findings.append(_finding(command, begun[-1] if begun else first, end))
    return len(begun), findings


def _finding(command: list[str], number: int, what: str) -> str:
    return f"{' '.join(['python', *command[1:-2]])} --first={number} --cases=1\n  {what}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--target", choices=TARGETS, help="one of them; default all, in turn")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, help="this many of one target, in this process")
    args = parser.parse_args()
    if args.cases is not None:
        return int(run_chunk(args.target, args.seed, args.first, args.cases) > 0)
    deadline, counts, findings = time.monotonic() + 60 * args.minutes, Counter(), 0
    targets = [args.target] if args.target else list(TARGETS)
    firsts = Counter(dict.fromkeys(targets, args.first))
    for target in cycle(targets):
        if time.monotonic() >= deadline:
            break
        done, found = start_chunk(target, args.seed, firsts[target], CHUNK)
        firsts[target] += CHUNK
        counts[target] += done
        findings += len(found)
        print(f"{target}: {counts[target]} cases", file=sys.stderr)
        print("\n".join(islice(found, 5)), end="\n" if found else "", flush=True)
    print(json.dumps({"seed": args.seed, "cases": dict(counts), "findings": findings}))
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
