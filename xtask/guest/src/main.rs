//! The guest's first process: mounts what a Linux program expects, loads the modules the host
//! lists, runs one command, and reports to the host. It fails loudly: whatever goes wrong here is
//! logged to the console, where the host looks for it, and ends the machine.

mod boot;
mod command;
mod port;

use std::{fs, io::Write as _, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};
use premod_guest::{END_OF_LOG, FAILED, Frame};
use rustix::system::{RebootCommand, reboot};

fn main() {
    if let Err(error) = run() {
        // Two ways, because the failure may be that there is no /dev/kmsg.
        eprintln!("{FAILED}{error:#}");
        log(&format!("{FAILED}{error:#}"));
    }
    rustix::fs::sync();
    // The kernel panics when its first process returns, so this is the only way out.
    if let Err(error) = reboot(RebootCommand::Restart) {
        eprintln!("{FAILED}reboot: {error}");
    }
}

fn run() -> Result<()> {
    boot::mount_kernel_filesystems()?;
    boot::load_modules()?;
    // The threads that relay output use the port until the machine ends.
    let port: &'static port::Port = Box::leak(Box::new(port::Port::open()?));
    boot::configure()?;
    let mounted = boot::mount_disks()?;
    port.send(&Frame::Started)?;
    let status = command::run(port)?;
    for directory in mounted.iter().rev() {
        // A file system that something keeps busy is no failure of the command; what the kernel
        // has to say about it ends up in its log.
        if let Err(error) = rustix::mount::unmount(directory, rustix::mount::UnmountFlags::empty())
        {
            log(&format!(
                "premod-guest: umount {}: {error}",
                directory.display()
            ));
        }
    }
    log(END_OF_LOG);
    port.send(&Frame::Exit(status))
        .context("cannot report the exit status")?;
    // The host ends the machine once it has read the status. Rebooting by ourselves could take
    // the last frames along.
    std::thread::sleep(std::time::Duration::from_secs(30));
    Ok(())
}

/// Writes a line to the kernel's log, and so to the console.
fn log(line: &str) {
    if let Ok(kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // Priority 5 (notice) passes every console log level that the host sets.
        drop(kmsg.write_at(format!("<5>{line}\n").as_bytes(), 0));
    } else {
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// One of the host's instructions.
fn instruction(name: &str) -> Result<String> {
    let path = format!("{}/{name}", premod_guest::INSTRUCTIONS);
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}
