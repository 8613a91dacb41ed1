//! Probes of calls that fail.
//!
//! A small object with a reserved key is stored, read back and deleted, or looked up, with growing pauses, until a probe
//! or a real call succeeds. If the process ends in between, the object stays; the next probe replaces it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_arena::{Arena, IoPin, Region};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use super::{CircuitState, Outcome, was_written};
use crate::adapter::{Adapter, Circuit, Transfer};
use crate::error::{ErrorKind, L2Error};

const MODEL: &str = "larder-probe";
const BYTES: u64 = 4096;

/// The longest pause, unless the circuit has a longer one. A probe is cheap.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Looks the reserved key up.
    Lookup,
    /// Stores an object, loads it and deletes it.
    Load,
    /// Stores an object and deletes it.
    Store,
}

/// Probes until the circuit is healthy, or the adapter is closed or dropped.
pub(super) async fn until_recovered(adapter: Weak<dyn Adapter>, circuit: Weak<CircuitState>, what: Probe) {
    let Some(mut pause) = circuit.upgrade().map(|circuit| circuit.config.first_pause) else { return };
    loop {
        tokio::time::sleep(pause).await;
        let (Some(adapter), Some(circuit)) = (adapter.upgrade(), circuit.upgrade()) else { return };
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
        if circuit.circuit() == Circuit::Closed {
            circuit.probed.store(false, Ordering::Release);
            // It may have failed again just before that.
            if !circuit.claim_probing() {
                return;
            }
            pause = circuit.config.first_pause;
        }
        // Reads are probed by engines, as long as there are any.
        let idle = super::lock(&circuit.last_call).elapsed();
        if what != Probe::Store && idle < circuit.config.idle_before_probe {
            pause = circuit.config.idle_before_probe - idle;
            continue;
        }
        // The circuit may be open, or another probe running.
        let Ok(permit) = circuit.permit() else { continue };
        let answered = what.run(&*adapter).await;
        let closed = answered.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed);
        permit.record(std::iter::once(match &answered {
            Ok(true) => circuit.succeeded(),
            Ok(false) => Outcome::Unknown,
            Err(error) => Outcome::of(error),
        }));
        if closed {
            return;
        }
    }
}

impl Probe {
    /// Whether the call reached the backend.
    async fn run(self, adapter: &dyn Adapter) -> Result<bool, L2Error> {
        let probe = object()?;
        let key = probe.key.clone();
        if self == Self::Lookup {
            return adapter.lookup(vec![key]).await.remove(0).map(|_| true);
        }
        let stored = adapter.store(vec![probe.clone()]).await.remove(0);
        let outcome = match (self, stored) {
            (Self::Load, Ok(_)) => adapter.load(vec![probe]).await.remove(0).map(|()| true),
            // Reads cannot be probed as long as nothing can be written.
            (Self::Load, Err(_)) => Ok(false),
            (_, stored) => stored.map(|stored| was_written(&stored)),
        };
        // Also deletes what an earlier process left, so that the next probe writes.
        let _ = adapter.delete(vec![key]).await;
        outcome
    }
}

#[derive(Debug)]
struct NoPin;

impl IoPin for NoPin {}

fn object() -> Result<Transfer, L2Error> {
    let failed = |_| L2Error::temporary(ErrorKind::Busy, "no memory for a probe");
    let arena = Arena::private(BYTES).map_err(|_| failed(()))?;
    arena.commit(BYTES).map_err(|_| failed(()))?;
    let region = Region::new(Arc::new(arena), 0, BYTES, Arc::new(NoPin)).map_err(|_| failed(()))?;
    let hash = ChunkHash::new(&[0; 8]).expect("eight bytes are a legal hash");
    let key = ObjectKey::new(hash, MODEL, KvRank::new(1, 0), 0, "").expect("a legal key");
    Ok(Transfer { key, region })
}
