//! QEMU's command line and its process.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::accel::Accel;
use crate::setup::qemu::PROGRAM;

/// What QEMU is started with.
pub(crate) struct Machine<'a> {
    pub(crate) accel: Accel,
    pub(crate) icount: bool,
    pub(crate) smp: u32,
    pub(crate) memory: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) command_line: &'a str,
    /// Serial and image of each disk.
    pub(crate) disks: &'a [(&'static str, PathBuf)],
    /// Where QEMU puts what the guest writes to its disks.
    pub(crate) directory: &'a Path,
    /// Where QEMU's own messages go.
    pub(crate) messages: &'a Path,
}

/// A running QEMU. Dropping it ends it.
pub(crate) struct Qemu {
    child: Child,
    /// Our end of the kernel's console.
    pub(crate) console: UnixStream,
    /// Our end of the port to the guest's first process.
    pub(crate) port: UnixStream,
}

impl Machine<'_> {
    /// Starts QEMU. The two channels are inherited sockets, so there are no names that two
    /// machines could both want.
    pub(crate) fn start(&self) -> Result<Qemu> {
        let (console, qemu_console) = UnixStream::pair().context("cannot make a socket pair")?;
        let (port, qemu_port) = UnixStream::pair().context("cannot make a socket pair")?;
        let messages = File::create(self.messages)
            .with_context(|| format!("cannot create {}", self.messages.display()))?;
        let mut command = self.command(qemu_console.as_raw_fd(), qemu_port.as_raw_fd());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages);
        let inherited: [OwnedFd; 2] = [qemu_console.into(), qemu_port.into()];
        let prepare = move || {
            // QEMU must not outlive us, however we end. The signal is sent when the thread ends
            // that forks, and that one waits for QEMU.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            for fd in &inherited {
                rustix::io::fcntl_setfd(fd.as_fd(), rustix::io::FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: prctl and fcntl are all that runs between fork and exec; both are plain system
        // calls.
        unsafe { command.pre_exec(prepare) };
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        // The command holds QEMU's ends of the channels: they end with QEMU only once ours are
        // closed.
        drop(command);
        Ok(Qemu {
            child,
            console,
            port,
        })
    }

    fn command(&self, console: i32, port: i32) -> Command {
        let mut command = Command::new(PROGRAM);
        let (accel, cpu) = match self.accel {
            _ if self.icount => ("tcg", "max"),
            Accel::Kvm => ("kvm", "host"),
            // Without erms and fsrm the kernel copies words instead of bytes, which are translated one by one.
            Accel::Tcg => ("tcg,thread=multi", "max,erms=off,fsrm=off"),
            // Before QEMU 9 a cmpxchg16b of one CPU corrupts the flags of another.
            Accel::OldTcg => ("tcg,thread=multi", "max,erms=off,fsrm=off,cx16=off"),
        };
        let smp = if self.icount { 1 } else { self.smp };
        command
            .env("TMPDIR", self.directory)
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-machine", "q35", "-accel", accel, "-cpu", cpu])
            .args(["-smp", &smp.to_string(), "-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", self.command_line])
            .args(["-chardev", &format!("socket,id=console,fd={console}")])
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", &format!("socket,id=port,fd={port}")])
            .args([
                "-device",
                &format!("virtserialport,chardev=port,name={}", premod_guest::PORT),
            ]);
        if self.icount {
            // Guest time is guest instructions: two runs agree.
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        for (serial, image) in self.disks {
            let file = image.display().to_string().replace(',', ",,");
            let drive = format!("if=none,id={serial},format=raw,snapshot=on,file={file}");
            command.args(["-drive", &drive]).args([
                "-device",
                &format!("virtio-blk-pci,drive={serial},serial={serial}"),
            ]);
        }
        command
    }
}

impl Qemu {
    /// Ends QEMU at once. Nothing that the guest wrote to its disks is kept anyway.
    pub(crate) fn end(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}
