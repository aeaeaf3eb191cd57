//! What can go wrong, or merely happen: one mishap at a time, thrown by the dice.

use work::enrolment::Phase;
use work::policy::Sources;
use work::source::{Environments, SourceStage};
use work::step::Trouble;
use work::task::Delivery;
use work::{News, SourceId, Step, StepKey, TaskId, Wei};

use super::chain::{DUST_WEI, cents};
use super::{Luck, World, empty_standing, good_standing, source_id, task_id, willing_rig};

/// How far back an echo reaches, in facts.
const ECHO_REACH: u64 = 12;

impl World {
    /// A rig, sources and a first task, as the dice fall.
    pub(crate) fn thrown(seed: u64) -> World {
        let mut rig = willing_rig();
        let mut world = World::new(seed, rig.clone(), good_standing());
        let dice = &mut world.dice;
        rig.max_runs = 1 + usize::from(dice.one_in(2));
        rig.max_runs_per_source = 1 + usize::from(dice.one_in(2));
        rig.max_waiting = 1 + usize::from(dice.one_in(2));
        rig.max_rivals = dice.below(3);
        rig.attempts_itself = !dice.one_in(8);
        world.keeps_snapshots = dice.one_in(4);
        if dice.one_in(6) {
            world.chain.standing = empty_standing();
        }
        let sources = 1 + dice.below(2);
        for number in 0..sources {
            let delivery = if world.dice.one_in(2) { Delivery::Manual } else { Delivery::FirstResponse };
            world.add_source(number, delivery);
            if world.dice.one_in(4) {
                world.registered(source_id(number), true);
            }
        }
        world.rig = rig;
        world
    }

    /// One thing happens.
    pub(crate) fn mishap(&mut self) {
        match self.dice.below(37) {
            0..=11 => self.someone_performs(),
            12..=14 => self.something_is_read(),
            15..=16 => self.echo(),
            17..=18 => self.task_is_published(),
            19..=21 => self.others_act(),
            22 => self.agent_attempts(),
            23 => self.source_changes(),
            24 => self.container_dies(),
            25 => self.standing_changes(),
            26 => self.chain_forgets(),
            27 => self.clock_jumps(),
            28 => self.restart(),
            29 if self.dice.one_in(4) => self.tell(News::DrainAsked),
            34..=35 if self.dice.one_in(3) => self.owner_changes_its_mind(),
            30..=31 => {
                // Now and then later than the peace that the book gives.
                self.now += self.dice.below(150);
                self.tell(News::MemoryShort);
            }
            _ => {
                self.now += self.dice.below(30);
                self.tell(News::Ticked);
            }
        }
    }

    fn someone_performs(&mut self) {
        let Some(key) = self.dice.pick(self.hand.keys().copied().collect::<Vec<_>>().into_iter()) else { return };
        let luck = match self.dice.below(12) {
            0 => Luck::Unheard,
            1 => Luck::Weather,
            2 if self.dice.one_in(4) => Luck::Hopeless,
            _ => Luck::Good,
        };
        self.now += self.dice.below(3);
        self.perform(key, luck);
    }

    fn something_is_read(&mut self) {
        match self.dice.below(4) {
            0 => self.read_standing(),
            1 => {
                let source = self.some_source();
                self.read_source(source);
            }
            _ => {
                if let Some(task) = self.some_task() {
                    self.read_task(task);
                }
            }
        }
    }

    /// Something heard before is heard again: a duplicate, a late answer, or a replica that lags.
    fn echo(&mut self) {
        let reach = usize::try_from(1 + self.dice.below(ECHO_REACH)).expect("it is small");
        let Some(at) = self.ledger.len().checked_sub(reach) else { return };
        let news = self.ledger[at].news.clone();
        let can_echo = matches!(
            news,
            News::TaskRead { .. }
                | News::SourceRead { .. }
                | News::Stood { .. }
                | News::SentHome { .. }
                | News::Looked { .. }
                | News::Fetched { .. }
                | News::Finished { .. }
                | News::Pinned { .. }
                | News::SourceRemoved { .. }
        );
        if can_echo {
            self.tell(news);
        }
    }

    fn task_is_published(&mut self) {
        let number = u64::try_from(self.chain.tasks.len()).expect("it is small");
        if number >= 4 {
            return;
        }
        let sources = u64::try_from(self.chain.sources.len()).expect("it is small");
        let source = self.dice.below(sources);
        let life_s = 20 + self.dice.below(400);
        let task = self.terms(number, source, life_s);
        self.publish(task);
    }

    fn others_act(&mut self) {
        let Some(task) = self.some_task() else { return };
        match self.dice.below(8) {
            0..=2 => self.chain.rival_acts(task, false, self.now),
            3 => self.chain.rival_acts(task, true, self.now),
            4 => self.chain.cancel(task, self.now),
            _ => {
                let prefers_ours = self.dice.one_in(2);
                self.chain.confirm(task, prefers_ours, self.now);
            }
        }
        if self.dice.one_in(2) {
            self.read_task(task);
        }
    }

    fn agent_attempts(&mut self) {
        let Some(task) = self.some_task() else { return };
        if self.chain.attempt(task, cents(40), self.now).is_ok() {
            self.read_task(task);
        }
    }

    fn source_changes(&mut self) {
        let source = self.some_source();
        let now = self.now;
        let reading = self.chain.sources.get_mut(&source).expect("it was picked");
        match self.dice.below(6) {
            0 | 1 => {
                reading.updated_at = now;
                reading.environments = Environments(1 + u8::from(self.dice.one_in(2)));
            }
            2 => reading.is_active = !reading.is_active,
            3 => reading.is_registered = !reading.is_registered,
            4 => {
                reading.is_registered = false;
                return self.tell(News::SourceRemoved { source });
            }
            _ => reading.min_lockup_wei = cents(10 + 200 * self.dice.below(2)),
        }
        if self.dice.one_in(2) {
            self.read_source(source);
        }
    }

