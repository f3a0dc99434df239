"""Original CRAN tarballs out of the source archive that this machine's apt already trusts.

Knows apt: where its sources are, how to read a Sources index, how to fetch one file. Everything it writes lies in the
folder it is given; the machine's own apt configuration and state are read, never changed. Knows nothing about R.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

APT_HELPER = "/usr/lib/apt/apt-helper"

# trixie first: it is newer than bookworm, and nearly half of bookworm's originals are no longer served everywhere.
DEBIAN_SUITES = ["trixie", "bookworm", "sid"]


class ArchiveError(Exception):
    """The archive cannot be reached, or this machine has no apt sources to start from."""


@dataclass(frozen=True)
class Original:
    """One `*.orig.tar.*` of a suite, as the Sources index describes it."""

    suite: str
    file: str
    url: str
    sha256: str


class Archive:
    """The source archive behind the machine's apt sources; the indexes are downloaded once, on first use."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.indexes: dict[str, dict[str, Original]] | None = None

    def originals(self, package: str):
        """Yields the original of an R package in each suite that has it, best suite first."""
        if self.indexes is None:
            self.indexes = self._read_indexes()
        for index in self.indexes.values():
            for source in (f"r-cran-{package.lower()}", package.lower()):
                if source in index:
                    yield index[source]
                    break

    def download(self, original: Original, path: Path) -> bool:
        """Fetches and verifies one file with apt's own means; False if the archive does not serve it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        fetch = [APT_HELPER, *self._options(), "download-file", original.url, str(partial), f"SHA256:{original.sha256}"]
        if subprocess.run(fetch, capture_output=True).returncode != 0:
            partial.unlink(missing_ok=True)
            return False
        partial.rename(path)
        return True

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": self.folder / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.folder / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
        }
        if os.geteuid() == 0:
            # Else apt fetches as `_apt`, which may not be able to write here.
            settings["APT::Sandbox::User"] = "root"
        # A container's apt may run clean-up commands after an update: they are about the machine, not about this folder.
        configuration = ["-c", str(self.folder / "apt.conf")]
        return configuration + [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def _read_indexes(self) -> dict[str, dict[str, Original]]:
        uri, signed_by, suites = machine_archive()
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        option = f"[signed-by={signed_by}] " if signed_by else ""
        lines = [f"deb-src {option}{uri} {suite} main\n" for suite in suites]
        (self.folder / "sources.list").write_text("".join(lines))
        (self.folder / "apt.conf").write_text("#clear APT::Update;\n")

        update = subprocess.run(["apt-get", *self._options(), "update"], capture_output=True, text=True)
        columns = "$(RELEASE) $(CODENAME) $(REPO_URI) $(FILENAME)"
        indexes = ["apt-get", *self._options(), "indextargets", "--format", columns, "Created-By: Sources"]
        targets = subprocess.run(indexes, capture_output=True, text=True).stdout
        found = {}
        for release, codename, repository, file in (line.split(" ", 3) for line in targets.splitlines()):
            text = subprocess.run([APT_HELPER, "cat-file", file], capture_output=True, text=True).stdout
            index = read_sources(text, codename, repository)
            found[codename] = found[release] = index
        if not any(found.values()):
            raise ArchiveError(f"the source archive `{uri}` cannot be reached: {update.stderr.strip()}")
        return {suite: found[suite] for suite in suites if suite in found}


def read_sources(text: str, suite: str, repository: str) -> dict[str, Original]:
    """The single-file originals of a Sources index by source package; of several versions the last one listed."""
    originals = {}
    for stanza in text.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", stanza, re.M)
        folder = re.search(r"^Directory: (\S+)$", stanza, re.M)
        sums = re.search(r"^Checksums-Sha256:\n((?: .*(?:\n|$))+)", stanza, re.M)
        if not (name and folder and sums):
            continue
        files = [line.split() for line in sums[1].splitlines()]
        files = [(sha256, file) for sha256, _, file in files if re.search(r"\.orig\.tar\.[a-z0-9]+$", file)]
        if len(files) == 1:
            sha256, file = files[0]
            originals[name[1]] = Original(suite, file, f"{repository.rstrip('/')}/{folder[1]}/{file}", sha256)
    return originals


def machine_archive() -> tuple[str, str | None, list[str]]:
    """URI, signing key and suites of the archive that this machine's own release comes from."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M))
    codename = release.get("VERSION_CODENAME", "")
    for entry in machine_entries():
        if codename in entry["suites"] and "main" in entry["components"]:
            suites = DEBIAN_SUITES if release.get("ID") == "debian" else [codename]
            return entry["uri"], entry["signed-by"], suites
    raise ArchiveError(f"no apt source for `{codename}` with the component `main` under /etc/apt")


def machine_entries():
    """Every enabled entry of `/etc/apt/sources.list` and `/etc/apt/sources.list.d`, in both spellings."""
    parts = sorted(Path("/etc/apt/sources.list.d").glob("*"))
    for path in [Path("/etc/apt/sources.list"), *parts]:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            yield from deb822_entries(path.read_text())
        elif path.suffix == ".list":
            yield from one_line_entries(path.read_text())


def deb822_entries(text: str):
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    for stanza in re.split(r"\n\s*\n", text):
        pairs = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, re.M)
        fields = {name.lower(): value for name, value in pairs}
        if "uris" not in fields or fields.get("enabled", "yes").strip().lower() in ("no", "false", "0"):
            continue
        key = fields.get("signed-by", "").strip()
        yield {
            "uri": fields["uris"].split()[0],
            "suites": fields.get("suites", "").split(),
            "components": fields.get("components", "").split(),
            # A key may also stand in the file itself; apt's own trusted keys then have to do.
            "signed-by": key if key.startswith("/") else None,
        }


def one_line_entries(text: str):
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            options, uri, suite, components = match.groups()
            key = re.search(r"signed-by=(/\S+)", options or "")
            yield {
                "uri": uri,
                "suites": [suite],
                "components": components.split(),
                "signed-by": key[1] if key else None,
            }
