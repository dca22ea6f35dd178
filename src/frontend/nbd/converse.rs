//! What a server makes of a client's bytes, without a socket and without a core: the handshake, then the judgement of each
//! request. For fuzzing: the same pure functions as the server's, in the same order.
//!
//! **Invariants.** However the bytes are cut into pieces, the outcome is the same.
//!
//! **Not here:** what the core answers; payloads are skipped.

use super::command::{self, Terms, Verdict};
use super::exports::Exports;
use super::handshake::{Handshake, Progress, Session};
use super::wire::{Header, REQUEST_BYTES};

/// What came of a client's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What the server said in the handshake.
    pub said: Vec<u8>,
    /// Whether the handshake led to transmission.
    pub transmission: bool,
    /// Requests that were accepted: kind as text, first byte, bytes.
    pub accepted: Vec<(String, u64, u32)>,
    /// Requests that were refused, or skipped with their payload.
    pub refused: usize,
    /// Why the connection was dropped, if it was.
    pub dropped: Option<&'static str>,
    /// Bytes that were used.
    pub used: usize,
}

/// Takes `input` in pieces of `piece` bytes.
#[must_use]
pub fn converse(exports: &Exports, input: &[u8], piece: usize) -> Conversation {
    let mut talk = Conversation::default();
    let mut state = State::Handshake(Handshake::default());
    let mut there = 0;
    loop {
        let used = talk.used;
        match step(&mut talk, &mut state, exports, &input[used..there]) {
            Some(used) => talk.used += used,
            None if matches!(state, State::Over) || there == input.len() => return talk,
            None => there = (there + piece.max(1)).min(input.len()),
        }
    }
}

enum State {
    Handshake(Handshake),
    Transmission(Session),
    Over,
}

/// One step: how many bytes it used, or `None` when it needs more, or there will be no more steps.
fn step(talk: &mut Conversation, state: &mut State, exports: &Exports, bytes: &[u8]) -> Option<usize> {
    match state {
        State::Handshake(handshake) => match handshake.advance(bytes, exports, &mut talk.said) {
            Ok(Progress::Incomplete) => None,
            Ok(Progress::Used(used)) => Some(used),
            Ok(Progress::Transmission(used, session)) => {
                talk.transmission = true;
                *state = State::Transmission(session);
                Some(used)
            }
            Ok(Progress::Leave) => end(talk, state, None),
            Err(violation) => end(talk, state, Some(violation.0)),
        },
        State::Transmission(session) => {
            let head = bytes.first_chunk::<REQUEST_BYTES>()?;
            let Some(header) = Header::decode(head) else {
                return end(talk, state, Some("wrong magic number of a request"));
            };
            let payload = if command::has_payload(&header) { header.len as usize } else { 0 };
            let terms = Terms {
                size: session.export.client.size_bytes(),
                logical_block: session.export.client.logical_block,
                read_only: session.export.read_only,
                allocation: session.allocation,
            };
            let verdict = command::judge(&header, &terms);
            match verdict {
                Verdict::Disconnect => return end(talk, state, None),
                Verdict::Violation(what) => return end(talk, state, Some(what)),
                Verdict::Accept(_) | Verdict::Refuse(_) if bytes.len() < REQUEST_BYTES + payload => return None,
                Verdict::Accept(ask) => talk.accepted.push((format!("{:?}", ask.kind), header.offset, ask.len)),
                Verdict::Refuse(_) => talk.refused += 1,
            }
            Some(REQUEST_BYTES + payload)
        }
        State::Over => None,
    }
}

fn end(talk: &mut Conversation, state: &mut State, why: Option<&'static str>) -> Option<usize> {
    talk.dropped = why;
    *state = State::Over;
    None
}
