//! Who may lead by one Lease: the rules alone, as `coordination.k8s.io/v1` has the fields. Pure: time is an argument, and
//! what the API server says comes in and what to ask of it goes out.
//!
//! No wall clock decides anything. A holder counts its term from before it asked for it; everybody else counts from when
//! it first saw the claim that the holder wrote, which is later. So a term is over for its holder before it is for others.
//! Anybody may write into a Lease: nothing is believed that its holder did not write, not even one's own name.

use std::time::Duration;

use jiff::Timestamp;

use crate::daemon::{Moment, Term};

/// Whatever a record says, its holder is not waited for longer, unless one's own duration is.
const LONGEST: Duration = Duration::from_secs(3600);

/// The duration in a Lease that its holder gave up: with no holder beside it, it may be taken at once.
pub(super) const RELEASED: Duration = Duration::from_secs(1);

/// How many requests without an answer are remembered: each is followed by a look, which finds what became of it.
const UNANSWERED: usize = 16;

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
    /// Who holds it, since when and for how long.
    pub claim: Claim,
    /// Who asked its holder to hand it over.
    pub wanted_by: Option<String>,
    /// Whether its holder gives it to anybody who asks, because it can do nothing with it.
    pub offered: bool,
}

/// What a holder writes, another one at each renewal. The rest of a Lease is anybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Of which Lease it is: one that was made anew is another one.
    pub uid: String,
    /// Its `resourceVersion`, where nobody holds it by a renewal that can be told apart: any change of it may hide a holder
    /// in between.
    pub version: Option<String>,
    /// Who holds it.
    pub holder: Option<String>,
    /// When that one says that it renewed it: told apart from others, and never compared with a clock. Without it, nobody
    /// ever held it.
    pub renewed: Option<Timestamp>,
    /// How long its holder wants to be left alone after each renewal.
    pub duration: Option<Duration>,
    /// How often the holder changed.
    pub transitions: i32,
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
    /// What was seen last, and when its claim was seen first.
    seen: Option<(Record, Moment)>,
    term: Option<Term>,
    /// What this candidate asked to be written as `renewed` since it last knew that it holds the Lease: the answers may have
    /// been lost.
    asked: Vec<Timestamp>,
}

impl Election {
    /// A candidate that knows nothing. `me` is no other's name, not even that of an earlier process.
    #[must_use]
    pub fn new(me: String, times: Times) -> Self {
        Self { me, times, seen: None, term: None, asked: Vec::new() }
    }

    /// The API server was asked for the Lease, and has this, or none.
    pub fn saw(&mut self, record: Option<Record>, now: Moment) {
        let first = match (&self.seen, &record) {
            (Some((known, first)), Some(record)) if known.claim == record.claim => *first,
            _ => now,
        };
        self.seen = record.map(|record| (record, first));
        if !self.holds() {
            self.term = None;
        }
    }

    /// What to write as `renewed`; `clock` is what the wall clock says. It is another one each time, even if the clock stands
    /// still or goes back: others tell by it that the holder is alive.
    pub fn claim(&mut self, clock: Timestamp) -> Timestamp {
        let after = |last: &Timestamp| Timestamp::from_microsecond(last.as_microsecond() + 1).unwrap_or(clock);
        let clock = Timestamp::from_microsecond(clock.as_microsecond()).unwrap_or(clock);
        let claim = self.asked.last().map_or(clock, |last| clock.max(after(last)));
        if self.asked.len() == UNANSWERED {
            self.asked.remove(0);
        }
        self.asked.push(claim);
        claim
    }

    /// The Lease was written as this record, by a request that was sent at `asked`, and this candidate holds it.
    pub fn held(&mut self, record: Record, asked: Moment) {
        let Times { duration, renew_deadline, .. } = self.times;
        self.asked.retain(|asked| record.claim.renewed == Some(*asked));
        self.seen = Some((record, asked));
        // Clocks do not run alike, and an update that is given up may be on its way for another moment.
        let margin = duration.saturating_sub(renew_deadline) / 4;
        let term = Term { renew_by: asked.after(renew_deadline), ends: asked.after(duration - margin) };
        self.term = self.holds().then_some(term);
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
        self.record()?.claim.holder.as_deref()
    }

