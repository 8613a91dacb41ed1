//! The tokens of a cache key: a list of numbers, or from 0.5.7 on their bytes as the chunk hash takes them.
//!
//! Token lists are nearly all of a request's bytes: 100 000 tokens are a frame of 300 to 500 kB, in
//! every lookup, store and retrieve. They are decoded straight into 32-bit numbers, without a branch
//! that depends on the width of a token. Bytes are not decoded at all.

use bytes::Bytes;
use larder_types::TokenSlice;
use larder_types::tokens::TokenBytes;

use crate::codec::Value;
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};
use crate::token_buffer::TokenBuffer;

/// The most tokens of one request. The longest contexts of models are a quarter of it.
pub const TOKENS_MAX: usize = 1 << 22;

/// Token ids outside 32 bits that one list may hold. Such a list cannot be hashed; the first of them
/// is what an error names.
pub const OUTLIERS_MAX: usize = 64;

/// A token id that no chunk hash is defined for: hashes are over u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token_ids[{index}] is {value}, which is not an unsigned 32-bit number and cannot be hashed")]
pub struct TokenError {
    /// Position in the list.
    pub index: usize,
    /// The token id.
    pub value: i128,
}

/// The tokens of a request, from position 0.
///
/// The protocol accepts any integer in a list but does not hash lists with integers outside 32 bits.
#[derive(Clone, Debug)]
pub struct Tokens(Form);

#[derive(Clone, Debug)]
enum Form {
    List(TokenList),
    /// A whole number of [`TokenBytes`].
    Packed(Bytes),
}

/// A list of numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenList {
    ids: TokenBuffer,
    /// Position and value of ids outside u32, ascending; `ids` has 0 at their positions.
    outliers: Vec<(usize, i128)>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self(Form::List(TokenList::default()))
    }
}

impl From<TokenList> for Tokens {
    fn from(list: TokenList) -> Self {
        Self(Form::List(list))
    }
}

impl From<Vec<u32>> for Tokens {
    fn from(ids: Vec<u32>) -> Self {
        Self(Form::List(TokenList { ids: ids.into(), outliers: Vec::new() }))
    }
}

/// The form makes no difference.
impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.outliers() == other.outliers() && self.as_slice() == other.as_slice()
    }
}

impl Eq for Tokens {}

impl Tokens {
    /// Tokens of four bytes each, a big-endian u32.
    ///
    /// # Errors
    /// Part of a token is left over, or there are more than [`TOKENS_MAX`].
    pub fn packed(bytes: Bytes, field: &'static str) -> Result<Self, DecodeError> {
        let (tokens, rest) = bytes.as_chunks::<4>();
        let (count, is_whole) = (tokens.len(), rest.is_empty());
        if !is_whole {
            let allowed = "the lengths in bytes of whole tokens, multiples of 4";
            return Err(DecodeError::OutOfRange { field, value: bytes.len() as i128, allowed });
        }
        if count > TOKENS_MAX {
            return Err(DecodeError::TooMany { field, count, limit: TOKENS_MAX });
        }
        Ok(Self(Form::Packed(bytes)))
    }

    /// Whether they came as bytes, not as a list of numbers.
    pub const fn are_packed(&self) -> bool {
        matches!(self.0, Form::Packed(_))
    }

    /// Their bytes, if they came so.
    pub(crate) fn packed_bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Form::List(_) => None,
            Form::Packed(bytes) => Some(bytes),
        }
    }

    /// Count of tokens.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` tokens, or all if there are fewer, for hashing.
    pub fn hashable(&self, count: usize) -> Result<TokenSlice<'_>, TokenError> {
        let tokens = self.as_slice();
        let count = count.min(tokens.len());
        match self.outliers().first() {
            Some(&(index, value)) if index < count => Err(TokenError { index, value }),
            _ => Ok(tokens.split_at(count).0),
        }
    }

    fn as_slice(&self) -> TokenSlice<'_> {
        match &self.0 {
            Form::List(list) => TokenSlice::Numbers(&list.ids),
            Form::Packed(bytes) => {
                let (tokens, _): (&[TokenBytes], _) = bytes.as_chunks();
                TokenSlice::Packed(tokens)
            }
        }
    }

    fn outliers(&self) -> &[(usize, i128)] {
        match &self.0 {
            Form::List(list) => &list.outliers,
            Form::Packed(_) => &[],
        }
    }
}

impl TokenList {
    /// Reads one integer of any form, near the end of the frame or outside the common encodings.
    #[cold]
    fn decode_one(&mut self, reader: &mut Reader<'_>, field: &'static str) -> Result<(), DecodeError> {
        let value = reader.int(field)?;
        self.push(field, value)
    }

    /// An empty list with space for so many tokens.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { ids: TokenBuffer::with_capacity(count), outliers: Vec::new() }
    }

    /// Adds a number that may be no token.
    #[inline]
    pub(crate) fn push(&mut self, field: &'static str, value: i128) -> Result<(), DecodeError> {
        match u32::try_from(value) {
            Ok(id) => self.ids.as_mut_vec().push(id),
            Err(_) if self.outliers.len() < OUTLIERS_MAX => {
                self.outliers.push((self.ids.len(), value));
                self.ids.as_mut_vec().push(0);
            }
            Err(_) => {
                let allowed = "the range of token ids, and too many before it were not";
                return Err(DecodeError::OutOfRange { field, value, allowed });
            }
        }
        Ok(())
    }
}

