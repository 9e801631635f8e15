//! premod's own question: how does the inode of an open file look now?

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use premod_common::guard::{Look, Question};

use crate::{
    facts::as_loaded,
    interrupt::send_and_take_back,
    kernel::{File, current_process, load, namespace_of},
    running::Running,
    set::Set,
};

/// Random number by which the programs know premod's own question: the upper bits, with [`Question`] in the lower ones. The
/// loader overwrites it before the programs are verified.
#[unsafe(no_mangle)]
static NONCE: u64 = 0;

/// `security_file_fcntl(struct file *file, unsigned int cmd, unsigned long arg)`, 6.1 to 7.x.
///
/// premod calls `fcntl(fd, F_GETFD, nonce + question)`; the kernel ignores the argument, and this program knows it by it.
#[fentry(function = "security_file_fcntl")]
fn look(ctx: FEntryContext) -> i32 {
    let argument: u64 = ctx.arg(2);
    if argument & !Question::MASK != as_loaded(&NONCE) {
        return 0;
    }
    let question = Question::from_number(argument);
    let set = Set::at(question.place);
    let task = Running::now();
    let mut interrupt = 0;
    if question.interrupts {
        interrupt = task.flags();
        send_and_take_back();
        interrupt ^= task.flags();
    }
    let file = File(ctx.arg(0));
    let (inode, place) = (file.inode(), file.place());
    // SAFETY: the offsets are those of the members in struct inode, struct address_space and struct
    // super_block; the counters are ints, s_writers.frozen is an int or an unsigned short, of which the
    // lower half is enough.
    let answer = unsafe {
        let mapping: *const u8 = load!(inode.0, inode_i_mapping);
        Look {
            inode: inode.address(),
            superblock: inode.superblock().address(),
            mapping_flags: inode.mapping_flags(),
            direct: load!(inode.0, inode_i_dio_count),
            writers: load!(inode.0, inode_i_writecount),
            mappings: load!(mapping, address_space_i_mmap_writable),
            frozen: u32::from(load!(inode.superblock().0, super_block_s_writers_frozen: u16)),
            tgid: current_process(),
            dentry: place.dentry,
            namespace: namespace_of(place.mount),
            signal: task.signal(),
            interrupt,
        }
    };
    if let (Some(look), Some(superblocks)) = (set.look(), set.superblocks()) {
        let _ = look.set(0, answer, 0);
        let _ = superblocks.insert(inode.superblock().magic(), 1, 0);
    }
    0
}
