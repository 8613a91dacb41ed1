//! The environment: `LMCACHE_SERVER_<FLAG>` for every flag, and the few variables the reference reads. Those of
//! OpenTelemetry are read in [`otlp`](super::otlp).

use std::collections::BTreeMap;

use larder_server::config::suggest;

use super::flags::{Flag, Kind};
use super::report::Report;
use super::settings::{Layer, Origin, Raw};
use super::table::{current, flags};

/// How the variables of flags begin.
const PREFIX: &str = "LMCACHE_SERVER_";

/// The environment, by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// The process's environment, as far as it concerns us.
pub(crate) fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("LMCACHE_") || name.starts_with("OTEL_"))
        .collect()
}

/// What the environment says, each variable a layer of its own; ours come before the reference's.
pub(crate) fn layers(variables: &Variables, report: &mut Report) -> Vec<Layer> {
    warn_of_misspellings(variables, report);
    let settable = || flags().filter(|flag| !flag.typed_only);
    let ours =
        settable().filter_map(|flag| layer(flag, flag.variable(), variables, report)).collect::<Vec<_>>();
    let theirs = settable()
        .filter_map(|flag| layer(flag, flag.other_variable?.to_owned(), variables, report))
        .collect::<Vec<_>>();
    ours.into_iter().chain(theirs).collect()
}

fn layer(flag: &'static Flag, name: String, variables: &Variables, report: &mut Report) -> Option<Layer> {
    let value = variables.get(&name)?;
    // An empty variable is how scripts leave one unset; only where any text goes does empty mean something.
    if value.trim().is_empty() && !matches!(flag.kind, Kind::Text) {
        return None;
    }
    if name == "LMCACHE_SERVER_PORT" && value.contains("://") {
        report.warning(format!(
            "--port (from {name}): \"{value}\" was set by Kubernetes for a service named lmcache-server and is not used"
        ));
        return None;
    }
    let raw = match flag.kind {
        _ if name == "LMCACHE_LOG_LEVEL" => Raw::One(log_level(value, report).to_owned()),
        Kind::Words => Raw::Many(words(value, |c| c == ',' || c.is_whitespace())),
        Kind::Endpoints => Raw::Many(words(value, |c| c == ',')),
        Kind::Objects => Raw::Many(objects(value)),
        _ => Raw::One(value.clone()),
    };
    let mut layer = Layer::new(Origin::Variable(name));
    layer.add(current(flag), raw);
    Some(layer)
}

fn words(value: &str, between: impl Fn(char) -> bool) -> Vec<String> {
    value.split(between).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The objects of a JSON list, or the one text there is.
fn objects(value: &str) -> Vec<String> {
    match serde_json::from_str::<Vec<serde_json::Value>>(value) {
        Ok(items) => items.iter().map(ToString::to_string).collect(),
        Err(_) => vec![value.to_owned()],
    }
}

/// The level that Python's name for it means; unknown names mean info, as in the reference.
fn log_level(name: &str, report: &mut Report) -> &'static str {
    match name.trim().to_ascii_uppercase().as_str() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" | "WARNING" => "warn",
        "ERROR" | "CRITICAL" => "error",
        _ => {
            report.warning(format!(
                "--log-level {name} (from LMCACHE_LOG_LEVEL): no such level, info is used; \
                 DEBUG, INFO, WARNING, ERROR and CRITICAL exist"
            ));
            "info"
        }
    }
}

/// A variable that is nearly one of ours was most likely meant to be it. Others may belong to anybody.
fn warn_of_misspellings(variables: &Variables, report: &mut Report) {
    let known: Vec<_> = flags().filter(|flag| !flag.typed_only).map(Flag::variable).collect();
    for name in variables.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(name)) {
        let flag = &name[PREFIX.len()..];
        let near = suggest::closest(flag, known.iter().map(|known| &known[PREFIX.len()..]));
        if let Some(near) = near {
            report.warning(format!("{name}: no flag has this variable, did you mean '{PREFIX}{near}'?"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Vec<(String, &'static str, Raw)>, Vec<String>) {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut report = Report::default();
        let layers = layers(&variables, &mut report);
        let given = layers
            .into_iter()
            .flat_map(|layer| {
                let origin = layer.origin.to_string();
                layer.given.into_iter().map(move |(flag, raw)| (origin.clone(), flag.name, raw))
            })
            .collect();
        (given, report.warnings)
    }

    fn one(text: &str) -> Raw {
        Raw::One(text.to_owned())
    }

    #[test]
    fn every_flag_that_is_a_setting_has_a_variable() {
        for flag in flags().filter(|flag| !flag.typed_only) {
            let (given, _) = read(&[(&flag.variable(), "x")]);
            assert_eq!(given.len(), 1, "{}", flag.name);
            assert_eq!(given[0].1, current(flag).name);
        }
    }

    #[test]
    fn lists_are_split_the_way_their_flags_read() {
        let many = |texts: &[&str]| Raw::Many(texts.iter().map(|text| (*text).to_owned()).collect());
        let cases = [
            ("LMCACHE_SERVER_ENABLE", "a, b c", many(&["a", "b", "c"])),
            ("LMCACHE_SERVER_LISTEN", "ipc:///a b,tcp://h:1", many(&["ipc:///a b", "tcp://h:1"])),
            ("LMCACHE_SERVER_L2_ADAPTER", r#"[{"type":"fs"},{}]"#, many(&[r#"{"type":"fs"}"#, "{}"])),
            ("LMCACHE_SERVER_L2_ADAPTER", r#"{"type":"fs"}"#, many(&[r#"{"type":"fs"}"#])),
        ];
        for (name, value, raw) in cases {
            assert_eq!(read(&[(name, value)]).0[0].2, raw, "{value}");
        }
    }

    #[test]
    fn empty_means_unset_except_where_any_text_goes() {
        assert_eq!(read(&[("LMCACHE_SERVER_PORT", ""), ("LMCACHE_SERVER_LISTEN", " ")]).0, []);
        assert_eq!(read(&[("LMCACHE_SERVER_SHM_NAME", "")]).0[0].2, one(""));
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_not_a_port() {
        let (given, warnings) = read(&[("LMCACHE_SERVER_PORT", "tcp://10.0.0.1:5555")]);
        assert_eq!((given.len(), warnings.len()), (0, 1));
        assert!(warnings[0].contains("Kubernetes"), "{warnings:?}");
    }

    #[test]
    fn pythons_levels_are_understood() {
        for (name, level) in
            [("DEBUG", "debug"), ("warning", "warn"), ("CRITICAL", "error"), ("LOUD", "info")]
        {
            assert_eq!(read(&[("LMCACHE_LOG_LEVEL", name)]).0[0].2, one(level));
        }
        assert_eq!(read(&[("LMCACHE_LOG_LEVEL", "LOUD")]).1.len(), 1);
    }

    #[test]
    fn a_near_miss_is_pointed_out_and_a_stranger_left_alone() {
        let (_, warnings) =
            read(&[("LMCACHE_SERVER_CHUNK_SISE", "5"), ("LMCACHE_SERVER_SERVICE_HOST", "10.0.0.1")]);
        assert_eq!(
            warnings,
            [
                "LMCACHE_SERVER_CHUNK_SISE: no flag has this variable, did you mean 'LMCACHE_SERVER_CHUNK_SIZE'?"
            ]
        );
    }
}
