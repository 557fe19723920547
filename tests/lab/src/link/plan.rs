use std::{fmt, sync::Arc, time::Duration};

use super::packet::TcpSummary;

/// What a direction of the link does to its packets. Built up by methods:
///
/// ```
/// # use flowcar_lab::link::{Only, Plan, When};
/// # use std::time::Duration;
/// let plan = Plan::rtt(Duration::from_millis(20))
///     .jitter(Duration::from_millis(2))
///     .drop(Only::Data, When::Chance(0.01))
///     .seed(7);
/// ```
///
/// Rules are tried in the order in which they were added, for every packet. The same packets in the same
/// order have the same fates, whatever the time.
#[derive(Clone, Debug)]
pub struct Plan {
    delay: Duration,
    jitter: Duration,
    overtaking: bool,
    rules: Vec<Rule>,
    seed: u64,
}

/// Which packets a rule is about. All but `Everything` are about TCP only.
#[derive(Clone)]
pub enum Only {
    /// Every packet, TCP or not.
    Everything,
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// Segments without payload that only acknowledge.
    PureAck,
    /// Segments with payload.
    Data,
    /// Segments with FIN.
    Fin,
    /// Segments with RST.
    Reset,
    /// Segments that the function accepts.
    That(Arc<dyn Fn(&TcpSummary) -> bool + Send + Sync>),
}

/// Which of those packets a rule applies to; the first has number 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All of them.
    Always,
    /// Each with this probability.
    Chance(f64),
    /// The one with this number.
    Nth(u64),
    /// Those up to this number.
    First(u64),
    /// Those after this number.
    After(u64),
    /// Each whose number is a multiple of this.
    Every(u64),
}

#[derive(Clone, Debug)]
struct Rule {
    only: Only,
    when: When,
    act: Act,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Drop,
    Duplicate,
    /// Held back for longer, while others overtake it.
    Hold(Duration),
}

/// A plan in use, with its counts.
#[derive(Debug)]
pub(super) struct Director {
    plan: Plan,
    random: fastrand::Rng,
    /// Packets that each rule was about.
    seen: Vec<u64>,
    /// When the last packet that keeps its place is due.
    last_due: Duration,
}

/// What is to be done to one packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Deliver { due: Duration, copies: u32 },
}

// === impl Plan ===

impl Plan {
    /// Half of a round trip in each direction.
    pub fn rtt(rtt: Duration) -> Self {
        Self::one_way(rtt / 2)
    }

    /// This much in each direction that has the plan.
    pub fn one_way(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            overtaking: false,
            rules: Vec::new(),
            seed: 0,
        }
    }

    /// Delivers nothing from now on: the peer has vanished.
    pub fn nothing_passes() -> Self {
        Self::one_way(Duration::ZERO).drop(Only::Everything, When::Always)
    }

    /// Each delay is uniform in the interval of this much below and above the delay. Packets still arrive
    /// in order (a packet waits for the one before it), unless [`Plan::let_jitter_reorder`].
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// A packet with a shorter delay overtakes the one before it.
    pub fn let_jitter_reorder(mut self) -> Self {
        self.overtaking = true;
        self
    }

    /// Drops packets.
    pub fn drop(self, only: Only, when: When) -> Self {
        self.rule(only, when, Act::Drop)
    }

    /// Delivers packets twice.
    pub fn duplicate(self, only: Only, when: When) -> Self {
        self.rule(only, when, Act::Duplicate)
    }

    /// Holds packets back for this much longer; those that come after them do not wait.
    pub fn hold(self, only: Only, when: When, longer: Duration) -> Self {
        self.rule(only, when, Act::Hold(longer))
    }

    /// Other random numbers than those of seed 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A seed for the way back, so that both directions of one plan have fates of their own.
    pub(super) fn seed_of_the_way_back(&self) -> u64 {
        self.seed ^ u64::MAX
    }

    fn rule(mut self, only: Only, when: When, act: Act) -> Self {
        self.rules.push(Rule { only, when, act });
        self
    }
}

// === impl Only ===

impl Only {
    /// Segments for which `test` holds.
    pub fn that(test: impl Fn(&TcpSummary) -> bool + Send + Sync + 'static) -> Self {
        Self::That(Arc::new(test))
    }

    /// Whether a packet with these TCP headers (none: it is not TCP) is one of them.
    pub fn matches(&self, tcp: Option<&TcpSummary>) -> bool {
        let Some(tcp) = tcp else {
            return matches!(self, Self::Everything);
        };
        match self {
            Self::Everything => true,
            Self::Syn => tcp.is_syn(),
            Self::SynAck => tcp.is_syn_ack(),
            Self::PureAck => tcp.is_pure_ack(),
            Self::Data => tcp.is_data(),
            Self::Fin => tcp.fin,
            Self::Reset => tcp.rst,
            Self::That(test) => test(tcp),
        }
    }
}

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everything => "Everything",
            Self::Syn => "Syn",
            Self::SynAck => "SynAck",
            Self::PureAck => "PureAck",
            Self::Data => "Data",
            Self::Fin => "Fin",
            Self::Reset => "Reset",
            Self::That(_) => "That(..)",
        })
    }
}

// === impl When ===

impl When {
    fn applies_to(self, number: u64, random: &mut fastrand::Rng) -> bool {
        match self {
            Self::Always => true,
            Self::Chance(probability) => random.f64() < probability,
            Self::Nth(nth) => number == nth,
            Self::First(last) => number <= last,
            Self::After(first) => number > first,
            Self::Every(step) => step > 0 && number.is_multiple_of(step),
        }
    }
}

// === impl Director ===

