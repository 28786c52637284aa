//! Who may lead by one Lease: the rules alone, as `coordination.k8s.io/v1` has the fields. Pure: time is an argument, and
//! what the API server says comes in and what to ask of it goes out.
//!
//! No wall clock decides anything. A holder counts its term from before it asked for it; everybody else counts from when
//! it first saw the record that the holder wrote, which is later. So a term is over for its holder before it is for others.

use std::time::Duration;

use crate::daemon::{Moment, Term};

/// How a Lease is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long nobody else takes a Lease after it was renewed.
    pub duration: Duration,
    /// How long after it was renewed its holder may begin updates; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Between two attempts to renew or to take it; shorter than `renew_deadline`.
    pub retry_period: Duration,
}

/// A Lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its `resourceVersion`: another one after each change.
    pub version: String,
    /// Who holds it.
    pub holder: Option<String>,
    /// How long its holder wants to be left alone after each renewal.
    pub duration: Option<Duration>,
    /// Whether somebody ever held it: a Lease that is not held and was is one that was released.
    pub used: bool,
    /// Who asked its holder to hand it over.
    pub wanted_by: Option<String>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the Lease, held by nobody.
    Create,
    /// Write oneself into it: to take it, or to renew it.
    Hold,
    /// Leave it alone.
    Wait,
}

/// One candidate for one Lease.
#[derive(Debug)]
pub struct Election {
    me: String,
    times: Times,
    /// What was seen last, and when it was seen first.
    seen: Option<(Record, Moment)>,
    term: Option<Term>,
}

impl Election {
    /// A candidate that knows nothing. `me` is no other's name, not even that of an earlier process.
    #[must_use]
    pub fn new(me: String, times: Times) -> Self {
        Self { me, times, seen: None, term: None }
    }

    /// The API server was asked for the Lease, and has this, or none.
    pub fn saw(&mut self, record: Option<Record>, now: Moment) {
        if record.as_ref().is_none_or(|record| record.holder.as_ref() != Some(&self.me)) {
            self.term = None;
        }
        match (&self.seen, record) {
            (Some((known, _)), Some(record)) if known.version == record.version => {}
            (_, record) => self.seen = record.map(|record| (record, now)),
        }
    }

    /// The Lease was written as this record, by a request that was sent at `asked`, and this candidate holds it.
    pub fn held(&mut self, record: Record, asked: Moment) {
        let Times { duration, renew_deadline, .. } = self.times;
        // Clocks do not run alike, and an update that is given up may be on its way for another moment.
        let margin = duration.saturating_sub(renew_deadline) / 4;
        self.term = Some(Term { renew_by: asked.after(renew_deadline), ends: asked.after(duration - margin) });
        self.seen = Some((record, asked));
    }

    /// This candidate wrote something into the Lease that says nothing of its holder.
    pub fn noted(&mut self, record: Record) {
        if let Some((known, _)) = &mut self.seen {
            *known = record;
        }
    }

    /// The Lease is given up, before anybody is told.
    pub fn give_up(&mut self) {
        self.term = None;
    }

