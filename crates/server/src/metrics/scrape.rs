//! All metrics at one moment.

use super::adapters::{self, AdapterStats};
use super::core_stats::Snapshot;
use super::family::{Collect, Families, Family};
use super::{process, server, text, whatif};
use crate::app::state::State;

/// The label that names the server in every series, if configured.
const INSTANCE_LABEL: &str = "service_instance_id";

/// All metrics.
pub(crate) fn gather(state: &State) -> Vec<Family> {
    let mut out = Families::default();
    let tag = &state.config.l1.tag;
    state.metrics.collect(&mut out);
    let snapshot = state.core().read(Snapshot::of);
    snapshot.collect(&mut out, tag);
    let adapters = state.l2.adapters().zip(&snapshot.adapters);
    let adapters: Vec<AdapterStats<'_>> = adapters
        .map(|((id, adapter), (counters, gauges))| AdapterStats { id, adapter, counters, gauges })
        .collect();
    adapters::collect(&mut out, &adapters, tag);
    whatif::collect(&mut out, state);
    server::collect(&mut out, state);
    process::collect(&mut out);
    let instance = state.config.metrics.instance_label.then_some(state.config.instance_id.as_str());
    out.into_vec(instance.map(|id| (INSTANCE_LABEL, id)))
}

/// All metrics in the text format that Prometheus scrapes.
pub fn exposition(state: &State) -> String {
    text::encode(&gather(state))
}
