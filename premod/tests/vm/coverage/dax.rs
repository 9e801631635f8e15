//! Files whose mappings are the storage itself (DAX). The machine keeps some of its memory aside as such
//! storage: `memmap` on the kernel's command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{BLOCK, BLOCKS, Change, Target, ways, writes};
use crate::{
    harness::{Place, kernel_at_least},
    tools::run,
    workload::Mapping,
};

ways! {
    "DAX: write" => write,
    "DAX: store through an old mapping" => old_mapping,
    "DAX: store through a new mapping" => new_mapping,
    "DAX: truncate" => truncate,
    "DAX: store to a private mapping" => private_mapping,
}

const LENGTH: usize = (BLOCKS * BLOCK) as usize;

/// The directory where a DAX filesystem of the place's type is mounted, below the traced one; or why there
/// is none.
pub(crate) fn mounted(place: &Place) -> Result<PathBuf, String> {
    let device = match place.filesystem.as_str() {
        "ext4" => "/dev/pmem0",
        "xfs" => "/dev/pmem1",
        _ => return Err(format!("{} has no DAX", place.filesystem)),
    };
    let traced = place.directory.parent().expect("the traced directory");
    let mounted = traced.join("dax");
    if !mounted.exists() {
        run("modprobe", &["nd_e820"]);
        run("modprobe", &["nd_pmem"]);
        wait_for(Path::new(device));
        fs::create_dir(&mounted).expect("mkdir");
        make_filesystem(&place.filesystem, device);
        let point = mounted.to_str().expect("a plain path");
        run(
            "mount",
            &["-t", &place.filesystem, "-o", "dax=always", device, point],
        );
        fs::create_dir(mounted.join("files")).expect("mkdir");
    }
    Ok(mounted.join("files"))
}

fn make_filesystem(filesystem: &str, device: &str) {
    if filesystem == "ext4" {
        return run("mkfs.ext4", &["-q", "-b", "4096", device]);
    }
    // DAX and reflinks exclude each other on 6.1.
    run("mkfs.xfs", &["-q", "-f", "-m", "reflink=0", device]);
    if kernel_at_least(6, 10) {
        // XFS_SB_FEAT_INCOMPAT_EXCHRANGE: the oldest mkfs.xfs that sets it is newer than the guest's.
        let output = Command::new("xfs_db")
            .args(["-c", "sb 0", "-c", "p features_incompat", device])
            .output();
        let text = String::from_utf8(output.expect("xfs_db").stdout).expect("text");
        let (_, features) = text.trim().rsplit_once("= 0x").expect("features_incompat");
        let features = u32::from_str_radix(features, 16).expect("a number") | 1 << 6;
        // Without its checks: this xfs_db does not know the feature.
        let write = format!("write -d features_incompat {features:#x}");
        run("xfs_db", &["-x", "-c", "sb 0", "-c", &write, device]);
    }
}

/// Waits until the kernel has made a device.
pub(crate) fn wait_for(device: &Path) {
    for _ in 0..200 {
        if device.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} does not appear", device.display());
}

fn target(place: &Place, name: &str) -> Result<Target, String> {
    let target = Target::new(mounted(place)?.join(name));
    let status = rustix::fs::statx(
        &target.file,
        "",
        rustix::fs::AtFlags::EMPTY_PATH,
        rustix::fs::StatxFlags::BASIC_STATS,
    )
    .expect("statx");
    let attributes = status.stx_attributes;
    assert!(
        attributes.contains(rustix::fs::StatxAttributes::DAX),
        "not DAX: {attributes:?}"
    );
    Ok(target)
}

fn write(place: &Place) -> Result<Change, String> {
    let target = target(place, "written")?;
    let file = target.same();
    Ok(Change::of(target, &["write"], move |n| {
        let written = rustix::io::pwrite(&file, &[writes::byte(n)], writes::offset(n));
        assert_eq!(written, Ok(1));
    }))
}

fn mapped(place: &Place, name: &str) -> Result<(Target, Mapping), String> {
    let target = target(place, name)?;
    let mut mapping = Mapping::shared(&target.file, LENGTH);
    for block in 0..BLOCKS {
        mapping.store(writes::offset(block) as usize + 1, 1);
    }
    target.file.sync_all().expect("fsync");
    Ok((target, mapping))
}

fn old_mapping(place: &Place) -> Result<Change, String> {
    let (target, mut mapping) = mapped(place, "mapped before")?;
    Ok(Change::of(target, &["mmap"], move |n| {
        mapping.store(writes::offset(n) as usize, writes::byte(n));
    }))
}

fn new_mapping(place: &Place) -> Result<Change, String> {
    let target = target(place, "mapped anew")?;
    let file = target.same();
    Ok(Change::of(target, &["mmap"], move |n| {
        Mapping::shared(&file, LENGTH).store(writes::offset(n) as usize, writes::byte(n));
    }))
}

fn truncate(place: &Place) -> Result<Change, String> {
    let target = target(place, "truncated")?;
    let file = target.same();
    Ok(Change::of(target, &["truncate"], move |n| {
        file.set_len(LENGTH as u64 - 100 * (n + 1))
            .expect("ftruncate");
    }))
}

fn private_mapping(place: &Place) -> Result<Change, String> {
    let target = target(place, "private")?.with(super::Effect::None);
    let file = target.same();
    Ok(Change::of(target, &[], move |n| {
        Mapping::private(&file, LENGTH).store(writes::offset(n) as usize, writes::byte(n));
    }))
}
