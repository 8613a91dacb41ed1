//! Chunks inside messages as MessagePack, in place of pickles: clients from 0.5.7 on.
//!
//! A worker with one group of layers sends and receives `{version: 1, tensors: [{dtype, shape, data}]}`, one tensor for
//! each chunk of the range. With several groups it is `{version: 1, groups: [{chunk_indices, tensors}]}`: each group has
//! some chunks of the range, in order. What a tensor has to be is known from the registration, so a map is read against
//! the layouts of the worker's groups, and everything else is refused: other fields, counts, element types, shapes and
//! sizes. Limits: [`TENSORS_MAX`], [`TENSOR_BYTES_MAX`], [`TOTAL_BYTES_MAX`].

use bytes::Bytes;
use larder_types::Layout;

use crate::codec::GROUPS_MAX;
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};

/// The byte that a map begins with; a pickle begins with 0x80.
pub const FIRST_BYTE: u8 = 0x82;

/// Tensors of one map.
pub const TENSORS_MAX: usize = 1 << 16;

/// Bytes of one tensor.
pub const TENSOR_BYTES_MAX: u64 = 2 << 30;

/// Bytes of all tensors of one map.
pub const TOTAL_BYTES_MAX: u64 = 16 << 30;

/// The version of the form.
const VERSION: u64 = 1;

/// Axes of one tensor.
const AXES_MAX: usize = 16;

/// Bytes that a tensor takes besides its elements, at most.
const OVERHEAD_BYTES: usize = 64 + AXES_MAX * 9;

/// Bytes that are not a map of the tensors that the worker registered, or tensors that do not fit into one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorMapError {
    /// Not MessagePack, or of other types.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A field that the map does not have, or not in this place.
    #[error("{structure}: a field that is not known, or there twice")]
    Field {
        /// Where it is.
        structure: &'static str,
    },
    /// Another version of the form.
    #[error("version {found} of the tensors is not {VERSION}")]
    Version {
        /// What was sent.
        found: u64,
    },
    /// Too few or too many.
    #[error("{found} {what} where {expected} are expected")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Another element type, shape or size than the worker registered.
    #[error("a tensor of group {group} has another {what} than registered")]
    Layout {
        /// Which group.
        group: usize,
        /// What differs.
        what: &'static str,
    },
    /// The chunks of a group are not in order, or outside the range.
    #[error("the chunk indices of group {group} do not increase below {chunks}")]
    Indices {
        /// Which group.
        group: usize,
        /// Chunks of the range.
        chunks: u32,
    },
    /// More tensors or bytes than one map may have.
    #[error("the tensors are more or larger than one message may hold")]
    TooLarge,
}

type Result<T> = std::result::Result<T, TensorMapError>;

/// The elements of one chunk and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkBytes<'a> {
    /// Which group of the worker, by its place among them.
    pub group: usize,
    /// Which chunk, counted from the start of the range.
    pub chunk: u32,
    /// Its elements in row-major order, as many as its layout has.
    pub bytes: &'a [u8],
}

/// Reads the chunks of a range of `chunks` chunks: of a worker with one layout all of them, of one with several those
/// that it sends. They are ordered by group, then by chunk.
///
/// # Errors
/// The bytes are anything else than a map of tensors of these layouts.
pub fn read_chunks<'a>(map: &'a [u8], layouts: &[&Layout], chunks: u32) -> Result<Vec<ChunkBytes<'a>>> {
    let mut reader = Reader::new(map);
    let mut found = Vec::new();
    let what = if layouts.len() == 1 { "tensors" } else { "groups" };
    let mut version = None;
    let mut is_read = false;
    for _ in 0..reader.map("tensors")? {
        match reader.str("tensors")? {
            "version" if version.is_none() => version = Some(reader.u64("version")?),
            name if name == what && !is_read => {
                is_read = true;
                match layouts {
                    [layout] => read_single(&mut reader, layout, chunks, &mut found)?,
                    _ => read_groups(&mut reader, layouts, chunks, &mut found)?,
                }
            }
            _ => return Err(TensorMapError::Field { structure: "tensors" }),
        }
    }
    reader.finish("tensors")?;
    match required("version", version)? {
        VERSION => {}
        found => return Err(TensorMapError::Version { found }),
    }
    required(what, is_read.then_some(found)).map_err(TensorMapError::from)
}

