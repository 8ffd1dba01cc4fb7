//! What no policy can do better that knows how a load of talks behaves, but not what happens next.
//!
//! A block is wanted at the next turn of its talk or never. Whoever decides after turn `k` to keep it for a time `t`
//! expects `p F(t)` hits, where `p` is the share of talks that go on after `k` turns and `F` the distribution of pauses,
//! and pays for `p E[min(pause, t)] + (1 - p) t` of space-time. The cache has its blocks times the length of the load.
//! If space-time had a price, each decision could be taken alone; whatever the price, the best decisions at it, plus
//! the price of the cache, are at least what can be had in the cache (Lagrange). The least over all prices is the bound.
//! It is generous: the space must suffice in the mean only, and requests in progress take none.

use super::traces::Trace;

/// Times to keep a block for that are tried.
const TIMES: usize = 400;

/// One of them: with its share of pauses that are not longer, and the mean of the pause up to it.
struct Keep {
    time: f64,
    share: f64,
    mean: f64,
}

/// Blocks of prompts that can be expected to be found at most, for loads of talks only.
pub fn hits(trace: &Trace) -> Option<f64> {
    let returns = trace.returns.as_ref()?;
    let draws = returns.pauses.len();
    let mut times = Vec::with_capacity(TIMES);
    let mut sum = 0.0;
    for (i, &time) in returns.pauses.iter().enumerate() {
        sum += time;
        if (i + 1) % (draws / TIMES) == 0 {
            let share = (i + 1) as f64 / draws as f64;
            let mean = sum / draws as f64 + (1.0 - share) * time;
            times.push(Keep { time, share, mean });
        }
    }
    let mut blocks_after = vec![0.0; returns.at_least.len() + 1];
    for request in &trace.requests {
        blocks_after[request.turn] += (request.blocks.len() - returns.shared) as f64;
    }
    let on = |turn: usize| match returns.at_least.get(turn..turn + 2) {
        Some(&[here, next]) if here > 0.0 => next / here,
        _ => 0.0,
    };
    let space = (trace.capacity - returns.shared) as f64 * trace.requests.last()?.time;
    let at_price = |price: f64| {
        let after = blocks_after.iter().enumerate().map(|(turn, blocks)| {
            let on = on(turn);
            let gain = |k: &Keep| on * k.share - price * (on * k.mean + (1.0 - on) * k.time);
            blocks * times.iter().map(gain).fold(0.0, f64::max)
        });
        price * space + after.sum::<f64>()
    };
    // Convex in the price.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..100 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if at_price(a) < at_price(b) {
            high = b;
        } else {
            low = a;
        }
    }
    let shared = returns.shared * (trace.requests.len() - 1);
    Some(shared as f64 + at_price(low))
}
