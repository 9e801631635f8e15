# What `cargo xtask demo` lets premod trace: programs that change files in different ways. Their
# own output goes to stderr, because stdout is premod's.
set -eu
exec >&2
cd /mnt/test

say() { echo "demo: $*"; }

say "a directory, and a file written the ordinary way"
mkdir shop
echo "open" > shop/sign

say "sqlite3 in WAL mode: its -shm file changes by stores into a shared mapping"
sqlite3 shop/orders.db <<'SQL'
PRAGMA journal_mode = WAL;
CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT);
INSERT INTO orders (what) VALUES ('bolts'), ('nuts');
UPDATE orders SET what = 'washers' WHERE id = 2;
SQL

say "dd and truncate"
dd if=/dev/zero of=shop/stock.img bs=64k count=8 conv=fsync 2> /dev/null
truncate -s 100k shop/stock.img

say "a program that maps a file, stores, calls fsync, and stores again"
premod-vm-test demo-mmap shop/ledger
