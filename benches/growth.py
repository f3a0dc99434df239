#!/usr/bin/env python3
"""How the solver's time for a vertex grows from 10,000 vertices to 1,000,000.

    benches/growth.py [ROUNDS]

Runs each of the solver's benches (`graph/benches/layers`) in a process of its own, once, as the command runs its graph:
in memory that nobody has touched before. `cargo bench -p larder-graph` runs them again and again in one process, where
a graph of 10,000 finds its memory mapped and in the CPU's cache, and one of 1,000,000 never does. Prints medians.
"""

import os
import re
import statistics
import subprocess
import sys

BENCHES = ["run_from_nothing", "job_from_nothing", "job_all_cached", "job_with_history"]
SIZES = [10_000, 1_000_000]
UNITS = {"µs": 1.0, "ms": 1e3, "s": 1e6}


def build():
    built = subprocess.run(
        ["cargo", "bench", "-p", "larder-graph", "--bench", "solver", "--no-run"],
        check=True, stderr=subprocess.PIPE, text=True,
    )
    return re.search(r"Executable .*\((.*)\)", built.stderr)[1]


def measure(program, bench, size):
    """Returns the microseconds that one vertex took, in one run of one process."""
    # Divan takes its filters for regular expressions.
    command = [program, "--bench", "--sample-count", "1", f"{bench}.*{size}$"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    time, unit = re.search(rf"─ {size}\s+([\d.]+) (µs|ms|s) ", said).groups()
    return float(time) * UNITS[unit] / size


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    program = build()
    print(f"load {os.getloadavg()[0]:.1f}, medians of {rounds} processes each")
    for bench in BENCHES:
        # Interleaved, so that whatever else the machine does meets both.
        runs = [[measure(program, bench, size) for size in SIZES] for _ in range(rounds)]
        small, large = (statistics.median(run[n] for run in runs) for n in range(2))
        print(f"{bench:20} {small:6.3f} -> {large:6.3f} µs a vertex, {large / small:.2f} times")


if __name__ == "__main__":
    main()
