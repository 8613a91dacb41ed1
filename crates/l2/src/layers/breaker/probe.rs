//! Writes that nobody asked for, while those that were asked for fail.
//!
//! A small object under a name of its own is stored and removed again, with growing pauses, until one gets
//! through or a real store has. Should the process die in between, the object stays: a few bytes, replaced
//! by the next probe.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_arena::{Arena, IoPin, Region};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use super::{Gate, Sign, was_written};
use crate::adapter::{Adapter, Circuit, Transfer};
use crate::error::{ErrorKind, L2Error};

const MODEL: &str = "larder-probe";
const BYTES: u64 = 4096;

/// The longest pause, where the circuit does not want a longer one. A probe costs next to nothing.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Tries to write until the gate is well, or the adapter is closed or gone.
pub(super) async fn until_well(adapter: Weak<dyn Adapter>, gate: Weak<Gate>) {
    let Some(mut pause) = gate.upgrade().map(|gate| gate.config.first_pause) else { return };
    loop {
        tokio::time::sleep(pause).await;
        let (Some(adapter), Some(gate)) = (adapter.upgrade(), gate.upgrade()) else { return };
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
        if gate.circuit() == Circuit::Closed {
            gate.watched.store(false, Ordering::Release);
            // It may have failed again just before that.
            if !gate.begins_watch() {
                return;
            }
            pause = gate.config.first_pause;
        }
        // While it is open, calls are due only now and then; and a real one may be under way.
        let Ok(pass) = gate.enter() else { continue };
        let written = write(&*adapter).await;
        let closed = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed);
        pass.leave(std::iter::once(match &written {
            Ok(true) => Sign::Answered,
            Ok(false) => Sign::Nothing,
            Err(error) => Sign::of(error),
        }));
        if closed {
            return;
        }
    }
}

/// Stores the probe and removes it. Whether that came to the backend.
async fn write(adapter: &dyn Adapter) -> Result<bool, L2Error> {
    let probe = probe()?;
    let key = probe.key.clone();
    let stored = adapter.store(vec![probe]).await.remove(0);
    // What an earlier process has left goes as well, so that the next probe writes.
    let _ = adapter.delete(vec![key]).await;
    stored.map(|stored| was_written(&stored))
}

#[derive(Debug)]
struct Ours;

impl IoPin for Ours {}

fn probe() -> Result<Transfer, L2Error> {
    let failed = |_| L2Error::temporary(ErrorKind::Busy, "no memory for a probe");
    let arena = Arena::private(BYTES).map_err(|_| failed(()))?;
    arena.commit(BYTES).map_err(|_| failed(()))?;
    let region = Region::new(Arc::new(arena), 0, BYTES, Arc::new(Ours)).map_err(|_| failed(()))?;
    let hash = ChunkHash::new(&[0; 8]).expect("eight bytes are a legal hash");
    let key = ObjectKey::new(hash, MODEL, KvRank::new(1, 0), 0, "").expect("a legal key");
    Ok(Transfer { key, region })
}
