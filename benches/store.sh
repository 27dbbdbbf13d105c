#!/usr/bin/env bash
# Compares xbpipe with other clients of S3 stores: all in turn, data in memory, ratios run by run; CPU is that of the client alone.
#
#   benches/store.sh [RUNS]        all measurements; RUNS of each client, default 5
#   ONLY=upload benches/store.sh   only those whose name contains the word: upload, download, restore, one-table,
#                                  xbcloud, far (the same streams, and a store that is as far away as Amazon's)
#   ENDPOINT=http://127.0.0.1:PORT BUCKET=NAME SIZE=1G benches/store.sh
#                                  a store that is there, instead of one that only keeps bytes; credentials from the environment
#
# Needs mariadb-backup, zstd, rclone, awscli, curl and time (Debian packages), s5cmd (a Python package), a release build, and
# about 12 GB of memory.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need mbstream zstd rclone s5cmd /usr/bin/aws curl
size=${SIZE:-2G}

finish() {
    exec 3>&-
    wait
    rm -rf "$work"
}
trap finish EXIT

if [ -z "${ENDPOINT:-}" ]; then
    BUCKET=bench
    keeper=$(cd "$here" && cargo bench -q --no-run --bench bytes_store --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/bytes_store-[^"]*\)".*/\1/p')
    mkfifo "$work/hold"
    # It ends with its input, which this shell holds open.
    "$keeper" "$BUCKET" <"$work/hold" >"$work/address" &
    exec 3>"$work/hold"
    until [ -s "$work/address" ]; do sleep 0.1; done
    ENDPOINT=http://$(cat "$work/address")
    export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=bench
    kept=yes
fi
# Plain HTTP needs none, and rclone 1.60 fails over it.
unset AWS_CA_BUNDLE
export AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_R_TYPE=s3 RCLONE_CONFIG_R_PROVIDER=Other RCLONE_CONFIG_R_ENV_AUTH=true \
    RCLONE_CONFIG_R_ENDPOINT=$ENDPOINT RCLONE_S3_NO_CHECK_BUCKET=true RCLONE_S3_FORCE_PATH_STYLE=true
aws="/usr/bin/aws --endpoint-url $ENDPOINT"
s5="s5cmd --endpoint-url $ENDPOINT"
ours="--endpoint-url $ENDPOINT"
echo "store at $ENDPOINT${kept:+, which only keeps bytes}, $size"

# clear: removes everything from the bucket, so that no run pays for what another has stored
clear() {
    if [ -n "${kept:-}" ]; then
        curl -s -X DELETE "$ENDPOINT/-/" >/dev/null
    else
        $aws s3 rm --quiet --recursive "s3://$BUCKET/" >/dev/null
    fi
}

# clients NAME BAR FROM INTO BETWEEN OURS [LABEL THEIRS]...: one row against each
clients() {
    local name=$1 bar=$2 from=$3 into=$4 between=$5 ours=$6 i j
    shift 6
    wanted "$name" || return 0
    local labels=() theirs=()
    while [ $# -gt 0 ]; do labels+=("$1"); theirs+=("$2"); shift 2; done
    rm -f "$work"/row.*
    for ((i = 0; i <= runs; i++)); do
        $between; once "$ours" "$from" "$into" >>"$work/row.ours"
        for j in "${!theirs[@]}"; do
            $between; once "${theirs[j]}" "$from" "$into" >>"$work/row.$j"
        done
        # The first round only warms up.
        [ "$i" != 0 ] || rm -f "$work"/row.*
    done
    for j in "${!theirs[@]}"; do
        report "$name: ${labels[j]}" "$bar" "$work/row.ours" "$work/row.$j"
    done
}

# streams PREFIX: a stream, up and down again
streams() {
    local up=$1upload down=$1download
    wanted "$up" || wanted "$down" || return 0
    mkdir "$work/large"
    for i in 1 2; do head -c "$(($(numfmt --from=iec "$size") / 2))" /dev/urandom >"$work/large/file$i"; done
    "$xb" create -q -C "$work/large" --to "$work/large.xb" .
    rm -rf "$work/large"
    clients "$up" 'wall 0.8, cpu 0.6' "cat $work/large.xb" '' clear \
        "$xb put -q $ours s3://$BUCKET/b" \
        'rclone rcat' "rclone rcat r:$BUCKET/b" \
        'aws s3 cp -' "$aws s3 cp --only-show-errors - s3://$BUCKET/b" \
        's5cmd pipe' "$s5 pipe s3://$BUCKET/b"
    if wanted "$down"; then
        clear
        "$xb" put -q $ours "s3://$BUCKET/ours" <"$work/large.xb"
        $aws s3 cp --only-show-errors - "s3://$BUCKET/b" <"$work/large.xb"
        rm "$work/large.xb"
        url=$($aws s3 presign "s3://$BUCKET/b")
        clients "$down" 'wall 0.8, cpu 0.6' '' cat : \
            "$xb get -q $ours s3://$BUCKET/ours" \
            'rclone cat' "rclone cat r:$BUCKET/b" \
            'aws s3 cp' "$aws s3 cp --only-show-errors s3://$BUCKET/b -" \
            's5cmd cat' "$s5 cat s3://$BUCKET/b" \
            'curl, no bar' "curl -sf '$url'"
    fi
    rm -f "$work/large.xb"
}

streams ''

if wanted xbcloud; then
    # Chunk by chunk an object: rclone copies the same objects, as many at a time, and writes them in the order that it likes.
    cloud="$xb as xbcloud --no-defaults --storage=s3 --s3-endpoint=$ENDPOINT --s3-bucket=$BUCKET --s3-region=$AWS_REGION \
        --s3-access-key=$AWS_ACCESS_KEY_ID --s3-secret-key=$AWS_SECRET_ACCESS_KEY --parallel=4"
    mkdir "$work/large"
    for i in 1 2; do head -c "$(($(numfmt --from=iec "$size") / 4))" /dev/urandom >"$work/large/file$i"; done
    touch "$work/large/xtrabackup_tablespaces"
    "$xb" create -q -C "$work/large" --chunk-size 10M --to "$work/large.xb" .
    rm -rf "$work/large"
    clear
    $cloud put ours <"$work/large.xb" 2>/dev/null
    rclone copy "r:$BUCKET/ours" "$work/chunks"
    clients 'xbcloud get' none '' cat : "$cloud get ours" 'rclone cat' "rclone cat r:$BUCKET/ours"
    clients 'xbcloud put' none '' '' clear \
        "$cloud put b <$work/large.xb" 'rclone copy' "rclone copy --transfers 4 $work/chunks r:$BUCKET/b"
    rm -rf "$work/large.xb" "$work/chunks"
fi

# rows FILE NUMBER: 100 MB of what databases hold: half text that repeats itself, half not
rows() {
    head -c 39M /dev/urandom | base64 -w 0 >"$1"
    seq -f "%012.0f row of a table that repeats itself $2" 1 1000000 >>"$1"
}

if wanted restore; then
    clear
    mkdir "$work/plain"
    for i in $(seq 16); do rows "$work/plain/file$i" "$i"; done
    "$xb" create -q -C "$work/plain" --compress zstd:1 . | "$xb" put -q $ours "s3://$BUCKET/ours"
    (cd "$work/plain" && mbstream -c file*) | zstd -q -1 -T2 | $aws s3 cp --only-show-errors - "s3://$BUCKET/b"
    rm -r "$work/plain"
    emptied() { bash -c "$emptied"; }
    clients restore 'wall 0.5' '' '' emptied \
        "$xb restore -q --no-sync --decompress -C $work/out $ours s3://$BUCKET/ours" \
        'aws s3 cp - | zstd | mbstream' \
        "$aws s3 cp --only-show-errors s3://$BUCKET/b - | zstd -dc | mbstream -x -p 2 -C $work/out"
    rm -rf "$work/out"
fi

if wanted one-table && [ -n "${kept:-}" ]; then
    clear
    mkdir -p "$work/many/d"
    rows "$work/many/d/t0" 0
    for i in $(seq 99); do cp "$work/many/d/t0" "$work/many/d/t$i"; done
    "$xb" create -q -C "$work/many" --compress zstd:1 . | "$xb" put -q $ours "s3://$BUCKET/ours"
    whole=$(du -sb "$work/many" | cut -f1)
    rm -r "$work/many"
    table=$("$xb" list --json $ours "s3://$BUCKET/ours" | sed -n 's/.*"d\/t42.zst".*"size":\([0-9]*\).*/\1/p')
    curl -s "$ENDPOINT/-/bytes" >/dev/null
    "$xb" restore -q --decompress -C "$work/out" $ours "s3://$BUCKET/ours" d/t42
    fetched=$(curl -s "$ENDPOINT/-/bytes")
    printf '%-34s %d bytes fetched for %d bytes, of %d: %.3f   bar: 1.1\n' one-table "$fetched" "$table" "$whole" \
        "$(awk "BEGIN {print $fetched / $table}")"
fi

if [ -n "${kept:-}" ]; then
    curl -s -X PUT "$ENDPOINT/-/far" >/dev/null
    streams far-
fi
