//! Decodes arbitrary bytes and checks what came out. Shared by the property tests of this crate and the
//! fuzz targets of `crates/fuzz`.
#![allow(dead_code, reason = "the golden tests use some of these")]

use bytes::Bytes;
use larder_types::Layout;
use larder_types::dtype::DType;
use larder_types::object::ObjectKey;
use larder_wire::codec::{Value, encode_frame};
use larder_wire::dialect::Recognition;
use larder_wire::error::DecodeError;
use larder_wire::for_each_operation;
use larder_wire::grpc::{self, TokenForm};
use larder_wire::key::CacheKey;
use larder_wire::message::{Incoming, ResponseMessage, request_frames};
use larder_wire::msgpack::Reader;
use larder_wire::operation::Operation;
use larder_wire::ops::{self, OperationSpec};
use larder_wire::pickle::read_tensors;
use larder_wire::request::Request;
use larder_wire::response::ResultFrame;
use larder_wire::tensor_map::read_chunks;

/// Cuts bytes into frames: two bytes of length before each, the rest is the last.
fn frames(mut data: &[u8]) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        frames.push(Bytes::copy_from_slice(frame));
        data = rest;
    }
    frames
}

/// The opposite of [`frames`].
pub(crate) fn join<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut data = Vec::new();
    for frame in frames {
        data.extend_from_slice(&u16::try_from(frame.len()).unwrap_or(u16::MAX).to_le_bytes());
        data.extend_from_slice(frame);
    }
    data
}

/// A message from a client. A request that decodes also decodes after it was encoded again.
pub(crate) fn request(data: &[u8]) {
    let Ok(Incoming::Request { envelope, payloads }) = Incoming::from_frames(frames(data)) else { return };
    recognition(&envelope.uid, &envelope.operation, &payloads);
    let Ok(operation) = envelope.operation() else { return };
    let Ok(request) = Request::decode(operation, &payloads) else { return };
    let frames = request_frames(0, &request);
    assert_eq!(Operation::decode(&frames[1]), Ok(operation));
    assert_eq!(Request::decode(operation, &frames[2..]), Ok(request));
}

/// The same message is read in the same dialect when it comes again, unless the first one was taken for the beginning of a
/// connection.
fn recognition(uid: &[u8], operation: &[u8], payloads: &[Bytes]) {
    let mut recognition = Recognition::default();
    let _ = recognition.observe(uid, operation, payloads);
    let second = recognition.observe(uid, operation, payloads);
    let third = recognition.observe(uid, operation, payloads);
    assert_eq!(second, third);
    let _ = (third.decode(operation), recognition.is_resumed());
}

/// A message from a server.
pub(crate) fn response(data: &[u8]) {
    let Ok(message) = ResponseMessage::from_frames(frames(data)) else { return };
    let _ = message.uid();
    let Ok(operation) = message.envelope.operation() else { return };
    let _ = recode(operation, &message.result);
}

/// The message of a call; the first byte is the operation, the second the form of its tokens. A request that decodes has
/// a MessagePack form with the same meaning.
pub(crate) fn grpc(data: &[u8]) {
    let [operation, form, message @ ..] = data else { return };
    let operation = Operation::ALL[usize::from(*operation) % Operation::ALL.len()];
    let form = if form % 2 == 0 { TokenForm::Numbers } else { TokenForm::Bytes };
    let Ok(request) = grpc::decode(operation, Bytes::copy_from_slice(message), form) else { return };
    assert_eq!(request.operation(), operation);
    assert_eq!(Request::decode(operation, &request.encode()), Ok(request));
    if let Some(failure) = operation.failure() {
        let _ = grpc::encode(&failure);
    }
}

macro_rules! recode {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// Decodes a result, encodes it again, checks that this decodes to the same value, and returns
        /// the encoding.
        pub(crate) fn recode(operation: Operation, result: &ResultFrame) -> Result<ResultFrame, DecodeError> {
            match operation {
                $(Operation::$name => {
                    type Response = <ops::$name as OperationSpec>::Response;
                    let decoded: Response = result.decode()?;
                    let encoded = ResultFrame::encode(&decoded);
                    assert_eq!(encoded.decode::<Response>(), Ok(decoded));
                    Ok(encoded)
                })+
            }
        }
    };
}

for_each_operation!(recode);

/// A cache key; the first two bytes are a chunk size.
pub(crate) fn key(data: &[u8]) {
    let Some((chunk_tokens, bytes)) = data.split_first_chunk() else { return };
    let chunk_tokens = usize::from(u16::from_le_bytes(*chunk_tokens));
    let Ok(key) = CacheKey::decode(&mut Reader::new(bytes), "key") else { return };
    assert_eq!(CacheKey::decode_payload(&encode_frame(&key), "key").as_ref(), Ok(&key));
    assert!(key.lookup_chunks(chunk_tokens) * chunk_tokens <= key.tokens.len());
    if let Ok(chunks) = key.worker_chunks(chunk_tokens) {
        assert!(chunks.start <= chunks.end && chunks.end * chunk_tokens <= key.tokens.len());
    }
    let _ = (key.kv_readers(8), key.worker_rank(), key.kv_ranks(), key.tokens.hashable(usize::MAX));
}

/// Tensors that are larger than this are not copied.
const COPIED_BYTES_MAX: u64 = 1 << 20;

/// A pickled list of tensors.
pub(crate) fn pickle(data: &[u8]) {
    let Ok(tensors) = read_tensors(data) else { return };
    for tensor in tensors {
        if tensor.byte_len() > COPIED_BYTES_MAX {
            continue;
        }
        let mut out = vec![0; tensor.byte_len() as usize];
        assert_eq!(tensor.copy_to(&mut out), Ok(()));
        assert_eq!(tensor.runs().map(<[u8]>::len).sum::<usize>(), out.len());
        assert!(tensor.contiguous().is_none_or(|bytes| bytes == out));
    }
}

/// Chunks of a range of three in a map, of a worker with one group and of one with several: the groups of the golden
/// vectors, and small ones.
pub(crate) fn tensor_map(data: &[u8]) {
    const CHUNKS: u32 = 3;
    let layout = |shape: &[u64], dtype| Layout::new(shape, dtype).expect("not empty");
    let large = [layout(&[2, 4, 40], DType::Float32), layout(&[1, 300], DType::UInt8)];
    let small = [layout(&[2, 1], DType::Int8), layout(&[1], DType::UInt8)];
    let kinds = [&large[..], &large[..1], &small, &small[..1], &[]];
    for layouts in kinds {
        let layouts: Vec<&Layout> = layouts.iter().collect();
        let Ok(read) = read_chunks(data, &layouts, CHUNKS) else { continue };
        assert!(read.is_sorted_by(|a, b| (a.group, a.chunk) < (b.group, b.chunk)));
        for cell in &read {
            assert_eq!(cell.bytes.len() as u64, layouts[cell.group].bytes());
            assert!(cell.chunk < CHUNKS);
        }
        assert!(layouts.len() != 1 || read.len() == CHUNKS as usize);
    }
}

/// The name of a file. Files have no `/` in their names.
pub(crate) fn file_name(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    if name.contains('/') {
        return;
    }
    if let Ok(key) = ObjectKey::from_file_name(name) {
        assert_eq!(ObjectKey::from_file_name(&key.file_name()), Ok(key));
    }
}
