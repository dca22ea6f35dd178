//! Discard and write-zeroes: CLEAR records and holes in the map; no payload, no device read but for leaves.
//!
//! A range is cleared leaf group by leaf group, so that each await-free step is short. Groups in which nothing was ever
//! written cost nothing.

use std::rc::Rc;

use super::Core;
use super::room::Purpose;
use crate::error::Result;
use crate::format::Entry;
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::limits::LEAF_ENTRIES;
use crate::log::StreamKind;
use crate::map::{first_lba, leaf_of};
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// Leaves cleared in one step.
const LEAVES_A_STEP: u32 = 16;

impl Core {
    /// Makes whole blocks read as zeros. Returns the last operation (0 when there was nothing to clear).
    ///
    /// # Errors
    /// No space for the record, the latch, the namespace gone; groups before the failing one are cleared.
    pub(super) async fn clear_blocks(self: &Rc<Self>, id: NamespaceId, range: LbaRange) -> Result<OpNo> {
        let mut last = OpNo(0);
        let mut start = range.start;
        while start < range.end() {
            let next_leaf = (leaf_of(start) / LEAVES_A_STEP + 1) * LEAVES_A_STEP;
            let end = first_lba(next_leaf).min(range.end());
            if self.has_anything(id, start, end)? {
                let group = LbaRange { start, count: end.0 - start.0 };
                last = self.clear_group(id, group).await?;
            }
            start = end;
        }
        Ok(last)
    }

    fn has_anything(&self, id: NamespaceId, start: Lba, end: Lba) -> Result<bool> {
        let state = self.state.borrow();
        let directory = &state.namespace(id)?.directory;
        Ok((leaf_of(start)..=leaf_of(Lba(end.0 - 1))).any(|leaf| !directory.is_hole(leaf)))
    }

    async fn clear_group(self: &Rc<Self>, id: NamespaceId, group: LbaRange) -> Result<OpNo> {
        self.latch.check()?;
        self.know(id, group).await?;
        loop {
            self.wait_unreserved(id, group).await;
            self.make_room(Purpose::Clear, record_bytes(0), 1).await?;
            if !self.is_reserved(id, group) {
                break;
            }
        }
        self.append_clear(id, group)
    }

    /// The step: one record, the whole group cleared, published (I12).
    fn append_clear(&self, id: NamespaceId, group: LbaRange) -> Result<OpNo> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.namespace(id)?;
        let begun = self.stamp_batch(state, StreamKind::Host);
        let body = RecordBody::Clear { count: group.count };
        let header = RecordHeader { namespace: id, first: group.start, op_delta: 0, stored: 0, body };
        let appended = state.log.append(StreamKind::Host, header, &[], crate::codec::payload_hash(&[]));
        for lba in (group.start.0..group.end().0).map(Lba) {
            // holes in leaves that hold nothing stay as they are: no leaf is made to hold a hole
            if state.namespace(id)?.directory.get(lba) != Entry::HOLE {
                state.set(id, lba, Entry::HOLE, appended.op);
            }
        }
        state.log.publish(StreamKind::Host);
        drop(guard);
        if begun {
            self.batch_begun.notify_all();
        }
        Ok(appended.op)
    }
}

const _: () = assert!(LEAVES_A_STEP as usize * LEAF_ENTRIES <= 16 * 1024);
