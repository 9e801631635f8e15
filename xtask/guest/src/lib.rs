//! What `cargo xtask vm` and the first process of its guest agree on: the frames they exchange
//! over one virtio-serial port, and the files that tell the guest what to do.
//!
//! One port carries everything in order, so the frame with the exit status is also the proof that
//! all output has arrived.

use std::io::{self, Read, Write};

/// The name of the virtio-serial port.
pub const PORT: &str = "premod.vm";

/// Where the host's instructions lie in the guest's initramfs.
pub const INSTRUCTIONS: &str = "/.premod-vm";

/// Root's home in the guest, where the command starts.
pub const HOME: &str = "/root";

/// What the guest logs once everything before it has been logged: the host reads the kernel's
/// console up to this line before it believes that the kernel had nothing to complain about.
pub const END_OF_LOG: &str = "premod-guest: end of log";

/// What the guest logs, followed by the reason, when it cannot do its work.
pub const FAILED: &str = "premod-guest: failed: ";

/// The longest payload that is sent in one frame.
const LONGEST: usize = 1 << 16;

/// One message between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The guest has mounted and loaded everything and starts the command.
    Started,
    /// Bytes of the command's stdout (or of its terminal).
    Stdout(Vec<u8>),
    /// Bytes of the command's stderr.
    Stderr(Vec<u8>),
    /// The command has ended with this status, as a shell would tell it.
    Exit(u8),
    /// Bytes for the command's terminal, from the host.
    Stdin(Vec<u8>),
    /// The size of the host's terminal.
    Size {
        /// Number of rows.
        rows: u16,
        /// Number of columns.
        columns: u16,
    },
}

impl Frame {
    /// Writes the frame: one byte that tells its kind, the length, the payload.
    ///
    /// # Errors
    /// When the port cannot be written, or the payload is longer than a frame may be.
    pub fn write(&self, mut port: impl Write) -> io::Result<()> {
        let size;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Started => (b'S', &[]),
            Self::Stdout(bytes) => (b'O', bytes),
            Self::Stderr(bytes) => (b'E', bytes),
            Self::Exit(status) => (b'X', std::slice::from_ref(status)),
            Self::Stdin(bytes) => (b'I', bytes),
            Self::Size { rows, columns } => {
                let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
                size = [a, b, c, d];
                (b'W', &size)
            }
        };
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length <= LONGEST as u32);
        let length = length.ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        // One write per frame: each write to the port is a round trip to the host.
        let mut bytes = vec![kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        port.write_all(&bytes)
    }

    /// Reads the next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the port cannot be read, or what it holds is no frame.
    pub fn read(mut port: impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; 5];
        match port.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let [kind, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a frame");
        if length > LONGEST {
            return Err(invalid());
        }
        let mut payload = vec![0; length];
        port.read_exact(&mut payload)?;
        match (kind, payload.as_slice()) {
            (b'S', []) => Ok(Some(Self::Started)),
            (b'O', _) => Ok(Some(Self::Stdout(payload))),
            (b'E', _) => Ok(Some(Self::Stderr(payload))),
            (b'X', [status]) => Ok(Some(Self::Exit(*status))),
            (b'I', _) => Ok(Some(Self::Stdin(payload))),
            (b'W', [a, b, c, d]) => Ok(Some(Self::Size {
                rows: u16::from_le_bytes([*a, *b]),
                columns: u16::from_le_bytes([*c, *d]),
            })),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_port() {
        let frames = [
            Frame::Started,
            Frame::Stdout(b"\x00\xffdata".to_vec()),
            Frame::Stderr(Vec::new()),
            Frame::Stdin(b"ls\n".to_vec()),
            Frame::Size {
                rows: 50,
                columns: 300,
            },
            Frame::Exit(255),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut port = wire.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut port).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut port).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(Frame::read(&b"Z\0\0\0\0"[..]).is_err());
        assert!(Frame::read(&b"O\xff\xff\xff\xff"[..]).is_err());
        assert!(Frame::read(&b"O\x04\0\0\0ab"[..]).is_err());
        assert!(
            Frame::Stdout(vec![0; LONGEST + 1])
                .write(Vec::new())
                .is_err()
        );
    }
}
