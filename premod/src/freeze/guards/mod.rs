//! The kernel side of a freeze: its programs, its maps, its switch.

pub(super) mod pins;
mod place;
mod programs;
mod shared;
mod skips;

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, RingBuf},
    programs::Program,
};
use premod_common::{
    facts::Facts,
    guard::{HeldProcess, InFlight, Look, NAMES_MAX, Own, Phase, Switch, Tally, UseKind},
    inode::InodeAddress,
};

use self::{
    pins::MAPS,
    place::OwnMaps,
    shared::{Record, Shared},
    skips::Skips,
};
use crate::{
    error::Error,
    kernel::{btf::Btf, environment::Environment, load, relocate::with_facts},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/freeze.bpf.o"));

/// For how many names there is room for each path, and the links on its way.
const NAMES_OF_PATH: u32 = 4096;

/// Longest wait for hooks to be done with what they are doing. They run for microseconds, but a thread can be
/// preempted in one.
const PATIENCE: Duration = Duration::from_secs(2);

/// The maps by which the kernel side is told what to do. The keeper has them too.
pub(crate) struct Controls {
    pub(crate) switch: Array<MapData, Switch>,
    pub(crate) tally: Array<MapData, Tally>,
    /// Who was stopped by SIGSTOP.
    pub(crate) held: HashMap<MapData, u32, HeldProcess>,
    /// Who is seized, or is to be.
    pub(crate) seized: HashMap<MapData, u32, HeldProcess>,
    /// Who has stopped itself, and when.
    pub(crate) stopped_themselves: HashMap<MapData, u32, u64>,
}

impl Controls {
    /// Tells the hooks what to do, and waits until everybody obeys.
    ///
    /// # Errors
    /// If a hook does not come to its end.
    pub(crate) fn set(&mut self, phase: Phase, deadline: u64) -> Result<(), Error> {
        self.order(phase, deadline)?;
        self.wait_until_obeyed()
    }

    /// Tells the hooks what to do.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(crate) fn order(&mut self, phase: Phase, deadline: u64) -> Result<(), Error> {
        set_switch(&mut self.switch, phase, deadline)
    }

    /// Waits until no hook acts by an earlier order.
    ///
    /// # Errors
    /// If a hook does not come to its end.
    pub(crate) fn wait_until_obeyed(&self) -> Result<(), Error> {
        if obeyed(&self.tally, PATIENCE)? {
            return Ok(());
        }
        Err(Error::Kernel {
            context: "cannot tell the hooks what to do".to_owned(),
            reason: "one of them does not come to its end".to_owned(),
        })
    }

    pub(crate) fn tally(&self) -> Result<Tally, Error> {
        read_tally(&self.tally)
    }

    /// The maps that a premod has pinned in this directory.
    ///
    /// # Errors
    /// If they are not there, or are something else.
    pub(crate) fn pinned(directory: &Path) -> Result<Self, Error> {
        let open = |name| {
            MapData::from_pin(directory.join(name))
                .map_err(|error| Error::kernel("cannot open a pinned map", &error))
        };
        Ok(Self {
            switch: typed(Map::Array(open("switch")?))?,
            tally: typed(Map::Array(open("tally")?))?,
            held: typed(Map::HashMap(open("held")?))?,
            seized: typed(Map::HashMap(open("seized")?))?,
            stopped_themselves: typed(Map::LruHashMap(open("stopped")?))?,
        })
    }

    /// Everybody that is held, by process id. Whoever was stopped, too, is known by that.
    pub(crate) fn all_held(&self) -> Vec<(u32, HeldProcess)> {
        let mut all: BTreeMap<_, _> = self.seized.iter().flatten().collect();
        all.extend(self.held.iter().flatten());
        all.into_iter().collect()
    }
}

/// Tells the hooks of a freeze what to do.
fn set_switch(
    switch: &mut Array<MapData, Switch>,
    phase: Phase,
    deadline: u64,
) -> Result<(), Error> {
    let order = Switch {
        phase: phase as u64,
        deadline,
    };
    switch
        .set(0, order, 0)
        .map_err(|error| Error::kernel("cannot set the freeze's switch", &error))
}

