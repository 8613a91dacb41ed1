//! The configuration file: flags by name, without the dashes, in TOML or YAML.

use std::path::Path;

use larder_server::config::suggest;
use serde_json::{Map, Value};

use super::flags::{Flag, Kind};
use super::report::Report;
use super::settings::{Layer, Origin, Raw};
use super::table::{current, find, flags};

/// What the file at `path` says. `subject` begins each line about it as a whole.
pub(crate) fn layer(path: &Path, subject: &str, report: &mut Report) -> Layer {
    let mut layer = Layer::new(Origin::File(path.to_owned()));
    let map = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot be read, {error}"))
        .and_then(|text| parse(path, &text));
    match map {
        Ok(map) => {
            for (name, value) in &map {
                add(&mut layer, path, name, value, report);
            }
        }
        Err(fault) => report.problem(format!("{subject}: {fault}")),
    }
    layer
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(text).map_err(|error| format!("is not valid TOML, {error}")),
        Some("yaml" | "yml" | "json") => {
            // An empty YAML document is null, and a file of comments says nothing.
            let map: Option<_> =
                serde_saphyr::from_str(text).map_err(|error| format!("is not valid YAML, {error}"))?;
            Ok(map.unwrap_or_default())
        }
        _ => Err("must end in .toml, .yaml or .yml".to_owned()),
    }
}

fn add(layer: &mut Layer, path: &Path, name: &str, value: &Value, report: &mut Report) {
    let place = path.display();
    let dashed = name.replace('_', "-");
    let Some(flag) = find(&dashed) else {
        let hint = suggest::hint(name, settable().map(|flag| flag.name));
        report.problem(format!("{name} (from {place}): no such setting{hint}"));
        return;
    };
    if !settable().any(|known| known.name == flag.name) {
        report.problem(format!("--{dashed} (from {place}): belongs on the command line"));
        return;
    }
    match raw(flag, value) {
        Some(raw) => layer.add(current(flag), raw),
        None => report.problem(format!("--{dashed} (from {place}): has no value that a flag could take")),
    }
}

fn settable() -> impl Iterator<Item = &'static Flag> {
    flags().filter(|flag| !flag.typed_only && flag.name != "config")
}

/// The value as it would be typed.
fn raw(flag: &Flag, value: &Value) -> Option<Raw> {
    match value {
        Value::Null => None,
        Value::Bool(on) => Some(match flag.kind {
            Kind::Switch | Kind::Pair => Raw::On(*on),
            _ => Raw::One(on.to_string()),
        }),
        Value::Array(items) => Some(Raw::Many(items.iter().map(text).collect())),
        other => Some(Raw::One(text(other))),
    }
}

/// Text stays as it is; numbers and objects become the text one would type.
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
    fn both_languages_say_the_same() {
        let toml = "chunk-size = 512\nl1_size_gb = 0.5\n[[l2-adapter]]\ntype = \"fs\"\n";
        let yaml = "chunk-size: 512\nl1_size_gb: 0.5\nl2-adapter:\n  - type: fs\n";
        assert_eq!(given("a.toml", toml), given("a.yaml", yaml));
        assert_eq!(given("a.yml", "# nothing\n"), []);
        assert_eq!(given("a.toml", ""), []);
    }

    #[test]
    fn every_kind_of_value_is_taken_as_typed() {
        let mut layer = Layer::new(Origin::File("a.toml".into()));
        let mut report = Report::default();
        let text = "port = 1\nshm_name = ''\nisolated-ipc = true\nenable = ['a', 'b']\nl2-adapter = [{ type = 'fs' }]\n";
        for (name, value) in given("a.toml", text) {
            add(&mut layer, Path::new("a.toml"), &name, &value, &mut report);
        }
        assert_eq!(report, Report::default());
        let said: Vec<_> = layer.given.iter().map(|(flag, raw)| (flag.name, raw.clone())).collect();
        let many = |texts: &[&str]| Raw::Many(texts.iter().map(|text| (*text).to_owned()).collect());
        for expected in [
            ("port", Raw::One("1".to_owned())),
            ("shm-name", Raw::One(String::new())),
            ("isolated-ipc", Raw::On(true)),
            ("enable", many(&["a", "b"])),
            ("l2-adapter", many(&[r#"{"type":"fs"}"#])),
        ] {
            assert!(said.contains(&expected), "{expected:?} in {said:?}");
        }
    }

    #[test]
    fn what_does_not_belong_is_one_line_each() {
        let mut layer = Layer::new(Origin::File("a.toml".into()));
        let mut report = Report::default();
        for name in ["chunk-sise", "check-config", "config"] {
            add(&mut layer, Path::new("a.toml"), name, &Value::from(1), &mut report);
        }
        add(&mut layer, Path::new("a.toml"), "port", &Value::Null, &mut report);
        assert_eq!(
            report.problems,
            [
                "chunk-sise (from a.toml): no such setting, did you mean 'chunk-size'?",
                "--check-config (from a.toml): belongs on the command line",
                "--config (from a.toml): belongs on the command line",
                "--port (from a.toml): has no value that a flag could take",
            ]
        );
    }
}