    /// What was seen last.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.seen.as_ref().map(|(record, _)| record)
    }

    /// Who holds the Lease, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.record()?.holder.as_deref()
    }

    /// The term of this candidate, where it has one that is not over.
    #[must_use]
    pub fn term(&self, now: Moment) -> Option<Term> {
        self.term.filter(|term| now < term.renew_by)
    }

    /// What to do, after the Lease was [seen](Self::saw).
    #[must_use]
    pub fn step(&self, now: Moment) -> Step {
        let Some((record, first)) = &self.seen else { return Step::Create };
        let age = now.since(*first);
        let Times { duration, retry_period, .. } = self.times;
        let free = match &record.holder {
            Some(holder) => *holder == self.me || age >= record.duration.unwrap_or(duration).max(duration),
            // Somebody may have deleted it, and its holder does not know yet.
            None if !record.used => age >= duration,
            // Whoever asked for it goes first.
            None => record.wanted_by.as_ref().is_none_or(|by| *by == self.me) || age >= retry_period * 2,
        };
        if free { Step::Hold } else { Step::Wait }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn at(milliseconds: u64) -> Moment {
        Moment::at(Duration::from_millis(milliseconds))
    }

    fn record(version: u64, holder: Option<&str>) -> Record {
        let (holder, duration) = (holder.map(str::to_owned), Some(TIMES.duration));
        Record { version: version.to_string(), holder, duration, used: true, wanted_by: None }
    }

    #[test]
    fn a_lease_is_taken_a_whole_duration_after_its_record_was_seen_first() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.saw(Some(record(1, Some("other"))), at(0));
        one.saw(Some(record(1, Some("other"))), at(14_000));
        assert_eq!((one.step(at(14_999)), one.step(at(15_000))), (Step::Wait, Step::Hold));
        // Renewed: it is another record.
        one.saw(Some(record(2, Some("other"))), at(15_000));
        assert_eq!((one.step(at(29_999)), one.step(at(30_000))), (Step::Wait, Step::Hold));
        // Whoever wants to be left alone for longer is.
        let longer = Record { duration: Some(Duration::from_secs(60)), ..record(3, Some("other")) };
        one.saw(Some(longer), at(30_000));
        assert_eq!((one.step(at(89_999)), one.step(at(90_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn a_released_lease_is_taken_at_once_unless_somebody_else_asked_for_it() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.saw(Some(record(1, None)), at(0));
        assert_eq!(one.step(at(0)), Step::Hold);
        one.saw(Some(Record { wanted_by: Some("one".to_owned()), ..record(2, None) }), at(0));
        assert_eq!(one.step(at(0)), Step::Hold);
        one.saw(Some(Record { wanted_by: Some("other".to_owned()), ..record(3, None) }), at(0));
        assert_eq!((one.step(at(3_999)), one.step(at(4_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn a_lease_that_nobody_ever_held_is_taken_a_whole_duration_later() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.saw(None, at(0));
        assert_eq!(one.step(at(0)), Step::Create);
        one.saw(Some(Record { used: false, ..record(1, None) }), at(1_000));
        assert_eq!((one.step(at(15_999)), one.step(at(16_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn a_term_counts_from_before_it_was_asked_for_and_ends_when_another_holder_is_seen() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.held(record(1, Some("one")), at(1_000));
        let term = one.term(at(9_000)).unwrap();
        assert_eq!((term.renew_by, term.ends), (at(11_000), at(14_750)));
        assert_eq!(one.term(at(11_000)), None);
        // An answer that never came: it is in the record all the same, and taken up by asking again.
        one.saw(Some(record(2, Some("one"))), at(9_000));
        assert!(one.term(at(9_000)).is_some());
        assert_eq!(one.step(at(12_000)), Step::Hold);
        one.saw(Some(record(3, Some("other"))), at(9_000));
        assert_eq!(one.term(at(9_000)), None);
    }

    /// The API server, as far as one Lease goes.
    #[derive(Default)]
    struct Server {
        version: u64,
        lease: Option<Record>,
    }

    impl Server {
        fn write(&mut self, record: Record, over: Option<&str>) -> Option<Record> {
            if self.lease.as_ref().map(|lease| lease.version.as_str()) != over {
                return None;
            }
            self.version += 1;
            self.lease = Some(Record { version: self.version.to_string(), ..record });
            self.lease.clone()
        }
    }

    #[derive(Clone)]
    enum Ask {
        Get,
        Write { record: Record, over: Option<String> },
    }

    /// A request on its way: when it gets there, when its answer is back, and until when that is waited for.
    #[derive(Clone)]
    struct Flight {
        ask: Ask,
        asked: Moment,
        lands: u64,
        answers: u64,
        given_up: u64,
        answer: Option<Option<Record>>,
    }

    struct Replica {
        me: String,
        election: Election,
        /// Its machine was started at another time.
        uptime: u64,
        flight: Option<Flight>,
        frozen: u64,
        turn: u64,
        /// Until when updates of it may be under way.
        writes: u64,
    }

    impl Replica {
        fn ask(&mut self, ask: Ask, now: u64, random: &mut fastrand::Rng) {
            let slow = if random.u8(..8) == 0 { 9_000 } else { 300 };
            // Some never get there.
            let lands = if random.u8(..8) == 0 { u64::MAX } else { now + random.u64(..slow) };
            let answers = lands.saturating_add(random.u64(..slow));
            let asked = self.moment(now);
            self.flight = Some(Flight { ask, asked, lands, answers, given_up: now + 5_000, answer: None });
        }

        fn moment(&self, now: u64) -> Moment {
            at(self.uptime + now)
        }

        fn hold(&mut self, now: u64, random: &mut fastrand::Rng) {
            let seen = self.election.record();
            let over = seen.map(|record| record.version.clone());
            let record = record(0, Some(&self.me));
            self.ask(Ask::Write { record, over }, now, random);
        }

        /// What a [`super::super::Lease`] does in its turn.
        fn go_on(&mut self, now: u64, random: &mut fastrand::Rng) {
            match self.flight.take() {
                None if now < self.turn => {}
                None if self.election.term(self.moment(now)).is_some() => {
                    if random.u8(..40) == 0 {
                        // It gives the Lease up, with no update under way.
                        self.election.give_up();
                        self.writes = now;
                        let over = self.election.record().map(|record| record.version.clone());
                        self.ask(Ask::Write { record: record(0, None), over }, now, random);
                    } else {
                        self.hold(now, random);
                    }
                }
                None => self.ask(Ask::Get, now, random),
                Some(Flight { answer: Some(answer), ask, asked, answers, .. }) if answers <= now => match (ask, answer)
                {
                    (Ask::Get, found) => {
                        self.election.saw(found, self.moment(now));
                        let over = self.election.record().map(|record| record.version.clone());
                        match self.election.step(self.moment(now)) {
                            Step::Hold => self.hold(now, random),
                            Step::Create => {
                                let record = Record { used: false, ..record(0, None) };
                                self.ask(Ask::Write { record, over }, now, random);
                            }
                            Step::Wait if random.u8(..20) == 0 => {
                                let Some(seen) = self.election.record().cloned() else { return };
                                let record = Record { wanted_by: Some(self.me.clone()), ..seen };
                                self.ask(Ask::Write { record, over }, now, random);
                            }
                            Step::Wait => self.turn = now + 2_000,
                        }
                    }
                    (Ask::Write { .. }, None) => self.ask(Ask::Get, now, random),
                    (Ask::Write { record: wanted, .. }, Some(record)) => {
                        if wanted.wanted_by.is_some() {
                            self.election.noted(record);
                        } else if wanted.holder.as_ref() == Some(&self.me) {
                            self.election.held(record, asked);
                        } else {
                            self.election.saw(Some(record), self.moment(now));
                        }
                        self.turn = now + 2_000;
                    }
                },
                Some(flight) if flight.given_up <= now => self.turn = now + 2_000,
                flight => self.flight = flight,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// With requests that are late or lost, answers that never come, replicas that are frozen, and a Lease that is deleted.
        #[test]
        fn no_two_replicas_ever_write_at_once(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut server = Server::default();
            let mut on_their_way: Vec<Flight> = Vec::new();
            let mut replicas: Vec<Replica> = (0..3).map(|n: u64| {
                let (me, uptime) = (n.to_string(), random.u64(..10_000_000));
                let election = Election::new(me.clone(), TIMES);
                Replica { me, election, uptime, flight: None, frozen: 0, turn: 0, writes: 0 }
            }).collect();
            let (mut now, mut led) = (0, 0);
            for _ in 0..4_000 {
                now += random.u64(1..200);
                if random.u16(..400) == 0 {
                    server.lease = None;
                }
                // Those that were given up get there all the same.
                let mut all: Vec<&mut Flight> =
                    replicas.iter_mut().filter_map(|one| one.flight.as_mut()).chain(&mut on_their_way).collect();
                all.sort_by_key(|flight| flight.lands);
                for flight in all {
                    if flight.answer.is_none() && flight.lands <= now {
                        flight.answer = Some(match &flight.ask {
                            Ask::Get => server.lease.clone(),
                            Ask::Write { record, over } => server.write(record.clone(), over.as_deref()),
                        });
                    }
                }
                on_their_way.retain(|flight| flight.answer.is_none() && flight.lands < u64::MAX);
                for n in 0..replicas.len() {
                    let one = &mut replicas[n];
                    if random.u16(..600) == 0 {
                        one.frozen = now + random.u64(..60_000);
                    }
                    if now < one.frozen {
                        continue;
                    }
                    let before = one.flight.clone();
                    one.go_on(now, &mut random);
                    let given_up = one.flight.is_none() && before.as_ref().is_some_and(|f| f.answer.is_none());
                    on_their_way.extend(before.filter(|_| given_up));
                    let term = one.election.term(one.moment(now));
                    if let Some(term) = term {
                        led += 1;
                        one.writes = one.writes.max(now + u64::try_from(term.ends.since(one.moment(now)).as_millis()).unwrap());
                        let others = replicas.iter().enumerate().filter(|(other, _)| *other != n);
                        for (other, replica) in others {
                            prop_assert!(replica.writes <= now, "{n} leads at {now}, and {other} may write until {}", replica.writes);
                        }
                    }
                }
            }
            prop_assert!(led > 100, "somebody led for only {led} steps");
        }
    }
}
