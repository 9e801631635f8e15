//! Writes the facts about the running kernel into the instructions of a BPF object, where they have marks
//! ([`premod_common::facts::mark`]), and this run's settings into its read-only data.

use object::{File, Object, ObjectSection, ObjectSymbol, SectionKind};
use premod_common::facts::{Facts, mark};

use crate::error::Error;

/// Size of an instruction in bytes: operation, registers, offset (2), number (4).
const INSTRUCTION: usize = 8;
/// `BPF_LDX | BPF_MEM` with each of the four sizes.
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];
/// `BPF_ALU | BPF_MOV | BPF_K`: a number into the lower half of a register.
const MOVE: u8 = 0xb4;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// What is called is a function of the kernel's own (`BPF_PSEUDO_KFUNC_CALL`), in the upper half of the registers.
const KERNEL_FUNCTION: u8 = 2 << 4;
/// `r0 = 0`.
const NOTHING: [u8; INSTRUCTION] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

/// The object with the facts in the places of their marks.
///
/// # Errors
/// If an offset is too large for an instruction, or the object is not what the build has made.
pub(crate) fn with_facts(object: &[u8], facts: &Facts) -> Result<Vec<u8>, Error> {
    let file = File::parse(object)
        .map_err(|error| Error::BadValue(format!("the BPF object cannot be read: {error}")))?;
    let facts = facts.values();
    let mut relocated = object.to_vec();
    for section in file.sections() {
        let (SectionKind::Text, Some((begin, size))) = (section.kind(), section.file_range())
        else {
            continue;
        };
        let (begin, size) = (begin as usize, size as usize);
        let instructions = relocated
            .get_mut(begin..begin + size)
            .ok_or_else(|| Error::BadValue("the BPF object is cut off".to_owned()))?;
        for instruction in instructions.chunks_exact_mut(INSTRUCTION) {
            relocate(instruction, &facts)?;
        }
    }
    Ok(relocated)
}

/// Gives a global variable of the object its value.
///
/// aya can do that too, but borrows the value for as long as its loader lives, which is for several objects.
///
/// # Errors
/// If the object has no such variable, or one of another size.
pub(crate) fn set_global(object: &mut [u8], name: &str, value: &[u8]) -> Result<(), Error> {
    let place = global(object, name, value.len())
        .and_then(|place| object.get_mut(place..place.checked_add(value.len())?))
        .ok_or_else(|| {
            let size = value.len();
            Error::BadValue(format!("the BPF object has no {name} of {size} bytes"))
        })?;
    place.copy_from_slice(value);
    Ok(())
}

/// Where a global variable of this size stands in the file.
fn global(object: &[u8], name: &str, size: usize) -> Option<usize> {
    let file = File::parse(object).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let (begin, _) = section.file_range()?;
    let place = begin.checked_add(symbol.address().checked_sub(section.address())?)?;
    (symbol.size() == size as u64).then_some(usize::try_from(place).ok()?)
}

/// Writes a fact into an instruction that has a mark.
fn relocate(instruction: &mut [u8], facts: &[u32]) -> Result<(), Error> {
    let fact = |place: i32, first: i32| {
        let index = usize::try_from(place.checked_sub(first)?).ok()?;
        facts.get(index).copied()
    };
    let (operation, offset) = (instruction[0], [instruction[2], instruction[3]]);
    let number = i32::from_le_bytes([4, 5, 6, 7].map(|byte| instruction[byte]));
    if LOADS.contains(&operation) {
        let place = i16::from_le_bytes(offset).into();
        if let Some(offset) = fact(place, mark::OFFSET) {
            let offset = i16::try_from(offset).map_err(|_| {
                Error::BadValue(format!("the kernel has a structure of {offset} bytes"))
            })?;
            instruction[2..4].copy_from_slice(&offset.to_le_bytes());
        }
    } else if operation == MOVE {
        if let Some(value) = fact(number, mark::VALUE) {
            instruction[4..].copy_from_slice(&value.to_le_bytes());
        }
    } else if operation == CALL
        && let Some(function) = fact(number, mark::CALL)
    {
        if function == 0 {
            // Never run where the kernel does not have it, but it has to be valid.
            instruction.copy_from_slice(&NOTHING);
            return Ok(());
        }
        instruction[1] = KERNEL_FUNCTION;
        instruction[4..].copy_from_slice(&function.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relocated(mut instruction: [u8; 8], facts: &[u32]) -> Option<[u8; 8]> {
        relocate(&mut instruction, facts).ok()?;
        Some(instruction)
    }

    #[test]
    fn marks_become_facts() {
        let facts = [7, 40, 0x8001_0203];
        // r1 = *(u64 *)(r2 + the second fact)
        assert_eq!(
            relocated([0x79, 0x21, 1, 0x70, 0, 0, 0, 0], &facts),
            Some([0x79, 0x21, 40, 0, 0, 0, 0, 0])
        );
        // w3 = the third fact
        assert_eq!(
            relocated([0xb4, 3, 0, 0, 2, 0, 0xc7, 0x7a], &facts),
            Some([0xb4, 3, 0, 0, 3, 2, 1, 0x80])
        );
        // Call the third fact.
        assert_eq!(
            relocated([0x85, 0, 0, 0, 2, 0, 0xa1, 0x7c], &facts),
            Some([0x85, 0x20, 0, 0, 3, 2, 1, 0x80])
        );
        // Call a function that the kernel does not have.
        let without = [7, 40, 0];
        assert_eq!(
            relocated([0x85, 0, 0, 0, 2, 0, 0xa1, 0x7c], &without),
            Some(NOTHING)
        );
    }

    #[test]
    fn what_has_no_mark_stays() {
        let facts = [7, 40];
        for instruction in [
            // r1 = *(u64 *)(r2 + 8)
            [0x79, 0x21, 8, 0, 0, 0, 0, 0],
            // There is no third fact.
            [0x79, 0x21, 2, 0x70, 0, 0, 0, 0],
            [0xb4, 3, 0, 0, 2, 0, 0xc7, 0x7a],
            // Call helper 7, and another function of the object.
            [0x85, 0, 0, 0, 7, 0, 0, 0],
            [0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff],
            // w3 = 7
            [0xb4, 3, 0, 0, 7, 0, 0, 0],
            // *(u64 *)(r1 + the first fact) = r2: nothing of the kernel's is written.
            [0x7b, 0x21, 0, 0x70, 0, 0, 0, 0],
        ] {
            assert_eq!(relocated(instruction, &facts), Some(instruction));
        }
    }

    #[test]
    fn an_offset_that_no_instruction_takes_is_refused() {
        assert_eq!(
            relocated([0x79, 0x21, 0, 0x70, 0, 0, 0, 0], &[1 << 15]),
            None
        );
    }
}
