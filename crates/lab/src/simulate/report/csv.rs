use serde_json::Value;

use super::fields;
use crate::simulate::sweep::Outcome;

/// A header line, then one line per combination. Unknown values are empty.
pub fn csv(outcomes: &[Outcome<'_>]) -> String {
    let rows: Vec<_> = outcomes.iter().map(fields).collect();
    let names = rows.first().into_iter().flatten().map(|(name, _)| (*name).to_owned());
    let mut text = line(names);
    for row in rows {
        text += &line(row.into_iter().map(|(_, value)| cell(&value)));
    }
    text
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
