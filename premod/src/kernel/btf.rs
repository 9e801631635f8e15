//! A reader for the kernel's type information (`/sys/kernel/btf/vmlinux`).
//!
//! It answers few questions: where a member lies, which value an enumerator has, whether a function exists and
//! how many arguments it has. It is our own because the maintained parsers decode all of the kernel's 150,000 types into
//! owned values first; this one keeps the bytes and decodes what is asked for.

use std::{
    hash::{BuildHasher, BuildHasherDefault},
    path::Path,
};

use aya::Endianness;
use rustc_hash::{FxHashMap, FxHasher};

/// Where the kernel shows its own type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Functions that the running kernel has and premod is not to find, between commas: for tests of what it does on kernels
/// that do not have them.
const HIDDEN: &str = "PREMOD_HIDDEN_FUNCTIONS";

/// Why type information cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {VMLINUX}: {0}")]
    Read(#[from] std::io::Error),
    /// The file is not what it should be.
    #[error("the type information (BTF) is malformed at byte {0}")]
    Malformed(usize),
}

/// Type information, indexed by name.
pub struct Btf {
    bytes: Vec<u8>,
    /// Position of each type's header; type ids begin at 1.
    types: Vec<usize>,
    strings: usize,
    structures: Names,
    functions: Names,
    typedefs: Names,
    enums: Vec<u32>,
}

/// The first type of each name, by the hash of the name.
type Names = FxHashMap<u64, u32>;

/// Room for the names of one kind in a kernel of today.
const NAMES: usize = 1 << 16;

fn hash(name: &[u8]) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(name)
}

/// A type's header, `struct btf_type`.
#[derive(Clone, Copy)]
struct Header {
    name: u32,
    info: u32,
    size_or_type: u32,
    body: usize,
}

/// Structures to search for one member at most. The kernel has a few dozen anonymous ones in one; without
/// a bound, structures that contain themselves would be searched for ever.
const SEARCHED_MAX: u32 = 300;
/// Longest name that the kernel allows (`KSYM_NAME_LEN`).
const NAME_MAX: usize = 512;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

impl Header {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn kind_flag(self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes that follow the header; `None` for a kind that this reader does not know.
    fn body_size(self) -> Option<usize> {
        Some(match self.kind() {
            1 | 14 | 17 => 4,
            2 | 7..=12 | 16 | 18 => 0,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 12 * self.count(),
            KIND_ENUM | 13 => 8 * self.count(),
            _ => return None,
        })
    }
}

/// The types and the strings of raw type information.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let word = |position: usize| {
        let bytes = bytes.get(position..position + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes) as usize)
    };
    let section = |place: usize| {
        let begin = word(4)?.checked_add(word(place)?)?;
        bytes.get(begin..begin.checked_add(word(place + 4)?)?)
    };
    let types = section(8).ok_or(BtfError::Malformed(8))?;
    let strings = section(16).ok_or(BtfError::Malformed(16))?;
    Ok((types, strings))
}

