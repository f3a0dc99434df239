#!/usr/bin/env python3
"""Fills a store with entries that nobody built, to see what a large store costs.

    benches/synthetic_store.py STORE N [PLATFORM]

Each of the N entries is whole, as `solve store verify` sees it: a tree (one DESCRIPTION), a manifest, a sidecar with
checksum as a real build of a package with ten dependencies leaves it, and `configs.json`. A package has ten sources,
each of which two configurations. With PLATFORM (see `solve doctor`) the entries are among those of this machine, and
`STORE/synthetic.lock` is a lockfile of five packages, all of which the store has.
"""

import hashlib
import json
import os
import sys

SOURCES, CONFIGS, LOCKED = 10, 2, 5


def digest(*fields):
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def sealed(sidecar):
    text = json.dumps(sidecar, indent=2)[:-2] + ',\n  "checksum": "'
    return text + hashlib.sha256(text.encode()).hexdigest() + '"\n}'


def entry(source_dir, package, version, source, n):
    special = {"@n": str(n)} if n else {}
    config = digest(*(field for name in sorted(special) for field in (name, special[name])))
    tree = os.path.join(source_dir, config)
    os.mkdir(tree)
    description = f"Package: {package}\nVersion: {version}\nBuilt: R 4.2.2; ; 2024-01-01 00:00:00 UTC; unix\n"
    path = os.path.join(tree, "DESCRIPTION")
    write(path, description)
    os.chmod(path, 0o444)
    content = hashlib.sha256(description.encode()).hexdigest()
    manifest = f"larder-tree 1\nf {len(description)} {content} DESCRIPTION\n"
    write(tree + ".files", manifest)
    against = {f"dep{k}": {"version": "1.0", "reference": f"{digest('d', str(k))}/{digest('')}"} for k in range(10)}
    sidecar = {
        "build_ms": 1234,
        "config": special,
        "content": digest("content", source, config),
        "created_at": "2024-01-01T00:00:00Z",
        "dependencies": against,
        "interface": hashlib.sha256(b"").hexdigest(),
        "linked": {},
        "linkingto": [],
        "n_files": 1,
        "package": package,
        "shares": None,
        "size": len(description),
        "source_compiled": False,
        "tree": hashlib.sha256(manifest.encode()).hexdigest(),
        "version": version,
    }
    write(tree + ".json", sealed(sidecar))
    return config, special


def archive(package, version):
    return digest("archive", package, version)


def locked(package):
    return {
        "ref": package,
        "package": package,
        "version": "1.0",
        "type": "standard",
        "direct": True,
        "binary": False,
        "dependencies": [],
        "vignettes": False,
        "needscompilation": False,
        "metadata": {"RemoteType": "standard", "RemotePkgRef": package, "RemoteRef": package, "RemoteSha": "1.0"},
        "sources": [f"http://127.0.0.1:1/src/contrib/{package}_1.0.tar.gz"],
        "target": f"src/contrib/{package}_1.0.tar.gz",
        "platform": "source",
        "rversion": "*",
        "sha256": archive(package, "1.0"),
    }


def main():
    store, n = sys.argv[1], int(sys.argv[2])
    platform = sys.argv[3] if len(sys.argv) > 3 else "9.9-synthetic"
    root = os.path.join(store, platform)
    os.makedirs(root, exist_ok=True)
    if not os.path.exists(os.path.join(root, "platform.json")):
        write(os.path.join(root, "platform.json"), json.dumps({"platform": platform, "description": ["synthetic"]}))
    for first in range(0, n, CONFIGS):
        number = first // CONFIGS
        package, version = f"synth{number // SOURCES:05}", f"1.{number % SOURCES}"
        source = digest("standard", package, version, archive(package, version))
        source_dir = os.path.join(root, package, source)
        os.makedirs(source_dir)
        made = [entry(source_dir, package, version, source, k) for k in range(min(CONFIGS, n - first))]
        configs = {"source_compiled": False, "linkingto": [], "configs": dict(made)}
        write(os.path.join(source_dir, "configs.json"), json.dumps(configs, indent=2))
    packages = [locked(f"synth{number:05}") for number in range(min(LOCKED, n // (SOURCES * CONFIGS)))]
    write(os.path.join(store, "synthetic.lock"), json.dumps({"lockfile_version": 1, "packages": packages}, indent=2))


main()
