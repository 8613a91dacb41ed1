//! What is written is read back, and fast code agrees with simple code.

use larder_types::dtype::DType;
use larder_wire::codec::{Value as _, encode_frame};
use larder_wire::key::CacheKey;
use larder_wire::msgpack::{Reader, Writer};
use larder_wire::pickle::{PickleWriter, read_tensors};
use larder_wire::tokens::{OUTLIERS_MAX, Tokens};
use proptest::prelude::*;
use rmpv::Value;

/// Token ids of every width, small ones more often.
fn token() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..0x80_u32,
        2 => 0x80..0x100_u32,
        4 => 0x100..0x1_0000_u32,
        4 => 0x1_0000..=u32::MAX,
    ]
}

/// An encoding of an integer: the shortest, or one with more bytes than needed.
fn encoded(value: i128, wider: u8) -> Vec<u8> {
    let mut writer = Writer::new();
    match (wider, value) {
        (1, 0..=0xff) => writer.raw(&[0xcc, value as u8]),
        (2, 0..=0xffff) => writer.raw(&[&[0xcd][..], &(value as u16).to_be_bytes()].concat()),
        (3, 0..=0xffff_ffff) => writer.raw(&[&[0xce][..], &(value as u32).to_be_bytes()].concat()),
        (4, 0..=0x7fff) | (4, -0x8000..0) => {
            writer.raw(&[&[0xd1][..], &(value as i16).to_be_bytes()].concat())
        }
        (5, _) if i64::try_from(value).is_ok() => {
            writer.raw(&[&[0xd3][..], &(value as i64).to_be_bytes()].concat());
        }
        (6, 0..) => writer.raw(&[&[0xcf][..], &(value as u64).to_be_bytes()].concat()),
        _ => writer.int(i64::try_from(value).expect("a negative 64-bit number")),
    }
    writer.into_bytes().to_vec()
}

fn array_of(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(parts.len());
    parts.iter().for_each(|part| writer.raw(part));
    writer.into_bytes().to_vec()
}

/// The plain way to read tokens.
fn tokens_one_by_one(bytes: &[u8]) -> Vec<i128> {
    let mut reader = Reader::new(bytes);
    let count = reader.array("tokens").expect("an array");
    (0..count).map(|_| reader.int("tokens").expect("an integer")).collect()
}

fn strides(shape: &[u64]) -> Vec<u64> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

fn key(
    tokens: Vec<u32>,
    text: String,
    start: u64,
    end: u64,
    numbers: (u32, Option<u32>, Option<i64>),
) -> CacheKey {
    CacheKey {
        model_name: text.as_str().into(),
        world_size: numbers.0,
        worker_id: numbers.1,
        tokens: tokens.into(),
        start,
        end,
        request_id: text.as_str().into(),
        cache_salt: text.chars().filter(|c| !"@/\\\0".contains(*c)).take(100).collect::<String>().into(),
        request_configs: None,
        num_kv_readers: numbers.2,
    }
}

/// MessagePack values of every kind, nested.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(code, body)| Value::Ext(code, body)),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    })
}

/// A pickle of one view, by its strides, of a storage with the numbers 0, 1, 2, ... in it.
fn pickle_of_view(count: u16, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let elements: Vec<u8> = (0..count).flat_map(u16::to_le_bytes).collect();
    let mut writer = PickleWriter::new();
    writer.push(DType::Int16, &[u64::from(count)], &elements).expect("a small tensor");
    let pickle = writer.finish();
    // Keep the storage and replace what follows it: offset, shape, strides.
    let after_storage = b"\x85RK\x00(";
    let place = pickle.windows(after_storage.len()).rposition(|part| part == after_storage);
    let place = place.expect("the template of the writer");
    let mut out = pickle[..place + 2].to_vec();
    let number = |out: &mut Vec<u8>, value: u64| {
        out.extend_from_slice(&[0x8a, 9]);
        out.extend_from_slice(&value.to_le_bytes());
        out.push(0);
    };
    number(&mut out, offset);
    for values in [shape, strides] {
        out.push(b'(');
        values.iter().for_each(|&value| number(&mut out, value));
        out.push(b't');
    }
    out.extend_from_slice(b"\x89\x8c\x0bcollections\x8c\x0bOrderedDict\x93)RtRe.");
    out
}

