//! Where things lie: the workspace, and what the tasks keep under its target directory.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Everything the tasks download, unpack or write lies under the target directory, so that
/// removing it gives a fresh machine.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// What belongs to the VM.
pub(crate) fn vm() -> PathBuf {
    target().join("vm")
}

/// `path` as seen from the workspace's root, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
