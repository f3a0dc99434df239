#!/bin/sh
# Runs every test, on a fresh Debian or Ubuntu machine with Rust: installs with apt what is missing, brings real CRAN
# packages (see tests/real/fetch.py), builds the command and starts the test suites. Arguments go to `cargo test`.
#
# The end-to-end tests read:
#     LARDER_SOLVE      the command, built as users get it (release)
#     LARDER_REAL       the folder of real packages and their lockfiles; unset if they could not be fetched
#     LARDER_SKIPPED    a file to which a test that cannot run here appends one line: its name and why
# With CI=true nothing may be missing.
set -eu

cd "$(dirname "$0")/.."
. tests/setup.sh

ci=${CI:-false}
LARDER_SKIPPED=$(mktemp)
export LARDER_SKIPPED
trap 'rm -f "$LARDER_SKIPPED"' EXIT
trap 'exit 130' INT TERM

say() {
    printf '\n== %s\n' "$*"
}

skip() {
    echo "$*" >>"$LARDER_SKIPPED"
    [ "$ci" != true ] || {
        echo "in CI nothing is skipped: $*" >&2
        exit 1
    }
}

# --- the machine ---------------------------------------------------------------------------------------------

need_r
missing curl curl
missing git git
missing nginx nginx-light
[ -e /usr/lib/nginx/modules/ngx_http_dav_ext_module.so ] || wanted="$wanted libnginx-mod-http-dav-ext"
missing python3 python3
missing redis-server redis-server
missing strace strace
missing tmux tmux
missing unzip unzip
missing xz xz-utils
missing zip zip
install_missing || skip "everything that needs one of: $wanted"
# A browser is heavy, so only CI brings one; elsewhere one test says that there is none.
if [ "$ci" = true ]; then
    wanted=
    missing chromium chromium
    install_missing || echo "the page of --timings in a browser: $wanted could not be installed" >>"$LARDER_SKIPPED"
fi

# An S3 server, from PyPI, in a place of its own.
servers=${CARGO_TARGET_DIR:-target}/servers
if [ ! -x "$servers/bin/moto_server" ]; then
    { python3 -m venv "$servers" || { wanted=python3-venv && install_missing && python3 -m venv "$servers"; }; } \
        >/dev/null 2>&1 && "$servers/bin/pip" install -q 'moto[server,s3]~=5.0' ||
        echo "S3 as a cache: moto could not be installed" >>"$LARDER_SKIPPED"
fi

command -v cargo >/dev/null 2>&1 || {
    echo "cargo is missing: install Rust first" >&2
    exit 1
}

# --- real packages -------------------------------------------------------------------------------------------

say "real CRAN packages"
LARDER_REAL=${LARDER_REAL:-$PWD/target/real}
export LARDER_REAL
status=0
python3 tests/real/fetch.py || status=$?
case $status in
0) ;;
# 3: no archive; 127: no python3.
3 | 127)
    unset LARDER_REAL
    skip "the end-to-end tests on real packages: they could not be fetched"
    ;;
*) exit "$status" ;;
esac

# --- tests ---------------------------------------------------------------------------------------------------

say "the command solve, as users get it"
cargo build --release --bin solve
LARDER_SOLVE=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/release/solve
export LARDER_SOLVE

# The suites themselves run unoptimized: overflow and debug assertions are on, and they compile in half the time.
say "tests"
cargo test --workspace --all-features --all-targets "$@"

say "examples in the documentation"
cargo test --workspace --all-features --doc

say "a graph with no R in it"
if [ -f examples/custom_op.rs ]; then
    cargo run --quiet --example custom_op
fi

if [ -s "$LARDER_SKIPPED" ]; then
    say "skipped on this machine"
    sort -u "$LARDER_SKIPPED"
else
    say "nothing was skipped"
fi
