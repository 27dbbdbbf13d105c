#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xbpipe_fuzz::texts::texts_decode(data));
