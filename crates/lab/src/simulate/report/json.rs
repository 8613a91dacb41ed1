use serde_json::Value;

use super::fields;
use crate::simulate::sweep::Outcome;

/// One JSON object per combination, each on its own line.
pub fn json_lines(outcomes: &[Outcome<'_>]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let members: Vec<String> = fields(outcome)
            .into_iter()
            .map(|(name, value)| format!("{}:{value}", Value::from(name)))
            .collect();
        text += &format!("{{{}}}\n", members.join(","));
    }
    text
}
