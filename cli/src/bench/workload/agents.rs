//! Programs that call tools and read what these answer, all with the same instructions.

use super::{Draft, Request, request};
use crate::exit::Failure;

const AGENTS: usize = 8;
/// Calls of tools in a task.
const STEPS: usize = 6;

pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), Failure> {
    let instructions = draft.text(1536)?;
    for _ in 0..draft.conversations(AGENTS) {
        let length = draft.between(32, 128);
        let task = draft.text(length)?;
        let mut ids = [&instructions[..], &task].concat();
        let mut arrival = draft.next_arrival();
        let mut after = None;
        for _ in 0..STEPS {
            if draft.is_full() {
                return Ok(());
            }
            let answer = draft.between(32, 96);
            let step = Request {
                after,
                ..request(ids, arrival)
            };
            after = Some(draft.push(step, answer));
            let length = draft.between(128, 768);
            ids = draft.text(length)?;
            arrival = draft.pause();
        }
    }
    Ok(())
}
