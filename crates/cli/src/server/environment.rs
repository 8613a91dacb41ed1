//! Settings from the environment: `LMCACHE_SERVER_<FLAG>` for every flag, and the variables that LMCache reads.
//! [`otlp`](super::otlp) reads those of OpenTelemetry.

use std::collections::BTreeMap;

use larder_server::config::suggest;

use super::flag::{FlagSpec, Kind, Support};
use super::flags::flags;
use super::kubernetes;
use super::settings::{Layer, Origin};
use super::value::RawValue;
use crate::report::Report;

/// Prefix of the variables of flags.
const PREFIX: &str = "LMCACHE_SERVER_";

/// The environment, by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// The variables of the process that begin with `LMCACHE_` or `OTEL_`.
pub(crate) fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("LMCACHE_") || name.starts_with("OTEL_"))
        .collect()
}

/// One layer for each variable that is set; `LMCACHE_SERVER_<FLAG>` before the variables of LMCache.
pub(crate) fn layers(variables: &Variables, report: &mut Report) -> Vec<Layer> {
    warn_of_misspellings(variables, report);
    let settable = || flags().filter(|flag| !flag.command_line_only);
    let is_old = |flag: &&FlagSpec| matches!(flag.support, Support::AliasOf(_));
    let current = || settable().filter(|flag| !is_old(flag));
    let mut layers: Vec<_> =
        current().filter_map(|flag| layer(flag, flag.variable(), variables, report)).collect();
    layers.extend(
        current().filter_map(|flag| layer(flag, flag.lmcache_variable?.to_owned(), variables, report)),
    );
    layers
        .extend(settable().filter(is_old).filter_map(|flag| layer(flag, flag.variable(), variables, report)));
    layers
}

fn layer(flag: &'static FlagSpec, name: String, variables: &Variables, report: &mut Report) -> Option<Layer> {
    let value = variables.get(&name)?;
    // Scripts set a variable to nothing to unset it, but a text flag may be empty.
    if value.trim().is_empty() && !matches!(flag.kind, Kind::Text) {
        return None;
    }
    if let Some(service) = kubernetes::service(&name, variables) {
        report.warn(format!(
            "{} (from {name}): \"{value}\" was set by Kubernetes for a service named {} and is not used",
            flag.dashed(),
            service.to_ascii_lowercase().replace('_', "-"),
        ));
        return None;
    }
    let raw = match flag.kind {
        _ if name == "LMCACHE_LOG_LEVEL" => RawValue::Text(log_level(value, report).to_owned()),
        Kind::Words => RawValue::List(split(value, |c| c == ',' || c.is_whitespace())),
        Kind::Endpoints => RawValue::List(split(value, |c| c == ',')),
        Kind::JsonObjects => RawValue::List(json_objects(value)),
        _ => RawValue::Text(value.clone()),
    };
    let mut layer = Layer::new(Origin::Variable(name));
    layer.add(flag, raw);
    Some(layer)
}

fn split(value: &str, is_separator: impl Fn(char) -> bool) -> Vec<String> {
    value.split(is_separator).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The items of a JSON list; `value` itself if it is not one.
fn json_objects(value: &str) -> Vec<String> {
    match serde_json::from_str::<Vec<serde_json::Value>>(value) {
        Ok(items) => items.iter().map(ToString::to_string).collect(),
        Err(_) => vec![value.to_owned()],
    }
}

/// Converts the name of a Python log level; info if it is unknown, as in LMCache.
fn log_level(name: &str, report: &mut Report) -> &'static str {
    match name.trim().to_ascii_uppercase().as_str() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" | "WARNING" => "warn",
        "ERROR" | "CRITICAL" => "error",
        _ => {
            report.warn(format!(
                "--log-level {name} (from LMCACHE_LOG_LEVEL): no such level, info is used; \
                 DEBUG, INFO, WARNING, ERROR and CRITICAL exist"
            ));
            "info"
        }
    }
}

