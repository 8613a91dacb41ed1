//! Fuzz targets of every decoder that reads bytes from outside: sockets, files, HTTP bodies, flags.
//!
//! `scripts/fuzz` builds this with the feature `libfuzzer`; the environment variable `LARDER_FUZZ_TARGET`
//! then selects the target, and `LARDER_FUZZ_SEEDS` names a directory to write its seeds to before fuzzing
//! starts. Without the feature, `larder-fuzz TARGET FILE...` runs a target once over each file (without files:
//! over its seeds), for example to reproduce a crash, and `larder-fuzz` lists the targets.
//!
//! To add a target, write its two functions in a module below and add a line to [`TARGETS`].

#![cfg_attr(feature = "libfuzzer", no_main)]

mod l2;
mod lab;
mod scratch;
mod server;
mod wire;
mod zmtp;

/// One decoder under test.
struct Target {
    name: &'static str,
    /// Decodes the bytes; panics if an invariant does not hold.
    run: fn(&[u8]),
    /// Inputs to start from.
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: [Target; 15] = [
    Target { name: "wire_request", run: wire::bodies::request, seeds: || wire::corpus().requests },
    Target { name: "wire_response", run: wire::bodies::response, seeds: || wire::corpus().responses },
    Target { name: "wire_grpc", run: wire::bodies::grpc, seeds: || wire::corpus().calls },
    Target { name: "wire_key", run: wire::bodies::key, seeds: || wire::corpus().keys },
    Target { name: "wire_pickle", run: wire::bodies::pickle, seeds: || wire::corpus().pickles },
    Target { name: "wire_tensor_map", run: wire::bodies::tensor_map, seeds: || wire::corpus().tensor_maps },
    Target { name: "file_name", run: wire::bodies::file_name, seeds: || wire::corpus().names },
    Target { name: "zmtp_connection", run: zmtp::input::connection, seeds: zmtp::connection_seeds },
    Target { name: "zmtp_round_trip", run: zmtp::input::round_trip, seeds: zmtp::round_trip_seeds },
    Target { name: "l2_checksums", run: l2::checksums, seeds: l2::checksums_seeds },
    Target { name: "lab_trace", run: lab::trace, seeds: lab::trace_seeds },
    Target { name: "lab_recording", run: lab::recording, seeds: lab::recording_seeds },
    Target { name: "server_adapter", run: server::adapter, seeds: server::adapter_seeds },
    Target { name: "server_quotas", run: server::quotas, seeds: server::quotas_seeds },
    Target { name: "server_http", run: server::http, seeds: server::http_seeds },
];

#[cfg(feature = "libfuzzer")]
mod libfuzzer {
    use std::path::Path;
    use std::sync::LazyLock;

    use super::{TARGETS, Target};

    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var("LARDER_FUZZ_TARGET").expect("LARDER_FUZZ_TARGET names a target");
        TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
    });

    fn write_seeds() {
        let Ok(directory) = std::env::var("LARDER_FUZZ_SEEDS") else { return };
        for (number, seed) in (TARGET.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&directory).join(format!("seed-{number:04}")), seed)
                .expect("LARDER_FUZZ_SEEDS is a directory that can be written");
        }
    }

    libfuzzer_sys::fuzz_target!(init: write_seeds(), |data: &[u8]| (TARGET.run)(data));
}

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return;
    };
    let target = TARGETS.iter().find(|target| target.name == name).expect("no target of this name");
    let mut inputs: Vec<Vec<u8>> =
        arguments.map(|file| std::fs::read(file).expect("the file can be read")).collect();
    if inputs.is_empty() {
        inputs = (target.seeds)();
    }
    inputs.iter().for_each(|input| (target.run)(input));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_accepts_its_seeds_and_their_prefixes() {
        for target in &super::TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                (target.run)(&seed);
                (target.run)(&seed[..seed.len() / 2]);
            }
        }
    }
}
