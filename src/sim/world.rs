//! A run: one machine, one pool, several daemons one after the other, and the hosts that live through all of it.
//!
//! ```text
//!   create ─► life 1 ─► death or stop ─► life 2 ─► … ─► last life: everything verified, stopped cleanly
//!   a life: open (recovery) ─► verify ─► clients ─► stop, or dead at any point of all that
//! ```
//!
//! **Failure.** The first violation ends the run: something read that may not be, an error that nothing planned
//! explains, a hang, a panic, or I/O that the contract of media forbids.

mod fate;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use fastrand::Rng;

use super::death::{Death, LifeSteps, Point};
use super::machine::Machine;
use super::oracle::Failure;
use super::order::SeededOrder;
use super::plan::{Failing, JournalKind, Plan, PlannedDeath};
use super::pmem::SimPmem;
pub use super::report::{Red, Report};
use super::shared_memory::SharedMemory;
use super::sink::{Hosts, Sink, Tolerance, lock, serves};
use super::subject::{Host, HostJournal, Local, Serving, Subject};
use super::trace::Trace;
use super::workload::{Desk, Habits, Target, client, read_everything};
use crate::env::{Env, Executor, FileId, Reactor, Rng as EnvRng};
use crate::error::Result;
use crate::format::journal::JournalHeader;

use fate::{Drain, Growth, drained, given, grown, taken};

/// Simulated time a life may last at most.
const LIFE_NS_MAX: u64 = 600_000_000_000;
/// Tasks that may run in a life at most: beyond it the daemon spins.
const TURNS_MAX: u64 = 20_000_000;

/// How a life ended.
enum End {
    Stopped,
    Died,
    /// It reported an error of the media and ended.
    Refused,
    Red(String),
}

/// Runs the plan.
///
/// # Errors
/// What must never happen and did.
pub fn run(subject: &dyn Subject, plan: &Plan) -> std::result::Result<Report, Box<Red>> {
    World::new(plan).run(subject)
}

struct World<'a> {
    plan: &'a Plan,
    rng: Rng,
    machine: Rc<RefCell<Machine>>,
    file: FileId,
    journal: Option<HostJournal>,
    journal_lost: bool,
    /// When lives drain it: a generator of its own, so that all else is drawn as without a journal.
    drains: Rng,
    /// When the medium is enlarged, likewise.
    grows: Rng,
    shared_memory: Rc<RefCell<SharedMemory>>,
    hosts: Arc<Mutex<Hosts>>,
    boot: [u8; 16],
    /// The worst that happened since a daemon last served.
    failure: Failure,
    unserved: u32,
    marks: BTreeMap<&'static str, u64>,
    lives: Vec<LifeSteps>,
}

