//! A stack machine for the instructions in pickles of tensors.
//!
//! Values cannot nest deeper than a few fixed levels, so building and dropping them does not recurse by
//! input. A pickle has at most as many steps as bytes.
//!
//! Instructions: `Lib/pickletools.py` of CPython documents them.

use std::sync::Arc;

use super::PickleError;
use super::TENSORS_MAX;
use super::read::{Storage, Tensor};
use larder_types::dtype::DType;

type Result<T> = std::result::Result<T, PickleError>;

/// Values on the stack: a batch of list entries, which Python cuts off at 1000, and some more.
const STACK_MAX: usize = 1 << 12;

/// Entries of the memo: a tensor takes 9 at most.
const MEMO_MAX: usize = 16 * TENSORS_MAX;

/// Letters of a refused name that an error repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// The names a pickle of tensors refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch.storage._load_from_bytes`.
    LoadFromBytes,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch.HalfStorage` and the like.
    StorageClass(DType),
}

/// A value on the stack or in the memo.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Mark,
    None,
    Bool(bool),
    Int(i128),
    Text(&'a str),
    Bytes(&'a [u8]),
    Global(Global),
    /// Entries and the levels of tuples among them.
    Tuple(Arc<[Value<'a>]>, u8),
    /// Entries are tensors or text.
    List(Vec<Value<'a>>),
    /// Entries are plain; a dictionary as a value is dropped.
    Dict(Vec<(&'a str, Value<'a>)>),
    EmptyOrderedDict,
    Storage(Storage<'a>),
    Tensor(Arc<Tensor<'a>>),
    /// A persistent id, as the entries of its tuple.
    Persistent(Arc<[Value<'a>]>),
    /// A value that must not be used, such as a list that is still being filled.
    Opaque,
}

/// Levels of tuples: the arguments of a tensor hold its shape.
const TUPLE_LEVELS_MAX: u8 = 2;

/// Which of the two kinds of pickle is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// The pickle of the list, in protocol 4 or 5.
    Outer,
    /// A pickle inside the legacy stream of a storage, in protocol 2.
    Inner,
}

/// Reads one pickle.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    layer: Layer,
    stack: Vec<Value<'a>>,
    memo: Vec<Value<'a>>,
    calls: usize,
}

/// Runs one pickle at the front of `bytes`; returns what it built and the bytes it took.
pub(super) fn run(bytes: &[u8], layer: Layer) -> Result<(Value<'_>, usize)> {
    let mut machine = Machine { bytes, at: 0, layer, stack: Vec::new(), memo: Vec::new(), calls: 0 };
    let protocols = if layer == Layer::Outer { 4..=5 } else { 2..=2 };
    if machine.byte()? != 0x80 || !protocols.contains(&machine.byte()?) {
        return Err(PickleError::malformed("it does not begin with the expected protocol number"));
    }
    loop {
        let at = machine.at;
        match machine.byte()? {
            b'.' => break,
            opcode => machine.step(opcode, at)?,
        }
    }
    match (machine.stack.pop(), machine.stack.is_empty()) {
        (Some(value), true) => Ok((value, machine.at)),
        _ => Err(PickleError::malformed("it does not end with one value")),
    }
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(PickleError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian unsigned number of `bytes` bytes.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Bytes after a length of `length_bytes` bytes.
    fn counted(&mut self, length_bytes: usize) -> Result<&'a [u8]> {
        let count = usize::try_from(self.number(length_bytes)?).map_err(|_| PickleError::Truncated)?;
        self.take(count)
    }

    fn text(&mut self, length_bytes: usize) -> Result<&'a str> {
        as_text(self.counted(length_bytes)?)
    }

    /// A line of text, without its end.
    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = as_text(self.take(end)?)?;
        self.at += 1;
        Ok(line)
    }

    /// A signed number of up to 16 bytes after its length.
    fn long(&mut self) -> Result<i128> {
        let bytes = self.counted(1)?;
        if bytes.len() > size_of::<i128>() {
            return Err(PickleError::malformed("a number has too many digits"));
        }
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut number = [if negative { 0xff } else { 0 }; size_of::<i128>()];
        number[..bytes.len()].copy_from_slice(bytes);
        Ok(i128::from_le_bytes(number))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() >= STACK_MAX {
            return Err(PickleError::TooMany { what: "values on the stack", limit: STACK_MAX });
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        match self.stack.pop() {
            None | Some(Value::Mark) => Err(PickleError::malformed("a value is missing")),
            Some(value) => Ok(value),
        }
    }

    /// Removes and returns the values above the last mark, and the mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let mark = mark.ok_or(PickleError::malformed("a mark is missing"))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn step(&mut self, opcode: u8, at: usize) -> Result<()> {
        let value = match opcode {
            b'(' => Value::Mark,
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(i128::from(self.number(1)?)),
            b'M' => Value::Int(i128::from(self.number(2)?)),
            b'J' => Value::Int(i128::from((self.number(4)? as u32).cast_signed())),
            0x8a => Value::Int(self.long()?),
            0x8c => Value::Text(self.text(1)?),
            b'X' => Value::Text(self.text(4)?),
            b'C' => Value::Bytes(self.counted(1)?),
            b'B' => Value::Bytes(self.counted(4)?),
            0x8e => Value::Bytes(self.counted(8)?),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b')' => tuple(Vec::new())?,
            0x85 => self.short_tuple(1)?,
            0x86 => self.short_tuple(2)?,
            0x87 => self.short_tuple(3)?,
            b't' => tuple(self.pop_to_mark()?)?,
            0x93 => self.stack_global()?,
            b'c' => Value::Global(global(self.line()?, self.line()?)?),
            b'h' => self.remembered(1)?,
            b'j' => self.remembered(4)?,
            b'R' if self.layer == Layer::Outer => self.call()?,
            b'Q' if self.layer == Layer::Inner => self.persistent()?,
            _ => return self.step_without_value(opcode, at),
        };
        self.push(value)
    }

    fn step_without_value(&mut self, opcode: u8, at: usize) -> Result<()> {
        match opcode {
            // A frame is only a hint for readers of files.
            0x95 => self.number(8).map(drop),
            0x94 => self.remember(self.memo.len()),
            b'q' => self.number(1).and_then(|place| self.remember(place as usize)),
            b'r' => self.number(4).and_then(|place| self.remember(place as usize)),
            b'a' => {
                let entry = self.pop()?;
                self.append(vec![entry])
            }
            b'e' => {
                let entries = self.pop_to_mark()?;
                self.append(entries)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])
            }
            b'u' => {
                let pairs = self.pop_to_mark()?;
                self.set(pairs)
            }
            _ => Err(PickleError::Opcode { opcode, at }),
        }
    }

    fn short_tuple(&mut self, count: usize) -> Result<Value<'a>> {
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(self.pop()?);
        }
        entries.reverse();
        tuple(entries)
    }

    fn stack_global(&mut self) -> Result<Value<'a>> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => Ok(Value::Global(global(module, name)?)),
            _ => Err(PickleError::malformed("a name is not text")),
        }
    }

    /// Stores the top value in the memo, at the next index or over an earlier one.
    fn remember(&mut self, place: usize) -> Result<()> {
        let value = match self.stack.last() {
            None | Some(Value::Mark) => return Err(PickleError::malformed("a value is missing")),
            // These are filled after they were stored; the early copy must not be used.
            Some(Value::List(_) | Value::Dict(_)) => Value::Opaque,
            Some(value) => value.clone(),
        };
        if place >= MEMO_MAX {
            return Err(PickleError::TooMany { what: "remembered values", limit: MEMO_MAX });
        }
        if place == self.memo.len() {
            self.memo.push(value);
        } else {
            let out_of_order = PickleError::malformed("a value is remembered out of order");
            *self.memo.get_mut(place).ok_or(out_of_order)? = value;
        }
        Ok(())
    }

    fn remembered(&mut self, place_bytes: usize) -> Result<Value<'a>> {
        let place = self.number(place_bytes)? as usize;
        self.memo.get(place).cloned().ok_or(PickleError::malformed("a value was never remembered"))
    }

    fn append(&mut self, entries: Vec<Value<'a>>) -> Result<()> {
        let Some(Value::List(list)) = self.stack.last_mut() else {
            return Err(PickleError::malformed("something is appended to what is no list"));
        };
        if list.len() + entries.len() > TENSORS_MAX {
            return Err(PickleError::TooMany { what: "tensors", limit: TENSORS_MAX });
        }
        if !entries.iter().all(|entry| matches!(entry, Value::Tensor(_) | Value::Text(_))) {
            return Err(PickleError::malformed("the list holds something else"));
        }
        list.extend(entries);
        Ok(())
    }

    fn set(&mut self, pairs: Vec<Value<'a>>) -> Result<()> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            return Err(PickleError::malformed("something is set in what is no dictionary"));
        };
        let mut pairs = pairs.into_iter();
        while let Some(key) = pairs.next() {
            let (Value::Text(key), Some(value)) = (key, pairs.next()) else {
                return Err(PickleError::malformed("a dictionary has an odd entry"));
            };
            let plain = matches!(value, Value::Int(_) | Value::Bool(_) | Value::Text(_));
            dict.push((key, if plain { value } else { Value::Opaque }));
        }
        Ok(())
    }

    /// Builds the value that calling one of the known names would return.
    fn call(&mut self) -> Result<Value<'a>> {
        // Two more per tensor: its storage and its empty dictionary.
        self.calls += 1;
        if self.calls > 3 * TENSORS_MAX {
            return Err(PickleError::TooMany { what: "tensors", limit: TENSORS_MAX });
        }
        let (Value::Tuple(arguments, _), Value::Global(global)) = (self.pop()?, self.pop()?) else {
            return Err(PickleError::malformed("something is called that cannot be"));
        };
        match (global, &*arguments) {
            (Global::LoadFromBytes, [Value::Bytes(bytes)]) => Ok(Value::Storage(Storage::read(bytes)?)),
            (Global::OrderedDict, []) => Ok(Value::EmptyOrderedDict),
            (Global::RebuildTensor, arguments) => Ok(Value::Tensor(Arc::new(Tensor::build(arguments)?))),
            _ => Err(PickleError::malformed("a call has unexpected arguments")),
        }
    }

    fn persistent(&mut self) -> Result<Value<'a>> {
        match self.pop()? {
            Value::Tuple(entries, _) => Ok(Value::Persistent(entries)),
            _ => Err(PickleError::malformed("a persistent id is no tuple")),
        }
    }
}

fn as_text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| PickleError::malformed("a text is not UTF-8"))
}

fn tuple(entries: Vec<Value<'_>>) -> Result<Value<'_>> {
    let mut levels = 1;
    for entry in &entries {
        match entry {
            Value::Tuple(_, below) => levels = levels.max(below + 1),
            Value::List(_) | Value::Dict(_) | Value::Persistent(_) | Value::Mark => {
                return Err(PickleError::malformed("a tuple holds something else"));
            }
            _ => {}
        }
    }
    if levels > TUPLE_LEVELS_MAX {
        return Err(PickleError::malformed("tuples are nested too deeply"));
    }
    Ok(Value::Tuple(entries.into(), levels))
}

fn global(module: &str, name: &str) -> Result<Global> {
    let storage_class = DType::from_storage_class(name).filter(|_| module == "torch");
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch.storage", "_load_from_bytes") => Ok(Global::LoadFromBytes),
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        _ => storage_class.map(Global::StorageClass).ok_or_else(|| PickleError::Global {
            module: module.chars().take(QUOTED_CHARS_MAX).collect(),
            name: name.chars().take(QUOTED_CHARS_MAX).collect(),
        }),
    }
}
