//! Reads tensors from a pickle without copying their elements.

use std::sync::Arc;

use super::PickleError;
use super::machine::{Global, Layer, Value, run};
use crate::codec::TENSOR_AXES_MAX;
use larder_types::dtype::{DType, tensor_bytes};

type Result<T> = std::result::Result<T, PickleError>;

/// First pickle of torch's legacy stream.
pub(super) const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// Second pickle of torch's legacy stream.
pub(super) const LEGACY_VERSION: i128 = 1001;

/// Reads `pickle.dumps(list_of_tensors)`.
///
/// # Errors
/// The bytes are anything else. Nothing named in them is ever called.
pub fn read_tensors(bytes: &[u8]) -> Result<Vec<Tensor<'_>>> {
    let (value, taken) = run(bytes, Layer::Outer)?;
    if taken != bytes.len() {
        return Err(PickleError::malformed("bytes are left over after it"));
    }
    let Value::List(entries) = value else {
        return Err(PickleError::malformed("it is another object"));
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry {
            Value::Tensor(tensor) => tensors.push(Arc::unwrap_or_clone(tensor)),
            _ => return Err(PickleError::malformed("the list holds something else")),
        }
    }
    Ok(tensors)
}

/// The elements that one or more tensors are views of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> Storage<'a> {
    /// Reads a legacy stream of `torch.save`: five pickles, then the elements.
    pub(super) fn read(stream: &'a [u8]) -> Result<Self> {
        let mut rest = stream;
        let mut next = || -> Result<Value<'a>> {
            let (value, taken) = run(rest, Layer::Inner)?;
            rest = rest.get(taken..).unwrap_or_default();
            Ok(value)
        };
        let (magic, version, system, id, keys) = (next()?, next()?, next()?, next()?, next()?);
        if !matches!((magic, version), (Value::Int(LEGACY_MAGIC), Value::Int(LEGACY_VERSION))) {
            return Err(PickleError::malformed("a storage has another magic number or version"));
        }
        check_system(&system)?;
        let (dtype, key, count) = storage_id(&id)?;
        match &keys {
            Value::List(keys) if matches!(keys[..], [Value::Text(only)] if only == key) => {}
            _ => return Err(PickleError::malformed("a stream holds other storages than it declares")),
        }
        let (stored_count, bytes) = rest.split_first_chunk().ok_or(PickleError::Truncated)?;
        if i128::from(i64::from_le_bytes(*stored_count)) != count {
            return Err(PickleError::malformed("a storage has two sizes"));
        }
        match usize::try_from(count).ok().and_then(|count| count.checked_mul(dtype.width())) {
            Some(expected) if expected == bytes.len() => Ok(Self { dtype, bytes }),
            _ => Err(PickleError::malformed("a storage has another size than it declares")),
        }
    }
}

/// Checks that elements are little-endian.
fn check_system(system: &Value<'_>) -> Result<()> {
    let Value::Dict(entries) = system else {
        return Err(PickleError::malformed("a storage does not describe its system"));
    };
    match entries.iter().find(|(key, _)| *key == "little_endian") {
        Some((_, Value::Bool(true))) => Ok(()),
        _ => Err(PickleError::malformed("a storage is not little-endian")),
    }
}

/// Element type, key and count out of a storage's persistent id.
fn storage_id<'a>(id: &Value<'a>) -> Result<(DType, &'a str, i128)> {
    let Value::Persistent(entries) = id else {
        return Err(PickleError::malformed("a stream holds no storage"));
    };
    match entries[..] {
        [
            Value::Text("storage"),
            Value::Global(Global::StorageClass(dtype)),
            Value::Text(key),
            Value::Text("cpu"),
            Value::Int(count),
            Value::None,
        ] => Ok((dtype, key, count)),
        _ => Err(PickleError::malformed("a storage is described in another way, or is not on the CPU")),
    }
}

/// A tensor in a pickle: a view of the elements in the pickle's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor<'a> {
    dtype: DType,
    shape: Vec<u64>,
    /// Elements from one index of an axis to the next.
    stride: Vec<u64>,
    /// From the first element on.
    bytes: &'a [u8],
    byte_len: u64,
}

