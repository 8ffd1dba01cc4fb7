//! What a cache could do that knows the future: of the blocks that no request uses, the one that is needed last goes.
//!
//! A chain needs its first blocks at least as early as its last ones, and of two that are needed at the same time the
//! deeper goes, so what is kept is always whole prefixes and every kept block can be hit.

use std::collections::{BTreeSet, HashMap};

use super::traces::Trace;

/// Blocks of prompts that are found.
pub fn hits(trace: &Trace) -> usize {
    // Contents never repeat below another prefix, so the number of a block says which chain it is.
    let mut next = vec![HashMap::new(); 1];
    let mut uses: Vec<Vec<usize>> = Vec::with_capacity(trace.requests.len());
    let mut later: HashMap<u32, usize> = HashMap::new();
    for (i, request) in trace.requests.iter().enumerate().rev() {
        uses.push(
            request
                .blocks
                .iter()
                .map(|b| later.get(b).copied().unwrap_or(usize::MAX))
                .collect(),
        );
        for block in &request.blocks[..request.prompt] {
            later.insert(*block, i);
        }
    }
    uses.reverse();
    let resident: &mut HashMap<u32, (usize, usize)> = &mut next[0];
    let mut order: BTreeSet<(usize, usize, u32)> = BTreeSet::new();
    let mut hits = 0;
    for (request, uses) in trace.requests.iter().zip(uses) {
        let chain = request.blocks[..request.prompt].iter();
        hits += chain.take_while(|b| resident.contains_key(b)).count();
        for block in &request.blocks {
            if let Some((needed, depth)) = resident.remove(block) {
                order.remove(&(needed, depth, *block));
            }
        }
        while resident.len() + request.blocks.len() > trace.capacity {
            let Some((_, _, block)) = order.pop_last() else {
                break;
            };
            resident.remove(&block);
        }
        for (depth, (block, needed)) in request.blocks.iter().zip(uses).enumerate() {
            resident.insert(*block, (needed, depth));
            order.insert((needed, depth, *block));
        }
    }
    hits
}
