//! Users of a few assistants who talk in turns.

use super::{Draft, Request, request};
use crate::exit::Failure;

/// Assistants, each with a system prompt and cached prefixes of its own.
const ASSISTANTS: usize = 3;
const CONVERSATIONS: usize = 24;
/// Priority of those who pay more: every fourth.
const PREFERRED: u64 = 800;

pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), Failure> {
    let mut systems = Vec::new();
    for _ in 0..ASSISTANTS {
        let length = draft.between(300, 600);
        systems.push(draft.text(length)?);
    }
    for user in 0..draft.conversations(CONVERSATIONS) {
        let assistant = draft.between(0, ASSISTANTS - 1);
        let turns = draft.between(2, 4);
        let mut after = None;
        for turn in 0..turns {
            if draft.is_full() {
                return Ok(());
            }
            let length = draft.between(24, 160);
            let said = draft.text(length)?;
            let (ids, arrival) = match turn {
                0 => ([&systems[assistant][..], &said].concat(), draft.next_arrival()),
                _ => (said, draft.pause()),
            };
            let answer = draft.between(48, 192);
            let turn = Request {
                after,
                salt: format!("assistant-{assistant}"),
                priority: if user % 4 == 3 { PREFERRED } else { super::USUAL },
                ..request(ids, arrival)
            };
            after = Some(draft.push(turn, answer));
        }
    }
    Ok(())
}
