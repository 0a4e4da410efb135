//! Scratch.
use clap::Parser;
#[derive(Parser)]
struct W {
    #[command(flatten)]
    b: millrace_bench::BenchArgs,
}
fn main() -> std::process::ExitCode {
    match millrace_bench::run(W::parse().b) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("Error: {e:#}");
            1.into()
        }
    }
}
