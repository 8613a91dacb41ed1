//! Objects with longer file names than file systems take.
//!
//! The model's name, and if that is not enough the cache salt, is replaced by a digest: `~` and 32 hexadecimal digits. So the
//! file is that of a key with another model, under which it is counted and listed; loads ask with the whole key and get the
//! same file.

use std::borrow::Cow;

use larder_types::object::ObjectKey;

/// The longest name a Linux file system takes, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Names of shorter models and salts always fit: each byte takes three at most, and the other parts 120 together.
const ALWAYS_FIT_BYTES: usize = 40;

/// The key with a file name that fits: `key` itself unless its name is too long.
pub(super) fn shortened(key: &ObjectKey) -> Cow<'_, ObjectKey> {
    let fits = |key: &ObjectKey| key.file_name().len() <= NAME_BYTES_MAX;
    if key.model_name.len() + key.cache_salt.len() <= ALWAYS_FIT_BYTES || fits(key) {
        return Cow::Borrowed(key);
    }
    let mut short = ObjectKey { model_name: digest(&key.model_name), ..key.clone() };
    if !fits(&short) {
        short.cache_salt = digest(&key.cache_salt);
    }
    Cow::Owned(short)
}

fn digest(text: &str) -> std::sync::Arc<str> {
    format!("~{}", &blake3::hash(text.as_bytes()).to_hex()[..32]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_types::object::{ChunkHash, KvRank};

    fn key(model: &str, salt: &str) -> ObjectKey {
        let hash = ChunkHash::new(&[7; 32]).unwrap();
        ObjectKey::new(hash, model, KvRank(0x0805_0805), 17, salt).unwrap()
    }

    #[test]
    fn only_names_that_do_not_fit_are_shortened() {
        for model in ["m", "org/model", &"m".repeat(100)] {
            assert!(matches!(shortened(&key(model, "salt")), Cow::Borrowed(_)), "{model}");
        }
        let (path, other) = ("/mnt/models/".repeat(20), "/mnt/models".repeat(22));
        let long = shortened(&key(&path, "salt")).into_owned();
        assert_eq!((long.model_name.len(), &*long.cache_salt), (33, "salt"));
        assert_ne!(long.model_name, shortened(&key(&other, "salt")).model_name);
        assert_eq!(shortened(&key(&path, "salt")).into_owned(), long);
        assert!(matches!(shortened(&long), Cow::Borrowed(_)), "its own name fits");
        let salt = "\u{fc}".repeat(100);
        let long = shortened(&key(&path, &salt)).into_owned();
        assert_eq!((long.model_name.len(), long.cache_salt.len()), (33, 33));
        assert!(long.file_name().len() <= NAME_BYTES_MAX);
        assert_eq!(ObjectKey::from_file_name(&long.file_name()).unwrap(), long, "listings name it");
    }
}
