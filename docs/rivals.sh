#!/bin/sh
# Shows what premod says about changes to files, beside inotifywait and fatrace (which uses fanotify).
#
#   cargo xtask vm --kernel 6.12 --fs ext4 --copy docs/rivals.sh:/usr/bin/rivals -- 'sh /usr/bin/rivals'
#
# All three watch the same directory at the same time. After each step stands what was done and when, and
# what each of them has said since the step before. The files are open, mapped and clean before any of
# them starts. premod's time is when its hook ran, strace's when the call was made; fatrace's is when it
# had read the event, and inotifywait's when its line arrived here, some milliseconds later.
set -eu

directory=${1:-/mnt/test}/rivals
logs=$(mktemp -d)
mkdir "$directory"
cd "$directory"

# With the path, because busybox has a date of its own that knows no fractions.
now() { /bin/date +%T.%6N; }

# Puts the time in front of each line as it arrives.
stamp() {
    while IFS= read -r line; do
        echo "$(now) $line"
    done
}

# Waits up to 30 s until a file contains a text.
wait_for() {
    tries=300
    until grep -q "$2" "$1" 2> /dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "rivals: no \"$2\" in $1:"; cat "$1"; exit 1; }
        sleep 0.1
    done
}

# The files: one that this shell holds open, and a database whose -shm file sqlite3 holds mapped.
dd if=/dev/zero of=data bs=1M count=16 2> /dev/null
exec 3<> data
mkfifo "$logs/statements"
sqlite3 orders.db < "$logs/statements" > "$logs/sqlite3" &
exec 4> "$logs/statements"
insert() {
    echo "INSERT INTO orders VALUES ('$1'); SELECT 'inserted $1';" >&4
    wait_for "$logs/sqlite3" "inserted $1"
}
echo "PRAGMA journal_mode = WAL; CREATE TABLE orders (what);" >&4
insert bolts
sync

# The watchers. premod attaches its hooks before it says that it traces.
fatrace --current-mount --timestamp --filter=W > "$logs/fatrace" &
fatrace=$!
mkfifo "$logs/events"
stamp < "$logs/events" > "$logs/inotifywait" &
inotifywait --monitor --event modify,close_write --format '%e %f' . \
    > "$logs/events" 2> "$logs/inotifywait.said" &
inotifywait=$!
premod trace -T "$directory" > "$logs/premod" 2> "$logs/premod.said" &
premod=$!
wait_for "$logs/inotifywait.said" established
wait_for "$logs/premod.said" tracing
sleep 2

# Prints what a watcher has said since the last step: the first few lines, and how many there are.
said() {
    log=$logs/$1
    touch "$log.before"
    before=$(wc -l < "$log.before")
    cp "$log" "$log.before"
    count=$(($(wc -l < "$log.before") - before))
    [ "$count" -gt 0 ] || printf '  %-12s -\n' "$1"
    tail -n +$((before + 1)) "$log.before" | head -n 3 | while IFS= read -r line; do
        printf '  %-12s %s\n' "$1" "$line"
    done
    [ "$count" -le 3 ] || printf '  %-12s ... %d lines in all\n' "$1" "$count"
}

# step WHAT COMMAND...: runs the command and prints what everybody says.
step() {
    echo "$1"
    shift
    began=$(now)
    "$@"
    printf '  %-12s %s to %s\n' "did it" "$began" "$(now)"
    sleep 1
    for watcher in premod inotifywait fatrace; do
        said "$watcher"
    done
    echo
}

# timed CALL COMMAND...: strace tells when the command made the system call, and how long it took.
timed() {
    call=$1
    shift
    strace -tt -T -e "trace=$call" -o "$logs/strace" "$@" 2> /dev/null
    sed -n "s/^\([0-9:.]*\) \($call\)(.*<\(.*\)>/  \2: called \1, took \3 s/p" "$logs/strace" | head -n 1
}

large_write() { timed write sh -c 'exec dd if=/dev/zero bs=16M count=1 >&3'; }
hundred_writes() { dd if=/dev/zero of=data bs=1 count=100 conv=notrunc 2> /dev/null; }

echo "kernel $(uname -r), $(df -T . | awk 'NR == 2 { print $2 }')"
echo
sed 1q "$logs/premod" > "$logs/premod.before"
step "write(2) of 16 MB through a descriptor that was open before" large_write
sync data
step "after fsync: a hundred write(2) of one byte" hundred_writes
step "sqlite3 INSERT: write(2) to orders.db-wal, stores to orders.db-shm through an old mapping" insert nuts
sync
step "after sync: the same again" insert screws
step "ftruncate(2)" timed ftruncate truncate -s 1000 data
sync data
step "reading and chmod" sh -c 'cat data > /dev/null; chmod 600 data'

kill "$premod" "$inotifywait" "$fatrace"
wait "$premod"
cat "$logs/premod.said"