/// What a daemon's life is made of.
struct Life {
    host: Host,
    desk: Desk,
    habits: Habits,
    failure: Failure,
    verify: bool,
    stop: bool,
    drain: Drain,
    /// It scrubs the pool meanwhile.
    scrubs: bool,
    /// It grows by so much meanwhile.
    growth: Option<Growth>,
    /// Media are well: draining a journal fails for want of space only.
    well: bool,
    serving: Rc<RefCell<Option<Rc<dyn Serving>>>>,
    /// Steps until it was served.
    opening: Rc<RefCell<[u64; 5]>>,
    rng: Rng,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut rng = Rng::with_seed(plan.seed);
        let mut machine = Machine::new(rng.fork(), Trace::new(plan.verbose));
        machine.jumps = plan.clock_jumps.then(|| Rng::with_seed(plan.seed ^ 0x006a_756d_7000));
        let file = machine.add_medium(plan.pool_bytes);
        let journal = plan.journal.map(|journal| {
            let bytes = JournalHeader::bytes_of(journal.segments);
            match journal.kind {
                JournalKind::Memory => HostJournal::Memory(SimPmem::new(usize::try_from(bytes).unwrap_or(0))),
                JournalKind::Block => HostJournal::Block(machine.add_medium(bytes), bytes),
            }
        });
        let well = plan.failing == Failing::Never && !plan.journal.is_some_and(|journal| journal.lost);
        let tolerance = if well { Tolerance::NoSpace } else { Tolerance::MediaErrors };
        let hosts = Hosts::new(tolerance, Trace::new(plan.verbose), plan.seed);
        let boot = rng.u128(..).to_le_bytes();
        Self {
            plan,
            rng,
            machine: Rc::new(RefCell::new(machine)),
            file,
            journal,
            journal_lost: false,
            drains: Rng::with_seed(plan.seed ^ 0x6472_6169_6e00),
            grows: Rng::with_seed(plan.seed ^ 0x6772_6f77_7300),
            shared_memory: Rc::default(),
            hosts,
            boot,
            failure: Failure::Daemon,
            unserved: 0,
            marks: BTreeMap::new(),
            lives: Vec::new(),
        }
    }

    fn run(&mut self, subject: &dyn Subject) -> std::result::Result<Report, Box<Red>> {
        self.create(subject)?;
        for life in 0..self.plan.lives as usize {
            let death = Death::never();
            let silent = self.plan.failing == Failing::Silently;
            let planned = self.plan.deaths.get(life).copied();
            match planned {
                Some(PlannedDeath { at: Some((point, nth)), cut, .. }) => death.plan(point, nth, cut),
                None if !silent => self.plan_death(&death),
                Some(_) | None => {}
            }
            let stop = silent || self.rng.u8(0..3) == 0;
            self.plan_faults();
            let verify = self.rng.u8(0..6) > 0;
            let habits = self.plan.habits.clone();
            let power = planned.map(|planned| planned.power);
            match self.live(subject, &death, habits, verify, stop) {
                End::Red(why) => return Err(self.red(Some(why))),
                End::Stopped => self.after_stop(),
                End::Died => self.after_death(power),
                End::Refused if silent => return Ok(self.report()),
                End::Refused => self.after_death(power),
            }
            if self.is_red() {
                return Err(self.red(None));
            }
        }
        self.finish(subject)
    }

    /// Two lives without a death: what the last recovery found stays, also over a clean stop.
    fn finish(&mut self, subject: &dyn Subject) -> std::result::Result<Report, Box<Red>> {
        self.machine.borrow_mut().faults.clear();
        for requests in [0..8, 0..1] {
            let habits = Habits { requests, ..self.plan.habits.clone() };
            match self.live(subject, &Death::never(), habits, true, true) {
                End::Stopped if !self.is_red() => self.after_stop(),
                End::Refused if self.plan.failing == Failing::Silently && !self.is_red() => break,
                End::Red(why) => return Err(self.red(Some(why))),
                End::Refused => return Err(self.red(Some("the daemon failed although the media are well".into()))),
                End::Stopped | End::Died => return Err(self.red(None)),
            }
        }
        Ok(self.report())
    }

    fn report(&mut self) -> Report {
        self.marks.insert("slots adopted", self.shared_memory.borrow().found_slots);
        self.marks.insert("faults", self.machine.borrow().faults.hits());
        self.marks.insert("writes persistent at once", lock(&self.hosts).persistent);
        let machine = self.machine.borrow();
        let hosts = lock(&self.hosts);
        Report {
            digest: machine.trace.digest() ^ hosts.trace.digest().rotate_left(1),
            events: machine.trace.count() + hosts.trace.count(),
            good: hosts.good,
            bad: hosts.bad.values().sum(),
            writes: hosts.oracle.write_count(),
            machine: machine.stats,
            unserved: self.unserved,
            marks: self.marks.clone(),
            lives: self.lives.clone(),
        }
    }

    fn create(&mut self, subject: &dyn Subject) -> std::result::Result<(), Box<Red>> {
        let death = Death::never();
        let namespaces = self.plan.namespaces.clone();
        for plan in &namespaces {
            // ids are given in order from 1 by whoever creates them; the first life checks that
            let id = u32::try_from(lock(&self.hosts).oracle.namespace_count() + 1).unwrap_or(u32::MAX);
            lock(&self.hosts).oracle.add_namespace(id, plan.size, u64::from(plan.logical_block));
        }
        let (mut executor, host) = self.daemon(&death);
        let result = self.execute(&mut executor, &death, subject.create(host, namespaces));
        self.bury(&death, executor);
        match result {
            Ok(Some(Ok(()))) => {
                self.machine.borrow_mut().daemon_ends();
                Ok(())
            }
            Ok(Some(Err(error))) => Err(self.red(Some(format!("creating the pool failed: {error}")))),
            Ok(None) => Err(self.red(None)),
            Err(panic) => Err(self.red(Some(panic))),
        }
    }

    /// A daemon's surroundings.
    fn daemon(&mut self, death: &Arc<Death>) -> (Executor, Host) {
        let reactor = Reactor::new(Box::new(super::SimBackend::new(self.machine.clone(), death.clone())));
        let executor = Executor::new(reactor.clone(), Box::new(SeededOrder::new(self.rng.fork())));
        let env = Env::new(executor.spawner(), reactor, EnvRng::Seeded(self.rng.fork()));
        let host = Host {
            env,
            machine: self.machine.clone(),
            file: self.file,
            size: self.machine.borrow_mut().medium(self.file).len(),
            made_size: self.plan.pool_bytes,
            journal: self.journal.clone(),
            journal_lost: self.journal_lost,
            journal_late: self.plan.journal.is_some_and(|journal| journal.comes_late),
            shared_memory: self.shared_memory.clone(),
            boot: self.boot,
            death: death.clone(),
            checks: self.plan.failing == Failing::Never && self.rng.u8(0..3) == 0,
        };
        (executor, host)
    }

    fn live(&mut self, subject: &dyn Subject, death: &Arc<Death>, habits: Habits, verify: bool, stop: bool) -> End {
        let (mut executor, host) = self.daemon(death);
        let sink = Sink::new(self.hosts.clone(), death.clone());
        let desk = Desk { hosts: self.hosts.clone(), sink };
        let serving: Rc<RefCell<Option<Rc<dyn Serving>>>> = Rc::default();
        let opening: Rc<RefCell<[u64; 5]>> = Rc::default();
        let life = Life {
            host: host.clone(),
            desk,
            habits,
            failure: self.failure,
            verify,
            stop,
            drain: self.drain(),
            scrubs: self.plan.scrubs,
            growth: self.growth(),
            well: self.plan.failing == Failing::Never,
            serving: serving.clone(),
            opening: opening.clone(),
            rng: self.rng.fork(),
        };
        let open = subject.open(host);
        let result = self.execute(&mut executor, death, life.live(open));
        let was_dead = death.is_dead();
        self.lives.push(LifeSteps { opening: *opening.borrow(), all: death.counts() });
        match serving.take() {
            Some(served) => {
                self.failure = Failure::Daemon;
                served.marks().into_iter().for_each(|(name, count)| *self.marks.entry(name).or_default() += count);
            }
            None => self.unserved += 1,
        }
        self.bury(death, executor);
        match result {
            Err(_) if was_dead => End::Died,
            Err(panic) => End::Red(panic),
            Ok(Some(Err(_))) if !was_dead && self.plan.failing != Failing::Never => End::Refused,
            Ok(Some(Err(error))) if !was_dead => End::Red(format!("the daemon failed: {error}")),
            Ok(Some(Ok(()))) if !was_dead && stop => End::Stopped,
            Ok(_) => End::Died,
        }
    }

    /// Runs until the future is done, the daemon dies, or the run is red.
    fn execute<T: 'static>(
        &self,
        executor: &mut Executor,
        death: &Arc<Death>,
        main: impl Future<Output = T> + 'static,
    ) -> std::result::Result<Option<T>, String> {
        let (machine, hosts, death) = (self.machine.clone(), self.hosts.clone(), death.clone());
        let running_ns = |machine: &Machine| machine.clock - machine.jumped_ns;
        let began = running_ns(&machine.borrow());
        let mut turns = 0;
        let stop = move || {
            turns += 1;
            if !death.step(Point::Task) {
                return true;
            }
            let mut machine = machine.borrow_mut();
            if machine.stalled {
                let waiting = lock(&hosts).waiting_count();
                machine.violation(format!("the daemon hangs; {waiting} requests have no reply"));
            }
            let lasted_ns = running_ns(&machine) - began;
            if turns > TURNS_MAX || lasted_ns > LIFE_NS_MAX {
                machine.violation(format!("no end after {turns} turns and {lasted_ns} ns"));
            }
            !machine.violations.is_empty() || !lock(&hosts).violations.is_empty()
        };
        catch_unwind(AssertUnwindSafe(|| executor.run_until(main, stop))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        })
    }

    /// Takes away everything of a daemon that does not run any more.
    fn bury(&self, death: &Arc<Death>, executor: Executor) {
        // what destructors do has no effect on the world
        death.kill();
        serves(None);
        drop(executor);
        lock(&self.hosts).forget_requests();
    }

    fn is_red(&self) -> bool {
        !self.machine.borrow().violations.is_empty() || !lock(&self.hosts).violations.is_empty()
    }

    fn red(&self, why: Option<String>) -> Box<Red> {
        let machine = self.machine.borrow();
        let hosts = lock(&self.hosts);
        let violations = why.into_iter().chain(machine.violations.clone()).chain(hosts.violations.clone());
        let recent = machine.trace.recent().chain(hosts.trace.recent());
        Box::new(Red {
            seed: self.plan.seed,
            failing: self.plan.failing,
            violations: violations.collect(),
            recent: recent.map(str::to_owned).collect(),
        })
    }
}

