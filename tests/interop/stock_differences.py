"""Where a stock tool shows other values for our server than for the reference, and why.

``test_stock_tools`` allows these differences and no other.
"""

from __future__ import annotations

# Values that differ from run to run; only their presence and type are compared.
VOLATILE = ("url", "_time_ms", "_mean", "_min", "_max", "_p50", "_p99")

# -- reasons --------------------------------------------------------------------
EVERY_WORKER = "workers that copy by themselves are described too; the reference leaves them out"
POLICY = "the eviction policy is where `describe` looks for it"
DASHBOARD = "what the dashboard's overview reads and the reference never sent"
COMMITTED = "how much of L1 is backed by memory"
IN_ADVANCE = "whether eviction starts at the watermark, which it does if a watermark was given"
QUARANTINED = "what late workers may still write to"
PREFETCH_POLICY = "what becomes of what was loaded from L2"
SORTED = "quotas are listed by salt"
L1_TOO = "what a salt uses counts L1, where its quota holds as well"
NO_SESSION = "a store that has ended leaves no session open"

# tool -> beginning of keys -> why we show them in addition.
MORE: dict[str, dict[str, str]] = {
    "describe": {"/metrics/kernel_groups/": EVERY_WORKER, "/metrics/models/": EVERY_WORKER},
    "viewer": {
        "/engine/cache_context_meta/7": EVERY_WORKER,
        "/engine/hit_stats": DASHBOARD,
        "/engine/next_prefetch_job_id": DASHBOARD,
        "/engine/pending_lookup_count": DASHBOARD,
        "/engine/pending_request_ids": DASHBOARD,
        "/engine/periodic_threads": DASHBOARD,
        "/engine/prefetch_job_ids": DASHBOARD,
        "/engine/storage_manager/eviction_controller": POLICY,
        "/engine/storage_manager/l1_eviction_controller/evicts_in_advance": IN_ADVANCE,
        "/engine/storage_manager/l1_eviction_controllers/_default/evicts_in_advance": IN_ADVANCE,
        "/engine/storage_manager/l1_manager/memory_committed_bytes": COMMITTED,
        "/engine/storage_manager/l1_managers/_default/memory_committed_bytes": COMMITTED,
        "/engine/storage_manager/l1_manager/quarantined": QUARANTINED,
        "/engine/storage_manager/l1_managers/_default/quarantined": QUARANTINED,
        "/engine/storage_manager/prefetch_controller/policy": PREFETCH_POLICY,
    },
}

# tool -> key -> (the reference's value, ours, why).
OTHER: dict[str, dict[str, tuple[object, object, str]]] = {
    "describe": {
        "/metrics/eviction_policy": (None, "LRU", POLICY),
        "/metrics/active_sessions": (1, 0, NO_SESSION),
    },
    "quota list": {
        "/metrics/quotas/0/cache_salt": ("team-a", "_default", SORTED),
        "/metrics/quotas/0/limit_gb": (2.0, 0.5, SORTED),
        "/metrics/quotas/0/current_usage_gb": (0.0, 4 * 4096 / 2**30, L1_TOO),
        "/metrics/quotas/1/cache_salt": ("_default", "team-a", SORTED),
        "/metrics/quotas/1/limit_gb": (0.5, 2.0, SORTED),
    },
}
for table in (MORE, OTHER):
    table["describe, cleared"] = table["describe"]
