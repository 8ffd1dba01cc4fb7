//! Mailboxes, completion queues and ready lists under a model checker: a reader gets everything, in order, once, and
//! does not sleep while something waits.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::event::{Announce, Event, Finish, FinishReason, Mailbox, Output, Poll};
use super::queue::{Outbox, Queue, ReadyList};
use crate::sync::model::{Defect, finds, holds};
use crate::sync::thread;

fn finish() -> Finish {
    Finish {
        reason: FinishReason::Length,
        stop: None,
        error: None,
        prompt_tokens: 1,
        cached_tokens: 0,
        generated_tokens: 2,
        queue_time: Duration::ZERO,
        time_to_first_token: Duration::ZERO,
        total_time: Duration::ZERO,
        decode_tokens_per_second: 0.0,
    }
}

/// What a worker does for a request of two tokens: a step each, and the end.
fn produce(mailbox: &Arc<Mailbox>) {
    produce_choice(mailbox, 0);
}

/// The same for one of its completions.
fn produce_choice(mailbox: &Arc<Mailbox>, choice: usize) {
    for token in 0..2 {
        let mut outbox = Outbox::default();
        let output = Output {
            text: "x",
            tokens: &[token],
            ..Output::default()
        };
        mailbox.push(choice, output, &mut outbox);
    }
    let output = Output {
        text: "y",
        ..Output::default()
    };
    mailbox.finish(choice, output, finish(), &mut Outbox::default());
}

fn one_reader() {
    let list = Arc::new(ReadyList::default());
    let mailbox = Mailbox::new(1, 1, Announce::Engine(Arc::downgrade(&list)));
    let theirs = Arc::clone(&mailbox);
    let worker = thread::spawn(move || produce(&theirs));
    let (mut text, mut tokens, mut ends) = (String::new(), Vec::new(), 0);
    let mut event = Event::default();
    while mailbox.wait(None, &mut event).unwrap() == Poll::Event {
        text.push_str(&event.text);
        tokens.extend_from_slice(&event.tokens);
        ends += usize::from(event.finish.is_some());
    }
    assert_eq!((text.as_str(), tokens.as_slice(), ends), ("xxy", &[0, 1][..], 1));
    worker.join().unwrap();
}

fn freed_while_it_is_filled() {
    let list = Arc::new(ReadyList::default());
    let mailbox = Mailbox::new(1, 1, Announce::Engine(Arc::downgrade(&list)));
    let theirs = Arc::clone(&mailbox);
    let worker = thread::spawn(move || produce(&theirs));
    mailbox.abandon();
    worker.join().unwrap();
    assert_eq!(mailbox.take(&mut Event::default()).0, Poll::End);
}

/// Two engines report to one queue; its wake flag says at the end that it is empty.
fn a_queue() {
    let full = Arc::new(AtomicBool::new(false));
    let shown = Arc::clone(&full);
    let queue = Arc::new(Queue::new(Some(Box::new(move |now| shown.store(now, SeqCst)))));
    let workers: Vec<_> = (0..2)
        .map(|tag| {
            let mailbox = Mailbox::new(tag, 1, Announce::Queue(Arc::downgrade(&queue)));
            thread::spawn(move || produce(&mailbox))
        })
        .collect();
    let mut tokens = [const { Vec::new() }; 2];
    let mut ended = 0;
    let mut events = [Event::default(), Event::default()];
    while ended < 2 {
        let n = queue.next(None, &mut events).unwrap();
        for event in &events[..n] {
            tokens[event.tag as usize].extend_from_slice(&event.tokens);
            ended += usize::from(event.finish.is_some());
        }
    }
    assert!(tokens.iter().all(|t| t == &[0, 1]), "{tokens:?}");
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(!full.load(SeqCst));
}

/// Two completions of one request report to a queue whose reader has room for one event at a time.
fn completions_on_a_queue() {
    let queue = Arc::new(Queue::default());
    let mailbox = Mailbox::new(7, 2, Announce::Queue(Arc::downgrade(&queue)));
    let theirs = Arc::clone(&mailbox);
    let worker = thread::spawn(move || {
        produce_choice(&theirs, 1);
        produce_choice(&theirs, 0);
    });
    let mut tokens = [const { Vec::new() }; 2];
    let mut ended = 0;
    let mut events = [Event::default()];
    while ended < 2 {
        queue.next(None, &mut events).unwrap();
        let event = &events[0];
        tokens[event.choice as usize].extend_from_slice(&event.tokens);
        ended += usize::from(event.finish.is_some());
    }
    assert!(tokens.iter().all(|t| t == &[0, 1]), "{tokens:?}");
    assert_eq!(mailbox.take(&mut Event::default()).0, Poll::End);
    worker.join().unwrap();
}

/// One thread waits for any of two requests and reads what is ready.
fn a_ready_list() {
    let list = Arc::new(ReadyList::default());
    let mailboxes: Vec<_> = (0..2)
        .map(|tag| Mailbox::new(tag, 1, Announce::Engine(Arc::downgrade(&list))))
        .collect();
    let workers: Vec<_> = mailboxes
        .iter()
        .map(|mailbox| {
            let mailbox = Arc::clone(mailbox);
            thread::spawn(move || produce(&mailbox))
        })
        .collect();
    let mut ended = 0;
    while ended < 2 {
        let mut found = Vec::new();
        list.wait(None, 2, &mut |mailbox| found.push(Arc::clone(mailbox)));
        for mailbox in found {
            let mut event = Event::default();
            assert_eq!(mailbox.take(&mut event), (Poll::Event, false));
            ended += usize::from(event.finish.is_some());
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_reader_gets_everything_in_order_and_once() {
    holds(one_reader);
    holds(a_queue);
    holds(completions_on_a_queue);
    holds(a_ready_list);
}

#[test]
fn a_request_can_be_freed_at_any_moment() {
    holds(freed_while_it_is_filled);
}

#[test]
fn lost_wake_ups_are_found() {
    for model in [one_reader, a_queue, completions_on_a_queue, a_ready_list] {
        finds(Defect::LostWakeUps, model);
    }
}
