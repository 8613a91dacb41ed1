//! Messages, keys, pickles, tensor maps and file names; the functions are those of the property tests of `wire`.

#[path = "../../wire/tests/properties/bodies.rs"]
pub(crate) mod bodies;
#[path = "../../wire/tests/properties/corpus.rs"]
mod golden;

/// The golden vectors.
pub(crate) fn corpus() -> golden::Corpus {
    golden::Corpus::read()
}
