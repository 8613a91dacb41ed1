use super::*;

fn hash(number: u64) -> ChunkHash {
    let word = digest(7, &number.to_le_bytes());
    ChunkHash::new(&word.to_le_bytes()).expect("eight bytes")
}

/// Looks up and stores a prompt of chunks given by number; all are sampled if the rate is 1.
fn ask(whatif: &mut WhatIf, ms: u64, l1_chunks: u64, numbers: impl IntoIterator<Item = u64>) {
    let chain: Vec<ChunkHash> = numbers.into_iter().map(hash).collect();
    let threshold = whatif.threshold();
    let sampled: Vec<Sampled> = sample(threshold, ("m", ""), &chain).collect();
    whatif.looked_up(&Prompt { at: Time::from_millis(ms), l1_chunks, threshold, sampled: &sampled });
    whatif.count(Totals { requests: 1, tokens: 16 * chain.len() as u64, chunks: chain.len() as u64 });
}

fn row(whatif: &WhatIf, prefetch: PrefetchKind, factor: f64) -> Row {
    let policies = Policies { prefetch, eviction: EvictionKind::Lru };
    let rows = whatif.report().rows;
    *rows.iter().find(|row| row.policies == policies && row.factor == factor).expect("the pair is simulated")
}

#[test]
fn larger_l1_computes_fewer_chunks() {
    let mut whatif = WhatIf::new(false, SAMPLE_CHUNKS);
    // Three prompts of 4 chunks in turn, three times.
    for ms in 0..9 {
        ask(&mut whatif, ms, 8, (0..4).map(|i| ms % 3 * 10 + i));
    }
    let computed = FACTORS.map(|factor| row(&whatif, PrefetchKind::Default, factor).computed);
    assert_eq!(computed, [36, 36, 12, 12, 12]);
    let report = whatif.report();
    assert_eq!((report.rate, report.keys, report.totals.chunks), (1.0, 12, 36));
    assert_eq!(report.token_hit_rate(12, 16), 24.0 / 36.0);
    assert_eq!(report.rows.len(), 15, "without L2, one prefetch policy");
}

#[test]
fn adaptive_is_the_better_of_default_and_retain() {
    let mut whatif = WhatIf::new(true, SAMPLE_CHUNKS);
    (0..30).for_each(|ms| ask(&mut whatif, ms, 8, (0..4).map(|i| ms % 5 / 2 * 10 + i)));
    for factor in FACTORS {
        let [default, retain, adaptive] =
            [PrefetchKind::Default, PrefetchKind::Retain, PrefetchKind::Adaptive]
                .map(|p| row(&whatif, p, factor));
        assert_eq!(adaptive.l2_reads, default.l2_reads.min(retain.l2_reads));
        assert_eq!([default.computed, retain.computed, adaptive.computed], [12; 3]);
    }
    assert!(row(&whatif, PrefetchKind::Default, 1.0).l2_reads > 0);
}

#[test]
fn chunks_stored_beyond_the_lookup_hit_later() {
    let mut whatif = WhatIf::new(false, SAMPLE_CHUNKS);
    ask(&mut whatif, 0, 8, 0..3);
    let chain: Vec<ChunkHash> = (0..6).map(hash).collect();
    let threshold = whatif.threshold();
    let sampled: Vec<Sampled> = sample(threshold, ("m", ""), &chain).collect();
    let prompt = Prompt { at: Time::ZERO, l1_chunks: 8, threshold, sampled: &sampled };
    whatif.stored(&prompt, 3);
    whatif.stored(&prompt, 3);
    ask(&mut whatif, 1, 8, 0..7);
    let computed = FACTORS.map(|factor| row(&whatif, PrefetchKind::Default, factor).computed);
    assert_eq!(computed, [6, 4, 4, 4, 4], "half the size holds four chunks");
}

#[test]
fn rate_follows_l1_size_and_totals_are_not_sampled() {
    assert_eq!([0, 1, 1024, 1025, 4096, 1 << 20].map(|n| shift_for(n, 1024)), [0, 0, 0, 1, 2, 10]);
    assert_eq!(shift_for(u64::MAX, 1), SHIFT_MAX);
    let mut whatif = WhatIf::new(false, 1024);
    let rate = |whatif: &WhatIf| whatif.report().rate;
    ask(&mut whatif, 0, 4096, 0..2000);
    assert_eq!(rate(&whatif), 0.25);
    ask(&mut whatif, 1, 4096, 0..2000);
    let keys = whatif.report().keys;
    assert!((400..600).contains(&keys), "{keys}");
    assert_eq!(row(&whatif, PrefetchKind::Default, 8.0).computed, 4 * keys, "scaled by four");
    // A change of L1 within a factor of two changes only the sizes of the shadows.
    ask(&mut whatif, 2, 8192, 0..2000);
    assert_eq!((rate(&whatif), whatif.report().totals.requests), (0.25, 3));
    ask(&mut whatif, 3, 64, 0..10);
    let report = whatif.report();
    assert_eq!((report.rate, report.since, report.totals.requests), (1.0, Time::from_millis(3), 1));
    assert_eq!((whatif.threshold(), report.l1_chunks), (u64::MAX, 64));
}

#[test]
fn too_much_work_halves_the_rate() {
    let mut whatif = WhatIf::new(false, SAMPLE_CHUNKS);
    let prompts = STEPS_AHEAD_MAX / (15 * 1000);
    (0..prompts).for_each(|_| ask(&mut whatif, 5, 512, 0..1000));
    assert_eq!(whatif.report().rate, 1.0, "within the burst allowance");
    ask(&mut whatif, 5, 512, 0..1000);
    assert_eq!((whatif.report().rate, whatif.report().since), (0.5, Time::from_millis(5)));
    ask(&mut whatif, 6, 128, 0..1000);
    assert_eq!(whatif.report().rate, 0.5, "a smaller L1 does not reduce the work");
}

#[test]
fn keys_are_bounded_and_l2_remembers_more() {
    let mut whatif = WhatIf::new(true, 64);
    let far = 3 * KEYS_MAX as u64 / 2;
    let l2_reads = |whatif: &WhatIf| row(whatif, PrefetchKind::Retain, 1.0).l2_reads;
    // Slowly enough not to exceed the limit of work.
    (0..far / 64).for_each(|n| ask(&mut whatif, n * 10_000, 64, n * 64..n * 64 + 64));
    assert!(whatif.keys.len() <= KEYS_MAX as u64 && whatif.report().keys == far, "{}", whatif.report().keys);
    assert_eq!(l2_reads(&whatif), 0);
    ask(&mut whatif, u64::MAX / 2, 64, 0..64);
    assert_eq!(l2_reads(&whatif), 64, "dropped from every L1, kept in L2");
    for chunk in 0..far {
        whatif.kept.touch(far + chunk);
    }
    (far..far + KEPT_MAX).for_each(|n| _ = whatif.kept.touch(n));
    whatif.make_room();
    assert!(whatif.kept.len() <= KEPT_MAX);
}

#[test]
fn repeated_chunk_ends_the_prompt() {
    let mut whatif = WhatIf::new(true, SAMPLE_CHUNKS);
    (0..3).for_each(|ms| ask(&mut whatif, ms, 4, [1, 2, 1, 3]));
    assert_eq!((whatif.report().keys, row(&whatif, PrefetchKind::Retain, 8.0).computed), (2, 2));
}

#[test]
fn ignores_chunks_sampled_at_another_rate() {
    let mut whatif = WhatIf::new(false, 1024);
    ask(&mut whatif, 0, 1 << 20, 0..100);
    assert_eq!(whatif.report().keys, 0, "the rate was not known yet");
}
