#!/bin/sh
# The whole job in half a minute, on three tiny packages that lie in `examples/packages`:
#
#     pantryheaders    one C++ header, nothing to compile
#     pantrycount      C++, compiled against that header (LinkingTo)
#     pantry           R only, imports pantrycount
#
# Installs R and compilers with apt if they are missing; needs cargo. Everything else goes to a temporary folder, which
# LARDER_DEMO_KEEP=1 keeps. Exits with 1 as soon as something is not as promised.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/tests/setup.sh"

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# --- lockfiles -----------------------------------------------------------------------------------------------

field() { # file, name
    sed -n "s/^$2: *//p" "$1/DESCRIPTION"
}

# Packs a package as CRAN would serve it, and prints its lockfile entry as pak would write it.
entry() { # source directory
    package=$(field "$1" Package) version=$(field "$1" Version)
    tarball="$work/tarballs/${package}_$version.tar.gz"
    # The same files give the same bytes, so that a package which did not change keeps its digest.
    tar -C "$(dirname "$1")" --exclude='*.o' --exclude='*.so' \
        --sort=name --mtime=2025-01-01 --owner=0 --group=0 --numeric-owner -czf "$tarball" "$package"
    kinds=$(
        for kind in Imports LinkingTo; do
            for name in $(field "$1" "$kind" | tr ',' ' '); do
                printf '{"ref": "%s", "type": "%s", "package": "%s", "op": "", "version": ""}\n' \
                    "$name" "$(echo "$kind" | tr '[:upper:]' '[:lower:]')" "$name"
            done
        done | paste -s -d, -
    )
    names=$(field "$1" Imports && field "$1" LinkingTo)
    compiled=false
    [ ! -d "$1/src" ] || compiled=true
    cat <<END
    {
      "ref": "$package",
      "package": "$package",
      "version": "$version",
      "type": "standard",
      "direct": true,
      "binary": false,
      "dependencies": [$(printf '%s\n' $names | sed '/./s/.*/"&"/' | paste -s -d, -)],
      "deps": [$kinds],
      "vignettes": false,
      "needscompilation": $compiled,
      "metadata": {
        "RemoteType": "standard",
        "RemotePkgRef": "$package",
        "RemoteRef": "$package",
        "RemotePkgPlatform": "source",
        "RemoteSha": "$version"
      },
      "sources": ["file://$tarball"],
      "target": "src/contrib/${package}_$version.tar.gz",
      "platform": "source",
      "rversion": "*",
      "directpkg": true,
      "license": "MIT + file LICENSE",
      "sha256": "$(sha256sum "$tarball" | cut -d ' ' -f 1)",
      "filesize": $(wc -c <"$tarball"),
      "dep_types": ["Depends", "Imports", "LinkingTo"],
      "params": [],
      "install_args": [],
      "repotype": "cran",
      "sysreqs_packages": {}
    }
END
}

lockfile() { # folder of packages
    printf '{\n  "lockfile_version": 1,\n  "os": "%s",\n  "r_version": "%s",\n  "platform": "%s",\n  "packages": [\n' \
        "$(uname -s)" "$(R --version | sed -n '1s/ -- .*//p')" "$(R --version | sed -n 's/^Platform: \([^ ]*\).*/\1/p')"
    entry "$1/pantryheaders" && echo ,
    entry "$1/pantrycount" && echo ,
    entry "$1/pantry"
    printf '  ]\n}\n'
}

# --- running and checking ------------------------------------------------------------------------------------

# Runs `solve` on a lockfile and shows how each package ended, taken from the events on stdout.
run() { # lockfile
    "$solve" "$1" --library "$work/library" --store "$work/store" --json >"$work/events"
    for package in pantryheaders pantrycount pantry; do
        because=$(settled "$package" because)
        printf '  %-14s %-6s %s%s\n' \
            "$package" "$(settled "$package" version)" "$(settled "$package" outcome)" "${because:+ ($because)}"
    done
}

settled() { # package, field of its `vertex-settled` event
    grep '"reason":"vertex-settled"' "$work/events" | grep "\"package\":\"$1\"" | sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p"
}

expect() { # package, outcome
    [ "$(settled "$1" outcome)" = "$2" ] || fail "$1 should be $2, but is $(settled "$1" outcome)"
}

# Asks the library in a fresh R, which sees no other packages than R's own.
ask() {
    answer=$(R_LIBS="$work/library" R_LIBS_USER='' R_LIBS_SITE='' Rscript --vanilla -e 'cat(pantry::describe_pantry(3))')
    printf '  R says: %s\n' "$answer"
    [ "$answer" = "$1" ] || fail "R should have said: $1"
}

# --- the demonstration ---------------------------------------------------------------------------------------

need_r
install_missing
command -v cargo >/dev/null 2>&1 || fail "cargo is missing: install Rust first"

say "building the command solve"
cargo build --release --quiet --manifest-path "$root/Cargo.toml" --bin solve
solve="${CARGO_TARGET_DIR:-$root/target}/release/solve"

work=$(mktemp -d)
cleanup() {
    if [ -n "${LARDER_DEMO_KEEP:-}" ]; then
        printf '\nkept: %s\n' "$work"
    else
        chmod -R u+w "$work" && rm -rf "$work"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir "$work/tarballs"

cp -R "$root/examples/packages" "$work/old"
lockfile "$work/old" >"$work/old.lock"

say "an empty store and an empty library: everything is built"
"$solve" "$work/old.lock" --library "$work/library" --store "$work/store"
ask "3 shelves hold 36 jars"

say "the same again: everything is there, nothing is done"
run "$work/old.lock"
for package in pantryheaders pantrycount pantry; do
    expect "$package" kept
done

say "a new pantryheaders: a shelf now holds 20 jars instead of 12"
cp -R "$work/old" "$work/new"
sed 's/jars_per_shelf = 12/jars_per_shelf = 20/' "$work/old/pantryheaders/inst/include/pantryheaders.h" \
    >"$work/new/pantryheaders/inst/include/pantryheaders.h"
sed 's/^Version:.*/Version: 1.1.0/' "$work/old/pantryheaders/DESCRIPTION" >"$work/new/pantryheaders/DESCRIPTION"
lockfile "$work/new" >"$work/new.lock"
run "$work/new.lock"
expect pantryheaders ingested
expect pantrycount recompiled
expect pantry kept
case $(settled pantrycount because) in
*pantryheaders*) ;;
*) fail "pantrycount should say that pantryheaders is why it was recompiled" ;;
esac
ask "3 shelves hold 60 jars"

say "back to the old lockfile: all of it is in the store, nothing is compiled"
run "$work/old.lock"
expect pantryheaders loaded
expect pantrycount loaded
expect pantry kept
ask "3 shelves hold 36 jars"

say "all as promised"
