#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xbpipe_fuzz::xbstream_decode(data));
