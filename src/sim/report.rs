//! What a run tells at its end: figures, or why it is red.

use std::collections::BTreeMap;
use std::fmt;

use super::death::LifeSteps;
use super::machine::MachineStats;
use super::plan::Failing;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hash of everything that happened: the same for the same seed.
    pub digest: u64,
    /// Events in it.
    pub events: u64,
    /// Replies without an error.
    pub good: u64,
    /// Replies with an error.
    pub bad: u64,
    /// Writes that the oracle knows of.
    pub writes: usize,
    /// Of the media.
    pub machine: MachineStats,
    /// Daemons that died before they served.
    pub unserved: u32,
    /// What the daemons did, by name.
    pub marks: BTreeMap<&'static str, u64>,
    /// Steps of each life that was to be followed by another.
    pub lives: Vec<LifeSteps>,
}

/// Why a run is red.
#[derive(Clone, Debug)]
pub struct Red {
    /// Of this seed.
    pub seed: u64,
    /// On media that fail like this.
    pub failing: Failing,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// What happened last: on media, then at hosts.
    pub recent: Vec<String>,
}

impl fmt::Display for Red {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} is red:", self.seed)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        writeln!(f, "what happened last:")?;
        for event in &self.recent {
            writeln!(f, "    {event}")?;
        }
        let Self { seed, failing, .. } = self;
        write!(
            f,
            "to run it again: PLICA_SIM_SEED={seed} PLICA_SIM_FAILING={failing} cargo test -p ublk-tests --test simulation \
             one_seed"
        )
    }
}
