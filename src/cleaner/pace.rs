//! How fast to clean, and when writers wait for it: a debt of bytes.
//!
//! ```text
//!   available segments   floor ──────────── half ──────────── start
//!   gain owed per byte   2 (the most)        1                0      of the host
//!   writers wait when    anything is owed    one segment      two    and more are owed
//! ```
//!
//! Each byte that the host appends adds to what is owed, the more the less is available; each byte of space gained takes
//! from it. The cleaner works while anything is owed. Half-way the host gets just what is gained, so the level
//! settles there, and latency rises smoothly with load instead of at the end of the space.

/// A full pressure.
pub const PRESSURE_MAX: u64 = 1024;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    floor: usize,
    span: usize,
    segment_bytes: i64,
    owed: i64,
    /// Somebody cannot go on, whatever seems to be available.
    demanded: bool,
}

impl Pacer {
    /// For a tier of `count` segments of which the host cannot have the last `floor`.
    #[must_use]
    pub fn new(count: usize, floor: usize, segment_bytes: u32) -> Self {
        Self {
            floor,
            span: (count / 64).clamp(3, 32),
            segment_bytes: i64::from(segment_bytes),
            owed: 0,
            demanded: false,
        }
    }

    /// How short space is, 0 to [`PRESSURE_MAX`].
    #[must_use]
    pub fn pressure(&self, available: usize) -> u64 {
        let missing = (self.floor + self.span).saturating_sub(available).min(self.span);
        missing as u64 * PRESSURE_MAX / self.span as u64
    }

    /// The host appended so many bytes.
    pub fn appended(&mut self, bytes: usize, available: usize) {
        let owed = bytes as u64 * self.pressure(available) / (PRESSURE_MAX / 2);
        // bounded, or a burst would be paid for long after space came back
        self.owed = (self.owed + i64::try_from(owed).unwrap_or(i64::MAX / 2)).min(4 * self.segment_bytes);
    }

    /// Cleaning gained so many bytes.
    pub fn gained(&mut self, bytes: u64) {
        self.owed = (self.owed - i64::try_from(bytes).unwrap_or(i64::MAX / 2)).max(-self.segment_bytes);
        self.demanded &= self.owed > 0;
    }

    /// Somebody cannot go on without another segment.
    pub fn demand(&mut self) {
        self.owed = self.owed.max(self.segment_bytes);
        self.demanded = true;
    }

    /// Whether there is cause to clean.
    #[must_use]
    pub fn wants_cleaning(&self, available: usize) -> bool {
        self.owed > 0 && (self.demanded || self.pressure(available) > 0)
    }

    /// Whether a writer should wait for the cleaner.
    #[must_use]
    pub fn holds_back(&self, available: usize) -> bool {
        let pressure = self.pressure(available);
        let slack = self.segment_bytes * i64::try_from(PRESSURE_MAX - pressure).unwrap_or(0) / 512;
        pressure > 0 && self.owed > slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn nothing_is_owed_while_there_is_room() {
        let mut pacer = Pacer::new(64, 4, MIB);
        pacer.appended(1 << 30, 8);
        assert!(!pacer.wants_cleaning(8) && !pacer.holds_back(8));
        assert_eq!((pacer.pressure(7), pacer.pressure(4), pacer.pressure(0)), (0, 1024, 1024));
    }

    #[test]
    fn the_level_settles_where_gains_match_what_is_written() {
        // a cleaner that gains half a segment whenever it works, against a host that never rests
        let mut pacer = Pacer::new(4096, 4, MIB);
        let mut free = 200 * u64::from(MIB);
        let level = |free: u64| usize::try_from(free / u64::from(MIB)).unwrap_or(0);
        let mut waited = 0;
        for step in 0..20_000 {
            if pacer.holds_back(level(free)) {
                waited += 1;
            } else {
                pacer.appended(64 << 10, level(free));
                free -= 64 << 10;
            }
            if pacer.wants_cleaning(level(free)) {
                pacer.gained(32 << 10);
                free += 32 << 10;
            }
            assert!(level(free) >= 4, "at step {step}");
        }
        assert!((12..=28).contains(&level(free)), "{}", level(free));
        assert!(waited > 5000, "half of the time, once the level is there: {waited}");
    }

    #[test]
    fn who_cannot_go_on_is_owed_a_segment() {
        let mut pacer = Pacer::new(64, 4, MIB);
        pacer.demand();
        assert!(pacer.wants_cleaning(4));
        pacer.gained(1 << 30);
        assert!(!pacer.wants_cleaning(4));
    }
}
