//! L1 and its eviction: the flags, or `--l1-manager` instead of them, and whether they fit this machine.

use larder_server::config::l1::{default_shm_name, parse_manager, shm_path};
use larder_server::config::{EvictionConfig, GIB, L1Config, MIB, bytes_from_gib};

use super::flag::FlagSpec;
use super::flags;
use super::machine::{self, Machine};
use super::settings::Settings;
use crate::report::Report;

/// Automatic sizes are between these, and multiples of the step.
const SIZE_MIN: u64 = GIB;
const SIZE_MAX: u64 = 20 * GIB;
const SIZE_STEP: u64 = 64 * MIB;

/// Size of a page of the kernel's huge-page reserve.
const HUGEPAGE_BYTES: u64 = 2 * MIB;

/// L1 and its eviction, for a server whose request port is `port`. `measure` is given the shared-memory name.
pub(super) fn l1(
    settings: &mut Settings,
    port: u16,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) -> (L1Config, EvictionConfig) {
    let hugepages = settings.get(&flags::L1_USE_HUGEPAGES);
    let mut l1 = L1Config {
        shm_name: shm_name(settings, port, hugepages, report),
        shm_fallback: settings.get(&flags::SHM_FALLBACK),
        hugepages,
        align_bytes: settings.get(&flags::L1_ALIGN_BYTES),
        read_ttl: settings.get(&flags::L1_READ_TTL_SECONDS),
        write_ttl: settings.get(&flags::L1_WRITE_TTL_SECONDS),
        client_share: settings.get(&flags::L1_CLIENT_SHARE),
        ..L1Config::default()
    };
    let mut eviction = EvictionConfig {
        policy: settings.get(&flags::EVICTION_POLICY),
        trigger_watermark: settings.get(&flags::EVICTION_TRIGGER_WATERMARK),
        ratio: settings.get(&flags::EVICTION_RATIO),
        background_trim: settings.is_given(&flags::EVICTION_TRIGGER_WATERMARK)
            || settings.is_given(&flags::EVICTION_RATIO),
    };
    let mut bytes = settings.get(&flags::L1_SIZE_GB).map(bytes_from_gib);
    match &settings.get(&flags::L1_MANAGER)[..] {
        [] => {}
        [_] if settings.is_given(&flags::L1_SIZE_GB) => report.error(
            "--l1-manager: Use either --l1-manager or legacy L1 flags; leave one of --l1-manager and --l1-size-gb out",
        ),
        [text] => match parse_manager(text, (l1.clone(), eviction)) {
            Ok(pool) => {
                (l1, eviction) = pool;
                bytes = Some(l1.bytes);
                if let Some(reason) = flags::EVICTION_POLICY.refusal(eviction.policy.name()) {
                    report.error(format!("--l1-manager eviction_policy {}: {reason}", eviction.policy));
                }
            }
            Err(errors) => errors.iter().for_each(|error| report.error(error.to_string())),
        },
        several => report.error(format!(
            "--l1-manager: given {} times, but this server has one pool; give it once",
            several.len()
        )),
    }
    check(settings, &l1, bytes, report);
    fit_to_machine(settings, &mut l1, bytes, measure, report);
    (l1, eviction)
}

/// The name of the shared memory; `None` to run without.
fn shm_name(settings: &mut Settings, port: u16, hugepages: bool, report: &mut Report) -> Option<String> {
    /// The longest name, so that the file name has at most 255 bytes.
    const NAME_BYTES_MAX: usize = 255 - "lmcache_l1_pool_".len();
    let name = settings.get_or_set(&flags::SHM_NAME, || match hugepages {
        true => (String::new(), "none beside huge pages"),
        false => free_shm_name(default_shm_name(port)),
    });
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.chars().all(is_allowed) || name.len() > NAME_BYTES_MAX {
        report.error(format!(
            "{}: must be at most {NAME_BYTES_MAX} letters, digits, '_', '-' and '.'",
            settings.subject(&flags::SHM_NAME)
        ));
    }
    (!name.is_empty()).then_some(name)
}

