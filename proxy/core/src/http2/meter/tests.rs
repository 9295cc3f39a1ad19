#![allow(clippy::disallowed_methods, reason = "the tests need a time to begin with")]

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

fn meter() -> (Meter, Instant) {
    let mut meter = Meter::new(Side::Server, MeterLimits::INGRESS);
    let now = Instant::now();
    meter.received(PREFACE, || now).expect("the preface");
    (meter, now)
}

/// How many of a frame are taken before the meter ends it, 10,000 at most, and why it did.
fn taken(meter: &mut Meter, bytes: &[u8], now: Instant) -> (usize, Option<Excess>) {
    let outcome = (0..10_000).find_map(|n| meter.received(bytes, || now).err().map(|excess| (n, excess)));
    outcome.map_or((10_000, None), |(n, excess)| (n, Some(excess)))
}

#[test]
fn floods_end_at_their_limits() {
    let ping = frame(PING, 0, &[0; 8]);
    let cases = [
        (frame(RST_STREAM, 0, &[0, 0, 0, 8]), 200, Excess::Resets),
        (ping, 1_000, Excess::ControlFrames),
        (frame(SETTINGS, 0, &[]), 1_000, Excess::ControlFrames),
        (frame(DATA, 0, &[]), 10, Excess::EmptyData),
        (frame(PRIORITY, 0, &[0; 5]), 1_000, Excess::Priorities),
        (frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]), 1_000, Excess::WindowUpdates),
    ];
    for (bytes, count, excess) in cases {
        let (mut meter, now) = meter();
        assert_eq!(taken(&mut meter, &bytes, now), (count, Some(excess)));
    }
}

#[test]
fn answers_and_ends_are_no_flood() {
    for bytes in [frame(PING, ACK, &[0; 8]), frame(SETTINGS, ACK, &[]), frame(DATA, END_STREAM, &[])] {
        let (mut meter, now) = meter();
        assert_eq!(taken(&mut meter, &bytes, now), (10_000, None));
    }
}

#[test]
fn what_we_reset_for_the_peers_mistakes_is_in_the_same_budget() {
    let (mut meter, now) = meter();
    let ours = |code| frame(RST_STREAM, 0, &[0, 0, 0, code]);
    for code in [0, 2, 8] {
        for _ in 0..1_000 {
            meter.sent(&ours(code), || now).expect("nobody's fault");
        }
    }
    for _ in 0..100 {
        meter.sent(&ours(1), || now).expect("within the budget");
        meter.received(&ours(8), || now).expect("within the budget");
    }
    assert_eq!(meter.sent(&ours(5), || now), Err(Excess::Resets));
}

#[test]
fn the_budget_of_resets_comes_back() {
    let (mut meter, mut now) = meter();
    let reset = frame(RST_STREAM, 0, &[0, 0, 0, 8]);
    for _ in 0..10 {
        for _ in 0..200 {
            meter.received(&reset, || now).expect("within the budget");
        }
        now += WINDOW;
    }
}

#[test]
fn header_blocks_are_bounded_in_frames_bytes_and_fields() {
    let continued = frame(CONTINUATION, 0, b"\x82");
    let (mut meter, now) = meter();
    meter.received(&frame(HEADERS, 0, b"\x82"), || now).expect("a block begins");
    assert_eq!(taken(&mut meter, &continued, now), (8, Some(Excess::Continuations)));

    let long = frame(HEADERS, 0, &[b"\x40\x01a\x7f\xff\xff\x7f".to_vec(), vec![b'x'; 15_000]].concat());
    let more = frame(CONTINUATION, 0, &[b'x'; 16_000]);
    let (mut meter, now) = self::meter();
    meter.received(&long, || now).expect("short enough");
    assert_eq!(taken(&mut meter, &more, now), (2, Some(Excess::BlockBytes)));

    let (mut meter, now) = self::meter();
    assert_eq!(meter.received(&frame(HEADERS, 0, &[0x82; 1_000]), || now), Ok(()));
    assert_eq!(meter.received(&frame(HEADERS, 0, &[0x82; 1_001]), || now), Err(Excess::Fields));
}

#[test]
fn padding_and_priority_are_no_fields() {
    let (mut meter, now) = meter();
    let mut payload = vec![200, 0, 0, 0, 0, 16];
    payload.extend([0x82; 1_000]);
    payload.extend([0x82; 200]);
    assert_eq!(meter.received(&frame(HEADERS, PADDED | HAS_PRIORITY, &payload), || now), Ok(()));
}

#[test]
fn frames_are_told_apart_wherever_the_bytes_are_cut() {
    let mut bytes = PREFACE.to_vec();
    for part in [
        frame(SETTINGS, 0, &[0; 12]),
        frame(HEADERS, PADDED, &[&[3, 0x82, 0x82][..], &[0; 3]].concat()),
        frame(DATA, 0, &[0; 300]),
        frame(RST_STREAM, 0, &[0, 0, 0, 8]),
    ] {
        bytes.extend(part);
    }
    for size in 1..bytes.len() {
        let mut meter = Meter::new(Side::Server, MeterLimits { resets: 0, ..MeterLimits::INGRESS });
        let now = Instant::now();
        let outcomes: Vec<_> = bytes.chunks(size).map(|part| meter.received(part, || now)).collect();
        let (last, before) = outcomes.split_last().expect("something");
        assert_eq!(*last, Err(Excess::Resets), "in pieces of {size}");
        assert!(before.iter().all(Result::is_ok));
    }
}
