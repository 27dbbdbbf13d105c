#!/usr/bin/env bash
# Every check of this repository. Installs what is missing, builds, runs; with CI=true it only talks about failures.
# Exit status 0 if all passed.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh tests

# Servers of tests that were interrupted would outlive them: all have their files here, and are found by it.
TMPDIR=$(mktemp -d -t xbpipe-all.XXXXXX)
export TMPDIR
# Some tests run programs as another user.
chmod 755 "$TMPDIR"
clean_up() {
    local process
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q "^[^ ]*\(mariadbd\|ceph-mon\|ceph-osd\|radosgw\) .*$TMPDIR/"; then
            kill -KILL "${process#/proc/}" 2>/dev/null || true
        fi
    done
    rm -rf "$TMPDIR"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Tests that cannot run here add a line to this file.
export XBPIPE_TEST_SKIPS="$TMPDIR/skips"

began=$SECONDS
summary=()
failed=0
quiet=()
[ "${CI:-}" = true ] && quiet=(--quiet)

# check NAME COMMAND...: runs it, notes how it ended, and goes on.
check() {
    local name=$1 at=$SECONDS status=0
    shift
    echo "== $name: $*"
    "$@" || status=$?
    if [ "$status" = 0 ]; then
        summary+=("passed  $name ($((SECONDS - at)) s)")
    else
        summary+=("FAILED  $name ($((SECONDS - at)) s, status $status): $*")
        failed=1
    fi
}

check "formatting" cargo fmt --check
check "lints" cargo clippy --locked --all-targets "${quiet[@]}" -- -D warnings
# The test profile is optimised enough for the data it moves, and builds much faster than the release profile.
check "tests" cargo test --locked --no-fail-fast "${quiet[@]}"
# Maintainers read the private items, too, so links to them are welcome.
check "documentation" env RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
    cargo doc --locked --no-deps --document-private-items "${quiet[@]}"
if [ -f fuzz/Cargo.toml ]; then
    check "fuzz targets" cargo check --locked --manifest-path fuzz/Cargo.toml "${quiet[@]}"
fi

echo
echo "== summary ($((SECONDS - began)) s)"
printf '%s\n' "${summary[@]}"
if [ -s "$XBPIPE_TEST_SKIPS" ]; then
    sort "$XBPIPE_TEST_SKIPS" | sed 's/^/skipped /'
fi
if [ "$failed" = 0 ]; then
    echo "ALL PASSED"
else
    echo "FAILED"
fi
exit "$failed"
