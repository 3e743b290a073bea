#!/usr/bin/env bash
# Fuzzes every fuzz target of the module for a while. Stops at the first finding, which is left in testdata/fuzz.
#
# usage: fuzz.sh [SECONDS]   (default 10)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-10}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One line "PACKAGE TARGET" for each.
grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | while read -r file; do
    grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | while read -r _ name; do
        printf '%s %s\n' "$(dirname "$file")" "$name"
    done
done | sort >"$work/targets"

count=$(wc -l <"$work/targets")
[ "$count" -gt 0 ] || { echo "fuzz: no targets found" >&2; exit 1; }
echo "fuzz: $count targets, $seconds s each"

one() {
    read -r pkg name <<<"$1"
    log=$2/$(echo "$pkg$name" | tr -c 'A-Za-z0-9\n' _)
    run() { go test -run '^$' -fuzz "^$name\$" -fuzztime "${1}s" -parallel 1 "$pkg" >"$log" 2>&1; }
    # On a busy machine the time may be over before the corpus was read, which go test calls a failure: give it more.
    if run "$3" || { grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" && run $(($3 * 6)); }; then
        printf 'fuzz: ok   %-45s %s\n' "$pkg" "$name"
    else
        printf 'fuzz: FAIL %-45s %s\n' "$pkg" "$name"
        cat "$log"
        exit 255
    fi
}
export -f one
xargs -a "$work/targets" -d '\n' -P "$(nproc)" -I{} bash -c 'one "$1" "$2" "$3"' _ {} "$work" "$seconds"
