#!/usr/bin/env python3
"""What users wait for, measured beside its floor, on real packages.

    python3 benches/run.py [cold] [tail] [warm] [noop] [upgrade] [scale] [--rounds N] [--small]

Without names all of them. Needs R, a C compiler, make, and `target/release/solve` (LARDER_SOLVE names another). The
packages come from `tests/real/fetch.py --more` (LARDER_BENCH names a folder that has them already). Both sides of a
ratio run in turn, in the same process, `--rounds` times (3 unless said); the medians are printed as a table with the
load of the machine at the start and at the end, for `benches/RESULTS.md`. `--small` takes few packages, once: it shows
that a bench still works, and its figures say nothing.

    cold      everything built from source, against plain `R CMD INSTALL` one by one on the same tarballs
    tail      one package of 40 C++ files, against `make -j` of the same files alone
    warm      the library linked from the store, against a loop in C over the same trees (link_floor.c)
    noop      a library that is complete
    upgrade   Rcpp with another header, against building exactly what links to it; and with the same headers
    scale     a lockfile of 22,000 packages planned: time and memory
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SERVED = "http://127.0.0.1:1"
HERE_AND_NOW = {"platform": "source", "rversion": "*"}
LOCKFILE = {"lockfile_version": 1, "os": "Linux", "r_version": "R", "platform": "any"}
SMALL = {"R6", "Rcpp", "fastmap", "generics", "later", "magrittr", "promises", "rlang", "withr"}


class Machine:
    """The folder that benches work in, the command, and the packages."""

    def __init__(self, work: Path, packages: Path, is_small: bool):
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        self.solve = Path(os.environ.get("LARDER_SOLVE") or target / "release/solve").absolute()
        self.work, self.packages, self.is_small = work, packages, is_small
        self.cores = os.cpu_count() or 1

    def lock(self, name: str) -> Path:
        """Returns a lockfile of the packages, of few of them if it is to be small."""
        path = self.packages / f"{name}.lock"
        if not self.is_small:
            return path
        lock = json.loads(path.read_text())
        lock["packages"] = [entry for entry in lock["packages"] if entry["package"] in SMALL]
        small = self.work / f"{name}.lock"
        small.write_text(json.dumps(lock))
        return small

    def run(self, lock: Path, store: str, library: str, *args: str) -> tuple[float, float, list[dict]]:
        """Solves, and returns wall and CPU seconds and the events."""
        command = [str(self.solve), str(lock), "--store", str(self.work / store), "-l", str(self.work / library)]
        command += ["--mirror", f"{SERVED}=file://{self.packages}/repo", "--json", *args]
        wall, cpu, out = timed(command)
        return wall, cpu, [json.loads(line) for line in out.splitlines()]

    def fresh(self, *names: str) -> None:
        for name in names:
            subprocess.run(["rm", "-rf", str(self.work / name)], check=True)


def timed(command: list[str], **more) -> tuple[float, float, str]:
    """Runs a command that must succeed; returns wall seconds, CPU seconds of it and all it waited for, and its output."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **more)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"{command[:6]} ended with {child.returncode}\n{out.read()[-2000:]}\n{err.read()[-2000:]}")
        return wall, used.ru_utime + used.ru_stime, out.read()


def order(lock: Path) -> list[dict]:
    """Returns the packages, each after what it needs."""
    entries = {entry["package"]: entry for entry in json.loads(lock.read_text())["packages"]}
    done: dict[str, dict] = {}

    def visit(name: str) -> None:
        if name in entries and name not in done:
            for needed in entries[name]["dependencies"]:
                visit(needed)
            done[name] = entries[name]

    for name in sorted(entries):
        visit(name)
    return list(done.values())


def tarball(machine: Machine, entry: dict) -> Path:
    return machine.packages / "repo" / entry["sources"][0].removeprefix(SERVED + "/")


def plainly(machine: Machine, lock: Path, only: set[str] | None, library: Path) -> tuple[float, float]:
    """Installs one by one with `R CMD INSTALL`; returns wall and CPU seconds of all."""
    library.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "R_LIBS": str(library), "R_LIBS_USER": "", "R_LIBS_SITE": ""}
    wall = cpu = 0.0
    for entry in order(lock):
        if only is None or entry["package"] in only:
            command = ["R", "CMD", "INSTALL", f"--library={library}", str(tarball(machine, entry))]
            more = timed(command, env=env)
            wall, cpu = wall + more[0], cpu + more[1]
    return wall, cpu


