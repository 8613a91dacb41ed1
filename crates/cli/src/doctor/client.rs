//! The LMCache client of an engine: which version it is, and whether the server serves it.

use std::path::Path;
use std::process::{Command, Stdio};

use larder_wire::dialect::Dialect;

use super::Finding;

const CHECK: &str = "client";

/// The release that the most was tested with.
const RECOMMENDED: &str = "0.5.6";

pub(super) fn client(python: &Path) -> Finding {
    // Do not import the package, which takes seconds and needs torch.
    let script = "import importlib.metadata as m; print(m.version('lmcache'))";
    let output = Command::new(python).args(["-c", script]).stdin(Stdio::null()).output();
    let install = format!("{} -m pip install lmcache=={RECOMMENDED}", python.display());
    match output {
        Err(error) => Finding::fail(
            CHECK,
            format!("{} does not run: {error}", python.display()),
            "give the path of the engine's Python",
        ),
        Ok(output) if !output.status.success() => Finding::fail(CHECK, "lmcache is not installed", install),
        Ok(output) => of_version(String::from_utf8_lossy(&output.stdout).trim(), install),
    }
}

/// What is found for a version. `install` is a command that installs another.
fn of_version(version: &str, install: String) -> Finding {
    let Some(numbers) = numbers(version) else {
        return Finding::warn(CHECK, format!("lmcache {version}: not a version that is known"), install);
    };
    match Dialect::of_version(numbers) {
        Some(dialect) if dialect.is_served() => {
            if numbers > Dialect::NEWEST {
                let detail = format!("lmcache {version} is newer than what was tested");
                return Finding::warn(CHECK, detail, "upgrade the server, or use it if its tests pass");
            }
            Finding::ok(CHECK, format!("lmcache {version} is served, as are all from 0.4.7 to 0.5.7"))
        }
        _ => Finding::fail(
            CHECK,
            format!("lmcache {version} is not served: its engine runs uncached"),
            install,
        ),
    }
}

/// `0.5.7rc2` is (0, 5, 7).
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.splitn(3, '.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn versions_are_served_from_0_4_7_on() {
        let status = |version: &str| of_version(version, String::new()).status;
        for version in ["0.4.7", "0.5.0", "0.5.2", "0.5.4", "0.5.6", "0.5.6.post1", "0.5.7rc2", "0.5.7"] {
            assert_eq!(status(version), Status::Ok, "{version}");
        }
        for version in ["0.3.9", "0.4.2", "0.4.4", "0.4.6", "0.4"] {
            assert_eq!(status(version), Status::Fail, "{version}");
        }
        for version in ["0.5.8", "0.6.0.dev3", "1.0.0", "", "main", "0.x.1"] {
            assert_eq!(status(version), Status::Warn, "{version}");
        }
    }
}
