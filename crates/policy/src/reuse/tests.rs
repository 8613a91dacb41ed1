use proptest::prelude::*;
use smallvec::smallvec;

use super::age_histogram::{AGES, AgeHistogram, age_of, place};
use super::reuse_class::{CLASSES, ReuseClass};
use super::*;

fn expert(rank: EvictionOrder, keep: RetentionRule) -> Expert {
    Expert { rank, keep }
}

/// A predictor that has seen requests, given as lists of numbers, one every 100 ms.
fn learned_from<'a>(
    experts: &[Expert],
    l2: bool,
    capacity: usize,
    requests: impl IntoIterator<Item = &'a Vec<u64>>,
) -> ReusePredictor {
    let mut reuse = ReusePredictor::new(experts.iter().copied(), l2);
    for (i, request) in requests.into_iter().enumerate() {
        reuse.on_request(Time::from_millis(100 * i as u64), capacity, request.iter().copied());
    }
    reuse
}

fn losses(reuse: &ReusePredictor) -> Vec<f64> {
    reuse.snapshot().losses.into_iter().map(|(_, loss)| loss).collect()
}

#[test]
fn ages_are_powers_of_two() {
    let ages: Vec<usize> = [0, 1, 2, 3, 4, 7, 8, u32::MAX].map(age_of).to_vec();
    assert_eq!(ages, [0, 1, 2, 2, 3, 3, 4, AGES - 1]);
}

#[test]
fn totals_count_events_and_exposures() {
    let (a, b) = (ReuseClass(1), ReuseClass(2));
    let mut ages = AgeHistogram::default();
    // Of four chunks of a, three are used again one tick later and one never; of b none are.
    ages.add_cohort(1, smallvec![(a, 4), (b, 4)]);
    ages.advance(2);
    (0..3).for_each(|_| ages.used_again(a, 0, 1));
    ages.add_cohort(2, smallvec![]);
    ages.add_cohort(9, smallvec![]);
    let totals = ages.totals();
    assert_eq!(totals[..5], [(0.0, 8.0), (3.0, 8.0), (0.0, 5.0), (0.0, 5.0), (0.0, 5.0)]);
    assert_eq!(totals.iter().map(|(events, _)| events).sum::<f64>(), 3.0);
}

#[test]
fn one_long_prompt_weighs_less_than_its_chunks() {
    let class = ReuseClass(1);
    let mut ages = AgeHistogram::default();
    for i in 0..200 {
        // One prompt in ten is a hundred times as long as the others, and never comes back.
        let long = i % 10 == 0;
        ages.add_cohort(i, smallvec![(class, if long { 100 } else { 1 })]);
        ages.advance(i + 1);
        if !long {
            ages.used_again(class, u64::from(i), 1);
        }
    }
    // By chunks one in eleven comes back, by prompts nine of ten.
    let again = ages.again(class, 0);
    assert!((0.3..0.7).contains(&again), "{again}");
}

#[test]
fn chunks_reused_soon_are_worth_more() {
    let mut ages = AgeHistogram::default();
    let (soon, never) = (ReuseClass(1), ReuseClass(2));
    for i in 0..200 {
        if i > 0 {
            (0..4).for_each(|_| ages.used_again(soon, i - 1, 1));
        }
        ages.add_cohort(i as u32, smallvec![(soon, 4), (never, 4)]);
    }
    let rank = |class| ages.ranks().rank(place(class, 0) as u16);
    assert!(rank(soon) > rank(never));
    assert!(ages.density(soon, 8.0) > ages.common_rate(8));
    assert!(ages.density(never, 8.0) < ages.common_rate(1));
}

#[test]
fn classes_with_similar_intervals_share_evidence() {
    let mut ages = AgeHistogram::default();
    let class = |seconds: u32| ReuseClass::used_again(2, ReuseInterval::of(10 * seconds));
    let (seen, next, far) = (class(10), class(20), class(100));
    // Chunks of one class come back a tick later, of another never; nothing is seen of the one between them.
    for i in 0..200 {
        if i > 0 {
            (0..4).for_each(|_| ages.used_again(seen, i - 1, 1));
        }
        ages.add_cohort(i as u32, smallvec![(seen, 4), (far, 4)]);
    }
    assert!(seen.kin().contains(&usize::from(next.0)) && !far.kin().contains(&usize::from(next.0)));
    let again = |class| ages.again(class, 0);
    assert!(again(seen) > 0.9 && again(far) < 0.1, "{} {}", again(seen), again(far));
    assert!((again(seen) - again(next)).abs() < 0.05, "{} {}", again(seen), again(next));
}

