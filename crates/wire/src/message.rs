//! Multipart messages and the meaning of their frames.
//!
//! Frames are those of a client's socket, without the routing identity that a server's socket adds.

use bytes::Bytes;

use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};
use crate::operation::{Operation, OperationError};
use crate::request::Request;
use crate::response::ResultFrame;

/// A multipart message that is neither a request nor stream control, nor a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A message needs at least an id and an operation.
    #[error("a message of {frames} frames, at least 2 are needed")]
    TooFewFrames {
        /// Frames in it.
        frames: usize,
    },
    /// A response has at most one result.
    #[error("a response of {frames} frames, at most 3 are allowed")]
    TooManyFrames {
        /// Frames in it.
        frames: usize,
    },
    /// An empty operation frame announces stream control, but `ack` or `cancel` does not follow.
    #[error("stream control that is neither \"ack\" nor \"cancel\"")]
    StreamControl,
}

/// What a client wants of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamControl {
    /// One more batch may be sent.
    Ack,
    /// End the stream.
    Cancel,
}

impl StreamControl {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Ack => b"ack",
            Self::Cancel => b"cancel",
        }
    }
}

/// What a response repeats of its request, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The client's number for the request; any bytes.
    pub uid: Bytes,
    /// The operation frame.
    pub operation: Bytes,
}

impl Envelope {
    /// The frames of a response.
    pub fn response(&self, result: ResultFrame) -> Vec<Bytes> {
        let mut frames = vec![self.uid.clone(), self.operation.clone()];
        frames.extend(result.0);
        frames
    }

    /// Decodes the operation frame.
    pub fn operation(&self) -> Result<Operation, OperationError> {
        Operation::decode(&self.operation)
    }
}

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A request, its payloads not yet decoded.
    Request {
        /// What the response repeats.
        envelope: Envelope,
        /// The payload frames, see [`Request::decode`].
        payloads: Vec<Bytes>,
    },
    /// Control of a stream that an earlier request opened.
    Stream {
        /// The number of that request.
        uid: Bytes,
        /// What the client wants.
        control: StreamControl,
    },
}

impl Incoming {
    /// Sorts the frames of a message from a client.
    ///
    /// # Errors
    /// Fewer than two frames, or malformed stream control. The message is to be dropped.
    pub fn from_frames(frames: Vec<Bytes>) -> Result<Self, MessageError> {
        let count = frames.len();
        let mut frames = frames.into_iter();
        let (Some(uid), Some(operation)) = (frames.next(), frames.next()) else {
            return Err(MessageError::TooFewFrames { frames: count });
        };
        let payloads: Vec<Bytes> = frames.collect();
        if !operation.is_empty() {
            return Ok(Self::Request { envelope: Envelope { uid, operation }, payloads });
        }
        let control = match payloads.as_slice() {
            [word] => [StreamControl::Ack, StreamControl::Cancel].into_iter().find(|c| c.text() == word),
            _ => None,
        };
        Ok(Self::Stream { uid, control: control.ok_or(MessageError::StreamControl)? })
    }
}

/// The frames of a request as stock clients send it, with `uid` as their per-connection number.
pub fn request_frames(uid: u64, request: &Request) -> Vec<Bytes> {
    let mut frames = vec![uid_frame(uid), request.operation().encode()];
    frames.extend(request.encode());
    frames
}

/// The frames of stream control.
pub fn stream_control_frames(uid: u64, control: StreamControl) -> Vec<Bytes> {
    vec![uid_frame(uid), Bytes::new(), Bytes::from_static(control.text())]
}

fn uid_frame(uid: u64) -> Bytes {
    let mut writer = Writer::new();
    writer.uint(uid);
    writer.into_bytes()
}

/// A message from a server, its result not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseMessage {
    /// What it repeats of the request.
    pub envelope: Envelope,
    /// The result.
    pub result: ResultFrame,
}

impl ResponseMessage {
    /// Sorts the frames of a message from a server.
    ///
    /// # Errors
    /// Not two or three frames.
    pub fn from_frames(frames: Vec<Bytes>) -> Result<Self, MessageError> {
        let count = frames.len();
        if count > 3 {
            return Err(MessageError::TooManyFrames { frames: count });
        }
        let mut frames = frames.into_iter();
        let (Some(uid), Some(operation)) = (frames.next(), frames.next()) else {
            return Err(MessageError::TooFewFrames { frames: count });
        };
        Ok(Self { envelope: Envelope { uid, operation }, result: ResultFrame(frames.next()) })
    }

    /// The number of the request as a client counts it.
    pub fn uid(&self) -> Result<u64, DecodeError> {
        let mut reader = Reader::new(&self.envelope.uid);
        let uid = reader.u64("uid")?;
        reader.finish("uid")?;
        Ok(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&'static [u8]]) -> Vec<Bytes> {
        parts.iter().map(|part| Bytes::from_static(part)).collect()
    }

    #[test]
    fn refuses_short_messages() {
        for parts in [&[][..], &[&b"\x00"[..]]] {
            let count = parts.len();
            assert_eq!(
                Incoming::from_frames(frames(parts)),
                Err(MessageError::TooFewFrames { frames: count })
            );
            assert!(ResponseMessage::from_frames(frames(parts)).is_err());
        }
    }

    #[test]
    fn separates_stream_control_from_requests() {
        let stream = |word| Incoming::from_frames(frames(&[b"\x07", b"", word]));
        assert!(matches!(stream(b"ack"), Ok(Incoming::Stream { control: StreamControl::Ack, .. })));
        assert!(matches!(stream(b"cancel"), Ok(Incoming::Stream { control: StreamControl::Cancel, .. })));
        assert_eq!(stream(b"stop"), Err(MessageError::StreamControl));
        assert_eq!(Incoming::from_frames(frames(&[b"\x07", b""])), Err(MessageError::StreamControl));
        let written = stream_control_frames(7, StreamControl::Ack);
        assert_eq!(written, frames(&[b"\x07", b"", b"ack"]));
    }

    #[test]
    fn responses_repeat_the_envelope_byte_for_byte() {
        let incoming = Incoming::from_frames(frames(&[b"", b"\xcd\x00\x18"]));
        let Ok(Incoming::Request { envelope, payloads }) = incoming else { panic!("{incoming:?}") };
        assert!(payloads.is_empty());
        assert_eq!(envelope.operation(), Ok(Operation::Noop));
        let result = ResultFrame::encode(&"OK".to_owned());
        assert_eq!(envelope.response(result), frames(&[b"", b"\xcd\x00\x18", b"\xa2OK"]));
        assert_eq!(envelope.response(ResultFrame(None)), frames(&[b"", b"\xcd\x00\x18"]));
    }
}
