#!/bin/sh
# Fuzzes the lockfile reader, the DESCRIPTION reader and the unpacker, each for so many seconds (60), all at once, with
# at most a GiB of memory each. Needs nothing but stable Rust and a C++ compiler, which libFuzzer itself is compiled with.
# Seeds are the hostile archives of the tests, the packages of LARDER_REAL and the lockfiles in ../shared, where there are any.
# An input that fails is kept in target/fuzz/failed/; `target/fuzz/.../TARGET FILE` runs it again.
set -eu

seconds=${1:-60}
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz` would set, less the sanitizer. With --target these flags are not for build scripts.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
    cargo build --quiet --target "$host" --target-dir "$target" \
    --bin lockfile --bin description --bin unpack

# Each target writes its own seeds.
LARDER_SEEDS=${LARDER_REAL:-$PWD/../target/real}:$PWD/../../shared/lockfiles
export LARDER_SEEDS
corpus=$target/corpus
failed=$target/failed
mkdir -p "$failed" "$corpus/lockfile" "$corpus/description" "$corpus/unpack"

# Trees are made and removed some hundred times a second: in memory, where that is possible.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

pids=
for name in lockfile description unpack; do
    "$target/$host/debug/$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=1024 -timeout=20 \
        -max_len=102400 -print_final_stats=1 -artifact_prefix="$failed/$name-" "$corpus/$name" \
        >"$target/$name.log" 2>&1 &
    pids="$pids $name:$!"
done
status=0
for pid in $pids; do
    if wait "${pid#*:}"; then
        echo "${pid%:*}: $(sed -n 's/^stat::number_of_executed_units: *//p; s/^stat::peak_rss_mb: */ inputs, peak memory in MiB: /p' \
            "$target/${pid%:*}.log" | tr -d '\n')"
    else
        status=1
        echo "${pid%:*} failed:"
        tail -n 40 "$target/${pid%:*}.log"
    fi
done
exit $status
