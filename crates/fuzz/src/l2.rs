//! Files of L2.

use larder_l2::adapters::fs::Record;

/// What is kept about a file: any bytes are a record, which is written back the same, or none.
pub(crate) fn checksums(data: &[u8]) {
    if let Some(record) = Record::decode(data) {
        assert_eq!(record.encode()[..], *data);
    }
}

pub(crate) fn checksums_seeds() -> Vec<Vec<u8>> {
    vec![[&[1], &[7; 40][..]].concat(), vec![0; 41]]
}
