//! Reads recordings of `larder server --record`; the format is in [`crate::recording`].
//!
//! Lines that depend on a dropped line are skipped and counted; later lines of their request are ignored.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::BufRead;
use std::sync::Arc;

use crate::recording::{Header, Line, Reader, VERSION};
use larder_types::object::ChunkHash;
use serde::Deserialize;

use super::file::{Lines, ReadError};
use super::{Builder, Event, Trace, digest};

/// A key that only header lines of a recording have.
pub(super) const HEADER_KEY: &str = "larder_recording";

/// The server's default session timeout in milliseconds: requests without an end are ended after it.
const SESSION_MS: u64 = 600_000;

/// A request that has not ended.
struct Open {
    /// Its position in `Reading::requests`.
    place: usize,
}

/// A recorded request.
struct Recorded {
    at: u64,
    tokens: u64,
    looked_up: usize,
    chain: Vec<ChunkHash>,
    hit: Option<u32>,
}

/// Reads a whole recording.
pub(super) fn read(
    name: &str,
    lines: &mut Lines<impl BufRead>,
    model: Option<&str>,
) -> Result<Trace, ReadError> {
    let mut skipped = 0;
    let header: Option<Header> = lines.next_json(&mut skipped)?;
    let header = header.ok_or_else(|| ReadError::Content("has no whole first line".to_owned()))?;
    if header.larder_recording != VERSION {
        let version = header.larder_recording;
        return Err(ReadError::Content(format!("is a recording of version {version}, this is {VERSION}")));
    }
    if header.chunk_tokens == 0 {
        return Err(ReadError::Content("has chunks of no tokens".to_owned()));
    }
    let mut reading = Reading { model, ..Reading::default() };
    while let Some(line) = lines.next_json::<AnyLine>(&mut skipped)? {
        match line {
            AnyLine::Line(line) => reading.line(line, &mut skipped),
            // The server was restarted: it has no open requests, and its times start at 0 again.
            AnyLine::Header(again) if again == header => reading.start_again(),
            AnyLine::Header(_) => {
                return Err(ReadError::Content("goes on with another chunk size or version".to_owned()));
            }
        }
    }
    reading.end_before(u64::MAX);
    if reading.models.len() > 1 {
        return Err(ReadError::Content("has several models: choose one with --model".to_owned()));
    }
    let mut builder = Builder::new(name, header.chunk_tokens);
    let Reading { requests, events, chunk_bytes, models, .. } = reading;
    for request in requests {
        let place = builder.request(request.at, request.tokens, request.chain.iter().copied(), |hash| *hash);
        let made = &mut builder.trace().requests[place];
        made.looked_up = made.looked_up.min(request.looked_up as u32);
        made.recorded_hit = request.hit;
    }
    let trace = builder.trace();
    trace.events = Some(events);
    trace.model = models.into_iter().next();
    trace.chunk_bytes = chunk_bytes;
    trace.skipped_lines = skipped;
    Ok(builder.finish())
}

/// Any line after the first; a second header marks a restart.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyLine {
    Line(Line),
    Header(Header),
}

#[derive(Default)]
struct Reading<'a> {
    model: Option<&'a str>,
    chains: Reader,
    requests: Vec<Recorded>,
    events: Vec<Event>,
    open: HashMap<Arc<str>, Open>,
    /// Time, id and position of each request in order, including ended ones.
    came: VecDeque<(u64, Arc<str>, usize)>,
    /// Start of the current server process in milliseconds of the trace, added to the times of its lines.
    started: u64,
    models: HashSet<Arc<str>>,
    chunk_bytes: Option<u64>,
}

impl Reading<'_> {
    fn start_again(&mut self) {
        self.end_before(u64::MAX);
        self.started = self.requests.last().map_or(0, |last| last.at);
    }

    /// Ends open requests that were looked up before `at`.
    fn end_before(&mut self, at: u64) {
        while let Some((_, request, place)) = self.came.pop_front_if(|(came, ..)| *came < at) {
            if self.open.get(&request).is_some_and(|open| open.place == place) {
                self.open.remove(&request);
                self.events.push(Event::End(place));
            }
        }
    }

    fn line(&mut self, line: Line, skipped: &mut u64) {
        match line {
            Line::Model { model, chunk_bytes, .. } => {
                if self.model.is_none_or(|chosen| *chosen == *model) {
                    self.chunk_bytes = Some(chunk_bytes);
                }
            }
            Line::Lookup { at, request, model, salt, tokens, chain } => {
                let Ok(chain) = self.chains.hashes(&chain) else {
                    *skipped += 1;
                    self.open.remove(&request);
                    return;
                };
                if self.model.is_some_and(|chosen| *chosen != *model) {
                    return;
                }
                self.models.insert(model);
                let at = self.started + at;
                self.end_before(at.saturating_sub(SESSION_MS));
                let chain = salted(chain, &salt);
                let place = self.requests.len();
                self.requests.push(Recorded { at, tokens, looked_up: chain.len(), chain, hit: None });
                self.came.push_back((at, request.clone(), place));
                if let Some(before) = self.open.insert(request, Open { place }) {
                    // A second lookup of a request ends the pins of the first.
                    self.events.push(Event::End(before.place));
                }
                self.events.push(Event::Lookup(place));
            }
            Line::Store { request, salt, start, end, chain, .. } => {
                let hashes = self.chains.hashes(&chain).map(|hashes| salted(hashes, &salt));
                let Some(Open { place }) = self.open.get(&request) else { return };
                let recorded = &mut self.requests[*place];
                match hashes {
                    Ok(hashes) if hashes.len() == end as usize && start < end => {
                        let shared = recorded.chain.len().min(hashes.len());
                        if recorded.chain[..shared] != hashes[..shared] {
                            *skipped += 1;
                            return;
                        }
                        recorded.chain.extend(&hashes[shared..]);
                        self.events.push(Event::Store(*place, start..end));
                    }
                    _ => *skipped += 1,
                }
            }
            Line::Retrieve { request, start, end, .. } => {
                if let Some(open) = self.open.get(&request) {
                    self.events.push(Event::Retrieve(open.place, start..end));
                }
            }
            Line::End { request, hit, .. } => {
                if let Entry::Occupied(open) = self.open.entry(request) {
                    let place = open.remove().place;
                    self.requests[place].hit = Some(hit);
                    self.events.push(Event::End(place));
                }
            }
            Line::Dropped { lines, .. } => *skipped += lines,
        }
    }
}

/// Hashes that depend on the cache salt, so that equal prompts of two tenants have no chunk in common.
pub(super) fn salted(mut hashes: Vec<ChunkHash>, salt: &str) -> Vec<ChunkHash> {
    if !salt.is_empty() {
        let mask = digest(&salt.bytes().fold(0, |sum: u64, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        }));
        for hash in &mut hashes {
            let bytes: Vec<u8> = hash.as_bytes().iter().zip(mask.as_bytes()).map(|(a, b)| a ^ b).collect();
            *hash = ChunkHash::new(&bytes).unwrap_or(*hash);
        }
    }
    hashes
}
