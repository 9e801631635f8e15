//! What the running premod keeps in the kernel, and what it costs.

use std::fs;

use aya::maps::{Array, HashMap, Map, MapData, MapInfo, loaded_maps};
use premod_common::{
    counters::Counters,
    inode::{InodeAddress, TrackedInode},
};

/// The newest map of this name: an earlier premod's may not be gone yet.
fn find(name: &str) -> MapInfo {
    loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.name_as_str() == Some(name))
        .max_by_key(MapInfo::id)
        .unwrap_or_else(|| panic!("premod has no map {name}"))
}

/// Records that the kernel side has put into the buffer, the ones that premod drops too.
pub(crate) fn delivered() -> u64 {
    let data = MapData::from_id(find("COUNTERS").id()).expect("the map");
    let counters = Array::<_, Counters>::try_from(Map::Array(data)).expect("its type");
    counters
        .iter()
        .map(|counters| counters.expect("the counters").delivered)
        .sum()
}

/// premod's inode map.
pub(crate) struct Inodes {
    map: HashMap<MapData, InodeAddress, TrackedInode>,
    id: u32,
}

impl Inodes {
    pub(crate) fn find() -> Self {
        let id = find("INODES").id();
        let data = MapData::from_id(id).expect("the map");
        let map = HashMap::try_from(Map::HashMap(data)).expect("its type");
        Self { map, id }
    }

    /// Counts the entries. Nobody may remove any in the meantime.
    pub(crate) fn entries(&self) -> u64 {
        self.map
            .keys()
            .inspect(|key| assert!(key.is_ok(), "{key:?}"))
            .count() as u64
    }

    /// Bytes that the kernel accounts to the map. Before Linux 6.4 that is a constant.
    pub(crate) fn memory(&self) -> u64 {
        use std::os::fd::{AsFd, AsRawFd};
        let info = MapInfo::from_id(self.id).expect("the map");
        let descriptor = info.fd().expect("the map");
        let number = descriptor.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("fdinfo");
        field(&text, "memlock:")
    }
}

/// Resident memory of a process, in bytes: now, and the most it ever had.
pub(crate) fn resident(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("premod runs");
    (field(&text, "VmRSS:") << 10, field(&text, "VmHWM:") << 10)
}

/// The kernel's slab memory, and the part of it that cannot be given back on demand, in bytes.
pub(crate) fn slab() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    (
        field(&text, "Slab:") << 10,
        field(&text, "SUnreclaim:") << 10,
    )
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}
