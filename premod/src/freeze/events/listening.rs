//! Waits for what the kernel side tells.

use std::collections::VecDeque;

use aya::maps::{MapData, RingBuf};
use premod_common::guard::{GuardRecord, Happening};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Decoder, Event};
use crate::{error::Error, freeze::files::names::Names};

/// Events, in the order in which they were told.
pub(in crate::freeze) struct Listener {
    ring: AsyncFd<RingBuf<MapData>>,
    pub(in crate::freeze) decoder: Decoder,
    /// What is decoded and was not passed on yet.
    pending: VecDeque<Event>,
}

impl Listener {
    /// Has to be called in a tokio runtime.
    pub(in crate::freeze) fn new(ring: RingBuf<MapData>, decoder: Decoder) -> Result<Self, Error> {
        // SAFETY: a ring buffer returns the same open descriptor for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
        Ok(Self {
            ring,
            decoder,
            pending: VecDeque::new(),
        })
    }

    /// Waits for the next event. May be dropped and called again without losing one.
    pub(in crate::freeze) async fn next(&mut self, names: &Names) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if self.decode_one(names) {
                continue;
            }
            let mut ready = self
                .ring
                .readable_mut()
                .await
                .map_err(|error| Error::kernel("cannot wait for the ring buffer", &error))?;
            // Cleared before reading, so that what comes in between wakes us again.
            ready.clear_ready();
        }
    }

    /// Decodes whatever was told up to now.
    pub(in crate::freeze) fn catch_up(&mut self, names: &Names) {
        while self.decode_one(names) {}
    }

    /// Adds what nobody has told.
    pub(in crate::freeze) fn add(&mut self, event: Event) {
        self.pending.push_back(event);
    }

    /// What is decoded and was not passed on yet.
    pub(in crate::freeze) fn take_pending(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.pending)
    }

    /// Decodes the next record, if there is one.
    fn decode_one(&mut self, names: &Names) -> bool {
        let Some(item) = self.ring.get_mut().next() else {
            return false;
        };
        let record = GuardRecord::decode(&item);
        drop(item);
        if let Some(record) = record {
            let behind = match Happening::from_number(record.happening) {
                Some(Happening::Renamed) => names.files(record.inode),
                _ => &[],
            };
            self.decoder.decode(&record, behind, &mut self.pending);
        }
        true
    }
}
