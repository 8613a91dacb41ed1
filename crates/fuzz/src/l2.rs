//! Files of L2.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use larder_l2::adapters::mock::{Mock, MockConfig};
use larder_l2::layers::Checksum;
use larder_l2::layers::checksum::SIDECAR_NAME;

/// The file with checksums: whatever it holds, it opens, and opens again after it was rewritten.
pub(crate) fn checksums(data: &[u8]) {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| super::scratch::directory("checksums"));
    std::fs::write(DIRECTORY.join(SIDECAR_NAME), data).expect("a file can be written");
    for _ in 0..2 {
        let mock = Arc::new(Mock::new(&MockConfig { max_size_bytes: 1, bandwidth_bytes_per_second: 1 }));
        Checksum::new(mock, Some(&DIRECTORY)).expect("the checksums open");
    }
}

pub(crate) fn checksums_seeds() -> Vec<Vec<u8>> {
    let mut text = "larder-checksums 1\n".to_owned();
    for name in super::wire::corpus().names {
        let name = String::from_utf8(name).expect("names are text");
        text += &format!("+ 00112233445566778899aabbccddeeff 4096 {name}\n- {name}\n");
    }
    vec![text.into_bytes(), b"larder-checksums 1\n".to_vec()]
}