/// The default name, or, if another user's server has left a file under it, a name of this user's own.
fn free_shm_name(name: String) -> (String, &'static str) {
    if !machine::is_foreign(&shm_path(&name)) {
        return (name, "named after the port");
    }
    (
        format!("{name}_{}", rustix::process::geteuid().as_raw()),
        "named after the port and the user: another user's is there",
    )
}

/// The beginning of an error about the size or alignment of L1.
fn subject(settings: &Settings, flag: &FlagSpec) -> String {
    if settings.is_given(&flags::L1_MANAGER) { "--l1-manager".to_owned() } else { settings.subject(flag) }
}

/// Checks L1 without regard to the machine.
fn check(settings: &Settings, l1: &L1Config, bytes: Option<u64>, report: &mut Report) {
    if !l1.align_bytes.is_power_of_two() {
        let subject = subject(settings, &flags::L1_ALIGN_BYTES);
        report.error(format!("{subject}: align_bytes must be a power of two, such as 4096"));
    } else if bytes.is_some_and(|bytes| bytes < l1.align_bytes) {
        let subject = subject(settings, &flags::L1_SIZE_GB);
        report.error(format!(
            "{subject}: size_gb must provide at least align_bytes bytes ({})",
            l1.align_bytes
        ));
    }
    if l1.hugepages && l1.shm_name.is_some() {
        let subject = subject(settings, &flags::L1_USE_HUGEPAGES);
        report.error(format!(
            "{subject}: l1-use-hugepages is incompatible with shared memory; add --shm-name \"\" or leave huge pages out"
        ));
    }
}

/// Computes the size if none is given, and checks that the machine has enough memory.
fn fit_to_machine(
    settings: &mut Settings,
    l1: &mut L1Config,
    bytes: Option<u64>,
    measure: impl FnOnce(Option<&str>) -> Machine,
    report: &mut Report,
) {
    if settings.is_invalid(&flags::L1_SIZE_GB) {
        return;
    }
    let machine = measure(l1.shm_name.as_deref());
    l1.bytes = bytes.unwrap_or_else(|| {
        let uses_shm = l1.shm_name.is_some() && (machine.shm_free >= GIB || !l1.shm_fallback);
        let bytes = automatic_bytes(machine.memory_available, uses_shm.then_some(machine.shm_free));
        settings.set(&flags::L1_SIZE_GB, bytes as f64 / GIB as f64, "from free memory");
        bytes
    });
    let subject = subject(settings, &flags::L1_SIZE_GB);
    if l1.hugepages
        && let Some(shortage) = hugepage_shortage(l1.bytes, &machine)
    {
        report.error(format!("{subject}: {shortage}"));
    }
    if l1.shm_name.is_some()
        && let Some(shortage) = shm_shortage(l1.bytes, &machine)
    {
        if l1.shm_fallback {
            report.warn(format!("--shm-fallback: running without shared memory, {shortage}"));
            l1.shm_name = None;
            settings.set(&flags::SHM_NAME, String::new(), "shm-fallback");
        } else if l1.bytes > machine.shm_size {
            report.error(format!("{subject}: {shortage}"));
        } else {
            // Others use what is missing now. An engine that outlives a server lets go of the old memory only when it
            // has registered with the new one, so waiting for it would be waiting for ever.
            report.warn(format!("{subject}: L1 is smaller until there is space, {shortage}"));
        }
    }
}

/// The size of L1 if none is given: half of the free memory, within limits. `shm_free` is `None` if L1 is not in shared
/// memory. The lower limit is for a small `/dev/shm`, which can be enlarged, not for little memory.
fn automatic_bytes(memory_available: u64, shm_free: Option<u64>) -> u64 {
    let free = shm_free.map_or(memory_available, |shm_free| shm_free.min(memory_available));
    let min = SIZE_MIN.min((memory_available / 2).max(SIZE_STEP));
    let half = (free / 2).clamp(min, SIZE_MAX);
    half - half % SIZE_STEP
}

