//! A circuit breaker over the outcomes of the last calls: closed, open where too many of them failed, then half-open for a
//! few that decide (Nygard, "Release It!"; the rules are those of Resilience4j's COUNT_BASED window).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a breaker opens, and when it closes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// How many calls it looks back on; 1 to 1,000.
    pub size: u32,
    /// With fewer it never opens; 1 to the size.
    pub minimum: u32,
    /// It opens where so many of a hundred failed; 1 to 100.
    pub failure_percent: u32,
    /// How long it stays open.
    pub open: Duration,
    /// How many calls decide whether it closes again; at least 1.
    pub half_open: u32,
    /// Whether each endpoint has one of its own.
    pub is_of_endpoint: bool,
}

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowState {
    /// Calls go through.
    Closed,
    /// No call does.
    Open,
    /// Some do, and decide.
    HalfOpen,
}

/// One breaker.
#[derive(Debug, Default)]
pub struct Window {
    /// The last calls, the oldest first: whether each failed.
    outcomes: VecDeque<bool>,
    failures: u32,
    phase: Phase,
    /// Counts up with each phase: what a call of an earlier one came to says nothing of this one.
    era: u32,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Closed,
    Open {
        since: Instant,
    },
    /// Calls that were let through and have not ended yet.
    HalfOpen {
        under_way: u32,
    },
}

/// The era in which a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass(u32);

impl Window {
    /// Where it is. One that has been open for long enough is so until the next call.
    pub const fn state(&self) -> WindowState {
        match self.phase {
            Phase::Closed => WindowState::Closed,
            Phase::Open { .. } => WindowState::Open,
            Phase::HalfOpen { .. } => WindowState::HalfOpen,
        }
    }

