//! One logical block of a namespace as a register: which writes may it hold now?
//!
//! A [`Version`] is a write as seen by one cell. Its place in the cell's order lies between its submission and its
//! [`Version::ended`]. A precedes B for certain when A had ended before B was submitted, or when a read showed it: a
//! read that returns B after A was effective puts A before B. A version is a possible answer unless one that it
//! precedes was effective before the read began. With unique writes this is exactly linearizability of a register.

/// Moments are counted, not timed.
pub type Moment = u64;

/// A write as one cell sees it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Number of the write; 0 is what was there before all of them.
    pub id: u64,
    /// It reads as zeros.
    pub zero: bool,
    /// When it was submitted.
    pub submitted: Moment,
    /// It took its place in the order before this, if it ever does.
    pub ended: Option<Moment>,
    /// Since when it is certain that it took its place: it was acknowledged or read.
    pub effective: Option<Moment>,
    /// It survives a loss of power, or something that replaced it does.
    pub durable: bool,
    /// It comes from before the last recovery: of these exactly one is the present one.
    pub base: bool,
    /// Writes that reads have shown to precede it.
    after: Vec<u64>,
}

/// All versions that may matter of one cell.
#[derive(Clone, Debug)]
pub struct Cell {
    versions: Vec<Version>,
}

/// Which failure a recovery followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The daemon died; shared memory and completed writes stayed.
    Daemon,
    /// The machine died; only what is durable stayed.
    Machine,
}

impl Cell {
    /// A cell that nobody has written: zeros.
    #[must_use]
    pub fn unwritten() -> Self {
        let zeros = Version {
            id: 0,
            zero: true,
            submitted: 0,
            ended: Some(0),
            effective: Some(0),
            durable: true,
            base: true,
            after: Vec::new(),
        };
        Self { versions: vec![zeros] }
    }

    /// The versions that are still possible or explain others.
    #[must_use]
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// A write was submitted. `reading_since` is when the oldest read under way began.
    pub fn submit(&mut self, id: u64, zero: bool, now: Moment, reading_since: Moment) {
        self.forget(reading_since);
        self.versions.push(Version {
            id,
            zero,
            submitted: now,
            ended: None,
            effective: None,
            durable: false,
            base: false,
            after: Vec::new(),
        });
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Version> {
        self.versions.iter_mut().find(|version| version.id == id)
    }

    /// The write was acknowledged.
    pub fn acknowledge(&mut self, id: u64, now: Moment) {
        if let Some(version) = self.get_mut(id) {
            version.ended = Some(version.ended.map_or(now, |ended| ended.min(now)));
            version.effective = Some(version.effective.map_or(now, |effective| effective.min(now)));
        }
    }

    /// The write was answered with an error: it took its place before now, or never will.
    pub fn fail(&mut self, id: u64, now: Moment) {
        if let Some(version) = self.get_mut(id) {
            version.ended = Some(version.ended.map_or(now, |ended| ended.min(now)));
        }
    }

    /// The write is covered by a flush.
    pub fn make_durable(&mut self, id: u64) {
        if let Some(version) = self.get_mut(id) {
            version.durable = true;
        }
    }

    fn directly_precedes(a: &Version, b: &Version) -> bool {
        a.id != b.id && (a.ended.is_some_and(|ended| ended < b.submitted) || b.after.contains(&a.id))
    }

    /// Everything that `from` certainly precedes.
    fn successors(&self, from: usize) -> Vec<usize> {
        let mut seen = vec![false; self.versions.len()];
        let mut todo = vec![from];
        let mut found = Vec::new();
        while let Some(at) = todo.pop() {
            for (next, version) in self.versions.iter().enumerate() {
                if !seen[next] && Self::directly_precedes(&self.versions[at], version) {
                    seen[next] = true;
                    found.push(next);
                    todo.push(next);
                }
            }
        }
        found
    }

    /// Whether a read that began at `since` may return version `index`; otherwise, which later one forbids it.
    fn forbidden_by(&self, index: usize, since: Moment) -> Option<u64> {
        self.successors(index)
            .into_iter()
            .map(|later| &self.versions[later])
            .find(|later| later.effective.is_some_and(|effective| effective < since))
            .map(|later| later.id)
    }

    /// A read from `since` to `now` returned write `id`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn read_write(&mut self, id: u64, since: Moment, now: Moment) -> Result<(), String> {
        let Some(index) = self.versions.iter().position(|version| version.id == id) else {
            return Err(format!("write {id}, which had been replaced for good or never reached it"));
        };
        if let Some(later) = self.forbidden_by(index, since) {
            return Err(format!("write {id}, although write {later} was there before the read began"));
        }
        self.observe(index, since, now);
        Ok(())
    }

