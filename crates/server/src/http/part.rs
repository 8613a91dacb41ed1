//! The extractor through which handlers reach the parts of the server that they name, and no others.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::AppState;
use crate::app::core_handle::CoreHandle;
use crate::app::log_control::LogControl;
use crate::app::quota_file::QuotaFile;
use crate::app::state::State;
use crate::app::tasks::Tasks;
use crate::config::Config;
use crate::l2::L2;
use crate::metrics::Metrics;
use crate::observe::bus::Bus;
use crate::observe::kv_events::EventStreams;
use crate::observe::whatif::WhatIf;
use crate::prefix_hashes::PrefixHashCache;

/// A part of the server.
#[derive(Debug)]
pub(super) struct Part<T>(AppState, PhantomData<fn() -> T>);

/// Where the state has its `T`.
pub(super) trait Has<T> {
    fn part(&self) -> &T;
}

macro_rules! parts {
    ($($part:ty => $get:expr;)*) => {$(
        impl Has<$part> for State {
            fn part(&self) -> &$part {
                let get: fn(&Self) -> &$part = $get;
                get(self)
            }
        }
    )*};
}

parts! {
    Config => |state| &state.config;
    CoreHandle => |state| state.core();
    L2 => |state| &state.l2;
    Arc<larder_arena::Arena> => |state| &state.arena;
    Bus => |state| &state.bus;
    PrefixHashCache => |state| &state.hashes;
    EventStreams => |state| &state.events;
    Metrics => |state| &state.metrics;
    Tasks => |state| &state.tasks;
    OnceLock<Arc<LogControl>> => |state| &state.log;
    Option<Arc<WhatIf>> => |state| &state.whatif;
    Option<Arc<QuotaFile>> => |state| &state.quota_file;
    tokio::sync::Mutex<()> => |state| &state.quota_changes;
}

impl<T> FromRequestParts<AppState> for Part<T>
where
    State: Has<T>,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        Ok(Self(state.clone(), PhantomData))
    }
}

impl<T> Deref for Part<T>
where
    State: Has<T>,
{
    type Target = T;

    fn deref(&self) -> &T {
        self.0.part()
    }
}
