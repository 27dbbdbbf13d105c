# What measurements share: pairs in turn (A B A B ...) on data in memory, medians, ratios pair by pair. To be sourced by a bash
# script of this directory.

runs=${1:-5}
only=${ONLY:-}
here=$(cd "$(dirname "$0")/.." && pwd)
xb=$here/target/release/xbpipe
[ -x "$xb" ] || { echo "build first: cargo build --release" >&2; exit 2; }

# need PROGRAM...
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 2; }
    done
}

need /usr/bin/time
work=$(mktemp -d /dev/shm/xbpipe-bench.XXXXXX)

# An empty directory to extract to, and memory that was in use a moment ago: a virtual machine may have given what is free back
# to its host, and whoever gets to use it first would pay for that.
emptied="rm -rf $work/out; head -c 3500M /dev/zero >$work/warm; rm $work/warm; mkdir $work/out"

wanted() { [ -z "$only" ] || [[ $1 == *"$only"* ]]; }

# once COMMAND [FROM [INTO]]: wall seconds, CPU seconds of the command and all it waited for, peak KiB of its largest process.
# What comes FROM another command through a pipe, or goes INTO one, is not counted.
once() {
    local command
    command="/usr/bin/time -o $work/time -f '%e %U %S %M' bash -c $(printf %q "$1")"
    [ -z "${2:-}" ] || command="$2 | $command"
    [ -z "${3:-}" ] || command="$command | $3"
    bash -c "set -o pipefail; $command" >/dev/null 2>"$work/err" || {
        echo "failed: $command" >&2
        tail -3 "$work/err" >&2
        exit 1
    }
    awk '{print $1, $2 + $3, $4}' "$work/time"
}

median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# report NAME BAR FILE FILE: figures of ours and of theirs, run by run
report() {
    local wa wb rw rc pa
    paste "$3" "$4" >"$work/ab"
    wa=$(awk '{print $1}' "$3" | median); wb=$(awk '{print $1}' "$4" | median)
    rw=$(awk '{print $1 / $4}' "$work/ab" | median); rc=$(awk '{print $2 / $5}' "$work/ab" | median)
    pa=$(awk '{print $3 / 1024}' "$3" | sort -n | tail -1)
    printf '%-34s wall %.2f s / %.2f s = %.2f   cpu %.2f   our peak %.0f MiB   bar: %s\n' \
        "$1" "$wa" "$wb" "$rw" "$rc" "$pa" "$2"
}

# pair NAME BAR OURS THEIRS [BETWEEN]: BETWEEN runs before each of them, not timed
pair() {
    local name=$1 bar=$2 ours=$3 theirs=$4 between=${5:-:} i
    wanted "$name" || return 0
    : >"$work/a"; : >"$work/b"
    bash -c "$between"; once "$ours" >/dev/null
    bash -c "$between"; once "$theirs" >/dev/null
    for ((i = 0; i < runs; i++)); do
        bash -c "$between"; once "$ours" >>"$work/a"
        bash -c "$between"; once "$theirs" >>"$work/b"
    done
    report "$name" "$bar" "$work/a" "$work/b"
}

echo "xbpipe $("$xb" --version | awk '{print $2}'), $(nproc) processors, $(uname -r), $runs pairs"