#[test]
fn forgotten_cohort_counts_as_the_oldest() {
    let mut ages = AgeHistogram::default();
    let requests = 70_000_u32;
    for i in 0..requests {
        ages.add_cohort(i, smallvec![(ReuseClass(3), 1)]);
    }
    ages.used_again(ReuseClass(3), 0, requests);
    assert_eq!(ages.tick_of(0), requests - (1 << 16));
    assert_eq!(ages.tick_of(u64::from(requests) - 1), requests - 1);
}

proptest! {
    /// An order against a vector of (number, class, tick) that is sorted each time.
    #[test]
    fn an_order_agrees_with_sorting(
        ops in prop::collection::vec((0u8..6, 0u32..24, 0..CLASSES as u8, 0u32..40), 1..200),
    ) {
        let mut ages = AgeHistogram::default();
        let mut order = WorthOrder::default();
        let mut naive: Vec<(u32, ReuseClass, u32)> = Vec::new();
        let mut now = 0;
        for (op, n, class, ticks) in ops {
            let class = ReuseClass(class);
            match op {
                0..=2 => {
                    naive.retain(|(m, ..)| *m != n);
                    naive.push((n, class, now));
                    if order.contains(n) {
                        order.remove(n);
                    }
                    order.insert(n, class, now);
                }
                3 => {
                    prop_assert_eq!(order.contains(n), naive.iter().any(|(m, ..)| *m == n));
                    if order.contains(n) {
                        order.remove(n);
                    }
                    naive.retain(|(m, ..)| *m != n);
                }
                4 => now += ticks,
                // Something is learned, so that ranks change.
                _ => {
                    ages.add_cohort(now, smallvec![(class, 5)]);
                    (0..n % 6).for_each(|_| ages.used_again(class, ages.requests() - 1, ticks));
                    (0..7).for_each(|_| ages.add_cohort(now, smallvec![]));
                }
            }
            order.update(now, &ages);
            let rank = |class, tick: u32| ages.ranks().rank(place(class, age_of(now - tick)) as u16);
            let mut by_worth = naive.clone();
            by_worth.sort_by_key(|(_, class, tick)| rank(*class, *tick));
            let mut expected: Vec<u32> = Vec::new();
            for (worst, _, tick) in by_worth {
                // What was used together goes in the order of use, up to the one that is worth least.
                let batch: Vec<u32> = naive.iter().filter(|m| m.2 == tick).map(|m| m.0).collect();
                let upto = batch.iter().position(|n| *n == worst).expect("it is in its batch");
                if !expected.contains(&worst) {
                    expected.extend(batch[..=upto].iter().filter(|n| !expected.contains(n)).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(order.worst(), expected.first().copied());
            prop_assert_eq!(order.worst_first().collect::<Vec<_>>(), expected);
        }
    }

    /// Shadows of the fixed policies against a vector, coldest first. The model loses no key here, so
    /// what was asked for once can be read from L2.
    #[test]
    fn shadows_agree_with_a_vector(
        requests in prop::collection::vec((0u64..6, 1u64..12), 1..80),
        capacity in 1usize..24,
    ) {
        let chain = |(branch, len): (u64, u64)| -> Vec<u64> {
            (0..len).map(|i| if i < 4 { branch / 2 * 100 + i } else { 1000 + branch * 100 + i }).collect()
        };
        let requests: Vec<Vec<u64>> = requests.into_iter().map(chain).collect();
        for (l2, keep) in [(false, RetentionRule::Always), (true, RetentionRule::Always), (true, RetentionRule::Never)] {
            let (mut l1, mut seen): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
            let mut reuse = ReusePredictor::new([expert(EvictionOrder::Recency, keep)], l2);
            for request in &requests {
                let found = request.iter().take_while(|k| l1.contains(k) || l2 && seen.contains(k)).count();
                let there = request[..found].iter().filter(|k| l1.contains(k)).count();
                let lost = request.iter().take_while(|k| seen.contains(k)).count() - there;
                let mut held = Vec::new();
                let mut read = Vec::new();
                for part in [&request[..found], &request[found..]] {
                    let (here, missing): (Vec<u64>, Vec<u64>) = part.iter().partition(|k| l1.contains(k));
                    l1.retain(|k| !here.contains(k));
                    held.extend(here);
                    for key in missing {
                        if l1.len() + held.len() + read.len() >= capacity {
                            if l1.is_empty() {
                                break;
                            }
                            l1.remove(0);
                        }
                        if found > 0 && request[..found].contains(&key) { read.push(key) } else { held.push(key) }
                    }
                }
                if keep == RetentionRule::Always {
                    held.append(&mut read);
                }
                l1.extend(request.iter().rev().filter(|k| held.contains(k)));
                seen.extend(request);
                let before = losses(&reuse)[0];
                reuse.on_request(Time::ZERO, capacity, request.iter().copied());
                let fade = (1.0 - request.len() as f64 / (WINDOW_TURNS * capacity as f64 + 1.0)).max(0.5);
                prop_assert_eq!(losses(&reuse)[0], before * fade + lost as f64);
            }
        }
    }

    /// The number of keys is bounded, and the same requests lead to the same predictions.
    #[test]
    fn learning_is_deterministic(
        requests in prop::collection::vec((prop::collection::vec(0u64..60, 0..30), 0u64..100_000), 1..150),
        capacity in 0usize..80,
    ) {
        let all = [RetentionRule::Always, RetentionRule::Never, RetentionRule::Judged].map(|keep| expert(EvictionOrder::Recency, keep));
        let experts = all.into_iter().chain([expert(EvictionOrder::Worth, RetentionRule::Always)]);
        let (mut a, mut b) = (ReusePredictor::new(experts.clone(), true), ReusePredictor::new(experts, true));
        let mut now = 0;
        for (request, ms) in requests {
            now += ms;
            for reuse in [&mut a, &mut b] {
                reuse.on_request(Time::from_millis(now), capacity, request.iter().copied());
            }
            prop_assert_eq!(a.snapshot(), b.snapshot());
            prop_assert!((0..60).all(|k| a.retains(k) == b.retains(k)));
            prop_assert!(a.snapshot().keys <= 60);
        }
    }
}

/// Prompts that go round and round and do not fit.
fn round_robin(prompts: u64, rounds: u64) -> Vec<Vec<u64>> {
    let prompt = |i: u64| (0..10).map(|j| i * 10 + j).collect();
    (0..prompts * rounds).map(|i| prompt(i % prompts)).collect()
}

#[test]
fn a_loop_that_does_not_fit_is_not_retained() {
    let (always, never) = (
        expert(EvictionOrder::Recency, RetentionRule::Always),
        expert(EvictionOrder::Recency, RetentionRule::Never),
    );
    let requests = round_robin(10, 20);
    let reuse = learned_from(&[always, never], true, 60, &requests);
    assert_eq!(reuse.active_policy(), never);
    assert!(!reuse.retains(5));
    let fits = learned_from(&[always, never], true, 120, &requests);
    assert_eq!((fits.active_policy(), fits.snapshot().changes), (always, 0), "the first of equals is active");
    assert!(fits.retains(5));
}

#[test]
fn order_by_worth_beats_lru_on_scans() {
    let (recency, worth) = (
        expert(EvictionOrder::Recency, RetentionRule::Always),
        expert(EvictionOrder::Worth, RetentionRule::Always),
    );
    let requests: Vec<Vec<u64>> = (0..1500)
        .map(|i| match i % 3 {
            // Four prompts that come back, and documents that do not.
            0 | 1 => (0..10).map(|j| (i / 3 % 4) * 10 + j).collect(),
            _ => (0..20).map(|j| 10_000 + i * 20 + j).collect(),
        })
        .collect();
    let reuse = learned_from(&[recency, worth], true, 60, &requests);
    assert_eq!(reuse.active_policy(), worth);
    let losses = losses(&reuse);
    assert!(losses[1] * 4.0 < losses[0], "{losses:?}");
}

#[test]
fn memory_of_the_predictor_is_bounded() {
    let mut reuse = ReusePredictor::new([expert(EvictionOrder::Recency, RetentionRule::Always)], true);
    for i in 0..5_000_u64 {
        reuse.on_request(Time::ZERO, 100, (0..100).map(|j| i * 100 + j));
    }
    assert_eq!(reuse.snapshot().keys, KEYS_MIN as u64);
}

#[test]
fn only_learning_policies_have_a_predictor() {
    use EvictionKind as E;
    use PrefetchKind as P;
    let experts =
        |e, p, l2| ReusePredictor::for_policies(e, p, OffloadKind::Default, l2).map(|r| r.shadows.len());
    assert_eq!(experts(E::Lru, P::Retain, true), None);
    assert_eq!(experts(E::Lru, P::Adaptive, false), None, "nothing to prefetch");
    assert_eq!(experts(E::Lru, P::Adaptive, true), Some(3));
    assert_eq!(experts(E::Adaptive, P::Default, true), Some(2));
    assert_eq!(experts(E::Adaptive, P::Adaptive, true), Some(4));
    assert_eq!(experts(E::Adaptive, P::Adaptive, false), Some(2));
    let gated =
        |l2| ReusePredictor::for_policies(E::Lru, P::Retain, OffloadKind::Gated, l2).map(|r| r.shadows.len());
    assert_eq!((gated(true), gated(false)), (Some(1), None));
}

#[test]
fn filter_drops_more_while_nothing_is_lost_and_less_when_too_much_is() {
    let mut filter = AdmissionFilter::default();
    assert!(!filter.drops(0.0), "nothing was learned");
    (0..1_000).for_each(|_| filter.on_answer(0, 10));
    assert!(filter.drops(0.5), "{filter:?}");
    assert!(!filter.drops(0.8), "a chunk that is almost certainly reused is stored");
    // Of the chunks that come back with a chance of one half some may be lost, but not many.
    let mut lost = 0;
    for _ in 0..4_000 {
        let goes = filter.drops(0.5);
        (0..10).filter(|_| goes).for_each(|_| filter.on_drop(0.5));
        lost += 5 * u32::from(goes);
        filter.on_answer(5 * u32::from(goes), 10);
    }
    assert!((100..1_000).contains(&lost), "{lost} of 40000 chunks");
    // More is lost than was expected.
    let mut lost = 0;
    for _ in 0..8_000 {
        let goes = filter.drops(0.1);
        (0..10).filter(|_| goes).for_each(|_| filter.on_drop(0.1));
        lost += 4 * u32::from(goes);
        filter.on_answer(4 * u32::from(goes), 10);
    }
    assert!((100..2_400).contains(&lost), "{lost} of 80000 chunks");
}

#[test]
fn last_chunk_of_a_request_is_evicted_first_whatever_its_worth() {
    let mut ages = AgeHistogram::default();
    let (soon, never) = (ReuseClass(1), ReuseClass(2));
    for i in 0..100 {
        if i > 0 {
            (0..4).for_each(|_| ages.used_again(soon, i - 1, 1));
        }
        ages.add_cohort(i as u32, smallvec![(soon, 4), (never, 4)]);
    }
    let mut order = WorthOrder::default();
    // A prompt 1, 2, 3 whose middle looks worthless, and an older chunk that is worth more than it.
    order.insert(9, soon, 99);
    [(3, soon), (2, never), (1, soon)].iter().for_each(|(n, class)| order.insert(*n, *class, 100));
    order.update(100, &ages);
    assert_eq!(order.worst(), Some(3));
    let all: Vec<u32> = order.worst_first().collect();
    assert_eq!(all[..2], [3, 2]);
    assert!(all.iter().position(|n| *n == 1) > all.iter().position(|n| *n == 2));
}
