//! Fills premod's map of inodes, so that it has as many entries as it would have after as many files.

use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use premod_common::inode::{InodeAddress, TrackedInode};

/// Adds this many inodes that do not exist. An inode's address is a multiple of 8, so that none of them is
/// taken for a real one.
pub(crate) fn inodes(count: u64) {
    // The newest: that of an earlier premod may not be gone yet.
    let id = loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.name_as_str() == Some("INODES"))
        .map(|map: MapInfo| map.id())
        .max()
        .expect("premod has the map");
    let data = MapData::from_id(id).expect("the map");
    let mut map: HashMap<_, InodeAddress, TrackedInode> =
        HashMap::try_from(Map::HashMap(data)).expect("its type");
    for number in 0..count {
        let address = 0xffff_8880_0000_0001 + number * 1024;
        map.insert(address, TrackedInode::default(), 0)
            .expect("there is room");
    }
}
