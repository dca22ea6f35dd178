//! Shared memory as a medium of its own: it survives the daemon, not the machine.
//!
//! When a daemon dies, whatever lies beyond the published bytes of a slot may be anything: stores were under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;

use super::death::Death;
use crate::format::slot::StagingHeader;
use crate::limits::{SLOT_BYTES, SLOT_COUNT};
use crate::staging::{Region, was_served};
use crate::units::{PoolId, SessionId};

/// The directory of staging files.
#[derive(Default)]
pub struct SharedMemory {
    regions: BTreeMap<([u8; 16], SessionId), Region>,
    /// Slots with something in them that successors found.
    pub found_slots: u64,
}

impl SharedMemory {
    /// A new region of zeros for a daemon; none when it exists.
    pub fn create(&mut self, pool: PoolId, session: SessionId, death: Arc<Death>) -> Option<Region> {
        let key = (pool.0, session);
        if self.regions.contains_key(&key) {
            return None;
        }
        let region = Region::anonymous();
        self.regions.insert(key, region.clone());
        Some(region.belonging_to(death))
    }

    /// The region of a session, as a daemon sees it.
    #[must_use]
    pub fn find(&mut self, pool: PoolId, session: SessionId, death: Arc<Death>) -> Option<Region> {
        let region = self.regions.get(&(pool.0, session))?;
        let filled = (0..SLOT_COUNT).filter(|slot| region.published_bytes(*slot) > 0).count();
        self.found_slots += filled as u64;
        Some(region.belonging_to(death))
    }

    /// Removes the region of a session.
    pub fn remove(&mut self, pool: PoolId, session: SessionId) {
        self.regions.remove(&(pool.0, session));
    }

    /// Removes what other sessions than the newest left.
    pub fn sweep(&mut self, pool: PoolId, newest: SessionId) {
        self.regions.retain(|(owner, session), _| *owner != pool.0 || *session == newest);
    }

    /// A session other than the known one that has served the pool and left its region.
    #[must_use]
    pub fn other_serve(&self, known: &StagingHeader) -> Option<SessionId> {
        let others =
            self.regions.iter().filter(|((pool, session), _)| *pool == known.pool.0 && *session != known.session);
        let mut served =
            others.filter(|((_, session), region)| was_served(region, &StagingHeader { session: *session, ..*known }));
        served.next().map(|((_, session), _)| *session)
    }

    /// How many regions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.regions.len()
    }

    /// A daemon died: what it had not published is anything.
    pub fn daemon_dies(&self, rng: &mut Rng) {
        for region in self.regions.values() {
            for slot in 0..SLOT_COUNT {
                let published = usize::try_from(region.published_bytes(slot)).map_or(SLOT_BYTES, |n| n.min(SLOT_BYTES));
                let room = SLOT_BYTES - published;
                if room == 0 || rng.bool() {
                    continue;
                }
                let at = if rng.bool() { published } else { published + rng.usize(0..room) };
                let mut garbage = vec![0; rng.usize(1..=8192).min(SLOT_BYTES - at)];
                if rng.u8(0..4) > 0 {
                    rng.fill(&mut garbage);
                }
                region.store(slot, at, &garbage);
            }
        }
    }

    /// The machine lost power.
    pub fn loses_power(&mut self) {
        self.regions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId([7; 16]);

    #[test]
    fn what_was_published_survives_the_daemon_and_not_the_machine() {
        for seed in 0..20 {
            let mut memory = SharedMemory::default();
            let death = Death::never();
            let region = memory.create(POOL, SessionId(1), death.clone()).unwrap();
            assert!(memory.create(POOL, SessionId(1), death.clone()).is_none());
            region.store(3, 0, &[0xaa; 1000]);
            region.publish(3, 600);
            death.kill();
            region.store(3, 0, &[0xbb; 1000]);
            region.publish(3, 1000);
            memory.daemon_dies(&mut Rng::with_seed(seed));
            let next = memory.find(POOL, SessionId(1), Death::never()).unwrap();
            assert_eq!(next.published_bytes(3), 600);
            let mut bytes = [0; 600];
            next.load(3, 0, &mut bytes);
            assert_eq!(bytes, [0xaa; 600]);
            memory.loses_power();
            assert!(memory.find(POOL, SessionId(1), Death::never()).is_none());
        }
    }

    #[test]
    fn stores_are_cut_at_the_planned_one() {
        let mut memory = SharedMemory::default();
        let death = Death::never();
        let region = memory.create(POOL, SessionId(2), death.clone()).unwrap();
        death.plan(crate::sim::Point::Store, 2, 512);
        region.store(0, 0, &[1; 8]);
        region.store(0, 8, &[2; 8]);
        region.store(0, 16, &[3; 8]);
        let mut bytes = [9; 24];
        region.load(0, 0, &mut bytes);
        assert_eq!(bytes[..12], [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(bytes[12..], [0; 12]);
        assert!(death.is_dead());
    }
}