def busy(events: list[dict]) -> str:
    counts = events[-1]["counts"]
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def cold(machine: Machine) -> dict[str, float]:
    lock = machine.lock("real")
    machine.fresh("store", "library", "plain")
    wall, cpu, events = machine.run(lock, "store", "library")
    print(f"  cold: {wall:.1f} s wall, {cpu:.1f} CPU s; {busy(events)}", flush=True)
    plain_wall, plain_cpu = plainly(machine, lock, None, machine.work / "plain")
    print(f"  plain: {plain_wall:.1f} s wall, {plain_cpu:.1f} CPU s", flush=True)
    return {
        "cold: CPU s": cpu,
        "cold: CPU s of plain R CMD INSTALL": plain_cpu,
        "cold: CPU / plain (at most 0.78)": cpu / plain_cpu,
        "cold: wall s": wall,
        "cold: wall / (CPU / cores) (at most 1.03)": wall / (cpu / machine.cores),
    }


def tail(machine: Machine) -> dict[str, float]:
    n_files = 4 if machine.is_small else 40
    package = machine.work / "tailed"
    machine.fresh("tailed", "tail-store", "tail-library", "alone", "tail.lock")
    (package / "src").mkdir(parents=True)
    (package / "DESCRIPTION").write_text(
        "Package: tailed\nVersion: 1.0\nTitle: T\nDescription: D.\nLicense: MIT\nAuthor: A\nMaintainer: A <a@b.c>\n"
    )
    (package / "NAMESPACE").write_text("useDynLib(tailed)\n")
    for n in range(n_files):
        (package / f"src/file{n}.cpp").write_text(
            "#include <algorithm>\n#include <map>\n#include <regex>\n#include <string>\n"
            f'extern "C" int file{n}(const char *text) {{ std::map<std::string, int> seen; std::regex words("[a-z]+");\n'
            " std::string all(text); for (std::sregex_iterator it(all.begin(), all.end(), words), end; it != end; ++it)"
            f" seen[it->str()] += {n}; return (int)seen.size(); }}\n"
        )
    shutil.copytree(package / "src", machine.work / "alone")
    entry = {"ref": "local::.", "package": "tailed", "version": "1.0", "type": "local", "direct": True, "binary": False}
    entry |= {"dependencies": [], "needscompilation": True, "sources": [str(package)], "metadata": {"RemoteType": "local"}, **HERE_AND_NOW}
    lock = machine.work / "tail.lock"
    lock.write_text(json.dumps({**LOCKFILE, "packages": [entry]}))
    wall, cpu, _ = machine.run(lock, "tail-store", "tail-library")
    env = {**os.environ, "MAKEFLAGS": f"-j{machine.cores}"}
    (machine.work / "alone/Makevars").write_text("PKG_CXXFLAGS = -g0\n")
    command = ["R", "CMD", "SHLIB", "-o", "tailed.so"] + [f"file{n}.cpp" for n in range(n_files)]
    alone, alone_cpu, _ = timed(command, cwd=machine.work / "alone", env=env)
    return {
        "tail: wall s": wall,
        "tail: wall s of make -j alone": alone,
        "tail: wall / make (at most 1.1)": wall / alone,
        "tail: CPU / make": cpu / alone_cpu,
    }


def filled(machine: Machine, lock: Path) -> None:
    """Makes sure that the store has everything."""
    machine.run(lock, "store", "library")


def trees(machine: Machine, library: Path) -> list[str]:
    record = json.loads((library / ".packages.json").read_text())
    platform = next(path for path in (machine.work / "store").iterdir() if (path / "platform.json").is_file())
    return [str(platform / package / reference) for package, reference in sorted(record.items())]


def warm(machine: Machine) -> dict[str, float]:
    lock = machine.lock("real")
    filled(machine, lock)
    all_trees = trees(machine, machine.work / "library")
    floor = machine.work / "link_floor"
    subprocess.run(["cc", "-O2", "-o", str(floor), str(HERE / "link_floor.c")], check=True)
    sums: dict[str, float] = {"warm: packages": len(all_trees)}
    for how, flag in [("hard", "hardlink"), ("sym", "symlink")]:
        walls, floors = [], []
        for _ in range(1 if machine.is_small else 9):
            machine.fresh("library", "floor")
            walls.append(machine.run(lock, "store", "library", "--link", flag)[0])
            (machine.work / "floor").mkdir()
            floors.append(timed([str(floor), how, str(machine.work / "floor"), *all_trees])[0])
        wall, least = statistics.median(walls), statistics.median(floors)
        sums[f"warm, {flag}: wall s"] = wall
        sums[f"warm, {flag}: wall s of a loop in C"] = least
        sums[f"warm, {flag}: wall / loop"] = wall / least
    machine.fresh("library")
    return sums


def noop(machine: Machine) -> dict[str, float]:
    lock = machine.lock("real")
    filled(machine, lock)
    walls = sorted(machine.run(lock, "store", "library")[0] for _ in range(3 if machine.is_small else 21))
    return {"no-op: wall ms (at most 8)": statistics.median(walls) * 1000, "no-op: wall ms at best": walls[0] * 1000}


