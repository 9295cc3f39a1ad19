#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::writer_round_trip(bytes));
