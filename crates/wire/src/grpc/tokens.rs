//! Tokens of a key, straight into 32-bit numbers: they are nearly all of a request's bytes.

use bytes::Bytes;

use crate::error::DecodeError;
use crate::tokens::{TOKENS_MAX, TokenList, Tokens};

use super::TokenForm;

const FIELD: &str = "token_ids";

/// The continuation bits of eight bytes.
const CONTINUES: u64 = 0x8080_8080_8080_8080;

/// The longest varint of a token within 32 bits.
const SHORT_MAX: usize = 5;

/// The longest varint.
const VARINT_MAX: usize = 10;

pub(super) fn decode(bytes: Bytes, form: TokenForm) -> Result<Tokens, DecodeError> {
    match form {
        TokenForm::Numbers => numbers(&bytes),
        TokenForm::Bytes => Tokens::packed(bytes, FIELD),
    }
}

/// Varints, each of them a number of 64 bits.
fn numbers(bytes: &[u8]) -> Result<Tokens, DecodeError> {
    // Each number has one byte without the continuation bit.
    let count = bytes.iter().filter(|byte| **byte < 0x80).count();
    if count > TOKENS_MAX {
        return Err(DecodeError::TooMany { field: FIELD, count, limit: TOKENS_MAX });
    }
    let mut tokens = TokenList::with_capacity(count);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (value, length) = match rest.first_chunk().and_then(|word| short(u64::from_le_bytes(*word))) {
            Some((value, length)) => (i128::from(value), length),
            None => long(rest)?,
        };
        tokens.push(FIELD, value)?;
        rest = &rest[length..];
    }
    Ok(tokens.into())
}

/// The first varint of eight bytes and its length, if it is short.
fn short(word: u64) -> Option<(u64, usize)> {
    let length = ((!word & CONTINUES).trailing_zeros() as usize + 1) / 8;
    if !(1..=SHORT_MAX).contains(&length) {
        return None;
    }
    let seven = |byte: usize| (word >> (8 * byte) & 0x7f) << (7 * byte);
    let value = match length {
        1 => seven(0),
        2 => seven(0) | seven(1),
        3 => seven(0) | seven(1) | seven(2),
        4 => seven(0) | seven(1) | seven(2) | seven(3),
        _ => seven(0) | seven(1) | seven(2) | seven(3) | seven(4),
    };
    Some((value, length))
}

/// Any varint and its length. Ten bytes are a negative number.
#[cold]
fn long(bytes: &[u8]) -> Result<(i128, usize), DecodeError> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(VARINT_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok((i128::from(value.cast_signed()), at + 1));
        }
    }
    let (expected, found) = ("packed varints", "bytes that end within one");
    Err(DecodeError::Type { field: FIELD, expected, found })
}

#[cfg(test)]
mod tests {
    use prost::encoding::encode_varint;

    use super::*;

    fn packed(numbers: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        numbers.iter().for_each(|number| encode_varint(number.cast_unsigned(), &mut bytes));
        bytes
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        let numbers: Vec<u32> =
            (0..32).flat_map(|bits| [1_u32 << bits, (1 << bits) - 1]).chain([u32::MAX]).collect();
        let wide: Vec<i64> = numbers.iter().map(|number| i64::from(*number)).collect();
        let tokens = decode(packed(&wide).into(), TokenForm::Numbers).unwrap();
        assert_eq!(tokens, Tokens::from(numbers.clone()));
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        assert_eq!(decode(bytes.into(), TokenForm::Bytes).unwrap(), Tokens::from(numbers));
    }

    #[test]
    fn number_outside_32_bits_decodes_and_cannot_be_hashed() {
        for number in [-1, i64::MIN, 1 << 32, i64::MAX] {
            let tokens = decode(packed(&[7, number, 9]).into(), TokenForm::Numbers).unwrap();
            assert_eq!((tokens.len(), tokens.hashable(1)), (3, Ok([7].as_slice().into())));
            assert_eq!(tokens.hashable(2).unwrap_err().value, i128::from(number));
        }
        assert!(decode(packed(&[-1; 1000]).into(), TokenForm::Numbers).is_err());
    }

    #[test]
    fn cut_or_endless_numbers_and_words_are_refused() {
        for bytes in [&[0x80][..], &[1, 2, 0xff, 0xff], &[0xff; 11], &[0xff; 40]] {
            assert!(decode(Bytes::from_static(bytes), TokenForm::Numbers).is_err(), "{bytes:x?}");
        }
        assert!(decode(Bytes::from_static(&[1, 2, 3]), TokenForm::Bytes).is_err());
        let many = vec![0; TOKENS_MAX + 1];
        assert!(decode(many.into(), TokenForm::Numbers).unwrap_err().is_limit());
    }
}
