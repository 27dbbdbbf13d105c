#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xbpipe_fuzz::crypt::xbcrypt_decode(data));
