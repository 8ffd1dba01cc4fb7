//! Prompts of all lengths that have nothing in common.

use super::{Draft, request};
use crate::exit::Failure;

const REQUESTS: usize = 32;

pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), Failure> {
    for _ in 0..draft.conversations(REQUESTS) {
        let length = draft.between(64, 2048);
        let ids = draft.text(length)?;
        let arrival = draft.next_arrival();
        let answer = draft.between(16, 128);
        draft.push(request(ids, arrival), answer);
    }
    Ok(())
}
