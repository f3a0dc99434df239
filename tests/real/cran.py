"""CRAN source packages as data: their DESCRIPTION, and tarballs made from a folder of files in memory.

Two runs give the same bytes: names sorted, one fixed time, owner 0. Knows nothing about where a package came from.
"""

import gzip
import io
import re
import tarfile
from pathlib import Path

# Any fixed time will do; all files are equally old, so that `make` takes nothing for out of date.
TIME = 1_750_000_000

# What R itself brings on Debian; recommended packages (MASS, Matrix ...) are packages of their own there.
BASE_PACKAGES = set(
    "R base compiler datasets grDevices graphics grid methods parallel splines stats stats4 tcltk tools utils".split()
)

DEPENDENCY_FIELDS = ["Depends", "Imports", "LinkingTo", "Suggests", "Enhances"]
HARD_FIELDS = ["Depends", "Imports", "LinkingTo"]


class Source:
    """One source package: its files by path below the top folder, and what its DESCRIPTION says."""

    def __init__(self, files: dict[str, tuple[int, bytes]]):
        self.files = files
        self.fields = read_description(self.text("DESCRIPTION"))

    @classmethod
    def open(cls, path: Path) -> "Source":
        """Reads a tarball with one top folder of any name; links and special files have no place in a CRAN package."""
        files = {}
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.removeprefix("./").partition("/")[2]
                if member.isfile() and name:
                    files[name] = (member.mode, tar.extractfile(member).read())
        return cls(files)

    @property
    def name(self) -> str:
        return self.fields["Package"]

    @property
    def version(self) -> str:
        return self.fields["Version"]

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version}.tar.gz"

    def text(self, path: str) -> str:
        return self.files[path][1].decode("utf-8", "surrogateescape")

    def is_compiled(self) -> bool:
        return any(re.match(r"src/.*\.(c|cc|cpp|cxx|f|f90)$", path) for path in self.files)

    def needs(self, field: str) -> list[tuple[str, str, str]]:
        """The (package, operator, version) triples of one dependency field, in the order of the file."""
        return read_dependencies(self.fields.get(field, ""))

    def hard_dependencies(self) -> list[str]:
        """Depends, Imports and LinkingTo without R and its base packages, each once, sorted as pak does."""
        names = {name for field in HARD_FIELDS for name, _, _ in self.needs(field)}
        return sorted(names - BASE_PACKAGES, key=str.lower)

    def linking_to(self) -> list[str]:
        return [name for name, _, _ in self.needs("LinkingTo")]

    def fits(self, r_version: str) -> bool:
        """Whether `Depends: R (>= x)` allows this R."""
        return all(satisfies(r_version, op, version) for name, op, version in self.needs("Depends") if name == "R")

    def as_built(self) -> "Source":
        """The package with what `R CMD build` adds to DESCRIPTION; an original made from a VCS tree lacks it."""
        added = ""
        if "NeedsCompilation" not in self.fields:
            added += f"NeedsCompilation: {'yes' if self.is_compiled() else 'no'}\n"
        if "Packaged" not in self.fields:
            added += "Packaged: 2025-06-15 15:06:40 UTC; nobody\n"
        return self.with_file("DESCRIPTION", self.text("DESCRIPTION").rstrip("\n") + "\n" + added) if added else self

    def with_file(self, path: str, text: str) -> "Source":
        """A copy with one file replaced. The list of checksums no longer holds and is left out."""
        files = {name: file for name, file in self.files.items() if name != "MD5"}
        mode = files.get(path, (0o644, b""))[0]
        return Source(files | {path: (mode, text.encode("utf-8", "surrogateescape"))})

    def with_version(self, version: str) -> "Source":
        old = re.compile(r"^Version:.*$", re.M)
        return self.with_file("DESCRIPTION", old.sub(f"Version: {version}", self.text("DESCRIPTION"), count=1))

    def tarball(self) -> bytes:
        """A `tar.gz` with the one top folder that R expects."""
        raw = io.BytesIO()
        with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for path, (mode, content) in sorted(self.files.items()):
                    member = tarfile.TarInfo(f"{self.name}/{path}")
                    member.size, member.mtime = len(content), TIME
                    member.mode = 0o755 if mode & 0o100 else 0o644
                    tar.addfile(member, io.BytesIO(content))
        return raw.getvalue()


def read_description(text: str) -> dict[str, str]:
    """The fields of a DESCRIPTION, continuation lines joined by a blank."""
    joined = re.sub(r"\n[ \t]+", " ", text)
    return dict(re.findall(r"^([A-Za-z][\w/@.-]*):[ \t]*(.*?)[ \t]*$", joined, re.M))


def read_dependencies(field: str) -> list[tuple[str, str, str]]:
    triples = []
    for item in field.split(","):
        match = re.match(r"\s*([A-Za-z][A-Za-z0-9.]*)\s*(?:\(\s*([<>=!]+)\s*([^)\s]+)\s*\))?", item)
        if match:
            triples.append((match[1], match[2] or "", match[3] or ""))
    return triples


def satisfies(version: str, op: str, wanted: str) -> bool:
    """Compares as R's `package_version` does; an empty operator is always satisfied."""
    have, want = ([int(part) for part in re.split(r"[.-]", text)] for text in (version, wanted or "0"))
    outcomes = {">=": have >= want, ">": have > want, "<=": have <= want, "<": have < want, "==": have == want}
    return outcomes.get(op, True)
