//! How many blocks of prompts each eviction policy of the prefix cache finds again, beside what is possible.
//!
//! `cargo bench --bench prefix_policies` plays made-up loads through the index with numbers for blocks: no model, no
//! clock, the same figures on every machine. `benches/record/prefix-policies.md` has them.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod optimum;
mod traces;

use infer::kernel::RowType;
use infer::kv::prefix::{Fingerprint, Insert, Namer, NodeId, PolicyKind, PrefixIndex, Secret};
use infer::kv::{BLOCK_TOKENS, BlockId, Geometry};
use traces::Trace;

fn main() {
    // Without `--bench` this is a run of the tests, which has no time for it.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let traces = [
        traces::chats(2000),
        traces::chats(6000),
        traces::system_prompt(1000),
        traces::system_prompt(2500),
        traces::agents(2000),
        traces::agents(6000),
        traces::scan(1500),
        traces::scan(2500),
    ];
    print!("| load | blocks |");
    for kind in PolicyKind::ALL {
        print!(" {} |", kind.name());
    }
    println!(" optimum | gap closed |\n|---|---|{}---|---|", "---|".repeat(5));
    for trace in &traces {
        let asked: usize = trace.requests.iter().map(|r| r.prompt).sum();
        let percent = |hits: usize| hits as f64 * 100.0 / asked as f64;
        let hits = PolicyKind::ALL.map(|kind| play(trace, kind));
        let best = optimum::hits(trace);
        print!("| {} | {} |", trace.name, trace.capacity);
        for hits in hits {
            print!(" {:.1} |", percent(hits));
        }
        let [lru, .., adaptive] = hits;
        let closed = (adaptive as f64 - lru as f64) * 100.0 / (best as f64 - lru as f64).max(1.0);
        println!(" {:.1} | {closed:.0} % |", percent(best));
    }
}

/// Tokens of a block with this content.
fn tokens(content: u32) -> [u32; BLOCK_TOKENS] {
    [content; BLOCK_TOKENS]
}

/// Blocks of prompts that an index with this policy finds.
fn play(trace: &Trace, kind: PolicyKind) -> usize {
    let Ok(geometry) = Geometry::new(RowType::F16, Vec::new()) else {
        return 0;
    };
    let namer = Namer::new(Secret::fixed([1; 32]), 0, Fingerprint::new(&geometry, &[]));
    let mut index = PrefixIndex::new(namer, kind);
    let root = index.root(b"");
    let mut hits = 0;
    let mut pinned: Vec<NodeId> = Vec::new();
    let mut ids = Vec::new();
    for request in &trace.requests {
        ids.clear();
        ids.extend(request.blocks.iter().flat_map(|b| tokens(*b)));
        let prefix = index.lookup(root, &ids, request.prompt * BLOCK_TOKENS);
        hits += prefix.blocks.len();
        index.touch(&prefix);
        for (id, _) in &prefix.blocks {
            index.pin(*id);
            pinned.push(*id);
        }
        let mut parent = prefix.chain().unwrap_or(root);
        for block in ids[prefix.blocks.len() * BLOCK_TOKENS..].chunks_exact(BLOCK_TOKENS) {
            while index.len() >= trace.capacity && index.evict().is_some() {}
            parent = match index.insert(root, parent, block, BlockId::new(0)) {
                Insert::New(id, key) => {
                    pinned.push(id);
                    key
                }
                // A block that outlived its parent.
                Insert::Known(id, _, key) => {
                    index.pin(id);
                    pinned.push(id);
                    key
                }
                Insert::Covered => break,
            };
        }
        for id in pinned.drain(..).rev() {
            index.unpin(id);
        }
    }
    hits
}