fn read_single<'a>(
    reader: &mut Reader<'a>,
    layout: &Layout,
    chunks: u32,
    found: &mut Vec<ChunkBytes<'a>>,
) -> Result<()> {
    let tensors = read_tensors(reader, (0, layout), 0)?;
    check_count("tensors", chunks as usize, tensors.len())?;
    found.extend((0..chunks).zip(tensors).map(|(chunk, bytes)| ChunkBytes { group: 0, chunk, bytes }));
    Ok(())
}

fn read_groups<'a>(
    reader: &mut Reader<'a>,
    layouts: &[&Layout],
    chunks: u32,
    found: &mut Vec<ChunkBytes<'a>>,
) -> Result<()> {
    check_count("groups", layouts.len(), reader.array_up_to("groups", GROUPS_MAX)?)?;
    for (group, layout) in layouts.iter().enumerate() {
        let (mut indices, mut tensors) = (None, None);
        for _ in 0..reader.map("group")? {
            match reader.str("group")? {
                "chunk_indices" if indices.is_none() => indices = Some(read_indices(reader, group, chunks)?),
                "tensors" if tensors.is_none() => {
                    tensors = Some(read_tensors(reader, (group, layout), found.len())?);
                }
                _ => return Err(TensorMapError::Field { structure: "group" }),
            }
        }
        let (indices, tensors) = (required("chunk_indices", indices)?, required("tensors", tensors)?);
        check_count("tensors", indices.len(), tensors.len())?;
        let cells = indices.into_iter().zip(tensors);
        found.extend(cells.map(|(chunk, bytes)| ChunkBytes { group, chunk, bytes }));
    }
    let bytes = found.iter().map(|cell| cell.bytes.len() as u64).sum::<u64>();
    if bytes > TOTAL_BYTES_MAX { Err(TensorMapError::TooLarge) } else { Ok(()) }
}

fn read_indices(reader: &mut Reader<'_>, group: usize, chunks: u32) -> Result<Vec<u32>> {
    let mut indices = Vec::new();
    for _ in 0..reader.array_up_to("chunk_indices", TENSORS_MAX)? {
        let index = u32::try_from(reader.u64("chunk_indices")?).ok().filter(|index| *index < chunks);
        let index = index.filter(|index| indices.last().is_none_or(|last| last < index));
        indices.push(index.ok_or(TensorMapError::Indices { group, chunks })?);
    }
    Ok(indices)
}

/// Reads a list of tensors of one layout. `before`: tensors of the map that were read.
fn read_tensors<'a>(
    reader: &mut Reader<'a>,
    (group, layout): (usize, &Layout),
    before: usize,
) -> Result<Vec<&'a [u8]>> {
    let count = reader.array_up_to("tensors", TENSORS_MAX)?;
    let total = layout.bytes().checked_mul(count as u64);
    let is_small = before + count <= TENSORS_MAX && layout.bytes() <= TENSOR_BYTES_MAX;
    if !is_small || total.is_none_or(|total| total > TOTAL_BYTES_MAX) {
        return Err(TensorMapError::TooLarge);
    }
    let mut tensors = Vec::new();
    for _ in 0..count {
        tensors.push(read_tensor(reader, group, layout)?);
    }
    Ok(tensors)
}

fn read_tensor<'a>(reader: &mut Reader<'a>, group: usize, layout: &Layout) -> Result<&'a [u8]> {
    let other = |what| TensorMapError::Layout { group, what };
    let (mut dtype, mut shape, mut data) = (None, None, None);
    for _ in 0..reader.map("tensor")? {
        match reader.str("tensor")? {
            "dtype" if dtype.is_none() => dtype = Some(reader.str("dtype")? == layout.dtype().name()),
            "shape" if shape.is_none() => shape = Some(is_shape(reader, layout.shape())?),
            "data" if data.is_none() => data = Some(reader.bin("data")?),
            _ => return Err(TensorMapError::Field { structure: "tensor" }),
        }
    }
    let data = required("data", data)?;
    if !required("dtype", dtype)? {
        return Err(other("element type"));
    }
    if !required("shape", shape)? {
        return Err(other("shape"));
    }
    if data.len() as u64 != layout.bytes() {
        return Err(other("size"));
    }
    Ok(data)
}

/// Whether a list of sizes is that of `expected`.
fn is_shape(reader: &mut Reader<'_>, expected: &[u64]) -> std::result::Result<bool, DecodeError> {
    let axes = reader.array_up_to("shape", AXES_MAX)?;
    let mut is_same = axes == expected.len();
    for axis in 0..axes {
        is_same &= Some(&reader.u64("shape")?) == expected.get(axis);
    }
    Ok(is_same)
}