def upgrade(machine: Machine) -> dict[str, float]:
    old, new = machine.lock("real"), machine.lock("upgrade")
    filled(machine, old)
    # A store that has not seen the upgrade yet.
    machine.fresh("store2", "library2")
    subprocess.run(["cp", "-a", str(machine.work / "store"), str(machine.work / "store2")], check=True)
    machine.run(old, "store2", "library2")
    wall, cpu, events = machine.run(new, "store2", "library2")
    rebuilt = {e["package"] for e in events if e["reason"] == "vertex-settled" and e["outcome"] in ("recompiled", "ingested")}
    machine.fresh("plain2")
    shutil.copytree(machine.work / "library2", machine.work / "plain2", symlinks=True)
    # The floor: exactly these, built by the same command with nothing else to decide.
    machine.fresh("store3", "library3")
    subprocess.run(["cp", "-a", str(machine.work / "store"), str(machine.work / "store3")], check=True)
    rebuild = [arg for package in sorted(rebuilt) for arg in ("--rebuild", package)]
    machine.run(old, "store3", "library3")
    floor_wall, floor_cpu, _ = machine.run(old, "store3", "library3", *rebuild)
    return {
        "upgrade: packages built": len(rebuilt),
        "upgrade: wall s": wall,
        "upgrade: wall s of building just these": floor_wall,
        "upgrade: wall / just these (at most 1.05)": wall / floor_wall,
        "upgrade: CPU / just these": cpu / floor_cpu,
    }


def scale(machine: Machine) -> dict[str, float]:
    n = 500 if machine.is_small else 22_000
    entries = []
    for i in range(n):
        name = f"pkg{i}"
        needs = [f"pkg{j}" for j in {i // 2, i // 3, (i * 7) % max(i, 1)} if j < i]
        entry = {"ref": name, "package": name, "version": "1.0.0", "type": "standard", "direct": False, "binary": False}
        entry |= {"dependencies": needs, "needscompilation": i % 4 == 0, "sha256": f"{i:064x}"}
        entry |= {"sources": [f"{SERVED}/src/contrib/{name}_1.0.0.tar.gz"], "metadata": {"RemoteType": "standard"}, **HERE_AND_NOW}
        entries.append(entry)
    lock = machine.work / "scale.lock"
    lock.write_text(json.dumps({**LOCKFILE, "packages": entries}))
    command = [str(machine.solve), "plan", str(lock), "--store", str(machine.work / "scale-store"), "-l", "nowhere", "--json"]
    timed(command)
    walls, memory = [], 0
    for _ in range(1 if machine.is_small else 7):
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=machine.work)
        _, status, used = os.wait4(child.pid, 0)
        walls.append(time.monotonic() - start)
        child.returncode = os.waitstatus_to_exitcode(status)
        memory = max(memory, used.ru_maxrss)
    return {
        f"plan of {n} packages: ms (at most 300)": statistics.median(walls) * 1000,
        f"plan of {n} packages: MB (at most 150)": memory / 1000,
    }


BENCHES = {"cold": cold, "tail": tail, "warm": warm, "noop": noop, "upgrade": upgrade, "scale": scale}


def bring(is_small: bool) -> Path:
    given = os.environ.get("LARDER_BENCH") or (os.environ.get("LARDER_REAL") if is_small else None)
    if given:
        return Path(given).absolute()
    folder = ROOT / "target" / ("real" if is_small else "real-more")
    more = [] if is_small else ["--more"]
    subprocess.run([sys.executable, str(ROOT / "tests/real/fetch.py"), *more], check=True, stdout=subprocess.DEVNULL)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    names = args.names or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        parser.error(f"no bench is called {', '.join(unknown)}")
    packages = bring(args.small)
    work = Path(tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("LARDER_BENCH_DIR")))
    machine = Machine(work, packages, args.small)
    loads = [os.getloadavg()[0]]
    gathered: dict[str, list[float]] = {}
    try:
        for n in range(1 if args.small else args.rounds):
            for name in names:
                print(f"{name}, round {n + 1}", file=sys.stderr, flush=True)
                for what, value in BENCHES[name](machine).items():
                    gathered.setdefault(what, []).append(value)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(work)], check=False)
        shutil.rmtree(work, ignore_errors=True)
    loads.append(os.getloadavg()[0])
    version = subprocess.run(["R", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"\n{version}, {machine.cores} cores, load {loads[0]:.1f} before and {loads[1]:.1f} after (the benches' own "
          f"included), medians of {1 if args.small else args.rounds}\n")
    print("| what | figure |\n|---|---|")
    for what, values in gathered.items():
        print(f"| {what} | {statistics.median(values):.4g} |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
