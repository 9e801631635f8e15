//! Properties of the readers of what the kernel shows: type information and lists.

use proptest::{collection::vec, prelude::*};

use super::{
    btf::{Btf, tests::sample},
    facts,
};
use crate::fuzz;

/// Asks everything that premod asks. Bad type information may give wrong answers, but has to give them,
/// and soon.
fn interrogate(bytes: Vec<u8>) {
    let began = cpu_seconds();
    if let Ok(btf) = Btf::parse(bytes) {
        for member in ["a", "b", "c", "d", "e.d", "e.c", "z"] {
            for structure in ["outer", "inner", "inode"] {
                let _ = btf.offset(structure, member);
            }
        }
        let _ = (btf.enumerator("X"), btf.has_function("f"));
        let _ = facts::gather(&btf);
    }
    assert!(cpu_seconds() - began < 5, "it takes for ever");
}

/// What this thread has used, however busy the machine is with other things.
fn cpu_seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec
}

/// Names for made-up types, and where each begins.
const STRINGS: &[u8] = b"\0a\0b\0e\0outer\0inode\0X\0___GFP_LAST_BIT\0f\0";
const NAMES: &[u32] = &[0, 0, 1, 3, 5, 7, 13, 19, 21, 37];

/// Types that a mutation of good ones would hardly hit: any kinds, many members, any references.
fn made_up() -> impl Strategy<Value = Vec<u8>> {
    let name = || proptest::sample::select(NAMES);
    let offset = prop_oneof![0..64u32, any::<u32>()];
    let member = (name(), 0..8u32, offset);
    let kind = prop_oneof![
        4 => Just(4u32),
        2 => Just(5),
        1 => Just(6),
        1 => Just(19),
        2 => 0..32u32
    ];
    let one = (kind, any::<bool>(), name(), 0..8u32, vec(member, 0..40)).prop_map(
        |(kind, flag, name, size_or_type, members)| {
            let info = u32::from(flag) << 31 | kind << 24 | members.len() as u32;
            // Only as many words as belong to the kind, so that the next type is found.
            let body = match kind {
                4 | 5 | 15 | 19 => 3 * members.len(),
                6 | 13 => 2 * members.len(),
                1 | 14 | 17 => 1,
                3 => 3,
                _ => 0,
            };
            let members = members
                .iter()
                .flat_map(|&(name, kind, offset)| [name, kind, offset]);
            let mut words = vec![name, info, size_or_type];
            words.extend(members.chain([0; 3]).take(body));
            words
        },
    );
    vec(one, 0..8).prop_map(|types| {
        let types = types.concat();
        let length = types.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, length, length, STRINGS.len() as u32];
        let words = header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes());
        words.chain(STRINGS.iter().copied()).collect()
    })
}

proptest! {
    #![proptest_config(fuzz::effort(5000))]

    #[test]
    fn damaged_type_information_is_an_error_and_neither_a_panic_nor_a_loop(
        bytes in fuzz::mutated(sample())
    ) {
        interrogate(bytes);
    }

    #[test]
    fn made_up_type_information_neither_panics_nor_loops(bytes in made_up()) {
        interrogate(bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_are_refused_or_answer(bytes in vec(any::<u8>(), 0..2000)) {
        interrogate([&0x0001_eb9fu32.to_ne_bytes()[..], &bytes].concat());
    }
}
