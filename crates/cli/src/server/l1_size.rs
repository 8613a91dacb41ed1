//! How large L1 may be on this machine. Pure: the measuring is done in [`super::machine`].

use larder_server::config::{GIB, MIB};

use super::machine::Machine;

/// Sizes that nobody chose lie between these, and are whole multiples of the step.
const SIZE_MIN: u64 = GIB;
const SIZE_MAX: u64 = 20 * GIB;
const SIZE_STEP: u64 = 64 * MIB;

/// One page of the kernel's huge-page reserve.
pub(crate) const HUGEPAGE_BYTES: u64 = 2 * MIB;

/// The size of L1 when nobody chose one: half of what is free, within reason. `shm_free` only counts where L1 lives
/// in shared memory.
pub(crate) fn unchosen_bytes(memory_available: u64, shm_free: Option<u64>) -> u64 {
    let free = shm_free.map_or(memory_available, |shm_free| shm_free.min(memory_available));
    let half = (free / 2).clamp(SIZE_MIN, SIZE_MAX);
    half - half % SIZE_STEP
}

/// Why `/dev/shm` cannot hold `bytes`, with the remedies; `None` if it can.
pub(crate) fn shm_shortage(bytes: u64, machine: &Machine) -> Option<String> {
    (bytes > machine.shm_free).then(|| {
        format!(
            "/dev/shm has {} free and L1 is to have {}; give it more room (docker run --shm-size={}), choose a smaller \
             --l1-size-gb, or do without shared memory (--shm-name \"\", or --shm-fallback)",
            readable(machine.shm_free),
            readable(bytes),
            docker_size(bytes)
        )
    })
}

/// Why the huge-page reserve cannot hold `bytes`, with the remedies; `None` if it can.
pub(crate) fn hugepage_shortage(bytes: u64, machine: &Machine) -> Option<String> {
    let needed = bytes.div_ceil(HUGEPAGE_BYTES);
    (needed > machine.hugepages_free).then(|| {
        format!(
            "Insufficient hugepages: {} free, {needed} required (2 MiB each); raise vm.nr_hugepages, choose a smaller \
             --l1-size-gb, or leave --l1-use-hugepages out",
            machine.hugepages_free
        )
    })
}

/// A size for people.
pub(crate) fn readable(bytes: u64) -> String {
    let (unit, name) = if bytes >= GIB { (GIB, "GiB") } else { (MIB, "MiB") };
    let number = format!("{:.2}", bytes as f64 / unit as f64);
    format!("{} {name}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// A size as docker takes it, with a little room for others.
fn docker_size(bytes: u64) -> String {
    format!("{}g", (bytes + 256 * MIB).div_ceil(GIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_choosing_gets_half_of_what_is_free_within_reason() {
        let cases = [
            // memory, shared memory, size
            (64 * GIB, Some(32 * GIB), 16 * GIB),
            (16 * GIB, Some(32 * GIB), 8 * GIB),
            (512 * GIB, Some(512 * GIB), 20 * GIB),
            (512 * GIB, Some(64 * MIB), GIB),
            (512 * GIB, None, 20 * GIB),
            (0, Some(0), GIB),
            (10 * GIB + 12_345, Some(u64::MAX), 5 * GIB),
            (10 * GIB + 200 * MIB, None, 5 * GIB + 64 * MIB),
        ];
        for (memory, shm, bytes) in cases {
            assert_eq!(unchosen_bytes(memory, shm), bytes, "{memory} {shm:?}");
            assert_eq!(bytes % SIZE_STEP, 0);
        }
    }

    #[test]
    fn a_shortage_names_the_remedies() {
        let machine = Machine { shm_free: 64 * MIB, hugepages_free: 3, ..Machine::default() };
        assert_eq!(shm_shortage(64 * MIB, &machine), None);
        assert_eq!(
            shm_shortage(GIB, &machine).as_deref(),
            Some(
                "/dev/shm has 64 MiB free and L1 is to have 1 GiB; give it more room (docker run --shm-size=2g), choose \
                 a smaller --l1-size-gb, or do without shared memory (--shm-name \"\", or --shm-fallback)"
            )
        );
        assert_eq!(hugepage_shortage(6 * MIB, &machine), None);
        let line = hugepage_shortage(6 * MIB + 1, &machine).expect("too few");
        assert!(line.starts_with("Insufficient hugepages: 3 free, 4 required"), "{line}");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!([readable(1536 * MIB), readable(64 * MIB), readable(0)], ["1.5 GiB", "64 MiB", "0 MiB"]);
    }
}
