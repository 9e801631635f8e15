//! Shared between kernel and user space.
#![no_std]