    /// A read from `since` to `now` returned zeros.
    ///
    /// # Errors
    /// Why it may not.
    pub fn read_zeros(&mut self, since: Moment, now: Moment) -> Result<(), String> {
        let zeros: Vec<usize> = (0..self.versions.len()).filter(|index| self.versions[*index].zero).collect();
        let mut reason = "zeros, which nobody wrote".to_owned();
        let mut allowed = Vec::new();
        for index in zeros {
            match self.forbidden_by(index, since) {
                Some(later) => reason = format!("zeros, although write {later} was there before the read began"),
                None => allowed.push(index),
            }
        }
        match allowed[..] {
            [] => Err(reason),
            [index] => {
                self.observe(index, since, now);
                Ok(())
            }
            _ => {
                // one of them it was: if all are from before the recovery, the others of that time are out
                if allowed.iter().all(|index| self.versions[*index].base) {
                    let mut index = 0..;
                    self.versions.retain(|version| index.next().is_some_and(|i| !version.base || allowed.contains(&i)));
                }
                Ok(())
            }
        }
    }

    fn observe(&mut self, index: usize, since: Moment, now: Moment) {
        let id = self.versions[index].id;
        let before: Vec<u64> = self
            .versions
            .iter()
            .filter(|other| other.id != id && other.effective.is_some_and(|effective| effective < since))
            .map(|other| other.id)
            .collect();
        let version = &mut self.versions[index];
        version.ended = Some(version.ended.map_or(now, |ended| ended.min(now)));
        version.effective = Some(version.effective.map_or(now, |effective| effective.min(now)));
        for other in before {
            if !version.after.contains(&other) {
                version.after.push(other);
            }
        }
        if version.base {
            // recovery made the present version durable, and it is this one
            version.durable = true;
            self.versions.retain(|other| !other.base || other.id == id);
        }
    }

    /// Drops what no read and no recovery can bring back: it precedes a durable version that was effective before the
    /// oldest read under way began.
    fn forget(&mut self, reading_since: Moment) {
        if self.versions.len() < 2 {
            return;
        }
        let certain = |version: &Version| version.durable && version.effective.is_some_and(|e| e < reading_since);
        let gone: Vec<bool> = (0..self.versions.len())
            .map(|index| self.successors(index).into_iter().any(|later| certain(&self.versions[later])))
            .collect();
        let mut gone = gone.into_iter();
        self.versions.retain(|_| !gone.next().unwrap_or(false));
    }

    /// A recovery after `failure` ended: what is possible now is the base of everything to come.
    pub fn recover(&mut self, failure: Failure, now: Moment) {
        let certain = |version: &Version| match failure {
            Failure::Daemon => version.effective.is_some(),
            Failure::Machine => version.durable,
        };
        let gone: Vec<bool> = (0..self.versions.len())
            .map(|index| self.successors(index).into_iter().any(|later| certain(&self.versions[later])))
            .collect();
        let mut gone = gone.into_iter();
        self.versions.retain(|_| !gone.next().unwrap_or(false));
        let only = self.versions.len() == 1;
        for version in &mut self.versions {
            version.base = true;
            version.ended = Some(version.ended.map_or(now, |ended| ended.min(now)));
            // which of several it is, only a read can tell
            version.effective = only.then_some(now);
            version.durable = only;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(cell: &Cell) -> Vec<u64> {
        cell.versions().iter().map(|version| version.id).collect()
    }

    #[test]
    fn an_acknowledged_write_replaces_what_was_there() {
        let mut cell = Cell::unwritten();
        cell.read_zeros(1, 2).unwrap();
        cell.submit(1, false, 3, 3);
        cell.read_zeros(4, 5).unwrap();
        cell.acknowledge(1, 6);
        assert!(cell.clone().read_zeros(7, 8).is_err());
        cell.clone().read_zeros(5, 8).unwrap();
        cell.read_write(1, 7, 8).unwrap();
    }

    #[test]
    fn a_value_once_read_does_not_go_back() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.read_write(1, 2, 3).unwrap();
        assert!(cell.read_zeros(4, 5).is_err(), "read although not acknowledged");
    }

    #[test]
    fn concurrent_writes_take_either_order_but_one() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.submit(2, false, 2, 2);
        cell.acknowledge(1, 3);
        cell.acknowledge(2, 4);
        let mut other = cell.clone();
        cell.read_write(2, 5, 6).unwrap();
        other.read_write(1, 5, 6).unwrap();
        assert!(cell.read_write(1, 7, 8).is_err());
        assert!(other.read_write(2, 7, 8).is_err());
    }

