//! A check that cargo does not make: a crate that forgets `[lints] workspace = true` escapes the
//! workspace's lints without a word.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{build, exec};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// Fails when a crate of the workspace does not opt into its lints.
pub(crate) fn check() -> Result<()> {
    let mut command = build::cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata =
        serde_json::from_str(&exec::stdout(&mut command)?).context("not cargo's metadata")?;
    let mut without = Vec::new();
    for package in metadata.packages {
        let manifest = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("cannot read {}", package.manifest_path.display()))?;
        if !opts_in(&manifest) {
            without.push(package.name);
        }
    }
    if !without.is_empty() {
        bail!(
            "`[lints] workspace = true` is missing in {}",
            without.join(", ")
        );
    }
    Ok(())
}

/// Whether a manifest has `workspace = true` in its `[lints]` table.
fn opts_in(manifest: &str) -> bool {
    let mut table = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            table = line;
        }
        let plain: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        (table == "[lints]" && plain == "workspace=true") || plain == "lints.workspace=true"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_opts_in_within_its_lints_table() {
        assert!(opts_in(
            "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!opts_in(
            "[package]\nversion.workspace = true\n[dependencies]\nworkspace = true\n"
        ));
        assert!(!opts_in("[lints]\n[lints.rust]\nunsafe_code = \"warn\"\n"));
    }
}
