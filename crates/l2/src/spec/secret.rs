//! Values that must never be printed.

use std::fmt;

use serde_json::Value;

/// Printed in place of a secret.
pub const REDACTED: &str = "***";

/// A secret. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself. Must not be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Whether the words in a field's name suggest a secret.
pub fn names_a_secret(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    let anywhere = ["password", "passwd", "secret", "credential"].iter().any(|word| field.contains(word));
    let as_a_word = |word: &str| matches!(word, "token" | "tokens" | "key" | "keys" | "apikey");
    anywhere || field.split(|c: char| !c.is_ascii_alphanumeric()).any(as_a_word)
}

/// Replaces every secret inside `value`: text in fields with the name of a secret, and passwords in URLs.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                match value {
                    Value::String(text) if names_a_secret(field) && !text.is_empty() => {
                        REDACTED.clone_into(text)
                    }
                    value => redact(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::String(text) => *text = redact_url(text),
        _ => {}
    }
}

/// `text` without the `user:password` of a URL.
pub fn redact_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return match text.rsplit_once('@') {
            Some((user, host)) if user.contains(':') && !user.contains('{') => format!("{REDACTED}@{host}"),
            _ => text.to_owned(),
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REDACTED}@{host}{}", &rest[authority.len()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn url_keeps_only_its_host() {
        for (text, shown) in [
            ("redis://:pw@h:1", "redis://***@h:1"),
            ("http://h/a@b", "http://h/a@b"),
            ("me:pw@h", "***@h"),
            ("@adapter.json", "@adapter.json"),
            ("me@h", "me@h"),
        ] {
            assert_eq!(redact_url(text), shown);
        }
    }

    #[test]
    fn redacts_secrets_at_any_depth() {
        let mut value = serde_json::json!({
            "adapters": [{"password": "x", "aws_secret_access_key": "y", "host": "h", "num_keys": 3, "token": ""}],
            "credentials": "z", "monkey": "banana", "url": "http://me:pw@host:1/path?q=@",
        });
        redact(&mut value);
        let expected = serde_json::json!({
            "adapters": [{"password": "***", "aws_secret_access_key": "***", "host": "h", "num_keys": 3, "token": ""}],
            "credentials": "***", "monkey": "banana", "url": "http://***@host:1/path?q=@",
        });
        assert_eq!(value, expected);
    }
}
