//! Arbitrary bytes in arbitrary pieces: no panic, and the pieces make no difference.
#![no_main]

#[expect(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/common/input.rs"]
mod input;
#[expect(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/common/machine.rs"]
mod machine;

libfuzzer_sys::fuzz_target!(|data: &[u8]| input::connection(data));
