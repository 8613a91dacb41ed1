//! What is kept about the bytes of an object's file, so that a file with other bytes is recognised
//! (`docs/formats.md`).

use larder_types::object::ObjectKey;
use twox_hash::XxHash3_128;

/// The first byte of a record.
const VERSION: u8 = 1;

/// Bytes of an encoded record.
pub(super) const RECORD_BYTES: usize = 1 + 16 + 8 + 16;

/// The identity, length and checksum of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The digest of the object's key, see [`identity`].
    pub(super) identity: [u8; 16],
    /// Length of the object in bytes, without the file's padding.
    pub(super) bytes: u64,
    /// The checksum of these bytes.
    pub(super) sum: [u8; 16],
}

impl Record {
    /// The bytes of the record: version, identity, length (little endian), checksum.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.identity);
        bytes[17..25].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[25..].copy_from_slice(&self.sum);
        bytes
    }

    /// `None`: these bytes are no record of a version that is known here.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let (identity, rest) = bytes[1..].split_first_chunk()?;
        let (len, sum) = rest.split_first_chunk()?;
        let record = Self { identity: *identity, bytes: u64::from_le_bytes(*len), sum: sum.try_into().ok()? };
        (bytes[0] == VERSION).then_some(record)
    }
}

/// A checksum under way: XXH3 with 128 bits.
pub(super) struct Sum(XxHash3_128);

impl Sum {
    pub(super) fn new() -> Self {
        Self(XxHash3_128::new())
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(super) fn finish(&self) -> [u8; 16] {
        self.0.finish_128().to_be_bytes()
    }
}

/// A digest of the whole key: the first half of the BLAKE3 hash of its parts, each of them after its length. Keys are
/// chosen by clients, so this hash must not be one for which collisions can be made.
pub(super) fn identity(key: &ObjectKey) -> [u8; 16] {
    // All fields: a new one must be added here.
    let ObjectKey { chunk_hash, model_name, kv_rank, object_group, cache_salt, layout } = key;
    let numbers = [u64::from(kv_rank.0), u64::from(*object_group), layout.as_u64()];
    let [rank, group, layout] = numbers.map(u64::to_le_bytes);
    let mut hasher = blake3::Hasher::new();
    for part in [chunk_hash.as_bytes(), model_name.as_bytes(), &rank, &group, cache_salt.as_bytes(), &layout]
    {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut identity = [0; 16];
    identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    identity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    #[test]
    fn record_reads_back_and_nothing_else_is_one() {
        let record = Record { identity: [1; 16], bytes: 541, sum: [2; 16] };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Some(record));
        assert_eq!(Record::decode(&bytes[..40]), None);
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None, "zeros");
        assert_eq!(Record::decode(&[]), None);
        assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn every_part_of_the_key_is_part_of_its_identity() {
        let base = key(1);
        let others = [
            key(2),
            ObjectKey { model_name: "org-SEP-model".into(), ..base.clone() },
            ObjectKey { cache_salt: "tenant".into(), ..base.clone() },
            ObjectKey { kv_rank: larder_types::object::KvRank::new(2, 0), ..base.clone() },
            ObjectKey { object_group: base.object_group + 1, ..base.clone() },
            base.clone().with_layout(larder_types::LayoutId::parse("00000000000000ff").unwrap()),
            // The same characters, divided in another way.
            ObjectKey { model_name: "org/mode".into(), cache_salt: "l".into(), ..base.clone() },
        ];
        for other in &others {
            assert_ne!(identity(other), identity(&base), "{other:?}");
        }
        assert_eq!(identity(&base), identity(&key(1)));
    }
}
