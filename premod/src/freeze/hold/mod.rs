//! The hold: how processes are made to stand still, and by whom they are let go.
//!
//! ```text
//! keeper     premod's side of the keeper, and what is done if it is dead; recovery
//! keeping    what the keeper's process does, which is this very program, run once more
//! seizer     holds by ptrace, in the keeper; ptrace, signals
//! stop       stops by SIGSTOP those that cannot be seized
//! processes  what /proc says of them; others: whether another premod holds them, too
//! ```

pub mod keeper;
pub(super) mod keeping;
pub(super) mod others;
pub(super) mod processes;
mod ptrace;
pub mod seizer;
mod signals;
pub(super) mod stop;