    /// Whether it lets no call through at the moment: it is open for a while still, or those that decide are under way.
    pub fn is_shut(&self, options: &WindowOptions, now: Instant) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Open { since } => now.saturating_duration_since(since) < options.open,
            Phase::HalfOpen { under_way } => under_way + self.outcomes.len() as u32 >= options.half_open,
        }
    }

    /// Lets a call through, or not. Whoever gets a pass tells what came of it: [`Window::note`] or [`Window::give_back`].
    pub fn try_pass(&mut self, options: &WindowOptions, now: Instant) -> Option<Pass> {
        if self.is_shut(options, now) {
            return None;
        }
        if let Phase::Open { .. } = self.phase {
            self.enter(Phase::HalfOpen { under_way: 0 });
        }
        if let Phase::HalfOpen { under_way } = &mut self.phase {
            *under_way += 1;
        }
        Some(Pass(self.era))
    }

    /// Takes what came of a call.
    pub fn note(&mut self, options: &WindowOptions, pass: Pass, failed: bool, now: Instant) {
        if pass.0 != self.era {
            return;
        }
        let size = match &mut self.phase {
            Phase::Closed => options.size,
            Phase::HalfOpen { under_way } => {
                *under_way = under_way.saturating_sub(1);
                options.half_open
            }
            Phase::Open { .. } => return,
        };
        while self.outcomes.len() as u32 >= size {
            let was_failure = self.outcomes.pop_front().unwrap_or_default();
            self.failures -= u32::from(was_failure);
        }
        self.outcomes.push_back(failed);
        self.failures += u32::from(failed);
        let count = self.outcomes.len() as u32;
        let is_failing = self.failures * 100 >= options.failure_percent * count;
        match self.phase {
            Phase::Closed if count >= options.minimum && is_failing => self.enter(Phase::Open { since: now }),
            Phase::HalfOpen { .. } if count >= options.half_open => {
                self.enter(if is_failing { Phase::Open { since: now } } else { Phase::Closed });
            }
            Phase::Closed | Phase::HalfOpen { .. } | Phase::Open { .. } => {}
        }
    }

    /// A call that was let through says nothing of whom it was for: its client left, or we refused it.
    pub fn give_back(&mut self, pass: Pass) {
        if let Phase::HalfOpen { under_way } = &mut self.phase
            && pass.0 == self.era
        {
            *under_way = under_way.saturating_sub(1);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.outcomes.clear();
        self.failures = 0;
        self.era = self.era.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any start does; from there on time is an argument")]

    use super::*;

    /// E1: window 10, 50 %, open for 1,000 ms.
    const SEED: WindowOptions = WindowOptions {
        size: 10,
        minimum: 10,
        failure_percent: 50,
        open: Duration::from_secs(1),
        half_open: 3,
        is_of_endpoint: false,
    };

    /// What becomes of calls, 100 ms apart: `.` went well, `x` failed; in capitals the state after each, `-` for a call that
    /// was not let through.
    fn course(options: &WindowOptions, calls: &str) -> String {
        let start = Instant::now();
        let mut window = Window::default();
        let calls = calls.chars().enumerate().map(|(i, outcome)| {
            let now = start + Duration::from_millis(100) * i as u32;
            let Some(pass) = window.try_pass(options, now) else { return '-' };
            window.note(options, pass, outcome == 'x', now);
            match window.state() {
                WindowState::Closed => 'C',
                WindowState::Open => 'O',
                WindowState::HalfOpen => 'H',
            }
        });
        calls.collect()
    }

    #[test]
    fn the_sequence_of_states_is_that_of_the_outcomes() {
        // Five of ten fail: it opens with the tenth call, for a second; then three calls decide.
        assert_eq!(course(&SEED, "x.x.x.x.xx.............."), "CCCCCCCCCO---------HHCCC");
        // Four of any ten do not.
        assert_eq!(course(&SEED, "xxxx......xxxx......"), "C".repeat(20));
        // The window moves: five of the last ten.
        assert_eq!(course(&SEED, "......xxxxx"), "CCCCCCCCCCO");
        // Two of the three that decide fail: open again; then they go well.
        assert_eq!(course(&SEED, "xxxxxxxxxx.........xx.........x..."), "CCCCCCCCCO---------HHO---------HHC");
        // With fewer calls than the least nothing is known.
        let eager = WindowOptions { minimum: 2, ..SEED };
        assert_eq!(course(&eager, "xx"), "CO");
        assert_eq!(course(&eager, ".x"), "CO");
        assert_eq!(course(&eager, "..x"), "CCC");
    }

    #[test]
    fn half_open_lets_so_many_through_and_a_call_that_says_nothing_gives_its_place_back() {
        let start = Instant::now();
        let mut window = Window::default();
        for _ in 0..10 {
            let pass = window.try_pass(&SEED, start).expect("closed");
            window.note(&SEED, pass, true, start);
        }
        assert_eq!(window.state(), WindowState::Open);
        let later = start + Duration::from_secs(1);
        let passes: Vec<_> = (0..5).map(|_| window.try_pass(&SEED, later)).collect();
        assert_eq!(passes.iter().flatten().count(), 3);
        window.give_back(passes[0].expect("let through"));
        let another = window.try_pass(&SEED, later).expect("a place is free");
        for pass in [passes[1], passes[2], Some(another)].into_iter().flatten() {
            window.note(&SEED, pass, false, later);
        }
        assert_eq!(window.state(), WindowState::Closed);
    }

    #[test]
    fn a_call_of_an_earlier_time_says_nothing() {
        let start = Instant::now();
        let mut window = Window::default();
        let slow = window.try_pass(&SEED, start).expect("closed");
        for _ in 0..10 {
            let pass = window.try_pass(&SEED, start).expect("closed");
            window.note(&SEED, pass, true, start);
        }
        let later = start + Duration::from_secs(1);
        let deciding: Vec<_> = (0..3).filter_map(|_| window.try_pass(&SEED, later)).collect();
        window.note(&SEED, slow, true, later);
        deciding.into_iter().for_each(|pass| window.note(&SEED, pass, false, later));
        assert_eq!(window.state(), WindowState::Closed);
    }
}
