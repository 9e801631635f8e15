//! Files that the kernel's NFS server changes for a client, which is this machine too.
//!
//! No daemon is needed: what rpc.nfsd, exportfs and rpc.mountd would tell the kernel is written to its files.

use std::{fs, path::PathBuf};

use rustix::fs::OFlags;

use super::{BLOCK, BLOCKS, Change, Target, ways, writes};
use crate::{harness::Place, tools::run, workload::Mapping};

ways! {
    "nfsd: write" => write,
    "nfsd: truncate" => truncate,
}

/// Where the client has mounted the server's /mnt.
const CLIENT: &str = "/run/nfs";

/// Starts the server, once, and mounts what it exports.
fn serve() {
    if fs::create_dir(CLIENT).is_err() {
        return;
    }
    run("ifconfig", &["lo", "127.0.0.1", "up"]);
    run("modprobe", &["nfsd"]);
    run("modprobe", &["nfsv4"]);
    // Where the server keeps who its clients were, on kernels that still do so without a daemon.
    fs::create_dir_all("/var/lib/nfs/v4recovery").expect("mkdir");
    run("mount", &["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
    let server = |file: &str, text: &str| tell(&format!("/proc/fs/nfsd/{file}"), text);
    server("nfsv4leasetime", "10");
    server("nfsv4gracetime", "10");
    server("versions", "-2 -3");
    server("portlist", "tcp 2049");
    server("threads", "2");
    let cache = |name: &str, text: &str| tell(&format!("/proc/net/rpc/{name}/channel"), text);
    cache("auth.unix.ip", "nfsd 127.0.0.1 2147483647 test");
    for (number, directory) in ["", "/ext4", "/xfs", "/btrfs"].into_iter().enumerate() {
        // NFSEXP_FSID, NFSEXP_NOSUBTREECHECK, NFSEXP_ASYNC, NFSEXP_INSECURE_PORT and NFSEXP_CROSSMOUNT.
        // Asynchronous, so that the server does not sync each change at once.
        const FLAGS: u32 = 0x2000 | 0x400 | 0x10 | 0x2 | 0x4000;
        let export = format!("test /mnt{directory} 2147483647 {FLAGS} 65534 65534 {number}");
        cache("nfsd.export", &export);
        let handle = format!("test 1 \\x0{number}000000 2147483647 /mnt{directory}");
        cache("nfsd.fh", &handle);
    }
    // It waits for clients of an earlier life. Where it cannot know that there were none, it refuses to be
    // hurried, and the first open takes ten seconds.
    let _ = fs::write("/proc/fs/nfsd/v4_end_grace", "Y\n");
    let options = "addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2";
    run(
        "mount",
        &["-i", "-t", "nfs4", "-o", options, "127.0.0.1:/", CLIENT],
    );
}

fn tell(file: &str, text: &str) {
    fs::write(file, format!("{text}\n")).unwrap_or_else(|error| panic!("{file}: {error}"));
}

/// The data file, and its name at the client.
fn exported(place: &Place) -> (Target, PathBuf) {
    serve();
    let target = writes::target(place);
    let path = target.path.strip_prefix("/mnt").expect("below /mnt");
    let path = PathBuf::from(CLIENT).join(path);
    (target, path)
}

fn write(place: &Place) -> Result<Change, String> {
    let (target, path) = exported(place);
    let file = writes::reopen(&path, OFlags::DIRECT);
    let mut memory = Mapping::aligned(BLOCK as usize);
    Ok(Change::of(target, &["write"], move |n| {
        memory.store(0, writes::byte(n));
        let written = rustix::io::pwrite(&file, memory.bytes(), writes::offset(n));
        assert_eq!(written, Ok(BLOCK as usize));
    }))
}

fn truncate(place: &Place) -> Result<Change, String> {
    let (target, path) = exported(place);
    let file = writes::reopen(&path, OFlags::empty());
    Ok(Change::of(target, &["truncate"], move |n| {
        file.set_len(BLOCKS * BLOCK - 100 * (n + 1))
            .expect("ftruncate");
    }))
}
