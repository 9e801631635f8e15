use super::*;

/// struct outer { int a; union { int b; struct inner { int c; int d; } e; }; }, enum { X = 7 }, f()
pub(in crate::kernel) fn sample() -> Vec<u8> {
    let strings = b"\0int\0outer\0a\0b\0e\0inner\0c\0d\0X\0f\0";
    let name = |wanted: &str| {
        let wanted = [wanted.as_bytes(), b"\0"].concat();
        strings
            .windows(wanted.len())
            .position(|window| window == wanted)
            .unwrap() as u32
    };
    let info = |kind: u32, count: u32| kind << 24 | count;
    let types: Vec<u32> = [
        vec![name("int"), info(1, 0), 4, 32],
        vec![
            name("inner"),
            info(4, 2),
            8,
            name("c"),
            1,
            0,
            name("d"),
            1,
            32,
        ],
        vec![0, info(5, 2), 8, name("b"), 1, 0, name("e"), 2, 0],
        vec![name("outer"), info(4, 2), 12, name("a"), 1, 0, 0, 3, 32],
        vec![0, info(6, 1), 4, name("X"), 7],
        vec![0, info(13, 0), 0],
        vec![name("f"), info(12, 0), 6],
    ]
    .concat();
    let length = types.len() as u32 * 4;
    let header = [0x0001_eb9f, 24, 0, length, length, strings.len() as u32];
    let words = header
        .iter()
        .chain(&types)
        .flat_map(|word| word.to_ne_bytes());
    words.chain(strings.iter().copied()).collect()
}

#[test]
fn members_are_found_through_anonymous_unions_and_dots() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.offset("outer", "a"), Some(0));
    assert_eq!(btf.offset("outer", "b"), Some(4));
    assert_eq!(btf.offset("outer", "e.d"), Some(8));
    assert_eq!(btf.offset("outer", "z"), None);
    assert_eq!(btf.offset("nothing", "a"), None);
}

#[test]
fn enumerators_and_functions_are_found() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.enumerator("X"), Some(7));
    assert_eq!(btf.enumerator("Y"), None);
    assert!(btf.has_function("f") && !btf.has_function("g"));
    assert_eq!(btf.arguments("f"), Some(0));
    assert_eq!(btf.arguments("g"), None);
}

#[test]
fn a_modules_types_and_strings_go_on_where_the_kernels_end() {
    let kernel = Btf::parse(sample()).unwrap();
    let before = sample().len() - kernel.strings;
    // `struct own { struct outer outer; struct own *a; }`, of which two names are the kernel's.
    let outer = kernel.word(kernel.types[3]).unwrap();
    let a = kernel.word(kernel.types[3] + 12).unwrap();
    let types = [before as u32, 4 << 24 | 2, 16, outer, 4, 32, a, 8, 64];
    let length = types.len() as u32 * 4;
    let words = [&[0x0001_eb9f, 24, 0, length, length, 4], &types[..]].concat();
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    let module: Vec<u8> = bytes.chain(*b"own\0").collect();
    let both = kernel.with_module(&module).unwrap();
    assert_eq!(both.offset("own", "a"), Some(8));
    assert_eq!(both.offset("own", "outer.b"), Some(8));
    assert_eq!(both.offset("outer", "b"), Some(4));
    assert!(kernel.with_module(&module[..20]).is_err());
}

#[test]
fn targets_keep_their_numbers() {
    let btf = Btf::parse(sample()).unwrap();
    let targets = btf.of_targets(["f", "g"]).unwrap();
    let number = |name| targets.id_by_type_name_kind(name, aya_obj::btf::BtfKind::Func);
    assert_eq!(number("f").unwrap(), 7);
    assert!(number("g").is_err() && number("outer").is_err());
}

/// One structure, called `s`, with anonymous members of its own type at these offsets in bits.
fn in_itself(offsets: &[u32]) -> Vec<u8> {
    let mut types = vec![1, 4 << 24 | offsets.len() as u32, 8];
    types.extend(offsets.iter().flat_map(|&offset| [0, 1, offset]));
    let length = types.len() as u32 * 4;
    let words = [&[0x0001_eb9f, 24, 0, length, length, 3], &types[..]].concat();
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    bytes.chain(*b"\0s\0").collect()
}

#[test]
fn a_structure_in_itself_is_not_searched_for_ever() {
    let btf = Btf::parse(in_itself(&[0; 1000])).unwrap();
    assert_eq!(btf.offset("s", "none"), None);
}

#[test]
fn offsets_beyond_the_word_are_no_offsets() {
    let mut bytes = in_itself(&[u32::MAX - 7, u32::MAX - 7]);
    // The second is called `s`.
    bytes[24 + 24] = 1;
    let btf = Btf::parse(bytes).unwrap();
    assert_eq!(btf.offset("s", "s.s"), None);
}

#[test]
fn sections_beyond_the_end_are_malformed() {
    let mut strings = sample();
    strings[20] += 1;
    assert!(matches!(Btf::parse(strings), Err(BtfError::Malformed(16))));
    let mut types = sample();
    types[12] -= 4;
    assert!(matches!(Btf::parse(types), Err(BtfError::Malformed(_))));
}

#[test]
fn truncated_information_is_an_error_and_no_panic() {
    let whole = sample();
    for length in 0..whole.len() {
        let _ = Btf::parse(whole[..length].to_vec());
    }
    assert!(Btf::parse(Vec::new()).is_err());
    assert!(Btf::parse(vec![0; 64]).is_err());
}
