#!/usr/bin/env python3
"""Brings real CRAN source packages for the end-to-end tests, and lockfiles that name them.

    python3 tests/real/fetch.py [--more]    needs apt (Debian or Ubuntu) and R; no other Python than the standard library

The originals come from the source archive behind the machine's own apt sources. Left behind in `target/real`
(`LARDER_REAL` names another folder):

    repo/src/contrib/*.tar.gz    a CRAN-like repository of sources
    real.lock                    all of it, as pak would write it; its URLs start with `http://127.0.0.1:1`
    upgrade.lock                 the same with a later Rcpp of which one header differs
    broken.lock                  the same with a fastmap that does not compile
    wrongsha.lock                the same with a wrong sha256 for generics
    many.lock                    with `--more`: besides, many small packages, so that there are more than a hundred
    originals/                   what was downloaded; kept, so that a changed script downloads nothing again

A second run finds the result complete and does nothing but print it.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import lockfile
from cran import Source, satisfies
from debian import Archive, ArchiveError

# Closed under Depends, Imports and LinkingTo. Small ones are preferred; no compile takes longer than RcppEigen's.
PACKAGES = """
    cachem cli cpp11 data.table dplyr fansi fastmap generics glue jsonlite later lifecycle magrittr memoise minqa
    pillar pkgconfig plyr promises purrr R6 Rcpp RcppEigen rlang tibble tidyselect timechange utf8 vctrs withr
""".split()

# What benches take besides (`--more`, in `target/real-more`): more R, and many small compiles.
MORE = """
    backports base64enc bit bit64 clipr commonmark crayon digest ellipsis hms htmltools mime prettyunits processx progress
    ps rappdirs rprojroot yaml
""".split()

# In `many.lock` alone: what takes little time to build, for benches of libraries that are built already.
MANY = """
    assertthat blob brio callr carData cellranger codetools corrplot crosstalk cyclocomp DBI desc doParallel doRNG ellipse
    estimability evaluate fontawesome forcats foreach formatR Formula futile.logger futile.options future future.apply
    globals GPArotation gridBase gridExtra gtable gtools here highr ini iterators jquerylib knitr labeling lambda.r lazyeval
    listenv logger modeltools NLP numDeriv parallelly pkgbuild plotrix polynom praise proto R.cache R.methodsS3 R.oo
    R.utils RColorBrewer registry rematch rematch2 remotes rex rngtools rstudioapi sessioninfo shape tinytex viridisLite
    whisker xfun xmlparsedata xopen xtable