    #[test]
    fn order_shown_by_reads_carries_over() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.submit(2, false, 2, 2);
        cell.read_write(1, 3, 4).unwrap();
        cell.read_write(2, 5, 6).unwrap();
        cell.submit(3, false, 7, 7);
        cell.acknowledge(3, 8);
        // 1 before 2 by the reads, 2 before 3 by time
        assert!(cell.clone().read_write(1, 9, 10).is_err());
        assert!(cell.clone().read_write(2, 9, 10).is_err());
        cell.read_write(3, 9, 10).unwrap();
    }

    #[test]
    fn a_daemon_s_death_keeps_what_was_acknowledged() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.acknowledge(1, 2);
        cell.submit(2, false, 3, 3);
        cell.recover(Failure::Daemon, 4);
        assert_eq!(ids(&cell), [1, 2]);
        let mut other = cell.clone();
        cell.read_write(1, 5, 6).unwrap();
        assert!(cell.read_write(2, 7, 8).is_err(), "it did not land and cannot later");
        other.read_write(2, 5, 6).unwrap();
        assert!(other.read_write(1, 7, 8).is_err());
    }

    #[test]
    fn a_machine_s_death_keeps_what_was_flushed() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.acknowledge(1, 2);
        cell.make_durable(1);
        cell.submit(2, false, 3, 3);
        cell.acknowledge(2, 4);
        cell.submit(3, false, 5, 5);
        cell.acknowledge(3, 6);
        let mut daemon = cell.clone();
        daemon.recover(Failure::Daemon, 7);
        assert_eq!(ids(&daemon), [3]);
        cell.recover(Failure::Machine, 7);
        assert_eq!(ids(&cell), [1, 2, 3]);
        cell.read_write(2, 8, 9).unwrap();
        cell.recover(Failure::Machine, 10);
        assert_eq!(ids(&cell), [2], "recovery made durable what it found");
    }

    #[test]
    fn base_versions_precede_all_that_comes_later() {
        let mut cell = Cell::unwritten();
        cell.submit(1, false, 1, 1);
        cell.recover(Failure::Machine, 2);
        cell.submit(2, false, 3, 3);
        cell.acknowledge(2, 4);
        assert!(cell.clone().read_write(1, 5, 6).is_err());
        assert!(cell.clone().read_zeros(5, 6).is_err());
        cell.recover(Failure::Machine, 7);
        assert_eq!(ids(&cell), [0, 1, 2]);
    }

    #[test]
    fn zeros_of_several_origins_are_not_told_apart() {
        let mut cell = Cell::unwritten();
        cell.submit(1, true, 1, 1);
        cell.submit(2, false, 2, 2);
        cell.recover(Failure::Machine, 3);
        cell.read_zeros(4, 5).unwrap();
        assert_eq!(ids(&cell), [0, 1]);
        assert!(cell.read_write(2, 6, 7).is_err());
    }

    #[test]
    fn history_is_forgotten_when_it_cannot_return() {
        let mut cell = Cell::unwritten();
        let mut now = 0;
        for id in 1..100 {
            cell.submit(id, false, now + 1, now + 1);
            cell.acknowledge(id, now + 2);
            cell.make_durable(id);
            now += 2;
        }
        assert!(cell.versions().len() <= 3, "{}", cell.versions().len());
        let mut unflushed = Cell::unwritten();
        for id in 1..20 {
            unflushed.submit(id, false, id * 2, id * 2);
            unflushed.acknowledge(id, id * 2 + 1);
        }
        assert_eq!(unflushed.versions().len(), 20, "any of them may survive");
    }
}
