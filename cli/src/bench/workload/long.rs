//! Prompts near the limit of the context.

use super::{Draft, request};
use crate::exit::Failure;

const REQUESTS: usize = 4;

pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), Failure> {
    for _ in 0..draft.conversations(REQUESTS) {
        let length = draft.between(7000, 7900);
        let ids = draft.text(length)?;
        let arrival = draft.next_arrival();
        let answer = draft.between(64, 128);
        draft.push(request(ids, arrival), answer);
    }
    Ok(())
}
