"""pak lockfiles (version 1) for source packages, field by field as pak writes them. Takes values, gives text."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

from cran import DEPENDENCY_FIELDS, Source

# Nobody serves here: the tests put their own server in its place with `--mirror`.
BASE_URL = "http://127.0.0.1:1"


def host() -> dict[str, str]:
    """The head of a lockfile for this machine, from `R --version`, which starts no R."""
    text = subprocess.run(["R", "--version"], capture_output=True, text=True, check=True).stdout
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M))
    return {
        "os": release.get("PRETTY_NAME", "Linux"),
        "r_version": text.splitlines()[0].split(" -- ")[0],
        "platform": re.search(r"^Platform: (\S+)", text, re.M)[1],
    }


def entry(source: Source, tarball: bytes, *, direct: bool, new_style: bool, has_digest: bool) -> dict:
    """One entry. `new_style` is what pak writes since it tells LinkingTo apart, else the shape it had before."""
    name, version = source.name, source.version
    file = f"src/contrib/{source.file_name}"
    fields = {
        "ref": name,
        "package": name,
        "version": version,
        "type": "standard",
        "direct": direct,
        "binary": False,
        "dependencies": source.hard_dependencies(),
    }
    if new_style:
        fields["deps"] = dependency_kinds(source)
    fields |= {
        "vignettes": False,
        "needscompilation": source.fields["NeedsCompilation"] == "yes",
        "metadata": {
            "RemoteType": "standard",
            "RemotePkgRef": name,
            "RemoteRef": name,
            "RemoteRepos": BASE_URL,
            "RemotePkgPlatform": "source",
            "RemoteSha": version,
        },
        "sources": [f"{BASE_URL}/{file}", f"{BASE_URL}/src/contrib/Archive/{name}/{source.file_name}"],
        "target": file,
        "platform": "source",
        "rversion": "*",
        "directpkg": direct,
        "license": source.fields["License"],
    }
    if has_digest:
        fields["sha256"] = hashlib.sha256(tarball).hexdigest()
    fields |= {
        "filesize": len(tarball),
        "dep_types": ["Depends", "Imports", "LinkingTo"],
        "params": [],
        "install_args": [] if new_style else "",
        "repotype": "cran" if new_style else "cranlike",
    }
    if "SystemRequirements" in source.fields:
        fields["sysreqs"] = source.fields["SystemRequirements"]
    if new_style:
        fields["sysreqs_packages"] = {}
    return fields


def dependency_kinds(source: Source) -> list[dict[str, str]]:
    kinds = [
        {"ref": name, "type": field.lower(), "package": name, "op": op, "version": version}
        for field in DEPENDENCY_FIELDS
        for name, op, version in source.needs(field)
    ]
    return sorted(kinds, key=lambda kind: kind["package"].lower())


def render(head: dict[str, str], entries: list[dict]) -> str:
    return json.dumps({"lockfile_version": 1, **head, "packages": entries}, indent=2, ensure_ascii=False) + "\n"
