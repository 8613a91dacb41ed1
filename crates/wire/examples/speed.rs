//! Measures the two costs of a lookup that grow with its prompt: decoding the cache key and hashing it.
//!
//! `cargo run --release -p larder-wire --example speed`
#![expect(clippy::print_stdout, reason = "the measurements are what this prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_wire::codec::{Value, encode_frame};
use larder_wire::key::CacheKey;
use larder_wire::msgpack::Reader;

/// Makes a token id out of a random number.
type Pick = fn(u64) -> u32;

const MIXES: [(&str, Pick); 5] = [
    ("all 1 byte", |n| (n % 128) as u32),
    ("all 3 bytes", |n| 256 + (n % 65_000) as u32),
    ("all 5 bytes", |n| 65_536 + (n % 65_000) as u32),
    ("uniform below 152k", |n| (n % 152_000) as u32),
    ("skewed to small ids", |n| ((n % 152_000) >> (n >> 32 & 7)) as u32),
];

/// Numbers of a fixed sequence that looks random.
fn numbers(count: usize) -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    })
}

/// The fastest of many runs: what the code needs when nothing else is in its way.
fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..300).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

fn key(tokens: Vec<u32>) -> CacheKey {
    CacheKey {
        model_name: "org/model-1.0".into(),
        world_size: 1,
        worker_id: None,
        start: 0,
        end: tokens.len() as u64,
        tokens: tokens.into(),
        request_id: "request".into(),
        cache_salt: "".into(),
        request_configs: None,
        num_kv_readers: Some(1),
    }
}

fn main() {
    for (name, pick) in MIXES {
        let count = 128 * 1024;
        let key = key(numbers(count).map(pick).collect());
        let bytes = encode_frame(&key);
        let decode = fastest(|| {
            let decoded = CacheKey::decode(&mut Reader::new(black_box(&bytes)), "key");
            assert!(black_box(decoded).is_ok());
        });
        let encode = fastest(|| drop(black_box(encode_frame(black_box(&key)))));
        println!(
            "key of {count} tokens, {name} ({} bytes): decode {decode:?}, encode {encode:?}",
            bytes.len()
        );
    }
    let tokens: Vec<u32> = numbers(32 * 1024).map(|n| (n % 152_000) as u32).collect();
    for (algorithm, chunk_tokens) in [("blake3", 256), ("blake3", 64), ("blake3", 16), ("sha256_cbor", 256)] {
        let hasher =
            HashAlgorithm::parse(algorithm, None).ok().and_then(|a| TokenHasher::new(a, chunk_tokens));
        let Some(hasher) = hasher else { continue };
        let time = fastest(|| drop(black_box(hasher.hash(black_box(&tokens)))));
        println!("hash {} tokens in chunks of {chunk_tokens}, {algorithm}: {time:?}", tokens.len());
    }
}
