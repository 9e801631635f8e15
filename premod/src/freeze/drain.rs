//! Waiting until nobody is in the middle of a modification.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use premod_common::guard::Flight;
use tokio::time::sleep;

use super::{
    files::target::Target,
    guards::Guards,
    hold::{
        keeper::Keeper,
        others::Others,
        processes::{Whereabouts, threads, whereabouts},
        stop::stop_for_a_moment,
    },
    users::User,
};
use crate::error::Error;

/// How often everybody is looked at.
const LOOK: Duration = Duration::from_micros(500);
/// After how long a thread that always runs, and ends no system call, is stopped for a moment. It computes, or
/// stores into a mapping. If it does not stop, because it really is in the kernel, the next try comes after ten
/// times as long.
const RUNNING_MAX: Duration = Duration::from_millis(50);
const RUNNING_FACTOR: u32 = 10;
/// How long such a stop is waited for.
const MOMENT: Duration = Duration::from_millis(100);

/// Who did not come to an end in time.
#[derive(Debug)]
pub(crate) struct Stuck {
    pub(crate) pid: u32,
    pub(crate) thread: u32,
}

/// Waits until those are done who may have been modifying before the programs hung. Everybody passes
/// meanwhile.
///
/// A thread is done when a system call of its has ended since, or it sleeps elsewhere, or it has stopped.
pub(crate) async fn land_earlier(
    guards: &mut Guards,
    mut keeper: Option<&mut Keeper>,
    others: &Others,
    users: &[User],
    deadline: Instant,
) -> Result<Result<(), Stuck>, Error> {
    let mut waiting: HashMap<u32, &User> = HashMap::new();
    for user in users {
        for thread in threads(user.pid) {
            guards.await_call(thread)?;
            waiting.insert(thread, user);
        }
    }
    let began = Instant::now();
    let mut patience = RUNNING_MAX;
    let mut last_look = false;
    loop {
        let mut running = None;
        waiting.retain(|&thread, user| {
            if guards.has_called(thread) {
                return false;
            }
            match whereabouts(user.pid, thread) {
                Whereabouts::Gone | Whereabouts::Outside => false,
                Whereabouts::Inside => true,
                Whereabouts::Running => {
                    running = Some(*user);
                    true
                }
            }
        });
        let Some((&thread, user)) = waiting.iter().next() else {
            return Ok(Ok(()));
        };
        if last_look {
            let pid = user.pid;
            return Ok(Err(Stuck { pid, thread }));
        }
        if let Some(user) = running
            && began.elapsed() > patience
        {
            let moment = deadline.min(Instant::now() + MOMENT);
            let seized = match keeper.as_mut() {
                Some(keeper) => keeper.interrupt(user, moment).await,
                None => None,
            };
            let has_stopped = match seized {
                Some(has_stopped) => has_stopped,
                None => stop_for_a_moment(&mut guards.controls, others, user, moment).await?,
            };
            if has_stopped {
                waiting.retain(|_, other| other.pid != user.pid);
            } else {
                patience *= RUNNING_FACTOR;
            }
        }
        last_look = Instant::now() >= deadline;
        sleep(LOOK).await;
    }
}

/// Waits until those have landed who had passed their check when the switch was closed.
pub(crate) async fn land(
    guards: &mut Guards,
    targets: &[Target],
    deadline: Instant,
) -> Result<Result<(), Stuck>, Error> {
    let mut last_look = false;
    loop {
        let mut stuck = None;
        for (thread, modifier) in guards.in_flight() {
            // The tracepoint tells of calls and faults; it may have been skipped.
            let landed = matches!(
                whereabouts(modifier.pid, thread),
                Whereabouts::Gone | Whereabouts::Outside
            );
            if landed {
                guards.landed(thread);
            } else if modifier.flight != Flight::Fault as u32 || !last_look {
                let pid = modifier.pid;
                stuck = Some(Stuck { pid, thread });
            }
        }
        let mut direct = false;
        for target in targets {
            use std::os::fd::AsFd;
            direct |= guards.look(target.as_fd())?.direct != 0;
        }
        match stuck {
            None if !direct => return Ok(Ok(())),
            stuck if last_look => return Ok(Err(stuck.unwrap_or(Stuck { pid: 0, thread: 0 }))),
            _ => {}
        }
        last_look = Instant::now() >= deadline;
        sleep(LOOK).await;
    }
}
