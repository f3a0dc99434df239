#!/usr/bin/env python3
"""What users wait for, measured beside its floor, on real packages.

    python3 benches/run.py [cold] [tail] [upgrade] [warm] [noop] [scale] [simulated] [--rounds N] [--small]

Without names all of them, in a quarter of an hour. Needs R, a C compiler, make, cargo, and `target/release/solve`
(LARDER_SOLVE names another). The packages come from `tests/real/fetch.py --more` (LARDER_BENCH names a folder that has
them already). Both sides of a ratio run in turn, in the same process, `--rounds` times (3 unless said; cold, which takes
as long as all the others together, once unless said); the medians are printed as a table with the load of the machine
at the start and at the end, for `benches/RESULTS.md`. `--small` takes a few made-up packages, once: it shows that a
bench still works, and its figures say nothing.

    cold       everything built from source, against plain `R CMD INSTALL` one by one on the same tarballs
    tail       one package of 40 C++ files, against `make -j` of the same files alone, with the same flags
    upgrade    Rcpp with another header, against building exactly what links to it; and with the same headers
    warm       the library linked from the store, against a loop in C over the same trees (link_floor.c)
    noop       a library of 100 packages that is complete
    scale      a lockfile of 22,000 packages planned: time and memory
    simulated  the scheduler on recorded durations and many cores (graph/benches/simulated.rs)

Each measured command gets directories of its own, and nothing is removed before the end: ext4 passes over inodes that
were freed in the last seconds, one by one, so that whatever is made just after a removal takes several times as long.
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
# For how long the file system remembers what was removed, and is slow for it.
SECONDS_TO_FORGET = 40

sys.path.insert(0, str(ROOT / "tests/real"))
import lockfile
from cran import Source


class Machine:
    """The folder that benches work in, the command, and the packages."""

    def __init__(self, work: Path, packages: Path, is_small: bool):
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        self.solve = Path(os.environ.get("LARDER_SOLVE") or target / "release/solve").absolute()
        self.work, self.packages, self.is_small = work, packages, is_small
        self.cores = os.cpu_count() or 1
        self.n_made = 0

    def new(self, name: str) -> str:
        """Returns a name in the working folder that nothing has."""
        self.n_made += 1
        return f"{name}-{self.n_made}"

    def lock(self, name: str, n_max: int | None = None) -> Path:
        """Returns a lockfile, or one of so many of its packages: without some that nothing needs."""
        path = self.packages / f"{name}.lock"
        if not path.is_file():
            sys.exit(f"there is no {path}: run tests/real/fetch.py --more again")
        if n_max is None:
            return path
        lock = json.loads(path.read_text())
        entries = {entry["package"]: entry for entry in lock["packages"]}
        while len(entries) > n_max:
            needed = {name for entry in entries.values() for name in entry["dependencies"]}
            del entries[min(entries.keys() - needed)]
        fewer = self.work / f"{name}-{n_max}.lock"
        fewer.write_text(json.dumps({**lock, "packages": list(entries.values())}))
        return fewer

    def run(self, lock: Path, store: str, library: str, *args: str) -> tuple[float, float, list[dict]]:
        """Solves, and returns wall and CPU seconds and the events."""
        command = [str(self.solve), str(lock), "--store", str(self.work / store), "-l", str(self.work / library)]
        command += ["--mirror", f"{SERVED}=file://{self.packages}/repo", "--json", *args]
        wall, cpu, out = timed(command)
        return wall, cpu, [json.loads(line) for line in out.splitlines()]


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


def plainly(machine: Machine, lock: Path, library: Path) -> tuple[float, float]:
    """Installs one by one with `R CMD INSTALL`; returns wall and CPU seconds of all."""
    library.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "R_LIBS": str(library), "R_LIBS_USER": "", "R_LIBS_SITE": ""}
    wall = cpu = 0.0
    for entry in order(lock):
        command = ["R", "CMD", "INSTALL", f"--library={library}", str(tarball(machine, entry))]
        more = timed(command, env=env)
        wall, cpu = wall + more[0], cpu + more[1]
    return wall, cpu


def busy(events: list[dict]) -> str:
    counts = events[-1]["counts"]
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def cold(machine: Machine) -> dict[str, float]:
    lock = machine.lock("real")
    # The first one leaves a store for the others.
    store = machine.new("cold") if (machine.work / "store").exists() else "store"
    wall, cpu, events = machine.run(lock, store, machine.new("library"))
    print(f"  cold: {wall:.1f} s wall, {cpu:.1f} CPU s; {busy(events)}", flush=True)
    plain_wall, plain_cpu = plainly(machine, lock, machine.work / machine.new("plain"))
    print(f"  plain: {plain_wall:.1f} s wall, {plain_cpu:.1f} CPU s", flush=True)
    return {
        "cold: CPU s": cpu,
        "cold: CPU s of plain R CMD INSTALL": plain_cpu,
        "cold: CPU / plain (at most 0.78)": cpu / plain_cpu,
        "cold: wall s": wall,
        "cold: wall / (CPU / cores) (at most 1.03)": wall / (cpu / machine.cores),
    }


def tail(machine: Machine) -> dict[str, float]:
    n_files = 2 if machine.is_small else 40
    package = machine.work / machine.new("tailed")
    alone = machine.work / machine.new("alone")
    (package / "src").mkdir(parents=True)
    (package / "DESCRIPTION").write_text(description("tailed"))
    (package / "NAMESPACE").write_text("useDynLib(tailed)\n")
    for n in range(n_files):
        (package / f"src/file{n}.cpp").write_text(
            "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <regex>\n#include <string>\n"
            f'extern "C" int file{n}(const char *text) {{ std::map<std::string, int> seen; std::string all(text);\n'
            f" std::sort(all.begin(), all.end()); for (char one : all) seen[std::string(1, one)] += {n};\n"
            ' for (auto &pair : seen) std::cout << pair.first << pair.second; return (int)seen.size(); }\n'
        )
    shutil.copytree(package / "src", alone)
    entry = {"ref": "local::.", "package": "tailed", "version": "1.0", "type": "local", "direct": True, "binary": False}
    entry |= {"dependencies": [], "needscompilation": True, "sources": [str(package)], "metadata": {"RemoteType": "local"}, **HERE_AND_NOW}
    lock = package.with_suffix(".lock")
    lock.write_text(json.dumps({**LOCKFILE, "packages": [entry]}))
    wall, cpu, _ = machine.run(lock, machine.new("tail-store"), machine.new("library"))
    # R puts its own flags, which have `-g`, after those of a package, and these after its own: as larder does.
    makevars = alone / "user"
    makevars.write_text("CXXFLAGS += -g0\nCXX11FLAGS += -g0\nCXX14FLAGS += -g0\nCXX17FLAGS += -g0\n")
    env = {**os.environ, "MAKEFLAGS": f"-j{machine.cores}", "R_MAKEVARS_USER": str(makevars)}
    command = ["R", "CMD", "SHLIB", "-o", "tailed.so"] + [f"file{n}.cpp" for n in range(n_files)]
    floor, floor_cpu, _ = timed(command, cwd=alone, env=env)
    return {
        "tail: wall s": wall,
        "tail: wall s of make -j alone": floor,
        "tail: wall / make (at most 1.1)": wall / floor,
        "tail: CPU / make": cpu / floor_cpu,
    }


def upgraded(machine: Machine, package: str, has_new_header: bool) -> Path:
    """Returns the lockfile with a version of a package that nobody has built yet."""
    number = machine.new("version").rpartition("-")[2]
    lock = json.loads(machine.lock("real").read_text())
    place, old = next((n, entry) for n, entry in enumerate(lock["packages"]) if entry["package"] == package)
    source = Source.open(tarball(machine, old))
    if has_new_header:
        header = min(file for file in source.files if file.startswith("inst/include/") and file.endswith(".h"))
        source = source.with_file(header, source.text(header) + f"\n// Version {number}.\n")
    source = source.with_version(f"{source.version}.{number}")
    archive = source.tarball()
    path = machine.work / source.file_name
    path.write_bytes(archive)
    new = lockfile.entry(source, archive, direct=old["direct"], new_style=True, has_digest=True)
    lock["packages"][place] = new | {"sources": [f"file://{path}"]}
    path = machine.work / f"{package}-{number}.lock"
    path.write_text(json.dumps(lock))
    return path


def upgrade(machine: Machine) -> dict[str, float]:
    old, package = machine.lock("real"), "madeup" if machine.is_small else "Rcpp"
    names = {how: machine.new("library") for how in ("new", "same", "floor")}
    for library in names.values():
        machine.run(old, "store", library)
    wall, cpu, events = machine.run(upgraded(machine, package, True), "store", names["new"])
    ended = [event for event in events if event["reason"] == "vertex-settled"]
    built = sorted(event["package"] for event in ended if event["outcome"] in ("recompiled", "ingested"))
    # The floor: exactly these, built by the same command with nothing else to decide.
    rebuild = [arg for name in built for arg in ("--rebuild", name)]
    floor_wall, floor_cpu, _ = machine.run(old, "store", names["floor"], *rebuild)
    same_wall, _, events = machine.run(upgraded(machine, package, False), "store", names["same"])
    ended = {event["package"]: event for event in events if event["reason"] == "vertex-settled"}
    others = [name for name, event in ended.items() if event["outcome"] in ("recompiled", "ingested") and name != package]
    if others:
        sys.exit(f"with the same headers these were built all the same: {others}")
    return {
        f"upgrade: packages built ({', '.join(built)})": len(built),
        "upgrade: wall s": wall,
        "upgrade: wall s of building just these": floor_wall,
        "upgrade: wall / just these (at most 1.05)": wall / floor_wall,
        "upgrade: CPU / just these": cpu / floor_cpu,
        "upgrade, same headers: wall s": same_wall,
        "upgrade, same headers: s besides the package's own build (at most 1)": same_wall
        - ended[package]["duration_ms"] / 1000,
    }


def filled(machine: Machine, lock: Path) -> str:
    """Makes sure that the store has everything, and waits until the file system has forgotten what builds removed.
    Returns a library of it."""
    library = machine.new("library")
    _, _, events = machine.run(lock, "store", library)
    if not machine.is_small and "ingested" in busy(events):
        time.sleep(SECONDS_TO_FORGET)
    return library


def trees(machine: Machine, library: Path) -> list[str]:
    record = json.loads((library / ".packages.json").read_text())
    platform = next(path for path in (machine.work / "store").iterdir() if (path / "platform.json").is_file())
    return [str(platform / package / reference) for package, reference in sorted(record.items())]


def warm(machine: Machine) -> dict[str, float]:
    many, hundred = machine.lock("many"), machine.lock("many", 100)
    all_trees = trees(machine, machine.work / filled(machine, many))
    n_files = sum(len(files) for tree in all_trees for _, _, files in os.walk(tree))
    floor = machine.work / "link_floor"
    subprocess.run(["cc", "-O2", "-o", str(floor), str(HERE / "link_floor.c")], check=True)

    def loop(how: str) -> float:
        place = machine.work / machine.new("floor")
        place.mkdir()
        return timed([str(floor), how, str(place), *all_trees])[0]

    def linked(lock: Path, how: str) -> float:
        return machine.run(lock, "store", machine.new("library"), "--link", how)[0]

    n = 1 if machine.is_small else 9
    # What was written until now, and 5,000 hard links each time, would be written out while symlinks are made.
    os.sync()
    sym, sym_floor = zip(*((linked(hundred, "symlink"), loop("sym")) for _ in range(n)))
    hard, hard_floor = zip(*((linked(many, "hardlink"), loop("hard")) for _ in range(n)))
    wall, least = statistics.median(hard), statistics.median(hard_floor)
    return {
        "warm, hard links: packages": len(all_trees),
        "warm, hard links: files": n_files,
        "warm, hard links: wall ms": wall * 1000,
        "warm, hard links: wall ms of a loop in C": least * 1000,
        "warm, hard links: wall / loop (at most 1.10)": wall / least,
        "warm, symlinks: wall ms, 100 packages (at most 8)": statistics.median(sym) * 1000,
        "warm, symlinks: wall ms at best": min(sym) * 1000,
        "warm, symlinks: wall ms of a loop in C": statistics.median(sym_floor) * 1000,
    }


def noop(machine: Machine) -> dict[str, float]:
    lock = machine.lock("many", 100)
    library = filled(machine, lock)
    walls = sorted(machine.run(lock, "store", library)[0] for _ in range(3 if machine.is_small else 21))
    return {
        "no-op: wall ms, 100 packages (at most 8)": statistics.median(walls) * 1000,
        "no-op: wall ms at best": walls[0] * 1000,
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


def simulated(machine: Machine) -> dict[str, float]:
    # The tests' own build of it is there already where this is run small.
    how = ["test", "--quiet", "--workspace", "--all-features"] if machine.is_small else ["bench", "--quiet", "-p", "larder-graph"]
    _, _, out = timed(["cargo", *how, "--bench", "simulated"], cwd=ROOT)
    rows = [line.split() for line in out.splitlines()]
    ratios = [float(row[-1]) for row in rows if len(row) == 6 and row[2] in ("4", "8", "16")]
    return {"simulated, 4, 8 and 16 cores: worst makespan / bound (at most 1.03)": max(ratios)}


BENCHES = {f.__name__: f for f in (cold, tail, upgrade, warm, noop, scale, simulated)}


def description(name: str, more: str = "") -> str:
    return (
        f"Package: {name}\nVersion: 1.0\nTitle: T\nDescription: D.\nLicense: MIT\nAuthor: A\nMaintainer: A <a@b.c>\n{more}"
    )


def make_up(folder: Path) -> Path:
    """Makes a repository of tiny packages: one with a header, two that compile against it, and two of R alone."""

    def package(name: str, more: str = "", **files: str) -> Source:
        all_files = {"DESCRIPTION": description(name, more), "NAMESPACE": "export(f)\n", "R/f.R": "f <- function() 1\n"}
        return Source({path: (0o644, text.encode()) for path, text in (all_files | files).items()}).as_built()

    code = {"src/code.c": "#include <madeup.h>\nint code(void) { return MADE_UP; }\n"}
    linking = [package(name, "LinkingTo: madeup\n", **code) for name in ("linked", "linking")]
    header = package("madeup", **{"inst/include/madeup.h": "#define MADE_UP 1\n"})
    sources = [header, *linking, package("alone"), package("needing", "Imports: alone\n")]
    contrib = folder / "repo/src/contrib"
    contrib.mkdir(parents=True)
    entries = []
    for source in sources:
        archive = source.tarball()
        (contrib / source.file_name).write_bytes(archive)
        entries.append(lockfile.entry(source, archive, direct=True, new_style=True, has_digest=True))
    for name in ("real", "many"):
        (folder / f"{name}.lock").write_text(lockfile.render(lockfile.host(), entries))
    return folder


def bring() -> Path:
    if given := os.environ.get("LARDER_BENCH"):
        return Path(given).absolute()
    subprocess.run([sys.executable, str(ROOT / "tests/real/fetch.py"), "--more"], check=True, stdout=subprocess.DEVNULL)
    return ROOT / "target/real-more"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    names = args.names or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        parser.error(f"no bench is called {', '.join(unknown)}")
    work = Path(tempfile.mkdtemp(prefix="larder-bench-", dir=os.environ.get("LARDER_BENCH_DIR")))
    loads = [os.getloadavg()[0]]
    gathered: dict[str, list[float]] = {}
    try:
        machine = Machine(work, make_up(work / "made-up") if args.small else bring(), args.small)
        for name in names:
            rounds = 1 if args.small else args.rounds or (1 if name == "cold" else 3)
            for n in range(rounds):
                print(f"{name}, round {n + 1}", file=sys.stderr, flush=True)
                for what, value in BENCHES[name](machine).items():
                    gathered.setdefault(what, []).append(value)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(work)], check=False)
        shutil.rmtree(work, ignore_errors=True)
    loads.append(os.getloadavg()[0])
    version = subprocess.run(["R", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"\n{version}, {machine.cores} cores, load {loads[0]:.1f} before and {loads[1]:.1f} after (the benches' own "
          f"included)\n")
    print("| what | median | of |\n|---|---|---|")
    for what, values in gathered.items():
        print(f"| {what} | {statistics.median(values):.4g} | {len(values)} |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
