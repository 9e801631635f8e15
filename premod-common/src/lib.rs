//! What premod's kernel side and user side agree on.
//!
//! Everything here is plain data or pure code: it is compiled into the BPF programs, into the loader and
//! into the tests, so that the three can never disagree.
#![no_std]

pub mod counters;
pub mod event;
pub mod facts;
pub mod generation;
pub mod guard;
pub mod inode;
mod step_bits;
pub mod watched;
