//! premod tells that a file is about to change, before it changes.
//!
//! A [`Tracer`] puts BPF programs on every way that the data of a file can be modified, stores through
//! existing shared mappings included, and yields one *first-dirty event* for each period in which an
//! inode is dirty: emitted before the first modification, re-armed when the data is clean again. What
//! could not be delivered is yielded too, as [`events::Lost`].
//!
//! ```no_run
//! use premod::{Tracer, events::Record};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), premod::Error> {
//!     let mut tracer = Tracer::builder().path("/var/lib/postgresql").start()?;
//!     while let Some(record) = tracer.next().await {
//!         match record {
//!             Record::FirstDirty(event) => {
//!                 println!("{} is about to change ({})", event.path.to_path_buf().display(), event.op.name());
//!             }
//!             Record::Lost(lost) => eprintln!("{} events lost: {}", lost.count, lost.reason.describe()),
//!             Record::Path(change) => eprintln!("{} is {}", change.path.display(), change.change.name()),
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! [`freeze::Freezer`] keeps the bytes of files still for a while, although others have them open and mapped.
//!
//! It needs Linux 6.1 or later with BTF, and `CAP_BPF` and `CAP_PERFMON` (root has them).

/// Says something on stderr. Unlike `eprintln!`, it does not mind if nobody listens any more, and does not wait
/// for whoever does.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::output::stderr::say(&format!("{}\n", format_args!($($text)*)))
    };
}

mod cgroups;
pub mod cli;
pub mod commands;
pub mod doctor;
pub mod errno;
mod error;
pub mod events;
mod excluded;
pub mod exit_code;
pub mod freeze;
#[cfg(test)]
mod fuzz;
pub mod kernel;
mod mounts;
mod namespaces;
pub mod output;
mod scope;
mod tracer;

pub use error::{Error, sentence};
pub use scope::Unseen;
pub use tracer::{DEFAULT_BUFFER_SIZE, DEFAULT_PERIOD, Summary, Tracer, TracerBuilder};
