//! What one core makes of encryption: `cargo bench --bench crypt -- WHAT` prints MB of content per second, for `benches/run.sh`
//! to compare with `openssl speed`. The work is that of a codec thread, from one buffer into another: all of a chunk's checks,
//! no files and no pipes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement asks the system, prints its result, and fails where it stands"
)]

use xbpipe::codec::{Contexts, Decoder, Encoder, Piece, Split, Unit};
use xbpipe::crypt::age::{AgeDecoder, AgeEncoder, Identity, Recipients};
use xbpipe::crypt::xbcrypt::{Key, XbcryptDecoder, XbcryptEncoder};

/// Content of each turn, in bytes: many chunks, and within the caches as in a run.
const LEN: usize = 256 << 10;

/// How long to measure.
const SECONDS: f64 = 1.0;

fn encoded(encoder: &dyn Encoder, plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let file = encoder.begin(b"n").unwrap();
    let mut out = vec![0; encoder.bound(plain.len())];
    let place = Piece {
        index: 0,
        position: 0,
        last: true,
    };
    let n = file
        .piece(place, plain, &mut out, &mut Contexts::default())
        .unwrap();
    out.truncate(n);
    (file.header(), out)
}

/// The chunks of a file, and where each ends.
fn units(decoder: &dyn Decoder, header: &[u8], payload: &[u8]) -> Vec<(usize, Unit)> {
    let mut splitter = decoder.begin(b"n");
    let (mut units, mut at) = (Vec::new(), 0);
    if !header.is_empty() {
        splitter.feed(header).unwrap();
    }
    while at < payload.len() {
        match splitter.feed(&payload[at..]).unwrap() {
            Split::Unit(n, unit) => {
                at += n;
                units.push((at, unit));
            }
            _ => break,
        }
    }
    units.extend(splitter.finish().unwrap().map(|unit| (payload.len(), unit)));
    units
}

/// Seconds that this thread was on a processor: as `openssl speed` counts, so that others on the machine do not.
fn processor_time() -> f64 {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    line.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Bytes of content in a second of the processor.
fn rate(mut turn: impl FnMut()) -> f64 {
    turn();
    let (begin, mut turns) = (processor_time(), 0_u32);
    loop {
        for _ in 0..16 {
            turn();
        }
        turns += 16;
        let time = processor_time() - begin;
        if time > SECONDS {
            return f64::from(turns) * LEN as f64 / time;
        }
    }
}

fn encryption(encoder: &dyn Encoder) -> f64 {
    let plain = vec![7; LEN];
    let file = encoder.begin(b"n").unwrap();
    let mut out = vec![0; encoder.bound(LEN)];
    let place = Piece {
        index: 0,
        position: 0,
        last: false,
    };
    rate(|| {
        file.piece(place, &plain, &mut out, &mut Contexts::default())
            .unwrap();
    })
}

fn decryption(encoder: &dyn Encoder, decoder: &dyn Decoder) -> f64 {
    let (header, payload) = encoded(encoder, &vec![7; LEN]);
    let units = units(decoder, &header, &payload);
    let mut out = vec![0; LEN];
    rate(|| {
        let mut begin = 0;
        for (end, unit) in &units {
            let n = unit
                .decoder
                .decode(&payload[begin..*end], &mut out, &mut Contexts::default())
                .unwrap();
            assert!(n > 0);
            begin = *end;
        }
    })
}

fn main() -> std::process::ExitCode {
    let what = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let key = Key::new(&[9; 32]).unwrap();
    let identity = Identity::generate().unwrap();
    let age = AgeEncoder::new(Recipients::new([identity.recipient()]).unwrap()).unwrap();
    let xbcrypt = XbcryptEncoder::new(key.clone(), 64 << 10);
    let result = match what.as_deref() {
        Some("xbcrypt-encrypt") => encryption(&xbcrypt),
        Some("xbcrypt-decrypt") => decryption(&xbcrypt, &XbcryptDecoder::new(key)),
        Some("age-encrypt") => encryption(&age),
        Some("age-decrypt") => decryption(&age, &AgeDecoder::new(vec![identity].into())),
        _ => {
            let names = "xbcrypt-encrypt, xbcrypt-decrypt, age-encrypt or age-decrypt";
            eprintln!("which: {names}");
            return 2.into();
        }
    };
    println!("{:.0}", result / 1e6);
    0.into()
}
