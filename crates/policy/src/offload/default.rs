use super::OffloadPolicy;

/// Every object goes to every adapter, and stays in L1.
#[derive(Debug, Default)]
pub(super) struct DefaultPolicy;

impl OffloadPolicy for DefaultPolicy {}