impl Btf {
    /// Reads the running kernel's type information.
    ///
    /// # Errors
    /// If the kernel was built without it (`CONFIG_DEBUG_INFO_BTF`), or it cannot be understood.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        let mut btf = Self::from_file(Path::new(VMLINUX))?;
        let hidden = std::env::var(HIDDEN).unwrap_or_default();
        btf.hide(hidden.split(','));
        Ok(btf)
    }

    /// Makes as if the kernel did not have these functions.
    fn hide<'a>(&mut self, functions: impl IntoIterator<Item = &'a str>) {
        for name in functions {
            self.functions.remove(&hash(name.as_bytes()));
        }
    }

    /// Reads type information from a file.
    ///
    /// # Errors
    /// If the file cannot be read or understood.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        Self::parse(std::fs::read(path)?)
    }

    /// Indexes raw type information in this machine's byte order.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self {
            bytes,
            types: Vec::new(),
            strings: 0,
            structures: Names::default(),
            functions: Names::default(),
            typedefs: Names::default(),
            enums: Vec::new(),
        };
        if btf.word(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Malformed(0));
        }
        let header = btf.word(4)? as usize;
        let first = header + btf.word(8)? as usize;
        let end = first + btf.word(12)? as usize;
        btf.strings = header + btf.word(16)? as usize;
        if btf.strings + btf.word(20)? as usize > btf.bytes.len() {
            return Err(BtfError::Malformed(16));
        }
        if end - first > 1 << 20 {
            // The kernel's. Growing would copy it over and over.
            btf.types.reserve(2 * NAMES);
            for names in [&mut btf.structures, &mut btf.functions, &mut btf.typedefs] {
                names.reserve(NAMES);
            }
        }
        let mut position = first;
        while position < end {
            let found = btf.header_at(position)?;
            btf.types.push(position);
            let id = btf.types.len() as u32;
            match found.kind() {
                KIND_STRUCT | KIND_UNION if found.name != 0 => {
                    let name = hash(btf.string(found.name));
                    btf.structures.entry(name).or_insert(id);
                }
                KIND_FUNC => {
                    let name = hash(btf.string(found.name));
                    btf.functions.entry(name).or_insert(id);
                }
                KIND_TYPEDEF => {
                    let name = hash(btf.string(found.name));
                    btf.typedefs.entry(name).or_insert(id);
                }
                KIND_ENUM | KIND_ENUM64 => btf.enums.push(id),
                _ => {}
            }
            position = found.body + found.body_size().ok_or(BtfError::Malformed(position))?;
        }
        if position > end {
            return Err(BtfError::Malformed(end));
        }
        Ok(btf)
    }

    /// With the types of a module, whose numbers and strings go on where the kernel's end.
    ///
    /// # Errors
    /// If they are malformed.
    pub fn with_module(&self, module: &[u8]) -> Result<Self, BtfError> {
        let [kernel, module] = [sections(&self.bytes)?, sections(module)?];
        let length = |one: &[u8], other: &[u8]| (one.len() + other.len()) as u32;
        let types = length(kernel.0, module.0);
        let strings = length(kernel.1, module.1);
        let header = [0x0001_eb9f, 24, 0, types, types, strings];
        let header: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
        Self::parse([&header, kernel.0, module.0, kernel.1, module.1].concat())
    }

    /// Whether the kernel has a function of this name that programs can attach to.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.named(&self.functions, name).is_some()
    }

    /// The type of this name. Two names with one hash are not to be expected; the second would not be found.
    fn named(&self, names: &Names, name: &str) -> Option<u32> {
        let id = *names.get(&hash(name.as_bytes()))?;
        (self.string(self.header(id)?.name) == name.as_bytes()).then_some(id)
    }

    /// Type information for aya to find the numbers of these targets in: functions, and type definitions, which is what
    /// a tracepoint has. All others are there, so that the numbers are right, but are nothing.
    ///
    /// From the kernel's own, aya would make 150,000 owned values, and search them from the beginning for each program.
    ///
    /// # Errors
    /// If aya does not understand what was made for it.
    pub fn of_targets<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a str>,
    ) -> Result<aya::Btf, aya::BtfError> {
        // A forward declaration without a name.
        let mut types = [0u32, 7 << 24, 0].repeat(self.types.len());
        let mut strings = vec![0u8];
        for target in targets {
            for names in [&self.functions, &self.typedefs] {
                let Some((id, header)) = self
                    .named(names, target)
                    .and_then(|id| Some((id, self.header(id)?)))
                else {
                    continue;
                };
                let place = (id as usize - 1) * 3;
                types[place..place + 3].copy_from_slice(&[
                    strings.len() as u32,
                    header.info,
                    header.size_or_type,
                ]);
                strings.extend(target.as_bytes());
                strings.push(0);
            }
        }
        let length = types.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, length, length, strings.len() as u32];
        let words = header.into_iter().chain(types);
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).chain(strings).collect();
        aya::Btf::parse(&bytes, Endianness::default())
    }

    /// Number of a function's type; `None` if there is no such function.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named(&self.functions, name)
    }

    /// Number of a structure's or union's type; `None` if there is no such structure.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.named(&self.structures, name)
    }

    /// How many arguments a function has; `None` if there is no such function.
    #[must_use]
    pub fn arguments(&self, function: &str) -> Option<usize> {
        let function = self.header(self.named(&self.functions, function)?)?;
        let prototype = self.header(function.size_or_type)?;
        (prototype.kind() == KIND_FUNC_PROTO).then(|| prototype.count())
    }

    /// Offset in bytes of a member such as `i_pages.xa_flags` in a structure, looking into anonymous
    /// structures and unions. `None` if there is no such member.
    #[must_use]
    pub fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut id = self.named(&self.structures, structure)?;
        let mut bits = 0u32;
        for name in member.split('.') {
            let (offset, member_type) = self.member(id, name.as_bytes(), &mut { SEARCHED_MAX })?;
            bits = bits.checked_add(offset)?;
            id = member_type;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Value of an enumerator, in whatever enum it is.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<u64> {
        self.enums.iter().find_map(|&id| {
            let header = self.header(id)?;
            let size = if header.kind() == KIND_ENUM { 8 } else { 12 };
            (0..header.count())
                .map(|index| header.body + index * size)
                .find_map(|entry| {
                    if self.string(self.word(entry).ok()?) != name.as_bytes() {
                        return None;
                    }
                    let low = u64::from(self.word(entry + 4).ok()?);
                    let high = if size == 12 {
                        u64::from(self.word(entry + 8).ok()?)
                    } else {
                        0
                    };
                    Some(high << 32 | low)
                })
        })
    }

    /// Offset in bits and type of a member. At most `left` structures are searched for it.
    fn member(&self, id: u32, name: &[u8], left: &mut u32) -> Option<(u32, u32)> {
        *left = left.checked_sub(1)?;
        let header = self.header(self.resolve(id)?)?;
        if !matches!(header.kind(), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        (0..header.count()).find_map(|index| {
            let entry = header.body + index * 12;
            let member_name = self.word(entry).ok()?;
            let member_type = self.word(entry + 4).ok()?;
            let offset = self.word(entry + 8).ok()?;
            let offset = if header.kind_flag() {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            if member_name == 0 {
                let (inner, inner_type) = self.member(member_type, name, left)?;
                return Some((offset.checked_add(inner)?, inner_type));
            }
            (self.string(member_name) == name).then_some((offset, member_type))
        })
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..16 {
            let header = self.header(id)?;
            match header.kind() {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = header.size_or_type;
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn header(&self, id: u32) -> Option<Header> {
        let position = *self.types.get((id as usize).checked_sub(1)?)?;
        self.header_at(position).ok()
    }

    fn header_at(&self, position: usize) -> Result<Header, BtfError> {
        Ok(Header {
            name: self.word(position)?,
            info: self.word(position + 4)?,
            size_or_type: self.word(position + 8)?,
            body: position + 12,
        })
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self
            .bytes
            .get(self.strings + offset as usize..)
            .unwrap_or_default();
        let rest = &rest[..rest.len().min(NAME_MAX)];
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn word(&self, position: usize) -> Result<u32, BtfError> {
        let bytes = self.bytes.get(position..position + 4);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)
            .ok_or(BtfError::Malformed(position))
    }
}

#[cfg(test)]
pub(super) mod tests;
