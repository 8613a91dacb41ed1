//! `tensor_maps.json`: chunks inside messages, as the reference writes them.

use larder_types::Layout;
use larder_types::dtype::DType;
use larder_wire::tensor_map::{TensorMapWriter, read_chunks};
use serde_json::Value;

use crate::support::{array, hex, number, records, text, unhex};

const FILE: &str = "tensor_maps.json";

fn numbers(record: &Value, field: &str) -> Vec<u64> {
    array(record, field).iter().map(|number| number.as_u64().expect("a number")).collect()
}

fn layout(group: &Value) -> Layout {
    let dtype = DType::from_name(text(group, "dtype")).expect("an element type");
    Layout::new(&numbers(group, "shape"), dtype).expect("not empty")
}

#[test]
fn reads_maps_of_the_reference_and_writes_the_same() {
    for record in records(FILE, "vectors") {
        let (note, map) = (text(&record, "note"), unhex(text(&record, "hex")));
        let groups = array(&record, "groups");
        let layouts: Vec<Layout> = groups.iter().map(layout).collect();
        let chunks = u32::try_from(number(&record, "chunks")).expect("few chunks");
        let read = read_chunks(&map, &layouts.iter().collect::<Vec<_>>(), chunks);
        let read = read.unwrap_or_else(|error| panic!("{note}: {error}"));
        let mut writer = match record["single"] == true {
            true => TensorMapWriter::single(read.len()),
            false => TensorMapWriter::grouped(groups.len()),
        };
        let mut read = read.iter();
        for (at, (group, layout)) in groups.iter().zip(&layouts).enumerate() {
            let indices = numbers(group, "chunk_indices");
            if record["single"] != true {
                writer.begin_group(&indices);
            }
            for (chunk, raw) in indices.iter().zip(array(group, "raw")) {
                let cell = read.next().unwrap_or_else(|| panic!("{note}: chunk {chunk} is missing"));
                assert_eq!((cell.group, u64::from(cell.chunk)), (at, *chunk), "{note}");
                assert_eq!(Some(&*hex(cell.bytes)), raw.as_str(), "{note}");
                writer.push_with(layout, |out| out.copy_from_slice(cell.bytes)).expect("a small tensor");
            }
        }
        assert_eq!(read.next(), None, "{note}");
        assert_eq!(hex(&writer.finish()), text(&record, "hex"), "{note}");
    }
}
