//! Questions on long documents, with short answers.

use super::{Draft, request};
use crate::exit::Failure;

const DOCUMENTS: usize = 6;
const QUESTIONS: usize = 4;

pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), Failure> {
    for _ in 0..draft.conversations(DOCUMENTS) {
        let length = draft.between(1024, 4096);
        let document = draft.text(length)?;
        let mut arrival = draft.next_arrival();
        for _ in 0..QUESTIONS {
            if draft.is_full() {
                return Ok(());
            }
            let length = draft.between(16, 64);
            let question = draft.text(length)?;
            let answer = draft.between(32, 96);
            draft.push(request([&document[..], &question].concat(), arrival), answer);
            // Other documents are asked about in between.
            arrival += draft.pause();
        }
    }
    Ok(())
}
