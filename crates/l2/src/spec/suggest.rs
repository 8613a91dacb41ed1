//! "Did you mean ...?"

/// The candidate that `word` is most likely a misspelling of, if any is near enough.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let word = plain(word);
    // One slip for each three letters, but never a wholly different word.
    let slips_max = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// [`closest`] as the end of a sentence: `, did you mean 'x'?`, or nothing.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or_else(String::new, |found| format!(", did you mean '{found}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_forgiven_and_strangers_are_not() {
        let names = ["chunk-size", "port", "l1-size-gb"];
        assert_eq!(closest("chunk-sise", names), Some("chunk-size"));
        assert_eq!(closest("chunk_size", names), Some("chunk-size"));
        assert_eq!(closest("prot", names), Some("port"));
        assert_eq!(closest("gpu", names), None);
        assert_eq!(hint("prot", names), ", did you mean 'port'?");
    }
}
