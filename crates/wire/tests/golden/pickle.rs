//! `pickle.json`, and pickles that must not be taken.

use larder_types::dtype::DType;
use larder_wire::pickle::{PickleError, PickleWriter, Tensor, read_tensors};
use serde_json::Value;

use crate::support::{array, hex, number, records, text, unhex};

const FILE: &str = "pickle.json";

fn row_major(tensor: &Tensor<'_>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(tensor.byte_len()).expect("a small tensor")];
    tensor.copy_to(&mut bytes).expect("a buffer of the tensor's size");
    bytes
}

fn shape(record: &Value) -> Vec<u64> {
    array(record, "shape").iter().map(|size| size.as_u64().expect("a size")).collect()
}

#[test]
fn reads_pickles_of_the_reference() {
    let (mut read, mut refused) = (0, 0);
    for record in records(FILE, "vectors") {
        let note = text(&record, "note");
        let pickle = unhex(text(&record, "hex"));
        let tensors = read_tensors(&pickle);
        if record["loads_in_reference"] == false {
            // Torch writes these element types in a form that it cannot read itself.
            let form =
                PickleError::Global { module: "torch._utils".into(), name: "_rebuild_tensor_v3".into() };
            assert_eq!(tensors, Err(form), "{note}");
            refused += 1;
            continue;
        }
        let tensors = tensors.unwrap_or_else(|error| panic!("{note}: {error}"));
        let expected = array(&record, "tensors");
        assert_eq!(tensors.len(), expected.len(), "{note}");
        for (tensor, expected) in tensors.iter().zip(expected) {
            assert_eq!(tensor.dtype().name(), text(expected, "dtype"), "{note}");
            assert_eq!(tensor.shape(), shape(expected), "{note}");
            assert_eq!(hex(&row_major(tensor)), text(expected, "raw"), "{note}");
            assert_eq!(tensor.contiguous(), Some(&unhex(text(expected, "raw"))[..]), "{note}");
            assert!(number(expected, "storage_nbytes") >= tensor.byte_len(), "{note}");
            read += 1;
        }
    }
    assert!(read >= 10 && refused >= 2, "{read} tensors and {refused} refusals");
}

#[test]
fn rewritten_vectors_round_trip() {
    for record in records(FILE, "vectors") {
        if record["loads_in_reference"] == false {
            continue;
        }
        let mut writer = PickleWriter::new();
        for tensor in array(&record, "tensors") {
            let dtype = DType::from_name(text(tensor, "dtype")).expect("an element type");
            writer.push(dtype, &shape(tensor), &unhex(text(tensor, "raw"))).expect("a small tensor");
        }
        let pickle = writer.finish();
        let tensors = read_tensors(&pickle).expect("our own pickle");
        for (tensor, expected) in tensors.iter().zip(array(&record, "tensors")) {
            assert_eq!(tensor.dtype().name(), text(expected, "dtype"));
            assert_eq!(tensor.shape(), shape(expected));
            assert_eq!(hex(&row_major(tensor)), text(expected, "raw"));
        }
        assert_eq!(tensors.len(), array(&record, "tensors").len());
    }
}

/// A small pickle of one tensor out of the vectors.
fn sample() -> Vec<u8> {
    let record = records(FILE, "vectors").into_iter().find(|record| record["note"] == "single-plane chunk");
    unhex(text(&record.expect("the record"), "hex"))
}

/// Replaces the only occurrence of `old` in `pickle`.
fn replaced(pickle: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let places: Vec<usize> =
        (0..=pickle.len() - old.len()).filter(|&at| pickle[at..].starts_with(old)).collect();
    assert_eq!(places.len(), 1, "{old:x?} occurs at {places:?}");
    [&pickle[..places[0]], new, &pickle[places[0] + old.len()..]].concat()
}

