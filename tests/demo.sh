#!/usr/bin/env bash
# The main job on real input: a throw-away MariaDB under load is backed up through a pipe, prepared, started elsewhere,
# and compared. Installs what is missing, builds, runs. An argument is the size of the data set in megabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh demo

echo "demo: building xbpipe (cargo build --release)" >&2
cargo build --release --locked --quiet --bin xbpipe --example demo
directory=$(cargo metadata --format-version 1 --no-deps --locked --offline |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec "$directory/release/examples/demo" "$@"
