#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xbpipe_fuzz::codecs::codec_decode(data));
