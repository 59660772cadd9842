//! Random histories.

use terrapool_verification::history::{Rare, Weakness, play, play_many};

const REGRESSIONS: &str = include_str!("regressions/histories.txt");

fn regressions() -> impl Iterator<Item = u64> {
    REGRESSIONS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.parse().expect("a seed in each line"))
}

#[test]
fn histories_that_broke_something_once_hold() {
    for seed in regressions() {
        assert_eq!(play(seed, Weakness::None).broken, None, "seed {seed}");
    }
}

#[test]
fn a_seed_replays_to_its_last_step() {
    for seed in regressions().chain(0..200) {
        let [one, other] = [play(seed, Weakness::None), play(seed, Weakness::None)];
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn a_hundred_thousand_histories_hold_and_see_everything_rare() {
    let many = play_many(0..100_000, Weakness::None);
    assert!(
        many.broken.is_empty(),
        "`terrapool-verification --tell SEED` tells what happened: {:?}",
        &many.broken[..many.broken.len().min(10)]
    );
    for rare in Rare::ALL {
        assert!(many.counts.of(*rare) > 0, "no history has seen {rare:?}");
    }
}

#[test]
fn an_agent_that_lets_an_engine_go_on_for_too_long_is_noticed() {
    let many = play_many(0..5_000, Weakness::LongContactLimit);
    assert!(!many.broken.is_empty());
}
