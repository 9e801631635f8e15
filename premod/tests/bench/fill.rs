//! Fills premod's map of inodes, so that it has as many entries as it would have after as many files.

use std::collections::HashSet;

use aya::{
    maps::{HashMap, Map, MapData, MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};
use premod_common::inode::{InodeAddress, TrackedInode};

type Inodes = HashMap<MapData, InodeAddress, TrackedInode>;

fn map() -> Inodes {
    // The newest: that of an earlier premod may not be gone yet.
    let id = loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.name_as_str() == Some("INODES"))
        .map(|map: MapInfo| map.id())
        .max()
        .expect("premod has the map");
    let data = MapData::from_id(id).expect("the map");
    HashMap::try_from(Map::HashMap(data)).expect("its type")
}

/// Adds this many inodes that do not exist; those that were added before count. An inode's address is a
/// multiple of 8, so that none of them is taken for a real one.
pub(crate) fn inodes(count: u64) {
    let mut map = map();
    for number in 0..count {
        let address = 0xffff_8880_0000_0001 + number * 1024;
        map.insert(address, TrackedInode::default(), 0)
            .expect("there is room");
    }
}

/// How many inodes are tracked.
pub(crate) fn entries() -> u64 {
    map().keys().count() as u64
}

/// What the verifier went through for each of premod's programs.
pub(crate) fn verified() -> Vec<(String, u32)> {
    let maps = maps();
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| maps_of(program).iter().any(|map| maps.contains(map)))
        .filter_map(|program| {
            let name = program.name_as_str()?.to_owned();
            Some((name, program.verified_instruction_count()?))
        })
        .collect()
}

/// The maps of all programs that use the map of inodes: each of premod's uses one of them.
fn maps() -> HashSet<u32> {
    let inodes: Vec<u32> = loaded_maps()
        .filter_map(Result::ok)
        .filter(|map: &MapInfo| map.name_as_str() == Some("INODES"))
        .map(|map| map.id())
        .collect();
    loaded_programs()
        .filter_map(Result::ok)
        .map(|program| maps_of(&program))
        .filter(|maps| maps.iter().any(|map| inodes.contains(map)))
        .flatten()
        .collect()
}

fn maps_of(program: &ProgramInfo) -> Vec<u32> {
    program.map_ids().ok().flatten().unwrap_or_default()
}