impl Life {
    async fn live(self, open: Local<Result<Rc<dyn Serving>>>) -> Result<()> {
        let Self { host, desk, habits, failure, verify, stop, drain, scrubs, growth, well, serving, opening, mut rng } =
            self;
        let pool = open.await?;
        if host.death.is_dead() {
            return Ok(());
        }
        *serving.borrow_mut() = Some(pool.clone());
        serves(Some(pool.clone()));
        *opening.borrow_mut() = host.death.counts();
        lock(&desk.hosts).oracle.recovered(failure);
        desk.hold(&host.death, pool.audit());
        let targets: Vec<Target> =
            pool.clients().into_iter().enumerate().map(|(index, client)| Target { index, client }).collect();
        if verify {
            for target in &targets {
                read_everything(desk.clone(), target.clone(), rng.fork()).await;
            }
            let torn = lock(&desk.hosts).oracle.check_atoms();
            desk.hold(&host.death, torn);
        }
        if scrubs {
            pool.scrub()?;
        }
        let clients: Vec<_> = (0..habits.clients)
            .map(|_| {
                let client = client(host.env.clone(), desk.clone(), targets.clone(), habits.clone(), rng.fork());
                host.env.spawner.spawn(client)
            })
            .collect();
        if let Some(growth) = growth {
            desk.hold(&host.death, grown(&host, &*pool, growth).await);
        }
        match drain {
            Drain::Meanwhile => desk.hold(&host.death, drained(&*pool, well).await),
            Drain::Comes | Drain::Swaps => desk.hold(&host.death, given(&*pool, well).await),
            Drain::GoesAndComes => {
                host.env.sleep_ns(rng.u64(1..5_000_000)).await;
                desk.hold(&host.death, taken(&*pool, well).await);
                desk.hold(&host.death, given(&*pool, well).await);
            }
            Drain::Never | Drain::Afterwards => {}
        }
        for client in clients {
            client.await;
        }
        match drain {
            Drain::Afterwards => desk.hold(&host.death, drained(&*pool, well).await),
            Drain::Swaps => {
                desk.hold(&host.death, taken(&*pool, well).await);
                desk.hold(&host.death, given(&*pool, well).await);
            }
            Drain::Never | Drain::Meanwhile | Drain::Comes | Drain::GoesAndComes => {}
        }
        if well && pool.scrub_damage() > 0 {
            desk.hold(
                &host.death,
                Err(format!("a scrub of media that are well found {} damaged", pool.scrub_damage())),
            );
        }
        desk.hold(&host.death, pool.audit());
        if stop {
            lock(&desk.hosts).stopping = true;
            return pool.stop().await;
        }
        // the end of the life is a death: perhaps while the engine works in the background
        host.env.sleep_ns(rng.u64(1..20_000_000)).await;
        Ok(())
    }
}