#[test]
fn follows_strides() {
    // Shape (2, 4, 6) with strides (24, 6, 1): swap the outer axes, then make one of them repeat.
    let strides = b"K\x18K\x06K\x01\x87";
    let swapped = replaced(
        &replaced(&sample(), b"K\x02K\x04K\x06\x87", b"K\x04K\x02K\x06\x87"),
        strides,
        b"K\x06K\x18K\x01\x87",
    );
    let original = sample();
    let original = row_major(&read_tensors(&original).unwrap()[0]);
    let tensors = read_tensors(&swapped).unwrap();
    assert_eq!(tensors[0].shape(), [4, 2, 6]);
    assert_eq!(tensors[0].contiguous(), None);
    assert_eq!(tensors[0].runs().count(), 8);
    let row = |bytes: &[u8], at: usize| bytes[at * 12..][..12].to_vec();
    let moved = row_major(&tensors[0]);
    for (outer, inner) in (0..4).flat_map(|outer| [(outer, 0), (outer, 1)]) {
        assert_eq!(row(&moved, outer * 2 + inner), row(&original, inner * 4 + outer));
    }
    let repeated = replaced(&sample(), strides, b"K\x00K\x06K\x01\x87");
    let repeated = row_major(&read_tensors(&repeated).unwrap()[0]);
    assert_eq!((&repeated[..48], &repeated[48..]), (&original[..48], &original[..48]));
}

#[test]
fn refuses_views_outside_their_storage() {
    for strides in [&b"K\x19K\x06K\x01\x87"[..], b"K\xffK\x06K\x01\x87", b"K\x18K\x06K\x02\x87"] {
        let outside = replaced(&sample(), b"K\x18K\x06K\x01\x87", strides);
        assert!(matches!(read_tensors(&outside), Err(PickleError::Malformed { .. })));
    }
    let huge = replaced(
        &sample(),
        b"K\x02K\x04K\x06\x87",
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x04K\x06\x87",
    );
    assert!(matches!(read_tensors(&huge), Err(PickleError::Malformed { .. })));
}

#[test]
fn refuses_other_names_and_quotes_them() {
    // The classic attack, in the pickle and in the stream inside it.
    let attack = b"\x80\x04cos\nsystem\n\x8c\x02id\x85R.";
    let os_system = PickleError::Global { module: "os".into(), name: "system".into() };
    assert_eq!(read_tensors(attack), Err(os_system));
    for (old, new) in [
        (&b"\x8c\x12_rebuild_tensor_v2"[..], &b"\x8c\x12_rebuild_tensor_v9"[..]),
        (b"\x8c\x0dtorch.storage", b"\x8c\x0dbuiltins.exec"),
        (b"ctorch\nBFloat16Storage\n", b"cposix\nBFloat16Storage\n"),
        (b"ctorch\nBFloat16Storage\n", b"ctorch\nUnknown0Storage\n"),
    ] {
        let error = read_tensors(&replaced(&sample(), old, new)).expect_err("another name");
        assert!(matches!(error, PickleError::Global { .. }), "{error}");
    }
}

#[test]
fn refuses_other_objects_and_damaged_pickles() {
    let sample = sample();
    for bytes in
        [&b""[..], b"junk", b"\x80\x04N.", b"\x80\x04K\x01.", b"\x80\x02].", b"\x80\x04]..", b"\x80\x04)."]
    {
        assert!(read_tensors(bytes).is_err(), "{bytes:x?}");
    }
    for end in 0..sample.len() {
        assert!(read_tensors(&sample[..end]).is_err(), "cut off at {end}");
    }
    // A call of what is no name, a call in the inner stream, requires_grad, and big-endian elements.
    for (old, new) in [
        (&b"\x89\x8c\x0bcollections"[..], &b"\x88\x8c\x0bcollections"[..]),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        (b"X\x03\x00\x00\x00cpu", b"X\x03\x00\x00\x00gpu"),
    ] {
        assert!(read_tensors(&replaced(&sample, old, new)).is_err(), "{old:x?}");
    }
}

#[test]
fn bounds_nesting_and_repetition() {
    let deep = [&b"\x80\x04)"[..], &[0x85; 100_000], b"."].concat();
    assert!(matches!(read_tensors(&deep), Err(PickleError::Malformed { .. })));
    let wide = [&b"\x80\x04"[..], &[b'('; 100_000], b"."].concat();
    assert!(matches!(read_tensors(&wide), Err(PickleError::TooMany { .. })));
    let memo = [&b"\x80\x04]"[..], &[0x94; 1_000_000], b"."].concat();
    assert!(matches!(read_tensors(&memo), Err(PickleError::TooMany { .. })));
    let dicts: Vec<u8> =
        [&b"\x80\x04"[..], &b"}X\x01\x00\x00\x00k".repeat(2_000), &b"s".repeat(2_000), b"."].concat();
    assert!(read_tensors(&dicts).is_err());
}
