//! Probe writes while stores fail.
//!
//! A small object with a reserved key is stored and deleted, with growing pauses, until one store or a real
//! one succeeds. If the process ends in between, the object stays; the next probe replaces it.

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

/// Probes until the circuit is healthy, or the adapter is closed or dropped.
pub(super) async fn until_recovered(adapter: Weak<dyn Adapter>, circuit: Weak<CircuitState>) {
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
        // The circuit may be open, or another probe running.
        let Ok(permit) = circuit.permit() else { continue };
        let written = write(&*adapter).await;
        let closed = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed);
        permit.record(std::iter::once(match &written {
            Ok(true) => Outcome::Answered,
            Ok(false) => Outcome::Unknown,
            Err(error) => Outcome::of(error),
        }));
        if closed {
            return;
        }
    }
}

/// Stores and deletes the probe. Whether the store reached the backend.
async fn write(adapter: &dyn Adapter) -> Result<bool, L2Error> {
    let probe = probe()?;
    let key = probe.key.clone();
    let stored = adapter.store(vec![probe]).await.remove(0);
    // Also deletes what an earlier process left, so that the next probe writes.
    let _ = adapter.delete(vec![key]).await;
    stored.map(|stored| was_written(&stored))
}

#[derive(Debug)]
struct NoPin;

impl IoPin for NoPin {}

fn probe() -> Result<Transfer, L2Error> {
    let failed = |_| L2Error::temporary(ErrorKind::Busy, "no memory for a probe");
    let arena = Arena::private(BYTES).map_err(|_| failed(()))?;
    arena.commit(BYTES).map_err(|_| failed(()))?;
    let region = Region::new(Arc::new(arena), 0, BYTES, Arc::new(NoPin)).map_err(|_| failed(()))?;
    let hash = ChunkHash::new(&[0; 8]).expect("eight bytes are a legal hash");
    let key = ObjectKey::new(hash, MODEL, KvRank::new(1, 0), 0, "").expect("a legal key");
    Ok(Transfer { key, region })
}