/// The elements of a view in row-major order, or `None` if it reaches outside.
fn view(count: u64, offset: u64, shape: &[u64], strides: &[u64]) -> Option<Vec<u8>> {
    let mut places = vec![offset];
    for (size, stride) in shape.iter().zip(strides) {
        places =
            places.iter().flat_map(|place| (0..*size).map(move |index| place + index * stride)).collect();
    }
    if places.iter().any(|place| *place >= count) || offset > count {
        return None;
    }
    Some(places.iter().flat_map(|place| (*place as u16).to_le_bytes()).collect())
}

proptest! {
    #[test]
    fn tokens_round_trip(ids in prop::collection::vec(token(), 0..2000)) {
        let tokens = Tokens::from(ids.clone());
        let decoded = Tokens::decode_payload(&encode_frame(&tokens), "tokens").unwrap();
        prop_assert_eq!(decoded.hashable(usize::MAX), Ok((&ids).into()));
    }

    #[test]
    fn token_lists_decode_as_one_by_one(
        ids in prop::collection::vec((token(), 0..40_u8), 0..1200),
        outliers in prop::collection::vec((any::<prop::sample::Index>(), any::<i64>()), 0..4),
    ) {
        // Most are in their shortest form, as in real frames.
        let mut parts: Vec<Vec<u8>> = ids
            .iter()
            .map(|&(id, wider)| match wider {
                1..=6 => encoded(id.into(), wider),
                _ => encoded(id.into(), 0),
            })
            .collect();
        for (place, value) in outliers {
            if !parts.is_empty() {
                let place = place.index(parts.len());
                parts[place] = encoded(value.into(), 5);
            }
        }
        let bytes = array_of(&parts);
        let plain = tokens_one_by_one(&bytes);
        let tokens = Tokens::decode(&mut Reader::new(&bytes), "tokens").unwrap();
        prop_assert_eq!(tokens.len(), plain.len());
        let first_outlier = plain.iter().position(|&id| u32::try_from(id).is_err());
        let hashable: Vec<u32> = plain.iter().map_while(|&id| u32::try_from(id).ok()).collect();
        prop_assert_eq!(tokens.hashable(hashable.len()), Ok((&hashable).into()));
        prop_assert_eq!(tokens.hashable(usize::MAX).is_err(), first_outlier.is_some());
        prop_assert_eq!(tokens_one_by_one(&encode_frame(&tokens)), plain);
    }

    #[test]
    fn keys_round_trip(
        tokens in prop::collection::vec(token(), 0..300), text in ".{0,50}", start: u64, end: u64,
        numbers: (u32, Option<u32>, Option<i64>),
    ) {
        let key = key(tokens, text, start, end, numbers);
        prop_assert_eq!(CacheKey::decode_payload(&encode_frame(&key), "key"), Ok(key));
    }

    #[test]
    fn ranges_cover_whole_chunks_of_the_tokens(
        count in 0..500_usize, start in 0..40_u64, end in 0..40_u64, chunk in 1..20_usize,
    ) {
        let (start, end) = (start * 8, end * 8);
        let key = key(vec![1; count], "m".to_owned(), start, end, (1, Some(0), None));
        prop_assert_eq!(key.lookup_chunks(chunk), count.min(end as usize) / chunk);
        let aligned = start % chunk as u64 == 0 && end % chunk as u64 == 0 && end <= count as u64;
        let chunks = key.worker_chunks(chunk);
        prop_assert_eq!(chunks.is_ok(), aligned);
        if let Ok(chunks) = chunks {
            prop_assert_eq!(chunks.len(), end.saturating_sub(start) as usize / chunk);
            prop_assert!(chunks.is_empty() || chunks.start == start as usize / chunk);
        }
    }

    #[test]
    fn skip_ends_at_the_end_of_the_value(value in value()) {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &value).unwrap();
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.raw("value"), Ok(&bytes[..]));
        prop_assert_eq!(reader.finish("value"), Ok(()));
        for end in 0..bytes.len() {
            prop_assert!(Reader::new(&bytes[..end]).skip("value").is_err());
        }
    }

    #[test]
    fn skipped_bytes_are_a_value_for_rmpv_too(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut reader = Reader::new(&bytes);
        if let Ok(raw) = reader.raw("value") {
            let mut rest = &bytes[..];
            prop_assert!(rmpv::decode::read_value(&mut rest).is_ok());
            prop_assert_eq!(rest.len(), bytes.len() - raw.len());
        }
    }

    #[test]
    fn writes_integers_texts_and_bytes_as_rmpv_does(int: i64, text in ".{0,300}", bin in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut own = Writer::new();
        own.int(int);
        own.str(&text);
        own.bin(&bin);
        let mut other = Vec::new();
        rmpv::encode::write_value(&mut other, &Value::from(int)).unwrap();
        rmpv::encode::write_value(&mut other, &Value::from(text)).unwrap();
        rmpv::encode::write_value(&mut other, &Value::from(bin)).unwrap();
        prop_assert_eq!(&own.into_bytes()[..], &other[..]);
    }

    #[test]
    fn tensors_round_trip(
        dtype in prop::sample::select(DType::ALL), shape in prop::collection::vec(0..7_u64, 0..5), fill: u8,
    ) {
        let bytes = vec![fill; shape.iter().product::<u64>() as usize * dtype.width()];
        let mut writer = PickleWriter::new();
        prop_assert_eq!(writer.push(dtype, &shape, &bytes).is_ok(), dtype.storage_class().is_some());
        let pickle = writer.finish();
        for tensor in read_tensors(&pickle).unwrap() {
            prop_assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &shape[..]));
            prop_assert_eq!(tensor.contiguous(), Some(&bytes[..]));
        }
    }

    #[test]
    fn reads_views_in_row_major_order(
        axes in prop::collection::vec((0..5_u64, 0..12_u64, any::<bool>()), 0..4), offset in 0..20_u64,
    ) {
        const COUNT: u16 = 200;
        let shape: Vec<u64> = axes.iter().map(|axis| axis.0).collect();
        // Half of the strides are those of a contiguous tensor.
        let plain = strides(&shape);
        let strides: Vec<u64> =
            axes.iter().zip(&plain).map(|(axis, plain)| if axis.2 { *plain } else { axis.1 }).collect();
        let pickle = pickle_of_view(COUNT, offset, &shape, &strides);
        let expected = view(COUNT.into(), offset, &shape, &strides);
        match read_tensors(&pickle) {
            Err(_) => prop_assert_eq!(expected, None),
            Ok(tensors) => {
                let mut out = vec![0; tensors[0].byte_len() as usize];
                tensors[0].copy_to(&mut out).unwrap();
                prop_assert_eq!(tensors[0].contiguous().map(<[u8]>::to_vec).unwrap_or_else(|| out.clone()), &out[..]);
                prop_assert_eq!(Some(out), expected);
            }
        }
    }
}

#[test]
fn refuses_too_many_tokens_outside_32_bits() {
    let of = |count: usize| array_of(&vec![vec![0xff]; count]);
    let decode = |bytes: &[u8]| Tokens::decode(&mut Reader::new(bytes), "tokens").map(|tokens| tokens.len());
    assert_eq!(decode(&of(OUTLIERS_MAX)), Ok(OUTLIERS_MAX));
    assert!(decode(&of(OUTLIERS_MAX + 1)).is_err());
}