/// An array of integers.
impl Value for Tokens {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let count = reader.array(field)?;
        if count > TOKENS_MAX {
            return Err(DecodeError::TooMany { field, count, limit: TOKENS_MAX });
        }
        // Every token takes at least a byte of the frame, so this is at most four times its size.
        let mut tokens = TokenList::with_capacity(count);
        let read = decode_blocks(reader.rest(), count, tokens.ids.as_mut_vec());
        reader.advance(read);
        while tokens.ids.len() < count {
            let left = count - tokens.ids.len();
            let read = decode_run(reader.rest(), left, tokens.ids.as_mut_vec());
            reader.advance(read);
            if tokens.ids.len() < count {
                tokens.decode_one(reader, field)?;
            }
        }
        Ok(Self(Form::List(tokens)))
    }

    fn encode(&self, writer: &mut Writer) {
        let tokens = self.as_slice();
        writer.reserve(5 + 5 * tokens.len());
        writer.array(tokens.len());
        let mut outliers = self.outliers().iter().peekable();
        let mut write = |(index, id)| match outliers.next_if(|outlier| outlier.0 == index) {
            Some(&(_, value)) => writer.int_any(value),
            None => writer.uint(u64::from(id)),
        };
        match tokens {
            TokenSlice::Numbers(ids) => ids.iter().copied().enumerate().for_each(&mut write),
            TokenSlice::Packed(ids) => {
                ids.iter().map(|id| u32::from_be_bytes(*id)).enumerate().for_each(&mut write);
            }
        }
    }
}

/// Bytes of a form that [`TokenList::decode_one`] reads.
const OTHER: u8 = 0;

/// Bytes that an integer takes, by its first byte, in the unsigned forms up to 32 bits.
const fn form_bytes(first: u8) -> u8 {
    // Sums of products instead of a match: the compiler turns a loop over this into vector code.
    (first < 0x80) as u8
        + (first == 0xcc) as u8 * 2
        + (first == 0xcd) as u8 * 3
        + (first == 0xce) as u8 * 5
        + OTHER
}

/// [`form_bytes`] of every first byte.
const FORM_BYTES: [u8; 256] = {
    let mut forms = [0; 256];
    let mut first = 0;
    while first < forms.len() {
        forms[first] = form_bytes(first as u8);
        first += 1;
    }
    forms
};

/// The value of an integer of `bytes` bytes, from eight bytes that begin with it.
fn value(word: [u8; 8], bytes: u8) -> u32 {
    const MASKS: [u32; 8] = [0, 0x7f, 0xff, 0xffff, 0, u32::MAX, 0, 0];
    let bytes = bytes & 7;
    // A shift by 64, for no bytes at all, wraps; the mask clears what it leaves.
    (u64::from_be_bytes(word).wrapping_shr(64 - 8 * u32::from(bytes)) as u32) & MASKS[usize::from(bytes)]
}

/// Reads up to `count` integers in the common forms, as long as eight bytes are there to look at.
/// Returns the bytes read.
fn decode_run(bytes: &[u8], count: usize, ids: &mut Vec<u32>) -> usize {
    let mut at = 0;
    for _ in 0..count {
        let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else { break };
        let form = FORM_BYTES[usize::from(word[0])];
        if form == OTHER {
            break;
        }
        at += usize::from(form);
        ids.push(value(*word, form));
    }
    at
}

/// First bytes per round of [`decode_blocks`].
const BLOCK: usize = 256;

/// A block and the bytes that an integer beginning in it, and the one after that, can reach.
type Window = [u8; BLOCK + 16];

/// Reads integers in the common forms, a block at a time, and stops in front of any other form and
/// where the rest is shorter than a block. Returns the bytes read.
///
/// The position of an integer depends on the length of the one before it, so a plain loop waits for a
/// chain of dependent loads. Here the lengths are computed first, for every byte of the block as if an
/// integer began there, and the chain then moves by two integers at a time.
fn decode_blocks(bytes: &[u8], count: usize, ids: &mut Vec<u32>) -> usize {
    let (mut at, mut done) = (0, 0);
    let mut lengths = [0; BLOCK + 8];
    let mut pairs = [0; BLOCK];
    let mut block = [0; BLOCK];
    while count - done >= BLOCK
        && let Some(window) = bytes.get(at..).and_then(|rest| rest.first_chunk::<{ BLOCK + 16 }>())
    {
        measure(window, &mut lengths, &mut pairs);
        let (mut place, mut taken) = (0, 0);
        while place < BLOCK && pairs[place] != OTHER {
            let first = lengths[place] & 7;
            let middle = place + usize::from(first);
            let pair = &mut block[taken..taken + 2];
            pair[0] = value(word_at(window, place), first);
            pair[1] = value(word_at(window, middle), pairs[place] - first);
            place += usize::from(pairs[place]);
            taken += 2;
        }
        ids.extend_from_slice(&block[..taken]);
        (at, done) = (at + place, done + taken);
        if place < BLOCK {
            break;
        }
    }
    at
}

/// The eight bytes from `place` on, which lies in the block or up to seven bytes after it.
fn word_at(window: &Window, place: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&window[place..place + 8]);
    word
}

/// For every byte of the block: how many bytes an integer beginning there takes, and how many it and
/// its successor take together; 0 where that is another form.
fn measure(window: &Window, lengths: &mut [u8; BLOCK + 8], pairs: &mut [u8; BLOCK]) {
    for (length, &first) in lengths.iter_mut().zip(window) {
        *length = form_bytes(first);
    }
    for (place, pair) in pairs.iter_mut().enumerate() {
        let length = lengths[place];
        let next = (length == 1) as u8 * lengths[place + 1]
            + (length == 2) as u8 * lengths[place + 2]
            + (length == 3) as u8 * lengths[place + 3]
            + (length == 5) as u8 * lengths[place + 5];
        *pair = (next != OTHER) as u8 * (length + next);
    }
}
