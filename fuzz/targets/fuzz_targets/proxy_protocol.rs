#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| fuzz::proxy_protocol(input.1, usize::from(input.0)));