fn check_count(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(TensorMapError::Count { what, expected, found }) }
}

/// Writes a map of tensors as stock servers do.
///
/// The head comes first: of one group [`TensorMapWriter::single`], of several [`TensorMapWriter::grouped`] and before the
/// tensors of each [`TensorMapWriter::begin_group`].
#[derive(Debug)]
pub struct TensorMapWriter {
    out: Writer,
    tensors: usize,
    bytes: u64,
}

impl TensorMapWriter {
    /// A map of so many tensors, which have to follow.
    pub fn single(tensors: usize) -> Self {
        Self::begin("tensors", tensors)
    }

    /// A map of so many groups, which have to follow.
    pub fn grouped(groups: usize) -> Self {
        Self::begin("groups", groups)
    }

    fn begin(field: &str, count: usize) -> Self {
        let mut out = Writer::new();
        out.map(2);
        out.str("version");
        out.uint(VERSION);
        out.str(field);
        out.array(count);
        Self { out, tensors: 0, bytes: 0 }
    }

    /// Begins a group of these chunks of the range; a tensor of each has to follow.
    pub fn begin_group(&mut self, chunk_indices: &[u64]) {
        self.out.map(2);
        self.out.str("chunk_indices");
        self.out.uints(chunk_indices);
        self.out.str("tensors");
        self.out.array(chunk_indices.len());
    }

    /// Makes room for tensors of so many bytes in all.
    pub fn reserve(&mut self, tensors: usize, bytes: usize) {
        self.out.reserve(bytes.saturating_add(tensors.saturating_mul(OVERHEAD_BYTES)));
    }

    /// Appends a tensor; `fill` writes its elements in row-major order. The bytes it is given have the size of the
    /// layout and are zero.
    ///
    /// # Errors
    /// The tensor, or all of them, are too large for a map.
    pub fn push_with(&mut self, layout: &Layout, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let bytes = usize::try_from(layout.bytes()).ok().filter(|_| layout.bytes() <= TENSOR_BYTES_MAX);
        let total = self.bytes.saturating_add(layout.bytes());
        let fits = self.tensors < TENSORS_MAX && total <= TOTAL_BYTES_MAX && layout.shape().len() <= AXES_MAX;
        let bytes = bytes.filter(|_| fits).ok_or(TensorMapError::TooLarge)?;
        (self.tensors, self.bytes) = (self.tensors + 1, total);
        self.out.map(3);
        self.out.str("dtype");
        self.out.str(layout.dtype().name());
        self.out.str("shape");
        self.out.uints(layout.shape());
        self.out.str("data");
        self.out.bin_with(bytes, fill);
        Ok(())
    }

