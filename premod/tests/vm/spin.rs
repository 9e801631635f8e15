//! Holds threads in the gaps between premod's hooks, by a BPF object of the tests' own.

use std::{
    mem::MaybeUninit,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{Program, fentry::FEntryLinkId, fexit::FExitLinkId, tp_btf::BtfTracePointLinkId},
};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

use crate::detached::wait_until_detached;

#[path = "../../../premod-ebpf/src/spin/shared.rs"]
mod shared;

use shared::Order;
pub(crate) use shared::{Gap, Report};

// SAFETY: repr(C), integers only, no padding: two u32 and three u64.
unsafe impl aya::Pod for Order {}
// SAFETY: repr(C), u64 only.
unsafe impl aya::Pod for Report {}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spin.bpf.o"));

/// After which a victim goes on by itself: far more than a test needs, also on a machine that is busy with other things,
/// and far less than the kernel's watchdogs bear.
const LIMIT: Duration = Duration::from_secs(4);

/// Longest wait for a victim to enter its gap.
const PATIENCE: Duration = Duration::from_secs(10);

/// The CPU that victims spin on.
pub(crate) const VICTIMS_CPU: usize = 1;

/// The CPU of what acts meanwhile.
const ACTORS_CPU: usize = 0;

/// Programs and the functions or tracepoints that they hang on. Which of several holds the victim depends
/// on the kernel and the filesystem.
const fn programs(gap: Gap) -> &'static [(&'static str, &'static str)] {
    match gap {
        Gap::Permitted => &[("permitted", "security_file_permission")],
        Gap::Checked => &[("checked", "generic_write_checks")],
        // Among the witnesses.
        Gap::Copied => &[],
        Gap::Between => &[
            ("between", "balance_dirty_pages_ratelimited"),
            ("between_flags", "balance_dirty_pages_ratelimited_flags"),
        ],
        Gap::Faulting => &[("faulting", "file_update_time")],
        Gap::Marking => &[("marking", "writeback_dirty_folio")],
        Gap::Flushing => &[
            ("flushing", "file_write_and_wait_range"),
            ("flushing_btrfs", "filemap_fdatawrite_range"),
        ],
        Gap::Flushed => &[
            ("flushed", "file_write_and_wait_range"),
            ("flushed_btrfs", "filemap_fdatawrite_range"),
        ],
        Gap::Announcing => &[("announcing", "strncpy_from_kernel_nofault")],
        Gap::Forgotten => &[("forgotten", "security_inode_free")],
        Gap::Noting => &[("noting", "htab_map_update_elem")],
        Gap::Moving => &[("moving", "d_move")],
        Gap::Moved => &[("moved", "d_move")],
        Gap::Linked => &[("linked", "d_instantiate")],
        Gap::Unlinking => &[("unlinking", "d_delete")],
    }
}

/// The programs that note when a change came.
const WITNESSES: &[(&str, &str)] = &[
    ("copied", "mark_buffer_dirty"),
    ("copied_folio", "filemap_dirty_folio"),
    ("faulted", "do_page_mkwrite"),
];

/// The object. One holds one victim at a time.
struct Spinner {
    ebpf: Ebpf,
    kernel: Btf,
    order: Array<MapData, Order>,
    report: Array<MapData, Report>,
}

/// Those that are loaded and not in use.
static SPARE: Mutex<Vec<Spinner>> = Mutex::new(Vec::new());

enum Link {
    Fentry(FEntryLinkId),
    Fexit(FExitLinkId),
    Tracepoint(BtfTracePointLinkId),
}

impl Spinner {
    fn load() -> Self {
        let kernel = Btf::from_sys_fs().expect("the kernel's types");
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the spinner's maps");
        let mut map = |name| ebpf.take_map(name).expect("a map");
        let order = map("ORDER").try_into().expect("an array");
        let report = map("REPORT").try_into().expect("an array");
        Self {
            ebpf,
            kernel,
            order,
            report,
        }
    }

