//! Tokens in the two forms in which clients send them.

/// The bytes of a token as chunk hashes take it: a big-endian u32.
pub type TokenBytes = [u8; 4];

/// Consecutive tokens of a prompt, in either form.
#[derive(Clone, Copy, Debug)]
pub enum TokenSlice<'a> {
    /// Numbers.
    Numbers(&'a [u32]),
    /// Their bytes.
    Packed(&'a [TokenBytes]),
}

use TokenSlice::{Numbers, Packed};

/// Tokens that are compared at once.
const BLOCK: usize = 64;

impl<'a> TokenSlice<'a> {
    /// Count of tokens.
    pub const fn len(self) -> usize {
        match self {
            Numbers(tokens) => tokens.len(),
            Packed(tokens) => tokens.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The first `count` tokens and those after them.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_at(self, count: usize) -> (Self, Self) {
        match self {
            Numbers(tokens) => {
                let (first, rest) = tokens.split_at(count);
                (Numbers(first), Numbers(rest))
            }
            Packed(tokens) => {
                let (first, rest) = tokens.split_at(count);
                (Packed(first), Packed(rest))
            }
        }
    }

    /// The whole chunks of `count` tokens, which is above 0, in order.
    pub fn chunks_exact(self, count: usize) -> impl Iterator<Item = Self> {
        (0..self.len() / count).map(move |chunk| self.split_at(chunk * count).1.split_at(count).0)
    }

    /// Whether these are the first tokens of `other`.
    pub fn is_start_of(self, other: Self) -> bool {
        self.len() <= other.len() && self == other.split_at(self.len()).0
    }

    /// As numbers, added to `list`.
    pub fn append_to(self, list: &mut Vec<u32>) {
        match self {
            Numbers(tokens) => list.extend_from_slice(tokens),
            Packed(tokens) => list.extend(tokens.iter().map(|token| u32::from_be_bytes(*token))),
        }
    }

    /// As numbers.
    pub fn to_vec(self) -> Vec<u32> {
        let mut list = Vec::with_capacity(self.len());
        self.append_to(&mut list);
        list
    }
}

impl PartialEq for TokenSlice<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Numbers(one), Numbers(other)) => one == other,
            (Packed(one), Packed(other)) => one == other,
            (Numbers(numbers), Packed(packed)) | (Packed(packed), Numbers(numbers)) => {
                numbers.len() == packed.len() && are_equal(numbers, packed)
            }
        }
    }
}

impl Eq for TokenSlice<'_> {}

/// A block at a time and without a branch in it, which the compiler turns into vector code.
fn are_equal(numbers: &[u32], packed: &[TokenBytes]) -> bool {
    numbers.chunks(BLOCK).zip(packed.chunks(BLOCK)).all(|(numbers, packed)| {
        let pairs = numbers.iter().zip(packed);
        pairs.fold(0, |other, (number, packed)| other | (number ^ u32::from_be_bytes(*packed))) == 0
    })
}

impl<'a> From<&'a [u32]> for TokenSlice<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Numbers(tokens)
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for TokenSlice<'a> {
    fn from(tokens: &'a [u32; N]) -> Self {
        Numbers(tokens)
    }
}

impl<'a> From<&'a Vec<u32>> for TokenSlice<'a> {
    fn from(tokens: &'a Vec<u32>) -> Self {
        Numbers(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_the_same_tokens() {
        let numbers: Vec<u32> = (0..200).map(|n: u32| n.wrapping_mul(0x9e37_79b9)).collect();
        let packed: Vec<TokenBytes> = numbers.iter().map(|n| n.to_be_bytes()).collect();
        let (one, other) = (TokenSlice::from(&numbers), Packed(&packed));
        assert!(one == other && other.to_vec() == numbers);
        assert!(one.split_at(70).0.is_start_of(other) && other.split_at(70).0.is_start_of(one));
        assert!(!one.is_start_of(other.split_at(70).0));
        let chunks: Vec<Vec<u32>> = other.chunks_exact(64).map(TokenSlice::to_vec).collect();
        assert_eq!(chunks, one.chunks_exact(64).map(TokenSlice::to_vec).collect::<Vec<_>>());
        assert_eq!((chunks.len(), &chunks[2][..]), (3, &numbers[128..192]));
        for at in [0, 63, 64, 199] {
            let mut changed = packed.clone();
            changed[at][3] ^= 1;
            assert!(one != Packed(&changed), "token {at}");
        }
    }
}