/// Warns of variables that resemble one of a flag. Other variables may belong to other programs.
fn warn_of_misspellings(variables: &Variables, report: &mut Report) {
    let known: Vec<_> = flags().filter(|flag| !flag.command_line_only).map(FlagSpec::variable).collect();
    let unknown = variables.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(name));
    for name in unknown.filter(|name| kubernetes::service(name, variables).is_none()) {
        let flag = &name[PREFIX.len()..];
        let near = suggest::closest(flag, known.iter().map(|known| &known[PREFIX.len()..]));
        if let Some(near) = near {
            report.warn(format!("{name}: no flag has this variable, did you mean '{PREFIX}{near}'?"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::resolve_alias;
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Vec<(String, &'static str, RawValue)>, Vec<String>) {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut report = Report::default();
        let layers = layers(&variables, &mut report);
        let given = layers
            .into_iter()
            .flat_map(|layer| {
                let origin = layer.origin.to_string();
                layer.values.into_iter().map(move |(flag, raw)| (origin.clone(), flag.name, raw))
            })
            .collect();
        (given, report.warnings)
    }

    fn text(text: &str) -> RawValue {
        RawValue::Text(text.to_owned())
    }

    #[test]
    fn every_setting_has_a_variable() {
        for flag in flags().filter(|flag| !flag.command_line_only) {
            let (given, _) = read(&[(&flag.variable(), "x")]);
            assert_eq!(given.len(), 1, "{}", flag.name);
            assert_eq!(given[0].1, resolve_alias(flag).name);
        }
    }

    #[test]
    fn splits_lists_by_the_separators_of_their_kind() {
        let list = |texts: &[&str]| RawValue::List(texts.iter().map(|text| (*text).to_owned()).collect());
        let cases = [
            ("LMCACHE_SERVER_ENABLE", "a, b c", list(&["a", "b", "c"])),
            ("LMCACHE_SERVER_LISTEN", "ipc:///a b,tcp://h:1", list(&["ipc:///a b", "tcp://h:1"])),
            ("LMCACHE_SERVER_L2_ADAPTER", r#"[{"type":"fs"},{}]"#, list(&[r#"{"type":"fs"}"#, "{}"])),
            ("LMCACHE_SERVER_L2_ADAPTER", r#"{"type":"fs"}"#, list(&[r#"{"type":"fs"}"#])),
        ];
        for (name, value, raw) in cases {
            assert_eq!(read(&[(name, value)]).0[0].2, raw, "{value}");
        }
    }

    #[test]
    fn empty_variable_is_unset_except_for_text_flags() {
        assert_eq!(read(&[("LMCACHE_SERVER_PORT", ""), ("LMCACHE_SERVER_LISTEN", " ")]).0, []);
        assert_eq!(read(&[("LMCACHE_SERVER_SHM_NAME", "")]).0[0].2, text(""));
    }

    #[test]
    fn ignores_variables_that_kubernetes_sets_for_a_service() {
        for name in ["LMCACHE_SERVER_PORT", "LMCACHE_SERVER_HTTP_PORT", "LMCACHE_SERVER_PROMETHEUS_PORT"] {
            let (given, warnings) = read(&[(name, "tcp://10.0.0.1:5555")]);
            assert_eq!((given.len(), warnings.len()), (0, 1));
            let service = name.trim_end_matches("_PORT").to_lowercase().replace('_', "-");
            assert!(warnings[0].contains(&format!("service named {service} ")), "{warnings:?}");
        }
    }

    #[test]
    fn variables_of_a_service_are_no_misspellings() {
        let (_, warnings) = read(&[
            ("LMCACHE_SERVER_HTTP_SERVICE_HOST", "10.0.0.1"),
            ("LMCACHE_SERVER_HTTP_SERVICE_PORT", "8080"),
            ("LMCACHE_SERVER_HTTP_PORT_8080_TCP_PORT", "8080"),
        ]);
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn accepts_python_log_levels() {
        for (name, level) in
            [("DEBUG", "debug"), ("warning", "warn"), ("CRITICAL", "error"), ("LOUD", "info")]
        {
            assert_eq!(read(&[("LMCACHE_LOG_LEVEL", name)]).0[0].2, text(level));
        }
        assert_eq!(read(&[("LMCACHE_LOG_LEVEL", "LOUD")]).1.len(), 1);
    }

    #[test]
    fn warns_of_misspelt_variables_and_ignores_others() {
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