impl Director {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            random: fastrand::Rng::with_seed(plan.seed),
            seen: vec![0; plan.rules.len()],
            plan,
            last_due: Duration::ZERO,
        }
    }

    /// Replaces the plan; packets on their way are still not overtaken.
    pub(super) fn change(&mut self, plan: Plan) {
        *self = Self {
            last_due: self.last_due,
            ..Self::new(plan)
        };
    }

    /// Decides about a packet that entered at `now`.
    pub(super) fn decide(&mut self, now: Duration, tcp: Option<&TcpSummary>) -> Verdict {
        let mut copies = 1;
        let mut held = Duration::ZERO;
        for (rule, seen) in self.plan.rules.iter().zip(&mut self.seen) {
            if !rule.only.matches(tcp) {
                continue;
            }
            *seen += 1;
            if !rule.when.applies_to(*seen, &mut self.random) {
                continue;
            }
            match rule.act {
                Act::Drop => return Verdict::Drop,
                Act::Duplicate => copies += 1,
                Act::Hold(longer) => held += longer,
            }
        }
        let due = now + self.delay();
        if !held.is_zero() {
            return Verdict::Deliver {
                due: due + held,
                copies,
            };
        }
        let due = if self.plan.overtaking {
            due
        } else {
            due.max(self.last_due)
        };
        self.last_due = due;
        Verdict::Deliver { due, copies }
    }

    fn delay(&mut self) -> Duration {
        let Plan { delay, jitter, .. } = self.plan;
        if jitter.is_zero() {
            return delay;
        }
        (delay + jitter.mul_f64(2.0 * self.random.f64())).saturating_sub(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn segment(payload: u32) -> TcpSummary {
        TcpSummary {
            source: "10.0.0.1:1".parse().unwrap(),
            destination: "10.0.0.2:2".parse().unwrap(),
            seq: 0,
            ack: 0,
            window: 0,
            payload,
            syn: false,
            ack_flag: true,
            fin: false,
            rst: false,
        }
    }

    fn at(due: Duration) -> Verdict {
        Verdict::Deliver { due, copies: 1 }
    }

    fn struck(when: When, packets: u64) -> Vec<u64> {
        let mut director = Director::new(Plan::one_way(MS).drop(Only::Data, when));
        (1..=packets)
            .filter(|_| director.decide(MS, Some(&segment(1))) == Verdict::Drop)
            .collect()
    }

    #[test]
    fn rules_apply_to_the_counted_packets() {
        assert_eq!(struck(When::Nth(3), 6), [3]);
        assert_eq!(struck(When::First(2), 6), [1, 2]);
        assert_eq!(struck(When::After(4), 6), [5, 6]);
        assert_eq!(struck(When::Every(2), 6), [2, 4, 6]);
        assert_eq!(struck(When::Always, 2), [1, 2]);
        assert_eq!(struck(When::Every(0), 2), [0_u64; 0]);
    }

    #[test]
    fn a_rule_counts_only_its_own_packets() {
        let mut director = Director::new(Plan::one_way(MS).drop(Only::Data, When::Nth(2)));
        assert_eq!(director.decide(MS, Some(&segment(1))), at(MS * 2));
        assert_eq!(director.decide(MS, Some(&segment(0))), at(MS * 2));
        assert_eq!(director.decide(MS, None), at(MS * 2));
        assert_eq!(director.decide(MS, Some(&segment(1))), Verdict::Drop);
    }

    #[test]
    fn chance_is_seeded_and_about_right() {
        let drops = |seed| {
            let mut director = Director::new(
                Plan::one_way(MS)
                    .drop(Only::Everything, When::Chance(0.05))
                    .seed(seed),
            );
            (0..20_000)
                .map(|_| director.decide(MS, None) == Verdict::Drop)
                .collect::<Vec<_>>()
        };
        assert_eq!(drops(1), drops(1));
        assert_ne!(drops(1), drops(2));
        // 1000 expected, standard deviation 31.
        let count = drops(1).into_iter().filter(|dropped| *dropped).count();
        assert!((850..1150).contains(&count), "{count}");
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_in_order() {
        let plan = Plan::one_way(MS * 10).jitter(MS * 5);
        let mut director = Director::new(plan.clone());
        let mut last = Duration::ZERO;
        for step in 0..1000 {
            let now = MS / 10 * step;
            let Verdict::Deliver { due, .. } = director.decide(now, None) else {
                panic!("dropped")
            };
            assert!(due >= last && due >= now + MS * 5 && due <= now + MS * 15);
            last = due;
        }
        let mut director = Director::new(plan.let_jitter_reorder());
        let dues: Vec<_> = (0..100).map(|_| director.decide(MS, None)).collect();
        assert!(!dues.is_sorted_by_key(|verdict| match verdict {
            Verdict::Deliver { due, .. } => *due,
            Verdict::Drop => panic!("dropped"),
        }));
    }

    #[test]
    fn a_held_packet_is_overtaken_and_a_duplicated_one_comes_twice() {
        let plan = Plan::one_way(MS)
            .hold(Only::Data, When::Nth(1), MS * 4)
            .duplicate(Only::Data, When::Nth(2));
        let mut director = Director::new(plan);
        assert_eq!(director.decide(MS, Some(&segment(1))), at(MS * 6));
        assert_eq!(
            director.decide(MS, Some(&segment(1))),
            Verdict::Deliver {
                due: MS * 2,
                copies: 2
            }
        );
    }

    #[test]
    fn a_new_plan_does_not_let_packets_overtake_those_of_the_old() {
        let mut director = Director::new(Plan::one_way(MS * 50));
        assert_eq!(director.decide(MS, None), at(MS * 51));
        director.change(Plan::one_way(MS));
        assert_eq!(director.decide(MS * 2, None), at(MS * 51));
        assert_eq!(director.decide(MS * 60, None), at(MS * 61));
    }
}
