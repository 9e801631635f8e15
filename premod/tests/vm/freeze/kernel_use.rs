//! Files that the kernel writes to by itself: they are not frozen, and a frozen file does not become one.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use super::{
    policies::{actor, terminate},
    premod::Freeze,
    process,
    refusals::not_frozen,
};
use crate::{harness::Place, tests, tools::run};

tests! {
    Alone files_that_the_kernel_writes_are_not_frozen on Every,
    Alone a_frozen_file_is_not_given_to_the_kernel on Every,
    Alone whoever_gives_a_frozen_file_to_the_kernel_waits,
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn swap_file(place: &Place) -> PathBuf {
    let swap = place.file("swap");
    fs::write(&swap, vec![0; 1 << 20]).expect("a new file");
    fs::set_permissions(&swap, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    run("mkswap", &[plain(&swap)]);
    swap
}

fn files_that_the_kernel_writes_are_not_frozen(place: &Place) {
    let swap = swap_file(place);
    run("swapon", &[plain(&swap)]);
    not_frozen(&swap, 15, &["swap file", "swapoff"]);
    run("swapoff", &[plain(&swap)]);
    let below = actor(place, "loop device");
    not_frozen(Path::new(&below.files[0].path), 15, &["/dev/loop"]);
    for serve in [lio, nvmet] {
        let server = Server::new(serve, &swap);
        fs::write(&server.enable, "1").expect("serving the file");
        let link = place.file("another name");
        fs::hard_link(&swap, &link).expect("link");
        not_frozen(&link, 15, &["as a disk", "/sys/kernel/config"]);
        fs::remove_file(&link).expect("unlink");
    }
}

/// Nobody would be told of what the kernel writes then.
fn a_frozen_file_is_not_given_to_the_kernel(place: &Place) {
    let swap = swap_file(place);
    let servers = [lio, nvmet].map(|serve| Server::new(serve, &swap));
    let device = free_loop_device();
    let [writable, readable] = [true, false].map(|write| {
        let file = File::options().read(true).write(write).open(&swap);
        file.expect("open")
    });
    let mut freeze = Freeze::start(&[plain(&swap), "--deny=EROFS"]);
    freeze.frozen();
    let output = Command::new("swapon").arg(&swap).output();
    let output = output.expect("swapon");
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Read-only file system"), "{said}");
    let denied = |what: &str, done: io::Result<()>| {
        let error = done.expect_err(what).raw_os_error();
        assert_eq!(error, Some(libc::EROFS), "{what}");
    };
    denied("acct", account(&swap));
    for server in &servers {
        denied(plain(&server.enable), fs::write(&server.enable, "1"));
    }
    denied("LOOP_SET_FD", set_file(&device, &writable));
    denied("LOOP_CONFIGURE", configure(&device, &writable));
    set_file(&device, &readable).expect("a device that can be read from only");
    clear(device);
    terminate(freeze).expect(0);
    let device = free_loop_device();
    configure(&device, &writable).expect("LOOP_CONFIGURE");
    clear(device);
    for server in &servers {
        fs::write(&server.enable, "1").expect("serving the file");
    }
}

fn whoever_gives_a_frozen_file_to_the_kernel_waits(place: &Place) {
    let file = place.file("data");
    fs::write(&file, vec![0; 1 << 20]).expect("a new file");
    let server = Server::new(lio, &file);
    let mut freeze = Freeze::start(&[plain(&file)]);
    freeze.frozen();
    let mut losetup = Command::new("losetup")
        .args(["-f", plain(&file)])
        .spawn()
        .expect("losetup");
    let mut serving = Command::new("sh")
        .args(["-c", "echo 1 >$0", plain(&server.enable)])
        .spawn()
        .expect("sh");
    thread::sleep(Duration::from_secs(1));
    for (who, child) in [("losetup", &mut losetup), ("LIO", &mut serving)] {
        let ended = child.try_wait().expect("waiting");
        assert!(ended.is_none(), "{who} did not wait: {ended:?}");
    }
    terminate(freeze).expect(0);
    for (who, child) in [("losetup", &mut losetup), ("LIO", &mut serving)] {
        assert!(process::wait(child).success(), "{who}");
    }
    let device = loop_device_on(&file).expect("a loop device");
    run("losetup", &["-d", &device]);
}

fn loop_device_on(file: &Path) -> Option<String> {
    let mut devices = fs::read_dir("/sys/block").expect("sysfs").flatten();
    let is_on_it = |device: &fs::DirEntry| {
        let text = fs::read_to_string(device.path().join("loop/backing_file"));
        text.is_ok_and(|text| text.trim_end() == plain(file))
    };
    let device = devices.find(is_on_it)?.file_name();
    Some(format!("/dev/{}", device.to_str()?))
}

/// Switches the accounting of processes on, and off.
fn account(file: &Path) -> io::Result<()> {
    let path = CString::new(plain(file)).expect("a plain path");
    // SAFETY: a string that ends with NUL, or none.
    unsafe {
        match libc::acct(path.as_ptr()) {
            0 => {
                libc::acct(std::ptr::null());
                Ok(())
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn free_loop_device() -> File {
    /// Of linux/loop.h, as those below.
    const LOOP_CTL_GET_FREE: u64 = 0x4c82;
    run("modprobe", &["loop"]);
    let control = File::open("/dev/loop-control").expect("the control device");
    // SAFETY: the call takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    assert!(number >= 0, "{}", io::Error::last_os_error());
    let device = format!("/dev/loop{number}");
    let device = File::options().read(true).write(true).open(device);
    device.expect("a loop device")
}

fn set_file(device: &File, file: &File) -> io::Result<()> {
    const LOOP_SET_FD: u64 = 0x4c00;
    // SAFETY: the argument is a descriptor.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) };
    done(result)
}

fn configure(device: &File, file: &File) -> io::Result<()> {
    const LOOP_CONFIGURE: u64 = 0x4c0a;
    /// `struct loop_config`: the descriptor comes first.
    const SIZE: usize = 304;
    let mut configuration = [0u32; SIZE / 4];
    configuration[0] = file.as_fd().as_raw_fd() as u32;
    // SAFETY: the kernel reads a structure of this size.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_CONFIGURE as _,
            configuration.as_ptr(),
        )
    };
    done(result)
}

/// The device gives up its file when it is closed.
fn clear(device: File) {
    const LOOP_CLR_FD: u64 = 0x4c01;
    // SAFETY: the call takes no argument.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _) }).expect("LOOP_CLR_FD");
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A file that can be served as a disk by the kernel. Whoever drops it takes it back.
struct Server {
    enable: PathBuf,
    directories: Vec<PathBuf>,
}

impl Server {
    fn new(serve: fn(&Path) -> Self, file: &Path) -> Self {
        run("modprobe", &["configfs"]);
        if !configfs_is_mounted() {
            run("mount", &["-t", "configfs", "none", "/sys/kernel/config"]);
        }
        serve(file)
    }
}

fn configfs_is_mounted() -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(" configfs "))
}

/// The SCSI target of the kernel.
fn lio(file: &Path) -> Server {
    run("modprobe", &["target_core_file"]);
    let directory = PathBuf::from("/sys/kernel/config/target/core/fileio_0");
    let disk = directory.join("disk");
    fs::create_dir_all(&disk).expect("mkdir");
    let settings = format!("fd_dev_name={},fd_dev_size=1048576", plain(file));
    fs::write(disk.join("control"), settings).expect("describing the disk");
    Server {
        enable: disk.join("enable"),
        directories: vec![disk, directory],
    }
}

/// The NVMe target of the kernel.
fn nvmet(file: &Path) -> Server {
    run("modprobe", &["nvmet"]);
    let system = PathBuf::from("/sys/kernel/config/nvmet/subsystems/test");
    let disk = system.join("namespaces/1");
    fs::create_dir(&system).expect("mkdir");
    fs::create_dir(&disk).expect("mkdir");
    fs::write(disk.join("device_path"), plain(file)).expect("naming the file");
    Server {
        enable: disk.join("enable"),
        directories: vec![disk, system],
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // LIO ends with its directory.
        let _ = fs::write(&self.enable, "0");
        for directory in &self.directories {
            let removed = fs::remove_dir(directory);
            if !thread::panicking() {
                removed.expect("rmdir");
            }
        }
    }
}
