//! Suggestions for misspelt names.

/// The candidate that `word` is most likely a misspelling of, if any is near enough.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let word = plain(word);
    // One edit for each three letters, but never a completely different word.
    let edits_max = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(edits, _)| *edits <= edits_max)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// [`closest`] as the end of a message: `, did you mean 'x'?`, or nothing.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or_else(String::new, |found| format!(", did you mean '{found}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_close_names_only() {
        let names = ["chunk-size", "port", "l1-size-gb"];
        assert_eq!(closest("chunk-sise", names), Some("chunk-size"));
        assert_eq!(closest("chunk_size", names), Some("chunk-size"));
        assert_eq!(closest("prot", names), Some("port"));
        assert_eq!(closest("gpu", names), None);
        assert_eq!(hint("prot", names), ", did you mean 'port'?");
    }
}
