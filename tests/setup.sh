# Installs from Debian's packages what the build and the demonstration or the tests need and this machine lacks.
# To be sourced by a bash script that runs in the repository: `. tests/setup.sh demo` or `. tests/setup.sh tests`. Silent when
# nothing is missing.

# What each needs: a program and the package that has it.
xbpipe_demo_needs=(cc:build-essential pkg-config:pkg-config mariadbd:mariadb-server mariadb-install-db:mariadb-server
    mariadb:mariadb-client)
xbpipe_tests_needs=("${xbpipe_demo_needs[@]}" mariadb-backup:mariadb-backup mbstream:mariadb-backup zstd:zstd lz4:lz4
    xz:xz-utils pv:pv openssl:openssl age:age radosgw:radosgw ceph-mon:ceph-mon ceph-osd:ceph-osd)

# xbpipe_missing_packages demo|tests
xbpipe_missing_packages() {
    local pair
    local -n needs=xbpipe_$1_needs
    # Debian keeps servers where a user's PATH may not lead.
    local PATH="$PATH:/usr/sbin:/usr/local/sbin"
    for pair in "${needs[@]}"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done | sort -u
    # Debian has this plugin of the server in a package of its own; elsewhere it may lie anywhere.
    if [ "$1" = tests ] && command -v apt-get >/dev/null && [ ! -e /usr/lib/mysql/plugin/provider_lz4.so ]; then
        echo mariadb-plugin-provider-lz4
    fi
}

xbpipe_setup() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    fi
    if ! command -v cargo >/dev/null; then
        echo "setup: cargo is not in PATH: install a Rust toolchain (https://rustup.rs), version 1.94 or later" >&2
        return 1
    fi
    local packages as_root=() policy=/usr/sbin/policy-rc.d made_policy=no status=0
    packages=$(xbpipe_missing_packages "$1" | tr '\n' ' ')
    [ -z "$packages" ] && return 0
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing, and there is no apt-get to install it: $packages" >&2
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup: missing: $packages- run this as root, or: apt-get install $packages" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    echo "setup: installing with apt-get: $packages" >&2
    # A package with a server starts it unless the policy says no. An existing policy is the administrator's.
    if [ ! -e "$policy" ]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of words
    {
        "${as_root[@]}" apt-get update -q &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -q -y --no-install-recommends $packages
    } >&2 </dev/null || status=$?
    if [ "$made_policy" = yes ]; then
        "${as_root[@]}" rm -f "$policy"
    fi
    if [ "$status" != 0 ]; then
        echo "setup: apt-get failed ($status); needed are: $packages" >&2
        return "$status"
    fi
    case " $packages" in
    *" mariadb-server "*)
        echo "setup: MariaDB is installed and was not started; 'systemctl disable mariadb' keeps it so after a reboot" >&2
        ;;
    esac
    packages=$(xbpipe_missing_packages "$1" | tr '\n' ' ')
    if [ -n "$packages" ]; then
        echo "setup: still missing after installation: $packages" >&2
        return 1
    fi
}

xbpipe_setup "$1"
