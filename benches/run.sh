#!/usr/bin/env bash
# Compares xbpipe with the programs it stands in for: pairs in turn (A B A B ...) on data in memory, ratios of the medians.
#
#   benches/run.sh [RUNS]        all measurements; RUNS pairs each, default 5
#   ONLY=extract benches/run.sh  only those whose name contains the word
#
# Needs mariadb-server, mariadb-backup, zstd, openssl and time (Debian packages), about 10 GB of /dev/shm and a release build.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need mbstream mariadb-backup mariadbd zstd openssl
server_pid=
finish() {
    if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null && wait "$server_pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# peak NAME BAR COMMAND: resident memory of our largest process
peak() {
    wanted "$1" || return 0
    printf '%-34s peak %.0f MiB   bar: %s\n' "$1" "$(once "$3" | awk '{print $3 / 1024}')" "$2"
}

if wanted create || wanted extract || wanted verify; then
    mkdir "$work/large" "$work/small"
    for i in 1 2 3; do head -c 1G /dev/urandom >"$work/large/file$i"; done
    for ((i = 0; i < 20000; i++)); do printf '%4000d' "$i" >"$work/small/f$i"; done
    (cd "$work/large" && mbstream -c file1 file2 file3) >"$work/large.xb"
    # In pieces: 20,000 names fit on one command line, but not on every system.
    (cd "$work/small" && ls | xargs -n 5000 mbstream -c) >"$work/small.xb"
    pair create-pipe 'wall 0.5' "$xb create -q -C $work/large . | cat" \
        "cd $work/large && mbstream -c file1 file2 file3 | cat"
    pair extract-3-large 'wall 0.9' "$xb extract -q -C $work/out <$work/large.xb" \
        "mbstream -x -p 2 -C $work/out <$work/large.xb" "$emptied"
    pair extract-20000-small 'wall 0.7' "$xb extract -q -C $work/out <$work/small.xb" \
        "mbstream -x -p 2 -C $work/out <$work/small.xb" "$emptied"
    "$xb" create -q -C "$work/large" --to "$work/indexed.xb" .
    pair verify-3-large 'wall 0.5' "$xb verify -q $work/indexed.xb" \
        "mbstream -x -p 2 -C $work/out <$work/large.xb" "$emptied"
    pair verify-pipe 'none' "cat $work/large.xb | $xb verify -q" \
        "cat $work/large.xb | mbstream -x -p 2 -C $work/out" "$emptied"
    peak create-memory '128 MiB' "$xb create -q -C $work/large . >/dev/null"
    rm -rf "$work/large" "$work/small" "$work"/*.xb "$work/out"
fi

if wanted decompress; then
    # What databases hold: half text that repeats itself, half not.
    mkdir "$work/plain"
    for i in 1 2 3; do
        head -c 255M /dev/urandom | base64 -w 0 >"$work/plain/file$i"
        seq -f "%012.0f row of a table that repeats itself $i" 1 7000000 >>"$work/plain/file$i"
    done
    (cd "$work/plain" && mbstream -c file1 file2 file3) >"$work/plain.xb"
    zstd -q -1 -T2 "$work/plain.xb" -o "$work/plain.xb.zst"
    theirs="zstd -dc $work/plain.xb.zst | mbstream -x -p 2 -C $work/out"
    for how in zstd:1 lz4 qpress; do
        "$xb" create -q -C "$work/plain" --compress "$how" . >"$work/$how.xb"
        case $how in zstd:1) bar='wall 0.6' ;; *) bar='none' ;; esac
        pair "decompress-$how" "$bar" "$xb extract -q --no-sync --decompress -C $work/out <$work/$how.xb" "$theirs" "$emptied"
    done
    rm -rf "$work/plain" "$work"/*.xb "$work/plain.xb.zst" "$work/out"
fi

if wanted sparse; then
    mkdir "$work/sparse"
    truncate -s 20G "$work/sparse/file"
    printf 'x%.0s' {1..5000} | dd of="$work/sparse/file" bs=1 seek=9G conv=notrunc status=none
    peak sparse-create '128 MiB' "$xb create -q -C $work/sparse . | cat >/dev/null"
    peak sparse-extract '128 MiB' "$xb create -q -C $work/sparse . | $xb extract -q -C $work/out"
    # The only way to have so much in memory: what is no hole is what the index tells.
    head -c 64K /dev/zero >"$work/sparse/more"
    "$xb" create -q -C "$work/sparse" . | cp --sparse=always /dev/stdin "$work/indexed.xb"
    if wanted sparse-list; then
        echo "archive of $(stat -c %s "$work/indexed.xb") bytes"
        for ((i = 0; i < runs; i++)); do
            once "$xb list $work/indexed.xb"
        done | awk '{print $1 * 1000}' | sort -n | awk '{v[NR] = $1} END {printf "%-34s %d to %d ms   bar: 50 ms\n", "sparse-list", v[1], v[NR]}'
    fi
    rm -rf "$work/sparse" "$work/out" "$work/indexed.xb"
fi

# crypt NAME BAR CIPHERS: MB/s of one core beside openssl doing the same work with the same ciphers, one after the other
crypt() {
    local name=$1 bar=$2 ciphers=$3 i cipher
    wanted "$name" || return 0
    : >"$work/a"; : >"$work/b"
    for ((i = 0; i < runs; i++)); do
        "$bench" "$name" >>"$work/a"
        for cipher in $ciphers; do
            openssl speed -seconds 1 -bytes 65536 -evp "$cipher" 2>/dev/null | awk 'END {print $2 / 1000}'
        done | awk '{t += 1 / $1} END {print 1 / t}' >>"$work/b"
    done
    printf '%-34s %.0f MB/s / %.0f MB/s = %.2f   openssl: %s   bar: %s\n' "$name" "$(median <"$work/a")" \
        "$(median <"$work/b")" "$(paste "$work/a" "$work/b" | awk '{print $1 / $2}' | median)" "$ciphers" "$bar"
}

if wanted xbcrypt-encrypt || wanted xbcrypt-decrypt || wanted age-encrypt || wanted age-decrypt; then
    bench=$(cd "$here" && cargo bench -q --no-run --bench crypt --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/crypt-[^"]*\)".*/\1/p')
    crypt xbcrypt-encrypt 'none' 'aes-256-ctr sha256'
    crypt xbcrypt-decrypt '0.7' 'aes-256-ctr sha256'
    crypt age-encrypt '0.7' 'chacha20-poly1305'
    crypt age-decrypt '0.7' 'chacha20-poly1305'
fi

start_server() {
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/data" \
        --auth-root-authentication-method=normal >/dev/null 2>&1
    mkdir -p "$work/tmp"
    mariadbd --no-defaults --user="$(id -un)" --datadir="$work/data" --socket="$work/sock" --skip-networking \
        --tmpdir="$work/tmp" --skip-log-bin --innodb-log-file-size=512M --innodb-buffer-pool-size=512M \
        --innodb-max-dirty-pages-pct=0 >"$work/server.log" 2>&1 &
    server_pid=$!
    for _ in $(seq 300); do sql 'SELECT 1' >/dev/null 2>&1 && return; sleep 0.1; done
    echo "the server did not start" >&2
    exit 1
}
sql() { mariadb --no-defaults -uroot -S "$work/sock" "${2:-mysql}" -e "$1"; }

if wanted backup; then
    start_server
    sql 'CREATE DATABASE d'
    sql 'CREATE TABLE t1 (id INT PRIMARY KEY, p VARCHAR(4000));
         INSERT INTO t1 SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_600000;
         CREATE TABLE t2 LIKE t1; INSERT INTO t2 SELECT * FROM t1;
         CREATE TABLE t3 LIKE t1; INSERT INTO t3 SELECT * FROM t1;
         SET GLOBAL innodb_log_checkpoint_now = 1' d
    echo "server of $(du -sm --apparent-size "$work/data" | cut -f1) MiB, idle"
    ours="$xb backup -q --no-defaults -u root -S $work/sock"
    theirs="mariadb-backup --no-defaults --backup --stream=mbstream --user=root --socket=$work/sock --datadir=$work/data --target-dir=$work/none"
    pair backup-pipe 'wall 0.6, cpu 0.7' "$ours | cat" "$theirs | cat"
    pair backup-null 'wall 1.0' "$ours" "$theirs"
    pair backup-zstd 'wall 0.8' "$ours --compress zstd:1 | cat" "$theirs | zstd -q -1 -T2 | cat"
    peak backup-memory '128 MiB' "$ours"
    if wanted backup-20000-tables; then
        sql 'SET GLOBAL innodb_flush_log_at_trx_commit = 0; CREATE DATABASE many'
        for ((i = 0; i < 20000; i++)); do echo "CREATE TABLE t$i (id INT PRIMARY KEY);"; done |
            mariadb --no-defaults -uroot -S "$work/sock" many
        peak backup-20000-tables '128 MiB' "$ours | cat"
        pair backup-20000-tables-time 'none' "$ours | cat" "$theirs | cat"
    fi
fi
