//! The virtio-serial port to the host.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use premod_guest::{Frame, PORT};

/// How long the port may take to appear after its driver was loaded.
const LIMIT: Duration = Duration::from_secs(20);

/// The open port. Frames of several threads do not mix.
pub(crate) struct Port {
    file: File,
    writing: Mutex<()>,
}

impl Port {
    /// Finds the port by its name and opens it.
    pub(crate) fn open() -> Result<Self> {
        let start = Instant::now();
        loop {
            if let Some(device) = find()? {
                let file = OpenOptions::new().read(true).write(true).open(&device);
                let file = file.with_context(|| format!("cannot open {device}"))?;
                return Ok(Self {
                    file,
                    writing: Mutex::new(()),
                });
            }
            // The driver asks the host for its ports only after it has been loaded.
            if start.elapsed() > LIMIT {
                bail!("there is no virtio-serial port named {PORT}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends one frame and returns once the host's side has room for the next.
    pub(crate) fn send(&self, frame: &Frame) -> Result<()> {
        let _guard = self
            .writing
            .lock()
            .map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        frame.write(&self.file).context("cannot write to the host")
    }

    /// The next frame from the host.
    pub(crate) fn receive(&self) -> Result<Option<Frame>> {
        Frame::read(&self.file).context("cannot read from the host")
    }
}

/// The device file of the port, once both sysfs and devtmpfs have it.
fn find() -> Result<Option<String>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for entry in entries {
        let entry = entry.context("cannot list the virtio-serial ports")?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        if name.trim() == PORT && Path::new(&device).exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}