    fn attach(&mut self, name: &'static str, target: &str) -> (&'static str, Link) {
        let kernel = &self.kernel;
        let program = self.ebpf.program_mut(name).expect("a program");
        let link = match program {
            Program::FEntry(program) => (program.fd().map(drop))
                .or_else(|_| program.load(target, kernel))
                .and_then(|()| program.attach().map(Link::Fentry)),
            Program::FExit(program) => (program.fd().map(drop))
                .or_else(|_| program.load(target, kernel))
                .and_then(|()| program.attach().map(Link::Fexit)),
            Program::BtfTracePoint(program) => (program.fd().map(drop))
                .or_else(|_| program.load(target, kernel))
                .and_then(|()| program.attach().map(Link::Tracepoint)),
            _ => unreachable!("the spinner has no other programs"),
        };
        (
            name,
            link.unwrap_or_else(|error| panic!("{name}: {error:?}")),
        )
    }

    fn detach(&mut self, name: &str, link: Link) {
        let program = self.ebpf.program_mut(name).expect("a program");
        match (program, link) {
            (Program::FEntry(program), Link::Fentry(link)) => program.detach(link),
            (Program::FExit(program), Link::Fexit(link)) => program.detach(link),
            (Program::BtfTracePoint(program), Link::Tracepoint(link)) => program.detach(link),
            _ => unreachable!("a link is of its program's kind"),
        }
        .expect("detaching");
    }

    fn report(&self) -> Report {
        self.report.get(&0, 0).expect("a report")
    }
}

/// An open gap. Its programs are detached when it is dropped.
pub(crate) struct Open {
    /// There until it is dropped.
    spinner: Option<Spinner>,
    gap: Gap,
    limit: Duration,
    passes: u64,
    links: Vec<(&'static str, Link)>,
}

/// Opens a gap: from now on a thread can be held in it.
///
/// While it is, nothing is taken off any function (`synchronize_rcu_tasks` waits for the thread), and meanwhile no
/// premod can hang anything up: an earlier premod's programs have to be gone before.
pub(crate) fn open(gap: Gap) -> Open {
    wait_until_detached();
    run_on(&[ACTORS_CPU]);
    let spare = SPARE
        .lock()
        .expect("nobody panics while it is locked")
        .pop();
    let mut spinner = spare.unwrap_or_else(Spinner::load);
    let links: Vec<_> = programs(gap)
        .iter()
        .chain(WITNESSES)
        .map(|(name, target)| spinner.attach(name, target))
        .collect();
    Open {
        spinner: Some(spinner),
        gap,
        limit: LIMIT,
        passes: 0,
        links,
    }
}

impl Open {
    fn spinner(&mut self) -> &mut Spinner {
        self.spinner.as_mut().expect("loaded when it was opened")
    }

    /// Lets victims go by themselves after `limit`.
    pub(crate) fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Holds a victim only when it has passed the gap this often.
    pub(crate) fn after(mut self, passes: u64) -> Self {
        self.passes = passes;
        self
    }

