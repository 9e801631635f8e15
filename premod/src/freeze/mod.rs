//! Freezing files: their bytes do not change until they are thawed, and writers hardly notice.
//!
//! One process freezes one *set* of files at a time.
//!
//! ```text
//! FreezerBuilder::prepare   the files are claimed, programs hang, everybody passes
//! Freezer::close            modifiers are kept out; those in flight land; the files are flushed and verified
//!          next             who is held, and whatever goes wrong; others' questions are answered
//!          thaw             everybody passes, and whoever was stopped is continued
//! ```
//!
//! It needs what the command needs (docs/freeze.md). A program that relies on files for as long as another one runs:
//!
//! ```no_run
//! use std::error::Error;
//!
//! use premod::freeze::{self, Event, Freezer};
//! use tokio::{process::Command, runtime};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     // Whoever is held is let go by this program, run once more, whatever becomes of the first.
//!     freeze::keep_if_asked();
//!     runtime::Builder::new_current_thread().enable_all().build()?.block_on(copy())
//! }
//!
//! async fn copy() -> Result<(), Box<dyn Error>> {
//!     let files = ["/srv/db/heap", "/srv/db/wal"];
//!     let mut freezer = Freezer::builder().paths(files.map(Into::into)).freeze().await?;
//!     let mut copy = Command::new("cp").args(files).arg("/backup").spawn()?;
//!     let copied = loop {
//!         tokio::select! {
//!             status = copy.wait() => break status?.success(),
//!             event = freezer.next() => match event? {
//!                 Event::KeptOut(it) => println!("{} is {}", it.task.pid.0, it.how.name()),
//!                 Event::Violated(it) => println!("the copy is not safe: {}", it.why.describe()),
//!                 // The time is up, or somebody wants the files thawed.
//!                 Event::Over(_) => break false,
//!             },
//!         }
//!     };
//!     let thawed = freezer.thaw()?;
//!     println!("safe: {}", copied && !thawed.report.is_violated());
//!     Ok(thawed.finish().await?)
//! }
//! ```
//!
//! What lies where:
//!
//! ```text
//! builder   what is to be frozen, and how
//! freezer   the engine: what happens from the beginning to the end, which is thawed
//! gate      the algorithm by which files become frozen, with drain, the wait for those that are modifying one
//! events    what happens meanwhile, typed and decoded
//! files     what is frozen: targets, the names that lead to them, flushing
//! users     who uses the files, asked of the kernel
//! guards    the kernel side: programs, maps, the switch, where they are pinned
//! hold      processes that stand still: the keeper, which lets them go whatever becomes of premod, and its seizer
//! claims    the registry, which keeps two sets from freezing the same file, and control, through which others ask a set
//!           how it does and tell it to thaw
//! report    what a set answers, and the account that makes it
//! ```

mod builder;
mod claims;
mod drain;
mod events;
mod files;
mod freezer;
mod gate;
mod guards;
mod hold;
mod private;
pub mod report;
#[cfg(test)]
pub(crate) mod tests;
mod thawed;
mod users;

pub use builder::{FreezerBuilder, Terms, Until};
pub use claims::{control, registry, thaw};
pub use events::{Event, How, KeptOut, Over, Task, Violation, Why};
pub use files::target::Target;
pub use freezer::Freezer;
pub use gate::Frozen;
pub use hold::{keeper, keeping::keep_if_asked, seizer};
pub use thawed::Thawed;
pub use users::{Access, Fate, User};