impl<'a> Tensor<'a> {
    /// Takes the arguments of `torch._utils._rebuild_tensor_v2`.
    pub(super) fn build(arguments: &[Value<'a>]) -> Result<Self> {
        let [
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(shape, _),
            Value::Tuple(stride, _),
            Value::Bool(false),
            Value::EmptyOrderedDict,
        ] = arguments
        else {
            return Err(PickleError::malformed("a tensor is described in another way"));
        };
        let outside = || PickleError::malformed("a tensor reaches outside its storage");
        let (shape, stride) = (sizes(shape)?, sizes(stride)?);
        if shape.len() != stride.len() {
            return Err(PickleError::malformed("a tensor has not as many strides as axes"));
        }
        let byte_len = tensor_bytes(storage.dtype, &shape).ok_or_else(outside)?;
        let width = storage.dtype.width() as u64;
        let offset = u64::try_from(*offset).ok().and_then(|offset| offset.checked_mul(width));
        let bytes = offset.and_then(|offset| storage.bytes.get(usize::try_from(offset).ok()?..));
        let bytes = bytes.ok_or_else(outside)?;
        let tensor = Self { dtype: storage.dtype, shape, stride, bytes, byte_len };
        let span = tensor.span().and_then(|elements| elements.checked_mul(width));
        match span {
            Some(span) if span <= bytes.len() as u64 => Ok(tensor),
            _ => Err(outside()),
        }
    }

    /// Elements from the first to behind the last; 0 for an empty tensor.
    fn span(&self) -> Option<u64> {
        if self.byte_len == 0 {
            return Some(0);
        }
        let mut axes = self.shape.iter().zip(&self.stride);
        axes.try_fold(1_u64, |span, (size, stride)| span.checked_add((size - 1).checked_mul(*stride)?))
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Size of each axis.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Bytes of its elements in row-major order. Compare it with the expected size before allocating: a
    /// view may repeat its elements, so this is not bounded by the size of the pickle.
    pub const fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// The elements as they lie in the pickle, if that is row-major order without gaps.
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        let mut runs = self.runs();
        match (runs.next(), runs.next()) {
            (None, _) => Some(&[]),
            (Some(run), None) => Some(run),
            (Some(_), Some(_)) => None,
        }
    }

    /// The elements in row-major order, as the longest runs of bytes that lie together.
    pub fn runs(&self) -> Runs<'_, 'a> {
        if self.byte_len == 0 {
            return Runs { tensor: self, run_bytes: 0, place: 0, index: Vec::new(), done: true };
        }
        let mut run_elements = 1;
        let mut outer_axes = self.shape.len();
        while let Some(axis) = outer_axes.checked_sub(1) {
            if self.shape[axis] != 1 && self.stride[axis] != run_elements {
                break;
            }
            run_elements *= self.shape[axis];
            outer_axes = axis;
        }
        Runs {
            tensor: self,
            run_bytes: run_elements as usize * self.dtype.width(),
            place: 0,
            index: vec![0; outer_axes],
            done: false,
        }
    }

    /// Copies the elements in row-major order to `out`.
    ///
    /// # Errors
    /// `out` does not have the size of the tensor.
    pub fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 != self.byte_len {
            return Err(PickleError::Size { expected: self.byte_len, found: out.len() });
        }
        let mut rest = out;
        for run in self.runs() {
            let (front, back) = rest.split_at_mut(run.len());
            front.copy_from_slice(run);
            rest = back;
        }
        Ok(())
    }
}

/// Sizes or strides of a tensor.
fn sizes(values: &[Value<'_>]) -> Result<Vec<u64>> {
    if values.len() > TENSOR_AXES_MAX {
        return Err(PickleError::TooMany { what: "axes", limit: TENSOR_AXES_MAX });
    }
    let size = |value: &Value<'_>| match value {
        Value::Int(size) => u64::try_from(*size).ok(),
        _ => None,
    };
    let sizes: Option<Vec<u64>> = values.iter().map(size).collect();
    sizes.ok_or(PickleError::malformed("a tensor has a size that is no number"))
}

/// Iterates over the bytes of a tensor, see [`Tensor::runs`].
#[derive(Clone, Debug)]
pub struct Runs<'t, 'a> {
    tensor: &'t Tensor<'a>,
    run_bytes: usize,
    /// Element at which the next run begins.
    place: usize,
    /// Position of the next run on the axes that runs do not cover.
    index: Vec<u64>,
    done: bool,
}

impl<'a> Iterator for Runs<'_, 'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.done {
            return None;
        }
        let start = self.place * self.tensor.dtype.width();
        // The tensor was checked to lie inside its storage, and no run reaches behind its last element.
        let run = self.tensor.bytes.get(start..start + self.run_bytes)?;
        self.done = !self.advance();
        Some(run)
    }
}

impl Runs<'_, '_> {
    /// Moves to the next run; false behind the last. All places are elements of the tensor, so the sums
    /// stay within its span.
    fn advance(&mut self) -> bool {
        for axis in (0..self.index.len()).rev() {
            let stride = self.tensor.stride[axis] as usize;
            self.index[axis] += 1;
            if self.index[axis] < self.tensor.shape[axis] {
                self.place += stride;
                return true;
            }
            self.place -= stride * (self.tensor.shape[axis] - 1) as usize;
            self.index[axis] = 0;
        }
        false
    }
}
