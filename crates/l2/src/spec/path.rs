//! Paths as people write them in settings, and what they meant.

use std::path::{Path, PathBuf};

/// Why `text` is not taken as a path, in words that continue the name of the setting; `None`: it is taken as it is.
///
/// URIs, `~`, variables and outer spaces mean something to a shell or another program, but a path that contains them
/// names a directory of that very name in the working directory. `home` is the home directory of the user.
pub fn path_error(text: &str, home: Option<&Path>) -> Option<String> {
    if text.trim() != text {
        return Some(format!("starts or ends with a space: write \"{}\"", text.trim()));
    }
    if let Some((scheme, rest)) = uri(text) {
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        return Some(if scheme.eq_ignore_ascii_case("file") && path.starts_with('/') {
            format!("is a path, not a URI: write \"/{}\"", path.trim_start_matches('/'))
        } else {
            format!(
                "is a path, not a URI, got \"{text}\": mount what it names, and write the path of the mount point"
            )
        });
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.starts_with('~') {
        let meant = home.filter(|_| first == "~").map(|home| home.join(text[1..].trim_start_matches('/')));
        return Some(match meant {
            Some(path) => format!("is not expanded as in a shell: write \"{}\"", path.display()),
            None => format!("is not expanded as in a shell, got \"{text}\": write the absolute path"),
        });
    }
    let variable = text.starts_with('$') || text.contains("${") || text.contains("/$");
    variable.then(|| format!("is not expanded as in a shell, got \"{text}\": write the absolute path"))
}

/// Scheme and rest of a URI: `SCHEME://REST`, or `file:REST`.
fn uri(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme =
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(legal);
    if !is_scheme {
        return None;
    }
    match rest.strip_prefix("//") {
        Some(rest) => Some((scheme, rest)),
        None => scheme.eq_ignore_ascii_case("file").then_some((scheme, rest)),
    }
}

/// The home directory of the user, from the environment.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_meant() {
        let cases = [
            ("file:///data/kv", "is a path, not a URI: write \"/data/kv\""),
            ("file:/data/kv", "is a path, not a URI: write \"/data/kv\""),
            ("FILE://localhost/data", "is a path, not a URI: write \"/data\""),
            ("~/kv", "is not expanded as in a shell: write \"/home/me/kv\""),
            ("~", "is not expanded as in a shell: write \"/home/me/\""),
            (" /data", "starts or ends with a space: write \"/data\""),
        ];
        for (text, error) in cases {
            assert_eq!(path_error(text, Some(Path::new("/home/me"))).as_deref(), Some(error), "{text}");
        }
        for text in [
            "s3://bucket/kv",
            "file:kv",
            "nfs://host/kv",
            "~you/kv",
            "$HOME/kv",
            "${DATA}/kv",
            "/mnt/$USER",
            "~/kv",
        ] {
            let error = path_error(text, None).expect(text);
            assert!(error.contains(text), "{error}");
        }
        for text in [
            "/data/kv",
            "kv",
            "./kv",
            "../kv",
            "/data/a:b",
            "c:kv",
            "/data/~me",
            "/a//b",
            "/data/kv$1",
            "/mnt/pool/a b",
        ] {
            assert_eq!(path_error(text, None), None, "{text}");
        }
    }
}
