#!/bin/sh
# copy-server FROM TO: copies the data directory of a running PostgreSQL or MariaDB while premod holds its files still.
# Whoever wants to change one waits meanwhile. A server that is started on TO recovers, as it does after a power cut.
#
# For PostgreSQL set wal_keep_size to more than is written while this runs: a checkpoint that gives an old segment of
# the write-ahead log a new name would make the copy void (17), and it would have to be made again.
set -eu

# Directories, and the files that a server needs to start. Not those that it makes anew when it starts, and those that
# it replaces by others while it runs (as pg_basebackup does).
directories() { find . -type d; }
files() {
    find . -type f ! -name '*.pid' ! -name 'ibtmp*' ! -name postmaster.opts ! -name 'pg_internal.init*' \
        ! -name 'xlogtemp.*' ! -path './pg_logical/replorigin_checkpoint*' ! -path './pg_notify/*' \
        ! -path './pg_stat_tmp/*' ! -path './pg_subtrans/*' ! -path '*/pgsql_tmp/*'
}

# What premod runs: --frozen FROM TO LIST.
if [ "$1" = --frozen ]; then
    cd "$2"
    # A file that was made after the list is not frozen, and without it the copy may not be whole.
    files | sort | cmp -s - "$4" || exit 75
    { directories; cat "$4"; } | tar -cf - --no-recursion -T - | tar -xpf - -C "$3"
    exit
fi

from=$(realpath "$1") to=$2 self=$(realpath "$0")
mkdir -m 700 "$to"
to=$(realpath "$to")
list=$(mktemp)
trap 'rm -f "$list"' EXIT
cd "$from"
for try in 1 2 3 4 5; do
    rm -rf "$to"
    mkdir -m 700 "$to"
    files | sort > "$list"
    status=0
    premod freeze --files-from "$list" --hold --timeout 120s -- sh "$self" --frozen "$from" "$to" "$list" || status=$?
    case $status in
        0) exit ;;
        # A file had gone, had come, or got another name.
        14 | 17 | 75) echo "copy-server: try $try ended with $status" >&2 ;;
        *) break ;;
    esac
done
exit "$status"
