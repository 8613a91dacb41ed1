//! Variables that Kubernetes sets in every pod for the Services of its namespace. They are no settings, even where they
//! have the name of one: a Service named `lmcache-server-http` makes `LMCACHE_SERVER_HTTP_PORT`.
//!
//! For a Service `NAME` (upper case, `-` as `_`) they are `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`,
//! `NAME_SERVICE_PORT_<port name>`, `NAME_PORT` and `NAME_PORT_<number>_<protocol>`, the last also with `_PROTO`, `_PORT`
//! and `_ADDR`. Docker's links use the same names.

use super::environment::Variables;

/// The Service that the variable `name` was set for, as its name is written in variables; `None` if it was not.
pub(super) fn service<'a>(name: &'a str, variables: &Variables) -> Option<&'a str> {
    if let Some(service) = name.strip_suffix("_PORT")
        && variables.get(name).is_some_and(|value| is_address(value))
    {
        return Some(service);
    }
    let mut prefixes = name.match_indices('_').map(|(at, _)| name.split_at(at));
    prefixes.find(|(service, rest)| is_set(service, variables) && is_suffix(rest)).map(|(service, _)| service)
}

/// Whether there is a Service of that name.
fn is_set(service: &str, variables: &Variables) -> bool {
    let has = |suffix| variables.contains_key(&format!("{service}{suffix}"));
    has("_SERVICE_HOST") && has("_SERVICE_PORT")
}

/// Whether Kubernetes makes variables that end so.
fn is_suffix(rest: &str) -> bool {
    if matches!(rest, "_SERVICE_HOST" | "_SERVICE_PORT" | "_PORT") || rest.starts_with("_SERVICE_PORT_") {
        return true;
    }
    let Some((number, protocol)) = rest.strip_prefix("_PORT_").and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let protocol =
        ["_PROTO", "_PORT", "_ADDR"].iter().find_map(|end| protocol.strip_suffix(end)).unwrap_or(protocol);
    number.parse::<u16>().is_ok() && matches!(protocol, "TCP" | "UDP" | "SCTP")
}

/// Whether a value is what `NAME_PORT` holds, such as `tcp://10.0.0.1:8080`.
fn is_address(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.trim().starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> Variables {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn finds_every_variable_of_a_service() {
        let all = variables(&[
            ("A_B_SERVICE_HOST", "10.0.0.1"),
            ("A_B_SERVICE_PORT", "8080"),
            ("A_B_SERVICE_PORT_HTTP", "8080"),
            ("A_B_PORT", "tcp://10.0.0.1:8080"),
            ("A_B_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("A_B_PORT_8080_TCP_PROTO", "tcp"),
            ("A_B_PORT_8080_TCP_PORT", "8080"),
            ("A_B_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ]);
        for name in all.keys() {
            assert_eq!(service(name, &all), Some("A_B"), "{name}");
        }
    }

    #[test]
    fn leaves_settings_alone() {
        let all = variables(&[
            ("A_SERVICE_HOST", "10.0.0.1"),
            ("A_SERVICE_PORT", "8080"),
            ("A_HTTP_PORT", "8081"),
            ("A_PORT_8080", "x"),
            ("A_PORT_X_TCP", "x"),
            ("A_HTTP_HOST", "h"),
            ("B_PORT", "8081"),
        ]);
        for name in ["A_HTTP_PORT", "A_PORT_8080", "A_PORT_X_TCP", "A_HTTP_HOST", "B_PORT", "A"] {
            assert_eq!(service(name, &all), None, "{name}");
        }
        assert_eq!(service("B_PORT", &variables(&[("B_PORT", "tcp://10.0.0.1:5555")])), Some("B"));
    }
}
