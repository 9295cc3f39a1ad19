#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| fuzz::frame_meter(input.1, usize::from(input.0)));
