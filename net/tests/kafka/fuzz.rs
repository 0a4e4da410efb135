//! Replays the stored corpus and throws seeded mutations of it at the session and the decoders,
//! with an eye on memory.
//!
//! A longer run: `MILLRACE_FUZZ_CASES=5000000 cargo test -p millrace-net --test kafka mutations`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use millrace_net::kafka::fuzz;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::hostile::serve_within_bounds;
use crate::samples;

const CASES: u64 = 50_000;
/// Mutations of one case, at most.
const MUTATIONS_MAX: u32 = 6;

fn corpus_directory() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fuzz/corpus/kafka"
    ))
}

/// File name and contents, in name order.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(corpus_directory()).expect("the corpus is in the tree");
    let files = files.map(|file| {
        let file = file.expect("readable");
        let name = file.file_name().into_string().expect("our names are UTF-8");
        (name, fs::read(file.path()).expect("readable"))
    });
    files.collect()
}

/// What the corpus holds of good requests: a stream an API, one request a version.
fn streams() -> BTreeMap<String, Vec<u8>> {
    let mut streams: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for sample in samples::all() {
        let stream = streams.entry(format!("{}.bin", sample.api)).or_default();
        stream.extend(sample.frame);
    }
    streams
}

/// Writes the good part of the corpus anew, when told to; the hostile part is kept by hand.
fn store_if_asked() {
    if std::env::var_os("MILLRACE_STORE_CORPUS").is_some() {
        for (name, stream) in streams() {
            fs::write(corpus_directory().join(name), stream).expect("writable");
        }
    }
}

#[test]
fn the_stored_corpus_is_served_within_bounds() {
    store_if_asked();
    let corpus = corpus();
    for (name, stream) in streams() {
        assert_eq!(
            corpus.get(&name),
            Some(&stream),
            "{name}: samples changed: MILLRACE_STORE_CORPUS=1"
        );
    }
    for (name, input) in corpus {
        let served = serve_within_bounds(&input);
        let is_hostile = name.starts_with("hostile-");
        assert_eq!(
            served.result.is_err(),
            is_hostile,
            "{name}: {:?}",
            served.result
        );
        if let Ok(taken) = served.result {
            assert_eq!(taken.bytes, input.len(), "{name}: taken whole");
        }
        decoders(&input);
    }
}

#[test]
fn mutations_of_the_corpus_are_served_within_bounds() {
    let cases = std::env::var("MILLRACE_FUZZ_CASES");
    let cases = cases.map_or(CASES, |cases| cases.parse().expect("a number"));
    let frames: Vec<Vec<u8>> = samples::all()
        .into_iter()
        .map(|sample| sample.frame)
        .collect();
    let seed = 0x6d69_6c6c;
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    for case in 0..cases {
        let input = mutated(&mut rng, &frames);
        let served = std::panic::catch_unwind(|| {
            decoders(&input);
            serve_within_bounds(&input);
        });
        assert!(served.is_ok(), "seed {seed:#x} case {case}: {input:02x?}");
    }
}

/// The decoders on their own, which see bodies without a sound header too.
fn decoders(input: &[u8]) {
    fuzz::frame(input);
    fuzz::walker(input);
    fuzz::produce(input);
    fuzz::fetch(input);
    if let Some(frame) = input.get(4..) {
        // Key, version and body as the decoders take them; the header between stays in.
        let version = frame.get(3).copied().unwrap_or(0);
        let rest = frame.get(8..).unwrap_or_default();
        fuzz::walker(&[&[frame.get(1).copied().unwrap_or(0), version], rest].concat());
        fuzz::produce(&[&[version], rest].concat());
        fuzz::fetch(&[&[version], rest].concat());
    }
}

/// One or two requests with a few changes. The frame's length is mostly made to fit again, or
/// nothing behind it would be tested.
fn mutated(rng: &mut Pcg64Mcg, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut input = frames[below(rng, frames.len())].clone();
    for _ in 0..=rng.next_u32() % MUTATIONS_MAX {
        mutate(rng, &mut input, frames);
    }
    if !rng.next_u32().is_multiple_of(8) && input.len() >= 4 {
        let length = u32::try_from(input.len() - 4).expect("short");
        input[..4].copy_from_slice(&length.to_be_bytes());
    }
    if rng.next_u32().is_multiple_of(4) {
        input.extend(&frames[below(rng, frames.len())]);
    }
    input
}

fn mutate(rng: &mut Pcg64Mcg, input: &mut Vec<u8>, frames: &[Vec<u8>]) {
    const NUMBERS: [u64; 10] = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        u64::MAX,
    ];
    if input.is_empty() {
        input.push(0);
    }
    let at = below(rng, input.len());
    match rng.next_u32() % 6 {
        0 => input[at] ^= 1 << (rng.next_u32() % 8),
        1 => input[at] = rng.next_u32().to_le_bytes()[0],
        2 => {
            let number = NUMBERS[below(rng, NUMBERS.len())].to_be_bytes();
            let bytes = &number[8 - [1, 2, 4, 8][below(rng, 4)]..];
            let end = (at + bytes.len()).min(input.len());
            input[at..end].copy_from_slice(&bytes[..end - at]);
        }
        3 => {
            let bytes = rng.next_u64().to_le_bytes();
            let count = below(rng, 9);
            input.splice(at..at, bytes[..count].iter().copied());
        }
        4 => {
            let end = (at + below(rng, 9)).min(input.len());
            input.drain(at..end);
        }
        _ => {
            let other = &frames[below(rng, frames.len())];
            let from = below(rng, other.len());
            input.truncate(at);
            input.extend(&other[from..]);
        }
    }
}

fn below(rng: &mut Pcg64Mcg, end: usize) -> usize {
    usize::try_from(rng.next_u32()).expect("it fits") % end
}