    /// Whether this candidate holds it, by a claim of its own.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.record().is_some_and(|Record { claim: Claim { holder, renewed, .. }, .. }| {
            holder.as_ref() == Some(&self.me) && renewed.is_some_and(|renewed| self.asked.contains(&renewed))
        })
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
        let Claim { holder, renewed, duration: theirs, .. } = &record.claim;
        let free = match (holder, renewed) {
            _ if self.holds() => true,
            // Whoever asked for it goes first.
            (None, Some(_)) if *theirs == Some(RELEASED) => {
                record.wanted_by.as_ref().is_none_or(|by| *by == self.me) || age >= retry_period * 2
            }
            // Of one that nobody ever held, somebody may have deleted the one before, and its holder does not know yet; and
            // so it is with one whose holder did not take itself out.
            _ => age >= theirs.unwrap_or(duration).min(LONGEST).max(duration),
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

    fn renewed(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    /// A record that its holder wrote as its nth; without a holder it is one that was released.
    fn record(n: i64, holder: Option<&str>) -> Record {
        let duration = if holder.is_some() { TIMES.duration } else { RELEASED };
        let holder = holder.map(str::to_owned);
        let claim = Claim { holder, renewed: Some(renewed(n)), duration: Some(duration), ..Claim::default() };
        Record { claim, wanted_by: None, offered: false }
    }

    /// One that nobody ever held.
    fn unused() -> Record {
        Record { claim: Claim::default(), wanted_by: None, offered: false }
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
        let lasting = |seconds| {
            let mut record = record(3, Some("other"));
            record.claim.duration = Some(Duration::from_secs(seconds));
            record
        };
        one.saw(Some(lasting(60)), at(30_000));
        assert_eq!((one.step(at(89_999)), one.step(at(90_000))), (Step::Wait, Step::Hold));
        // But not for ever.
        one.saw(Some(lasting(u64::MAX)), at(0));
        assert_eq!((one.step(at(3_599_999)), one.step(at(3_600_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn a_change_that_is_no_renewal_prolongs_nothing() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.saw(Some(record(1, Some("dead"))), at(0));
        for n in 1..=3 {
            let wanted_by = Some(n.to_string());
            one.saw(Some(Record { wanted_by, ..record(1, Some("dead")) }), at(n * 5_000 - 1));
        }
        assert_eq!((one.step(at(14_999)), one.step(at(15_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn what_its_holder_did_not_write_is_waited_for() {
        let mut one = Election::new("one".to_owned(), TIMES);
        one.saw(Some(record(1, Some("other"))), at(0));
        // Somebody took the holder out, and nobody knows whether that one knows.
        let mut edited = record(1, Some("other"));
        edited.claim.holder = None;
        one.saw(Some(edited.clone()), at(1_000));
        assert_eq!((one.step(at(15_999)), one.step(at(16_000))), (Step::Wait, Step::Hold));
        // Somebody wrote this candidate's name into it.
        edited.claim.holder = Some("one".to_owned());
        one.saw(Some(edited), at(2_000));
        assert!(!one.holds());
        assert_eq!((one.step(at(16_999)), one.step(at(17_000))), (Step::Wait, Step::Hold));
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
        one.saw(Some(unused()), at(1_000));
        assert_eq!((one.step(at(15_999)), one.step(at(16_000))), (Step::Wait, Step::Hold));
    }

    #[test]
    fn a_term_counts_from_before_it_was_asked_for_and_ends_when_another_holder_is_seen() {
        let mut one = Election::new("one".to_owned(), TIMES);
        assert_eq!(one.claim(renewed(1)), renewed(1));
        one.held(record(1, Some("one")), at(1_000));
        let term = one.term(at(9_000)).unwrap();
        assert_eq!((term.renew_by, term.ends), (at(11_000), at(14_750)));
        assert_eq!(one.term(at(11_000)), None);
        assert_eq!(one.claim(renewed(2)), renewed(2));
        // An answer that never came: it is in the record all the same, and taken up by asking again.
        one.saw(Some(record(2, Some("one"))), at(9_000));
        assert!(one.term(at(9_000)).is_some());
        assert_eq!(one.step(at(12_000)), Step::Hold);
        one.saw(Some(record(3, Some("other"))), at(9_000));
        assert_eq!(one.term(at(9_000)), None);
    }

    #[test]
    fn a_renewal_is_another_one_even_where_the_clock_stands_still_or_goes_back() {
        let mut one = Election::new("one".to_owned(), TIMES);
        let claims = [5, 5, 1, 9].map(|n| one.claim(renewed(n)).as_microsecond());
        assert_eq!(claims, [5_000_000, 5_000_001, 5_000_002, 9_000_000]);
    }

    /// The API server, as far as one Lease goes.
    #[derive(Default)]
    struct Server {
        version: u64,
        lease: Option<Versioned>,
    }

    /// A record, and which of them it is.
    type Versioned = (u64, Record);

    impl Server {
        fn write(&mut self, record: Record, over: Option<u64>) -> Option<Versioned> {
            if self.lease.as_ref().map(|(version, _)| *version) != over {
                return None;
            }
            self.version += 1;
            let made = self.version.to_string();
            let uid = self.lease.take().map_or(made, |(_, record)| record.claim.uid);
            let renewed = record.claim.holder.is_some() && record.claim.renewed.is_some();
            let version = (!renewed).then(|| self.version.to_string());
            self.lease = Some((self.version, Record { claim: Claim { uid, version, ..record.claim }, ..record }));
            self.lease.clone()
        }

        /// Somebody does something to the Lease by hand.
        fn meddle(&mut self, random: &mut fastrand::Rng) {
            let Some((version, mut record)) = self.lease.clone() else { return };
            match random.u8(..4) {
                0 => return self.lease = None,
                1 if random.bool() => record = unused(),
                1 => record.claim.holder = None,
                2 => record.claim.holder = Some(random.u8(..3).to_string()),
                _ => record.wanted_by = Some(random.u8(..3).to_string()),
            }
            self.write(record, Some(version));
        }
    }

    #[derive(Clone)]
    enum Ask {
        Get,
        Write { record: Record, over: Option<u64> },
    }

    /// A request on its way: when it gets there, when its answer is back, and until when that is waited for.
    #[derive(Clone)]
    struct Flight {
        ask: Ask,
        asked: Moment,
        lands: u64,
        answers: u64,
        given_up: u64,
        answer: Option<Option<Versioned>>,
    }

    struct Replica {
        me: String,
        election: Election,
        version: Option<u64>,
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

        fn write(&mut self, record: Record, now: u64, random: &mut fastrand::Rng) {
            self.ask(Ask::Write { record, over: self.version }, now, random);
        }

        fn hold(&mut self, now: u64, random: &mut fastrand::Rng) {
            // Its clock stands still, or goes back, but is no other's clock.
            let renewed = self.election.claim(renewed(random.i64(0..3) + i64::try_from(self.uptime).unwrap()));
            let mut record = record(0, Some(&self.me));
            record.claim.renewed = Some(renewed);
            self.write(record, now, random);
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
                        self.write(record(0, None), now, random);
                    } else {
                        self.hold(now, random);
                    }
                }
                None => self.ask(Ask::Get, now, random),
                Some(Flight { answer: Some(answer), ask, asked, answers, .. }) if answers <= now => match (ask, answer)
                {
                    (Ask::Get, found) => {
                        self.version = found.as_ref().map(|(version, _)| *version);
                        self.election.saw(found.map(|(_, record)| record), self.moment(now));
                        match self.election.step(self.moment(now)) {
                            Step::Hold => self.hold(now, random),
                            Step::Create => self.write(unused(), now, random),
                            Step::Wait if random.u8(..20) == 0 => {
                                let Some(seen) = self.election.record().cloned() else { return };
                                let record = Record { wanted_by: Some(self.me.clone()), ..seen };
                                self.write(record, now, random);
                            }
                            Step::Wait => self.turn = now + 2_000,
                        }
                    }
                    (Ask::Write { .. }, None) => self.ask(Ask::Get, now, random),
                    (Ask::Write { record: wanted, .. }, Some((version, record))) => {
                        self.version = Some(version);
                        if wanted.wanted_by.is_none() && wanted.claim.holder.as_ref() == Some(&self.me) {
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

        /// With requests that are late or lost, answers that never come, replicas that are frozen, and somebody who meddles.
        #[test]
        fn no_two_replicas_ever_write_at_once(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut server = Server::default();
            let mut on_their_way: Vec<Flight> = Vec::new();
            let mut replicas: Vec<Replica> = (0..3).map(|n: u64| {
                let (me, uptime) = (n.to_string(), random.u64(..10_000_000));
                let election = Election::new(me.clone(), TIMES);
                Replica { me, election, version: None, uptime, flight: None, frozen: 0, turn: 0, writes: 0 }
            }).collect();
            let (mut now, mut led) = (0, 0);
            for _ in 0..4_000 {
                now += random.u64(1..200);
                if random.u16(..400) == 0 {
                    server.meddle(&mut random);
                }
                // Those that were given up get there all the same.
                let mut all: Vec<&mut Flight> =
                    replicas.iter_mut().filter_map(|one| one.flight.as_mut()).chain(&mut on_their_way).collect();
                all.sort_by_key(|flight| flight.lands);
                for flight in all {
                    if flight.answer.is_none() && flight.lands <= now {
                        flight.answer = Some(match &flight.ask {
                            Ask::Get => server.lease.clone(),
                            Ask::Write { record, over } => server.write(record.clone(), *over),
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
            prop_assert!(led > 0, "nobody ever led");
        }
    }
}