    /// The map.
    pub fn finish(self) -> Bytes {
        self.out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use larder_types::dtype::DType;

    use super::*;

    fn layout(shape: &[u64], dtype: DType) -> Layout {
        Layout::new(shape, dtype).unwrap()
    }

    fn full() -> Layout {
        layout(&[2, 4, 3], DType::BFloat16)
    }

    fn state() -> Layout {
        layout(&[1, 4, 5], DType::Int8)
    }

    fn single(layout: &Layout, tensors: u8) -> Vec<u8> {
        let mut writer = TensorMapWriter::single(usize::from(tensors));
        for i in 0..tensors {
            writer.push_with(layout, |out| out.fill(i)).unwrap();
        }
        writer.finish().to_vec()
    }

    fn grouped(groups: &[(&Layout, &[u64])]) -> Vec<u8> {
        let mut writer = TensorMapWriter::grouped(groups.len());
        for (group, (layout, chunks)) in groups.iter().enumerate() {
            writer.begin_group(chunks);
            for chunk in *chunks {
                let byte = (group * 16) as u8 + *chunk as u8;
                writer.push_with(layout, |out| out.fill(byte)).unwrap();
            }
        }
        writer.finish().to_vec()
    }

    #[test]
    fn chunks_round_trip() {
        let map = single(&full(), 3);
        assert_eq!(map[0], FIRST_BYTE);
        let read = read_chunks(&map, &[&full()], 3).unwrap();
        assert_eq!(read.iter().map(|c| (c.group, c.chunk)).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
        assert!(read.iter().all(|c| c.bytes == [c.chunk as u8; 48]));

        let map = grouped(&[(&full(), &[0, 1, 2]), (&state(), &[2]), (&state(), &[])]);
        let read = read_chunks(&map, &[&full(), &state(), &state()], 3).unwrap();
        let cells: Vec<_> = read.iter().map(|c| (c.group, c.chunk, c.bytes.len(), c.bytes[0])).collect();
        assert_eq!(cells, [(0, 0, 48, 0), (0, 1, 48, 1), (0, 2, 48, 2), (1, 2, 20, 18)]);
    }

    #[test]
    fn refuses_other_counts_and_layouts() {
        let map = single(&full(), 3);
        let counted = |expected| TensorMapError::Count { what: "tensors", expected, found: 3 };
        assert_eq!(read_chunks(&map, &[&full()], 4), Err(counted(4)));
        assert_eq!(read_chunks(&map, &[&full()], 2), Err(counted(2)));
        for (other, what) in [
            (layout(&[2, 4, 3], DType::Float16), "element type"),
            (layout(&[4, 2, 3], DType::BFloat16), "shape"),
            (layout(&[2, 4, 3, 1], DType::BFloat16), "shape"),
        ] {
            let refused = Err(TensorMapError::Layout { group: 0, what });
            assert_eq!(read_chunks(&map, &[&other], 3), refused, "{other:?}");
        }
        let mut short = single(&full(), 1);
        let head = short.len() - 50;
        assert_eq!(short[head..head + 2], [0xc4, 48]);
        short[head + 1] = 47;
        short.pop();
        let refused = Err(TensorMapError::Layout { group: 0, what: "size" });
        assert_eq!(read_chunks(&short, &[&full()], 1), refused);
    }

    #[test]
    fn refuses_groups_that_are_not_those_of_the_worker() {
        let (full, state) = (&full(), &state());
        let layouts = [full, state];
        for indices in [&[1, 0][..], &[1, 1], &[0, 3]] {
            let map = grouped(&[(full, indices), (state, &[])]);
            let refused = Err(TensorMapError::Indices { group: 0, chunks: 3 });
            assert_eq!(read_chunks(&map, &layouts, 3), refused, "{indices:?}");
        }
        let swapped = grouped(&[(state, &[0]), (full, &[0])]);
        assert!(matches!(read_chunks(&swapped, &layouts, 3), Err(TensorMapError::Layout { group: 0, .. })));
        for groups in [1, 3] {
            let map = grouped(&vec![(full, &[0][..]); groups]);
            let refused = Err(TensorMapError::Count { what: "groups", expected: 2, found: groups });
            assert_eq!(read_chunks(&map, &layouts, 3), refused);
        }
        // A map of one form is not read as the other.
        let field = Err(TensorMapError::Field { structure: "tensors" });
        assert_eq!(read_chunks(&single(full, 3), &layouts, 3), field);
        assert_eq!(read_chunks(&grouped(&[(full, &[0, 1, 2])]), &[full], 3), field);
    }

    #[test]
    fn refuses_other_fields_and_versions() {
        let layout = layout(&[1], DType::UInt8);
        let map = |version: u64, extra: &[&str]| {
            let mut writer = Writer::new();
            writer.map(2 + extra.len());
            writer.str("version");
            writer.uint(version);
            writer.str("tensors");
            writer.array(0);
            extra.iter().for_each(|name| {
                writer.str(name);
                writer.uint(1);
            });
            writer.into_bytes()
        };
        assert_eq!(read_chunks(&map(1, &[]), &[&layout], 0), Ok(vec![]));
        assert_eq!(read_chunks(&map(2, &[]), &[&layout], 0), Err(TensorMapError::Version { found: 2 }));
        for extra in ["shape", "version"] {
            let refused = Err(TensorMapError::Field { structure: "tensors" });
            assert_eq!(read_chunks(&map(1, &[extra]), &[&layout], 0), refused, "{extra}");
        }
        let trailing = [&map(1, &[])[..], &[0]].concat();
        assert!(read_chunks(&trailing, &[&layout], 0).is_err());
        assert!(read_chunks(b"\x81\xa7version\x01", &[&layout], 0).is_err(), "no tensors");
        assert!(read_chunks(b"\x81\xa7tensors\x90", &[&layout], 0).is_err(), "no version");
    }

    #[test]
    fn every_cut_is_an_error() {
        let map = grouped(&[(&full(), &[0, 1]), (&state(), &[1])]);
        for len in 0..map.len() {
            assert!(read_chunks(&map[..len], &[&full(), &state()], 2).is_err(), "{len}");
        }
    }
}
