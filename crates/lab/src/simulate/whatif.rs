//! Replays a trace on the server's [live what-if](crate::whatif), to compare its estimates with a full
//! simulation.

use crate::whatif::{Prompt, Report, Totals, WhatIf, sample};
use larder_types::Time;

use super::trace::Trace;

/// The report of a server with `l1_chunks` of L1 after a trace, each request looked up and stored before the
/// next one.
pub fn whatif(trace: &Trace, l1_chunks: u64, l2: bool, sample_chunks: u64) -> Report {
    let mut whatif = WhatIf::new(l2, sample_chunks);
    for request in trace.requests() {
        let chain: Vec<_> = trace.looked_up(request).iter().map(|chunk| *trace.hash(*chunk)).collect();
        let threshold = whatif.threshold();
        let sampled: Vec<_> = sample(threshold, ("model", ""), &chain).collect();
        let at = Time::from_millis(request.at_ms);
        whatif.looked_up(&Prompt { at, l1_chunks, threshold, sampled: &sampled });
        whatif.count(Totals { requests: 1, tokens: request.tokens, chunks: chain.len() as u64 });
    }
    whatif.report()
}
