//! Settings from the configuration file: flags by name, without the dashes, in TOML or YAML.

use std::io;
use std::path::Path;

use larder_server::config::suggest;
use serde_json::{Map, Value};

use super::flag::FlagSpec;
use super::flags::{self, find, flags};
use super::settings::{Layer, Origin};
use super::value::RawValue;
use crate::report::Report;

/// Why a file has no settings.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot be read, {0}")]
    Read(#[from] io::Error),
    #[error("is not valid TOML, {0}")]
    Toml(#[from] toml::de::Error),
    #[error("is not valid YAML, {0}")]
    Yaml(#[from] serde_saphyr::Error),
    #[error("must end in .toml, .yaml or .yml")]
    UnknownFormat,
}

/// Reads the file at `path`. `subject` begins each error about the file itself.
pub(crate) fn layer(path: &Path, subject: &str, report: &mut Report) -> Layer {
    let mut layer = Layer::new(Origin::File(path.to_owned()));
    let text = std::fs::read_to_string(path).map_err(FileError::Read);
    match text.and_then(|text| parse(path, &text)) {
        Ok(map) => {
            for (name, value) in &map {
                add(&mut layer, path, name, value, report);
            }
        }
        Err(error) => report.error(format!("{subject}: {error}")),
    }
    layer
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, FileError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Ok(toml::from_str(text)?),
        Some("yaml" | "yml" | "json") => {
            // A YAML document without content is null.
            Ok(serde_saphyr::from_str::<Option<_>>(text)?.unwrap_or_default())
        }
        _ => Err(FileError::UnknownFormat),
    }
}

fn add(layer: &mut Layer, path: &Path, name: &str, value: &Value, report: &mut Report) {
    let place = path.display();
    let dashed = name.replace('_', "-");
    let Some(flag) = find(&dashed) else {
        let hint = suggest::hint(name, settable().map(|flag| flag.name));
        report.error(format!("{name} (from {place}): no such setting{hint}"));
        return;
    };
    if !settable().any(|known| known.name == flag.name) {
        report.error(format!("--{dashed} (from {place}): belongs on the command line"));
        return;
    }
    match raw(flag, value) {
        Some(raw) => layer.add(flag, raw),
        None => report.error(format!("--{dashed} (from {place}): is not a value that a flag can have")),
    }
}

fn settable() -> impl Iterator<Item = &'static FlagSpec> {
    flags().filter(|flag| !flag.command_line_only && flag.name != flags::CONFIG.name)
}

/// The value as it would be typed.
fn raw(flag: &FlagSpec, value: &Value) -> Option<RawValue> {
    match value {
        Value::Null => None,
        Value::Bool(on) if flag.kind.is_switch() => Some(RawValue::Switch(*on)),
        Value::Array(items) => Some(RawValue::List(items.iter().map(text).collect())),
        other => Some(RawValue::Text(text(other))),
    }
}

/// A string without quotes; any other value in JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(file: &str, text: &str) -> Vec<(String, Value)> {
        parse(Path::new(file), text).expect("valid").into_iter().collect()
    }

    #[test]
    fn toml_and_yaml_are_equivalent() {
        let toml = "chunk-size = 512\nl1_size_gb = 0.5\n[[l2-adapter]]\ntype = \"fs\"\n";
        let yaml = "chunk-size: 512\nl1_size_gb: 0.5\nl2-adapter:\n  - type: fs\n";
        assert_eq!(given("a.toml", toml), given("a.yaml", yaml));
        assert_eq!(given("a.yml", "# nothing\n"), []);
        assert_eq!(given("a.toml", ""), []);
    }

    #[test]
    fn converts_every_kind_of_value() {
        let mut layer = Layer::new(Origin::File("a.toml".into()));
        let mut report = Report::default();
        let text = "port = 1\nshm_name = ''\nisolated-ipc = true\nenable = ['a', 'b']\nl2-adapter = [{ type = 'fs' }]\n";
        for (name, value) in given("a.toml", text) {
            add(&mut layer, Path::new("a.toml"), &name, &value, &mut report);
        }
        assert_eq!(report, Report::default());
        let values: Vec<_> = layer.values.iter().map(|(flag, raw)| (flag.name, raw.clone())).collect();
        let list = |texts: &[&str]| RawValue::List(texts.iter().map(|text| (*text).to_owned()).collect());
        for expected in [
            ("port", RawValue::Text("1".to_owned())),
            ("shm-name", RawValue::Text(String::new())),
            ("isolated-ipc", RawValue::Switch(true)),
            ("enable", list(&["a", "b"])),
            ("l2-adapter", list(&[r#"{"type":"fs"}"#])),
        ] {
            assert!(values.contains(&expected), "{expected:?} in {values:?}");
        }
    }

    #[test]
    fn reports_each_misplaced_setting_in_one_line() {
        let mut layer = Layer::new(Origin::File("a.toml".into()));
        let mut report = Report::default();
        for name in ["chunk-sise", "check-config", "config"] {
            add(&mut layer, Path::new("a.toml"), name, &Value::from(1), &mut report);
        }
        add(&mut layer, Path::new("a.toml"), "port", &Value::Null, &mut report);
        assert_eq!(
            report.errors,
            [
                "chunk-sise (from a.toml): no such setting, did you mean 'chunk-size'?",
                "--check-config (from a.toml): belongs on the command line",
                "--config (from a.toml): belongs on the command line",
                "--port (from a.toml): is not a value that a flag can have",
            ]
        );
    }
}