    /// Runs `victim` in a thread until it is held in the gap.
    ///
    /// Until it is released, nothing here may wait for its CPU, nor for a lock that it has.
    pub(crate) fn hold<T: Send + 'static>(
        &mut self,
        victim: impl FnOnce() -> T + Send + 'static,
    ) -> Held<'_, T> {
        let (name, thread_id) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let thread = thread::spawn(move || {
            run_on(&[VICTIMS_CPU]);
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            name.send(own as u32).expect("the test waits for it");
            wait.recv().expect("the test lets it go");
            victim()
        });
        let tid = thread_id.recv().expect("a thread id");
        let order = self.order(tid);
        go.send(()).expect("the victim waits for it");
        self.wait_for_victim(|| thread.is_finished());
        Held {
            seized: Seized {
                spinner: self.spinner(),
                order,
            },
            thread: Some(thread),
            tid,
        }
    }

    /// Makes a process of one thread, which is told to `go`, run on the victims' CPU until it is held in the gap.
    pub(crate) fn seize(&mut self, pid: u32, go: impl FnOnce()) -> Seized<'_> {
        run_process_on(pid, VICTIMS_CPU);
        let order = self.order(pid);
        go();
        self.wait_for_victim(|| false);
        Seized {
            spinner: self.spinner(),
            order,
        }
    }

    /// Says who is to be held.
    fn order(&mut self, victim: u32) -> Order {
        let order = Order {
            victim,
            gap: self.gap as u32,
            passes: self.passes,
            limit: self.limit.as_nanos() as u64,
            released: 0,
        };
        let spinner = self.spinner();
        spinner.report.set(0, Report::default(), 0).expect("a map");
        spinner.order.set(0, order, 0).expect("a map");
        order
    }

    fn wait_for_victim(&mut self, has_ended: impl Fn() -> bool) {
        let gap = self.gap;
        let deadline = Instant::now() + PATIENCE;
        while self.spinner().report().entered == 0 {
            assert!(Instant::now() < deadline, "nobody came by {gap:?}");
            assert!(!has_ended(), "the victim did not come by {gap:?}");
            std::hint::spin_loop();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for (name, link) in std::mem::take(&mut self.links) {
            self.spinner().detach(name, link);
        }
        let mut spare = SPARE.lock().expect("nobody panics while it is locked");
        spare.extend(self.spinner.take());
        drop(spare);
        run_on(&[ACTORS_CPU, VICTIMS_CPU]);
    }
}

/// A process that is held in a gap. It is let go when this is dropped.
pub(crate) struct Seized<'a> {
    spinner: &'a mut Spinner,
    order: Order,
}

impl Seized<'_> {
    /// Lets it go. Panics if it had gone by itself, for then nothing was tested.
    pub(crate) fn release(self) {
        self.expect_held();
    }

    fn expect_held(&self) {
        assert!(
            !self.has_left(),
            "the victim went on before it was released"
        );
    }

    fn has_left(&self) -> bool {
        self.spinner.report().left != 0
    }

    fn let_go(&mut self) {
        self.order.released = 1;
        self.spinner.order.set(0, self.order, 0).expect("a map");
    }
}

impl Drop for Seized<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A thread of our own that is held in a gap.
pub(crate) struct Held<'a, T> {
    seized: Seized<'a>,
    thread: Option<thread::JoinHandle<T>>,
    pub(crate) tid: u32,
}

impl<T> Held<'_, T> {
    /// Lets the victim go and waits for its end. Panics if it had gone by itself, for then nothing was
    /// tested.
    pub(crate) fn release(mut self) -> (T, Report) {
        self.seized.expect_held();
        let (result, report) = self.wait();
        assert!(
            report.left - report.entered < self.seized.order.limit,
            "{report:?}"
        );
        (result, report)
    }

    /// Whether the victim has gone on by itself.
    pub(crate) fn has_left(&self) -> bool {
        self.seized.has_left()
    }

    /// Lets the victim go, and does not wait for its end. Panics if it had gone by itself.
    pub(crate) fn go_on(&mut self) {
        self.seized.expect_held();
        self.seized.let_go();
    }

    /// Waits for the victim's end, whether it was released or went on by itself.
    pub(crate) fn wait(&mut self) -> (T, Report) {
        self.seized.let_go();
        let thread = self.thread.take().expect("waited for once");
        let result = thread.join().expect("the victim");
        (result, self.seized.spinner.report())
    }
}

/// Binds a process of one thread to a CPU.
pub(crate) fn run_process_on(pid: u32, cpu: usize) {
    bind(Pid::from_raw(pid as i32), &[cpu]);
}

/// Binds the calling thread to these CPUs.
pub(crate) fn run_on(cpus: &[usize]) {
    bind(None, cpus);
}

/// Binds a thread, or the calling one, to these CPUs.
fn bind(thread: Option<Pid>, cpus: &[usize]) {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(thread, &set).expect("a CPU");
}

/// Gives the calling thread precedence over all ordinary ones.
pub(crate) fn run_first() {
    // SAFETY: all bytes zero is a valid sched_param.
    let mut parameter: libc::sched_param = unsafe { MaybeUninit::zeroed().assume_init() };
    parameter.sched_priority = 1;
    // SAFETY: the calling thread, and a parameter that lives through the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
