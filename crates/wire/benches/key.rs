//! The two costs of a lookup that grow with its prompt: decoding its cache key and hashing its tokens.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use larder_types::hash::{HashAlgorithm, TokenHasher};
use larder_wire::codec::{Value, encode_frame};
use larder_wire::key::CacheKey;
use larder_wire::msgpack::Reader;

const TOKENS: usize = 32 * 1024;

/// Makes a token id out of a random number.
type Pick = fn(u64) -> u32;

const MIXES: [(&str, Pick); 5] = [
    ("1 byte each", |n| (n % 128) as u32),
    ("3 bytes each", |n| 256 + (n % 65_000) as u32),
    ("5 bytes each", |n| 65_536 + (n % 65_000) as u32),
    ("uniform below 152k", |n| (n % 152_000) as u32),
    ("skewed to small ids", |n| ((n % 152_000) >> (n >> 32 & 7)) as u32),
];

/// A fixed sequence of numbers that looks random.
fn numbers() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    })
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

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("key");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for (name, pick) in MIXES {
        let key = key(numbers().take(TOKENS).map(pick).collect());
        let bytes = encode_frame(&key);
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| CacheKey::decode(&mut Reader::new(black_box(&bytes)), "key"));
        });
        group.bench_function(BenchmarkId::new("encode", name), |b| b.iter(|| encode_frame(black_box(&key))));
    }
}

fn hashes(c: &mut Criterion) {
    let tokens: Vec<u32> = numbers().take(TOKENS).map(|n| (n % 152_000) as u32).collect();
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for (name, chunk_tokens) in [("blake3", 256), ("blake3", 64), ("blake3", 16), ("sha256_cbor", 256)] {
        let algorithm = HashAlgorithm::parse(name, None).expect("a known algorithm");
        let hasher = TokenHasher::new(algorithm, chunk_tokens).expect("at least one token per chunk");
        group.bench_function(BenchmarkId::new(name, chunk_tokens), |b| {
            b.iter(|| hasher.hash(black_box(&tokens)));
        });
    }
}

criterion_group!(benches, keys, hashes);
criterion_main!(benches);