    fn container_dies(&mut self) {
        let source = self.some_source();
        if self.up.remove(&source).is_some() {
            self.tell(News::SourceDown { source, why: "it exited".into() });
        }
    }

    fn standing_changes(&mut self) {
        let standing = &mut self.chain.standing;
        match self.dice.below(4) {
            0 => standing.gas_wei = if self.dice.one_in(3) { Wei::ZERO } else { cents(100) },
            1 => standing.vault_wei = cents(5),
            2 => standing.lockup_wei = cents(100 * self.dice.below(2)),
            _ => standing.is_announced = true,
        }
        self.read_standing();
    }

    /// The owner removes the rig, or takes it back.
    fn owner_changes_its_mind(&mut self) {
        if self.chain.standing.is_announced {
            self.chain.remove_provider();
        } else {
            self.chain.announce_provider();
        }
        if self.dice.one_in(2) {
            self.read_standing();
        }
    }

    /// A re-org: our newest transaction is gone, until the outbox sends it again, if it does.
    fn chain_forgets(&mut self) {
        if let Some(task) = self.some_task() {
            self.chain.reorg(task, self.now);
        }
    }

    /// The rig's clock is set: ahead, or back to the truth.
    fn clock_jumps(&mut self) {
        self.ahead_s = if self.ahead_s > 0 { 0 } else { self.dice.below(90) };
        self.tell(News::Ticked);
    }

    /// The provider dies, and may start again with other settings.
    fn restart(&mut self) {
        match self.dice.below(8) {
            0 => self.rig.environments = Environments(1 + 2 * u8::from(self.dice.one_in(2))),
            1 => self.rig.attempts_itself = !self.rig.attempts_itself,
            2 => {
                let listed = if self.dice.one_in(2) { Some(source_id(0)) } else { None };
                self.rig.sources = Sources::Listed(listed.into_iter().collect());
            }
            3 => self.rig.sources = Sources::Any,
            _ => {}
        }
        self.loses_power = self.dice.one_in(3);
        self.crash();
    }

    /// After this nothing more goes wrong: the rig is what it was, and the owner has paid.
    pub(crate) fn mend(&mut self) {
        self.ahead_s = 0;
        self.read_standing();
        // One that is naming its owner at this moment may end up half paired, which only the owner can end.
        let is_announcing = matches!(self.hand.get(&StepKey::Enrol), Some(Step::Announce));
        self.stays_away = self.book.is_going_home() && !is_announcing && self.dice.one_in(2);
        if !self.stays_away {
            self.chain.announce_provider();
        }
        self.chain.standing.gas_wei = cents(100);
        let keys: Vec<StepKey> = self.hand.keys().copied().collect();
        for key in keys {
            if self.dice.one_in(8) && self.hand.contains_key(&key) {
                self.tell(News::Fell { step: key, trouble: Trouble::passing("the last of the bad weather") });
            }
        }
    }

    /// A rig that was removed is at home: nothing of it is left, but what no transfer could bring.
    pub(crate) fn check_home(&self) {
        if !self.stays_away {
            return assert!(!self.book.is_going_home(), "its owner has taken it back: {:#?}", self.book.enrolment());
        }
        let standing = &self.chain.standing;
        assert_eq!(self.book.phase(), Phase::Home, "{:#?}", self.book.enrolment());
        let left = [standing.lockup_wei, standing.unbonding_wei, standing.vault_wei];
        assert_eq!(left, [Wei::ZERO; 3], "it was left in the vault");
        assert!(standing.gas_wei <= DUST_WEI, "{} wei are left on the account", standing.gas_wei);
        assert!(self.up.is_empty(), "it is at home, and {:?} run", self.up);
    }

    /// Clients look at what was answered: some confirm it, some never do.
    pub(crate) fn clients_decide(&mut self) {
        let open: Vec<TaskId> = self.book.open_jobs().map(|job| job.task().id).collect();
        for task in open {
            if !self.dice.one_in(4) {
                let prefers_ours = !self.dice.one_in(4);
                self.chain.confirm(task, prefers_ours, self.now);
            }
        }
    }

    /// A month and more goes by: what no client has confirmed is written off, and nothing waits any more.
    pub(crate) fn let_receivables_grow_old(&mut self) {
        self.now += 31 * 24 * 3_600;
        self.tell(News::Ticked);
        let open: Vec<_> = self.book.open_jobs().collect();
        assert!(open.is_empty(), "a month later it is still open: {open:#?}");
        assert_eq!(self.book.wakes_at(), None, "nothing waits and an alarm is set");
        for source in self.up.keys() {
            let served = &self.book.sources()[source];
            assert!(!matches!(served.stage, SourceStage::Refused { .. }), "a container is left behind: {served:#?}");
        }
        for source in &self.volumes {
            let served = &self.book.sources()[source];
            let is_unwanted = !served.reading.is_registered && !self.rig.wants(*source);
            assert!(!served.is_removed && !is_unwanted, "volumes are left behind: {served:#?}");
        }
    }

    pub(crate) fn registered(&mut self, source: SourceId, is_registered: bool) {
        self.chain.sources.get_mut(&source).expect("only known sources are named").is_registered = is_registered;
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let tasks = u64::try_from(self.chain.tasks.len()).expect("it is small");
        (tasks > 0).then(|| task_id(self.dice.below(tasks)))
    }

    fn some_source(&mut self) -> SourceId {
        let sources = u64::try_from(self.chain.sources.len()).expect("it is small");
        source_id(self.dice.below(sources))
    }
}
