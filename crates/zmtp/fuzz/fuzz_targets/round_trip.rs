//! Messages encoded, cut into pieces and decoded come back as they were.
#![no_main]

#[expect(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/common/input.rs"]
mod input;
#[expect(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/common/machine.rs"]
mod machine;

libfuzzer_sys::fuzz_target!(|data: &[u8]| input::round_trip(data));