""".split()

# Some entries have no digest, as entries of repositories that publish none: the first digest seen is then what counts.
WITHOUT_DIGEST = {"cpp11", "fansi", "minqa", "pkgconfig", "withr"}

# The exit code when the archive cannot be reached; every other failure is 1.
NO_ARCHIVE = 3

LOCKFILES = ["real.lock", "upgrade.lock", "broken.lock", "wrongsha.lock"]


def upgraded_rcpp(rcpp: Source) -> Source:
    """Rcpp in a later version; what is compiled against it sees one macro more."""
    header = "inst/include/Rcpp/config.h"
    changed = "\n// Only in the later version.\n#define RCPP_LATER_VERSION 1\n"
    return rcpp.with_file(header, rcpp.text(header) + changed).with_version(f"{rcpp.version}.1")


def broken_fastmap(fastmap: Source) -> Source:
    """fastmap with a syntax error; cachem, memoise and promises need it, everything else does not."""
    file = "src/fastmap.cpp" if "src/fastmap.cpp" in fastmap.files else "src/fastmap.c"
    broken = fastmap.with_file(file, fastmap.text(file) + "\nint this_does_not_compile( {\n")
    return broken.with_version(f"{fastmap.version}.1")


def main() -> int:
    packages, folder = (PACKAGES + MORE + MANY, "real-more") if sys.argv[1:] == ["--more"] else (PACKAGES, "real")
    cache = Path(os.environ.get("LARDER_REAL") or Path(__file__).parents[2] / "target" / folder).absolute()
    head = lockfile.host()
    state = {"scripts": digest_of_scripts(), "head": head, "packages": packages}
    summary = read_json(cache / "complete.json")
    if summary.get("state") != state or not all((cache / name).is_file() for name in LOCKFILES + summary["files"]):
        (cache / "complete.json").unlink(missing_ok=True)
        try:
            sources, suites = bring(packages, cache, r_version=head["r_version"].split()[2])
        except ArchiveError as error:
            print(f"error: {error}", file=sys.stderr)
            return NO_ARCHIVE
        check_closed(sources)
        files = write_repository(cache, head, sources)
        lines = [describe(source, suites[name]) for name, source in sources.items()]
        summary = {"state": state, "files": files, "lines": lines}
        (cache / "complete.json").write_text(json.dumps(summary, indent=2) + "\n")
    print("\n".join(summary["lines"]))
    print(f"{len(summary['lines'])} packages in {cache}")
    return 0


def bring(packages: list[str], cache: Path, r_version: str) -> tuple[dict[str, Source], dict[str, str]]:
    """Every package from the first suite that serves one for this R; downloads only what is missing."""
    archive = Archive(cache / "apt")
    known = read_json(cache / "originals.json")
    sources, suites = {}, {}
    for package in sorted(packages, key=str.lower):
        path = cache / "originals" / known.get(package, {}).get("file", "none")
        source = Source.open(path) if path.is_file() else None
        if source is None or not source.fits(r_version):
            source, known[package] = download(archive, package, cache / "originals", r_version)
            write_json(cache / "originals.json", known)
        sources[package], suites[package] = source.as_built(), known[package]["suite"]
    shutil.rmtree(cache / "apt", ignore_errors=True)
    return sources, suites


def download(archive: Archive, package: str, folder: Path, r_version: str) -> tuple[Source, dict[str, str]]:
    seen = []
    for original in archive.originals(package):
        if not archive.download(original, folder / original.file):
            seen.append(f"{original.file} is not served")
            continue
        source = Source.open(folder / original.file)
        if source.fits(r_version):
            return source, {"suite": original.suite, "file": original.file}
        seen.append(f"{original.file} needs a newer R")
    raise ArchiveError(f"no source of `{package}` for R {r_version}: {'; '.join(seen) or 'in no suite'}")


def check_closed(sources: dict[str, Source]) -> None:
    """Every hard dependency is in the set, and in a version that its dependants accept."""
    for source in sources.values():
        for field in ("Depends", "Imports", "LinkingTo"):
            for name, op, version in source.needs(field):
                if name in source.hard_dependencies() and not (
                    name in sources and satisfies(sources[name].version, op, version)
                ):
                    raise SystemExit(f"error: `{source.name}` needs `{name}` {op} {version}, which is not in the set")


def write_repository(cache: Path, head: dict[str, str], sources: dict[str, Source]) -> list[str]:
    """Writes tarballs and lockfiles; returns the tarballs' paths in the cache."""
    contrib = cache / "repo/src/contrib"
    shutil.rmtree(cache / "repo", ignore_errors=True)
    contrib.mkdir(parents=True)
    needed = {name for source in sources.values() for name in source.hard_dependencies()}
    # Linking packages come first and the styles alternate, so that both styles have packages that link.
    by_linking = sorted(sources, key=lambda name: (not sources[name].linking_to(), name.lower()))

    def entry(source: Source) -> dict:
        tarball = source.tarball()
        (contrib / source.file_name).write_bytes(tarball)
        return lockfile.entry(
            source,
            tarball,
            direct=source.name not in needed,
            new_style=by_linking.index(source.name) % 2 == 0,
            has_digest=source.name not in WITHOUT_DIGEST,
        )

    entries = {name: entry(source) for name, source in sources.items()}
    many = entries
    entries = {name: entry for name, entry in many.items() if name not in MANY}
    wrong = entries["generics"] | {"sha256": hashlib.sha256(b"something else").hexdigest()}
    contents = {
        "real.lock": entries,
        "upgrade.lock": entries | {"Rcpp": entry(upgraded_rcpp(sources["Rcpp"]))},
        "broken.lock": entries | {"fastmap": entry(broken_fastmap(sources["fastmap"]))},
        "wrongsha.lock": entries | {"generics": wrong},
        "many.lock": many,
    }
    for name, packages in contents.items():
        (cache / name).write_text(lockfile.render(head, list(packages.values())))
    return sorted(str(path.relative_to(cache)) for path in contrib.iterdir())


def describe(source: Source, suite: str) -> str:
    compiled = "compiled" if source.is_compiled() else "R only"
    links = source.linking_to()
    linking = f"links to {', '.join(links)}" if links else ""
    return f"{source.name:11} {source.version:10} {suite:9} {compiled:9} {linking}".rstrip()


def digest_of_scripts() -> str:
    scripts = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in scripts)).hexdigest()


def read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