/// Why `/dev/shm` cannot hold `bytes` now, with the remedies; `None` if it can.
fn shm_shortage(bytes: u64, machine: &Machine) -> Option<String> {
    (bytes > machine.shm_free).then(|| {
        format!(
            "/dev/shm has {} free and L1 needs {}; make it larger (docker run --shm-size={}), choose a smaller \
             --l1-size-gb, or run without shared memory (--shm-name \"\", or --shm-fallback)",
            readable(machine.shm_free),
            readable(bytes),
            docker_size(bytes)
        )
    })
}

/// Why the huge-page reserve cannot hold `bytes`, with the remedies; `None` if it can.
fn hugepage_shortage(bytes: u64, machine: &Machine) -> Option<String> {
    let needed = bytes.div_ceil(HUGEPAGE_BYTES);
    (needed > machine.hugepages_free).then(|| {
        format!(
            "Insufficient hugepages: {} free, {needed} required (2 MiB each); raise vm.nr_hugepages, choose a smaller \
             --l1-size-gb, or leave --l1-use-hugepages out",
            machine.hugepages_free
        )
    })
}

/// A size for people, in MiB or GiB.
fn readable(bytes: u64) -> String {
    let (unit, name) = if bytes >= GIB { (GIB, "GiB") } else { (MIB, "MiB") };
    let number = format!("{:.2}", bytes as f64 / unit as f64);
    format!("{} {name}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// `bytes` and 256 MiB for other programs, as an argument for docker.
fn docker_size(bytes: u64) -> String {
    format!("{}g", (bytes + 256 * MIB).div_ceil(GIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_size_is_half_of_free_memory_within_limits() {
        let cases = [
            // memory, shared memory, size
            (64 * GIB, Some(32 * GIB), 16 * GIB),
            (16 * GIB, Some(32 * GIB), 8 * GIB),
            (512 * GIB, Some(512 * GIB), 20 * GIB),
            (512 * GIB, Some(64 * MIB), GIB),
            (512 * GIB, None, 20 * GIB),
            (GIB, Some(32 * GIB), GIB / 2),
            (0, Some(0), 64 * MIB),
            (10 * GIB + 12_345, Some(u64::MAX), 5 * GIB),
            (10 * GIB + 200 * MIB, None, 5 * GIB + 64 * MIB),
        ];
        for (memory, shm, bytes) in cases {
            assert_eq!(automatic_bytes(memory, shm), bytes, "{memory} {shm:?}");
            assert_eq!(bytes % SIZE_STEP, 0);
        }
    }

    #[test]
    fn shortage_names_the_remedies() {
        let machine = Machine { shm_size: GIB, shm_free: 64 * MIB, hugepages_free: 3, ..Machine::default() };
        assert_eq!(shm_shortage(64 * MIB, &machine), None);
        assert_eq!(
            shm_shortage(GIB, &machine).as_deref(),
            Some(
                "/dev/shm has 64 MiB free and L1 needs 1 GiB; make it larger (docker run --shm-size=2g), choose a smaller \
                 --l1-size-gb, or run without shared memory (--shm-name \"\", or --shm-fallback)"
            )
        );
        assert_eq!(hugepage_shortage(6 * MIB, &machine), None);
        let line = hugepage_shortage(6 * MIB + 1, &machine).expect("too few");
        assert!(line.starts_with("Insufficient hugepages: 3 free, 4 required"), "{line}");
    }

    #[test]
    fn sizes_have_no_trailing_zeros() {
        assert_eq!([readable(1536 * MIB), readable(64 * MIB), readable(0)], ["1.5 GiB", "64 MiB", "0 MiB"]);
    }
}