/// Waits until no hook of a freeze acts by an earlier order; whether that was so in time.
fn obeyed(tally: &Array<MapData, Tally>, timeout: Duration) -> Result<bool, Error> {
    // The hooks count themselves before they look at the switch; we look at the count after it.
    fence(Ordering::SeqCst);
    let began = Instant::now();
    while read_tally(tally)?.busy != 0 {
        if began.elapsed() > timeout {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(true)
}

fn read_tally(tally: &Array<MapData, Tally>) -> Result<Tally, Error> {
    tally
        .get(&0, 0)
        .map_err(|error| Error::kernel("cannot read the freeze's tally", &error))
}

/// The kernel side of one freeze.
pub(crate) struct Guards {
    /// First, because its maps are to be closed when no program uses them any more.
    shared: Option<Shared>,
    ebpf: Ebpf,
    object: Vec<u8>,
    nonce: u64,
    own_maps: Option<OwnMaps>,
    pub(crate) controls: Controls,
    guards: HashMap<MapData, InodeAddress, u32>,
    superblocks: HashMap<MapData, u64, u32>,
    names: HashMap<MapData, u64, u32>,
    shared_memory: HashMap<MapData, u64, u32>,
    protected: Arc<Mutex<Array<MapData, u64>>>,
    in_flight: HashMap<MapData, u32, InFlight>,
    awaited: HashMap<MapData, u32, u32>,
    look: Array<MapData, Look>,
    own: Own,
    own_map: Array<MapData, Own>,
    happenings: Option<RingBuf<MapData>>,
    skips: Skips,
}

impl Guards {
    /// Creates the maps for files of so many paths, and pins in `directory`, if there is one, those that a keeper needs. Nothing is
    /// attached yet.
    pub(crate) fn create(
        facts: &Facts,
        own: Own,
        paths: usize,
        environment: &Environment,
        directory: Option<&Path>,
    ) -> Result<Self, Error> {
        let nonce = shared::nonce();
        let object = with_facts(OBJECT, facts)?;
        let names = (paths as u32).saturating_mul(NAMES_OF_PATH);
        let mut ebpf = EbpfLoader::new()
            .override_global("NONCE", &nonce, true)
            .map_max_entries("NAMES", names.min(NAMES_MAX))
            .load(&object)
            .map_err(|error| load::explain_maps(&error, environment))?;
        for (directory, (map, name)) in directory.iter().flat_map(|it| MAPS.map(|map| (it, map))) {
            let Some(it) = ebpf.map(map) else {
                return Err(Error::BadValue(format!("the object has no map {map}")));
            };
            it.pin(directory.join(name))
                .map_err(|error| Error::kernel("cannot pin a BPF map", &error))?;
        }
        let own_maps = Some(OwnMaps::of(&ebpf)?);
        let mut guards = Self {
            shared: None,
            object,
            nonce,
            own_maps,
            controls: Controls {
                switch: take(&mut ebpf, "SWITCH")?,
                tally: take(&mut ebpf, "TALLY")?,
                held: take(&mut ebpf, "HELD")?,
                seized: take(&mut ebpf, "SEIZED")?,
                stopped_themselves: take(&mut ebpf, "STOPPED_THEMSELVES")?,
            },
            guards: take(&mut ebpf, "GUARDS")?,
            superblocks: take(&mut ebpf, "SUPERBLOCKS")?,
            names: take(&mut ebpf, "NAMES")?,
            shared_memory: take(&mut ebpf, "SHARED")?,
            protected: Arc::new(Mutex::new(take(&mut ebpf, "PROTECTED")?)),
            in_flight: take(&mut ebpf, "IN_FLIGHT")?,
            awaited: take(&mut ebpf, "AWAITED")?,
            look: take(&mut ebpf, "LOOK")?,
            own,
            own_map: take(&mut ebpf, "OWN")?,
            happenings: Some(take(&mut ebpf, "HAPPENINGS")?),
            skips: Skips::default(),
            ebpf,
        };
        guards.tell_own(own)?;
        Ok(guards)
    }

    /// Attaches what premod's own questions need.
    pub(crate) fn attach_questions(
        &mut self,
        btf: &Btf,
        environment: &Environment,
    ) -> Result<(), Error> {
        programs::attach(&mut self.ebpf, btf, environment, programs::OWN)?;
        let own = self.own_maps.take().ok_or_else(attached_already)?;
        self.shared = Some(Shared::alone(
            &mut self.ebpf,
            &own,
            self.nonce,
            &[programs::QUESTION],
            btf,
            environment,
        )?);
        Ok(())
    }

    /// Attaches the programs, or uses those that another freeze has attached; which these are stands in `directory`, which is
    /// root's alone. The switch is open, so that nobody notices.
    pub(crate) fn attach(
        &mut self,
        btf: &Btf,
        environment: &Environment,
        directory: &Path,
    ) -> Result<(), Error> {
        // First, because it ends flights.
        programs::attach(&mut self.ebpf, btf, environment, programs::OWN)?;
        let own = self.own_maps.take().ok_or_else(attached_already)?;
        let mut shared = Shared::enter(
            &mut self.ebpf,
            &own,
            self.nonce,
            Record::open(directory, &self.object)?,
            btf,
            environment,
        )?;
        self.skips = Skips::of(&mut shared.take_programs())?;
        self.shared = Some(shared);
        Ok(())
    }

    fn shared(&mut self) -> Result<&mut Shared, Error> {
        let nothing = || Error::BadValue("the programs of the freeze are not attached".to_owned());
        self.shared.as_mut().ok_or_else(nothing)
    }

    /// Whether the kernel has, since the last call, skipped programs so that something may have gone unseen.
    pub(crate) fn were_skipped(&mut self) -> bool {
        self.skips.have_come()
    }

    /// Forgets the skips up to now.
    pub(crate) fn forget_skips(&mut self) {
        self.skips.forget();
    }

    /// Takes the program off that looks at the end of every system call.
    pub(crate) fn stop_watching_calls(&mut self) {
        if let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut("sys_exit") {
            // It has done its work; if it stays, it costs a little and harms nobody.
            let _ = program.unload();
        }
    }

    /// Guards an inode. Its file has to stay open for as long.
    pub(crate) fn guard(&mut self, look: &Look) -> Result<(), Error> {
        let failed = |error| Error::kernel("cannot guard a file", &error);
        self.guards.insert(look.inode, 1, 0).map_err(failed)?;
        self.superblocks
            .insert(look.superblock, 1, 0)
            .map_err(failed)?;
        self.shared()?.guard(look.inode)
    }

    /// Watches a name, by its dentry, which has to stay in memory for as long.
    pub(crate) fn watch_name(&mut self, dentry: u64) -> Result<(), Error> {
        self.names
            .insert(dentry, 1, 0)
            .map_err(|error| Error::kernel("cannot watch the names on the files' paths", &error))
    }

    /// Notes that several processes have this memory, by the address of its `mm_struct`.
    pub(crate) fn note_shared(&mut self, memory: u64) -> Result<(), Error> {
        self.shared_memory
            .insert(memory, 1, 0)
            .map_err(|error| Error::kernel("cannot note who shares memory", &error))
    }

    /// Makes a listing of who uses guarded inodes in this way: records of [`premod_common::guard::Use`].
    pub(crate) fn list_uses(&mut self, kind: UseKind) -> Result<File, Error> {
        let failed = |error: &dyn std::error::Error| {
            Error::kernel("cannot ask the kernel who uses the files", error)
        };
        let program = match kind {
            UseKind::Mapped => "mappings",
            UseKind::Open | UseKind::Stacked => "descriptors",
        };
        let Some(Program::Iter(program)) = self.ebpf.program_mut(program) else {
            return Err(Error::BadValue(format!(
                "the object has no program {program}"
            )));
        };
        let link = program.attach().map_err(|error| failed(&error))?;
        let link = program.take_link(link).map_err(|error| failed(&error))?;
        link.into_file().map_err(|error| failed(&error))
    }

    /// How the inode of an open file looks now.
    pub(crate) fn look(&mut self, file: BorrowedFd<'_>) -> Result<Look, Error> {
        /// How often it is tried: the kernel skips the program while it has preempted somebody inside of it on this CPU.
        const TRIES: u32 = 200;
        const PAUSE: Duration = Duration::from_millis(1);
        for _ in 1..TRIES {
            if let Ok(look) = self.try_look(file, false) {
                return Ok(look);
            }
            std::thread::sleep(PAUSE);
        }
        self.try_look(file, false)
    }

    /// Tells the kernel side what it has to know of premod itself, so that writers can be kept waiting until the keeper has
    /// seized them. Needs an open file that is guarded.
    pub(crate) fn introduce(&mut self, file: BorrowedFd<'_>, keeper: u32) -> Result<(), Error> {
        let interrupt = self.interrupt_mark(file).unwrap_or(0);
        if interrupt == 0 {
            tracing::warn!(
                "it could not be learned how this kernel interrupts threads, so that writers are stopped by SIGSTOP"
            );
        }
        let look = self.look(file)?;
        self.tell_own(Own {
            signal: look.signal,
            namespace: look.namespace,
            interrupt,
            keeper,
            ..self.own
        })
    }

    fn tell_own(&mut self, own: Own) -> Result<(), Error> {
        self.own = own;
        self.own_map
            .set(0, own, 0)
            .map_err(|error| Error::kernel("cannot tell the kernel side who premod is", &error))
    }

    /// `TIF_SIGPENDING`, which stands in no type information, as a bit: what is set each time that this thread is
    /// interrupted.
    fn interrupt_mark(&mut self, file: BorrowedFd<'_>) -> Option<u64> {
        /// Other bits change now and then.
        const TIMES: usize = 4;
        const TRIES: usize = 64;
        let changes: Vec<u64> = (0..TRIES)
            .filter_map(|_| self.try_look(file, true).ok())
            .filter_map(|look| (look.interrupt != 0).then_some(look.interrupt))
            .take(TIMES)
            .collect();
        let mark = changes.iter().fold(u64::MAX, |all, change| all & change);
        (changes.len() == TIMES && mark.is_power_of_two()).then_some(mark)
    }

    fn try_look(&mut self, file: BorrowedFd<'_>, interrupts: bool) -> Result<Look, Error> {
        let question = self.shared()?.question(interrupts);
        let failed = |error| Error::kernel("cannot look at a file's inode", &error);
        self.look.set(0, Look::default(), 0).map_err(failed)?;
        // SAFETY: F_GETFD takes no argument and changes nothing; the descriptor is open.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD, question) };
        let look = self.look.get(&0, 0).map_err(failed)?;
        if look.inode == 0 {
            return Err(Error::Kernel {
                context: "cannot look at a file's inode".to_owned(),
                reason: "the hook (security_file_fcntl) did not answer".to_owned(),
            });
        }
        Ok(look)
    }

    /// Where to note that a flush which began at a time is over: pages that were writable before are not any more.
    pub(crate) fn protected(&self) -> Protected {
        Protected(Arc::clone(&self.protected))
    }

    /// Modifiers in flight, by thread id.
    pub(crate) fn in_flight(&self) -> Vec<(u32, InFlight)> {
        self.in_flight.iter().flatten().collect()
    }

    /// The thread has landed.
    pub(crate) fn landed(&mut self, thread: u32) {
        // If it is gone already, all the better.
        let _ = self.in_flight.remove(&thread);
    }

    /// Waits for the end of a system call of this thread; [`Guards::has_called`] tells.
    pub(crate) fn await_call(&mut self, thread: u32) -> Result<(), Error> {
        self.awaited
            .insert(thread, 0, 0)
            .map_err(|error| Error::kernel("cannot watch a thread", &error))
    }

    /// Whether a system call of an awaited thread has ended since.
    pub(crate) fn has_called(&self, thread: u32) -> bool {
        self.awaited.get(&thread, 0).is_ok_and(|landed| landed != 0)
    }

    /// The ring buffer of [`premod_common::guard::GuardRecord`]s, once.
    pub(crate) fn take_happenings(&mut self) -> Option<RingBuf<MapData>> {
        self.happenings.take()
    }
}

fn attached_already() -> Error {
    Error::BadValue("the programs of the freeze are attached already".to_owned())
}

/// Until when pages are protected again.
pub(crate) struct Protected(Arc<Mutex<Array<MapData, u64>>>);

impl Protected {
    /// A flush that began then has ended.
    pub(crate) fn before(&self, began: u64) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.get(&0, 0).is_ok_and(|known| known < began) {
            // If it cannot be noted, a violation too many is told.
            let _ = map.set(0, began, 0);
        }
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, Error> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| Error::BadValue(format!("the object has no map {name}")))?;
    typed(map)
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|error| Error::kernel("cannot use a BPF map", &error))
}
