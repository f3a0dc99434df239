#!/bin/sh
# How long pulling a library from a cache takes, beside its floor: `curl` of the same objects in parallel, each through
# `zstd -d | tar x`, which checks nothing and flushes nothing.
#
#     benches/tiers.sh SOLVE MOTO_SERVER LOCKFILE STORE [RUNS]
#
# STORE has all of LOCKFILE, and is only read: the objects are pushed from it to an S3 server on loopback (moto), and
# served once more by nginx where there is one, since moto is slow. Prints the times in turn, and the ratio of medians.
set -eu

solve=$1 moto=$2 lockfile=$3 store=$4 runs=${5:-5}
dir=$(mktemp -d)
port=$((20000 + $$ % 20000))
pids=
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
export AWS_ACCESS_KEY_ID=someone AWS_SECRET_ACCESS_KEY=secret HOME="$dir" LARDER_CONFIG=/dev/null
export LARDER_LIBRARY="$dir/library"

up() {
    until curl -s -o /dev/null "http://127.0.0.1:$1/"; do :; done
}

now() {
    date +%s.%N
}

"$moto" -H 127.0.0.1 -p "$port" >"$dir/moto.log" 2>&1 &
pids=$!
up "$port"
curl -sf -X PUT "http://127.0.0.1:$port/bucket" >/dev/null
s3="s3://bucket?endpoint=http://127.0.0.1:$port"
"$solve" remote push "$lockfile" --store "$dir/own:$store" --cache "$s3"
curl -sf "http://127.0.0.1:$port/bucket?list-type=2" | grep -o '<Key>[^<]*</Key>' | sed 's/<[^>]*>//g' >"$dir/all"
grep -E '/[0-9a-f]{64}$' "$dir/all" >"$dir/entries"
echo "$(wc -l <"$dir/entries") entries, load $(cut -d' ' -f1-3 /proc/loadavg)"

measure() { # name, cache, base URL
    : >"$dir/ours" && : >"$dir/floor"
    for _ in $(seq "$runs"); do
        rm -rf "$dir/pulled" "$dir/plain"
        mkdir "$dir/plain"
        sync
        start=$(now)
        "$solve" remote pull "$lockfile" --store "$dir/pulled" --cache "$2" >/dev/null
        echo "$(now) $start" | awk '{ print $1 - $2 }' >>"$dir/ours"
        [ "$(find "$dir/pulled" -name DESCRIPTION -path '*-g*' | wc -l)" -ge "$(wc -l <"$dir/entries")" ]
        sync
        start=$(now)
        # shellcheck disable=SC2016
        xargs -P 8 -I{} sh -c 'curl -sf "$0/{}" | zstd -dq | tar x -C "$1"' "$3" "$dir/plain" <"$dir/entries"
        echo "$(now) $start" | awk '{ print $1 - $2 }' >>"$dir/floor"
    done
    paste "$dir/ours" "$dir/floor" | awk -v name="$1" '{ printf "%s: pull %.2f s, curl %.2f s\n", name, $1, $2 }'
    median() { sort -n "$1" | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }'; }
    echo "$(median "$dir/ours") $(median "$dir/floor")" |
        awk -v name="$1" '{ printf "%s: medians %.2f s and %.2f s, ratio %.2f\n", name, $1, $2, $1 / $2 }'
}

measure s3 "$s3:ro" "http://127.0.0.1:$port/bucket"

nginx=$(command -v nginx || echo /usr/sbin/nginx)
if [ -x "$nginx" ]; then
    while read -r name; do
        mkdir -p "$dir/www/$(dirname "$name")"
        curl -sf "http://127.0.0.1:$port/bucket/$name" -o "$dir/www/$name"
    done <"$dir/all"
    chmod -R a+rX "$dir"
    web=$((port + 1))
    cat >"$dir/nginx.conf" <<CONF
daemon off; worker_processes 1; pid $dir/pid; error_log $dir/error.log;
events {}
http {
    access_log off; client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3;
    uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    server { listen 127.0.0.1:$web; root $dir/www; }
}
CONF
    "$nginx" -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
    pids="$pids $!"
    up "$web"
    measure http "http://127.0.0.1:$web/:ro" "http://127.0.0.1:$web"
fi
