//! A scenario as a TOML file: `kind` names a verb of `bench`, every other key is a flag of it, and
//! flags of the command line override the file.
//!
//! The command line itself reads the values, so a file can hold what flags can say and nothing
//! else, and the two never differ.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, Command, FromArgMatches};
use toml::de::{DeTable, DeValue};

use crate::args::{BenchArgs, BenchCommand, RunArgs};

/// Verbs that a file may name.
const KINDS: [&str; 3] = ["produce", "consume", "e2e"];
/// Keys that are no flags: the verb, and a sentence for the report.
const KIND: &str = "kind";
const ABOUT: &str = "about";

/// What a file asks for.
pub(crate) struct ScenarioFile {
    pub(crate) command: BenchCommand,
    /// The file's name without its ending.
    pub(crate) name: String,
    pub(crate) about: Option<String>,
}

/// Reads a file and the flags beside it. Wrong flags are a [`clap::Error`].
pub(crate) fn read(args: &RunArgs) -> anyhow::Result<ScenarioFile> {
    let path = &args.file;
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = File { path, text: &text };
    let (line, about) = file.command_line()?;
    let words = line.into_iter().chain(args.flags.iter().cloned());
    let matches = bench().try_get_matches_from(words)?;
    let parsed = BenchArgs::from_arg_matches(&matches)?;
    Ok(ScenarioFile {
        command: parsed.command.context("the file names a kind")?,
        name: path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into()),
        about,
    })
}

/// The command line of `bench`, as it is.
pub(crate) fn bench() -> Command {
    BenchArgs::augment_args(Command::new("millrace bench")).max_term_width(100)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// The same as a command line, and what the file is about.
    fn command_line(&self) -> anyhow::Result<(Vec<String>, Option<String>)> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let place = self.place(error.span().unwrap_or(0..0));
            anyhow!("{place}: {}", error.message())
        })?;
        let table = table.get_ref();
        let kind = table.iter().find(|(key, _)| key.get_ref() == KIND);
        let Some((_, kind)) = kind else {
            bail!(
                "{}: `{KIND}` is missing; it is one of {}",
                self.path.display(),
                KINDS.join(", ")
            );
        };
        let place = self.place(kind.span());
        let kind = match kind.get_ref() {
            DeValue::String(kind) if KINDS.contains(&kind.as_ref()) => kind.to_string(),
            _ => bail!("{place}: `{KIND}` is one of {}", KINDS.join(", ")),
        };
        let mut line = vec!["millrace bench".to_owned(), kind.clone()];
        let mut about = None;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                KIND => {}
                ABOUT => about = Some(self.scalar(ABOUT, value.get_ref(), value.span())?),
                name => line.extend(self.flag(&kind, name, key.span(), value)?),
            }
        }
        Ok((line, about))
    }

    /// One key as a flag that `kind` takes; `None` for a switch that is off.
    fn flag(
        &self,
        kind: &str,
        name: &str,
        at: Range<usize>,
        value: &toml::Spanned<DeValue<'_>>,
    ) -> anyhow::Result<Option<String>> {
        let flag = match value.get_ref() {
            DeValue::Boolean(false) => {
                self.check(kind, name, at, &format!("--{name}"))?;
                return Ok(None);
            }
            DeValue::Boolean(true) => format!("--{name}"),
            DeValue::Array(items) => {
                let items = items
                    .iter()
                    .map(|item| self.scalar(name, item.get_ref(), item.span()));
                let items = items.collect::<anyhow::Result<Vec<_>>>()?;
                format!("--{name}={}", items.join(","))
            }
            scalar => format!("--{name}={}", self.scalar(name, scalar, value.span())?),
        };
        self.check(kind, name, at, &flag)?;
        Ok(Some(flag))
    }

    fn scalar(&self, name: &str, value: &DeValue<'_>, at: Range<usize>) -> anyhow::Result<String> {
        match value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            _ => bail!(
                "{}: `{name}` is a text, a whole number, true or false, or a list of them",
                self.place(at)
            ),
        }
    }

    /// Has the command line judge one flag alone, so that what is wrong has a line.
    fn check(&self, kind: &str, name: &str, at: Range<usize>, flag: &str) -> anyhow::Result<()> {
        let judged = bench().try_get_matches_from(["millrace bench", kind, flag]);
        let Err(error) = judged else { return Ok(()) };
        let place = self.place(at);
        if error.kind() == clap::error::ErrorKind::UnknownArgument || name == "help" {
            let hint = match error.get(ContextKind::SuggestedArg) {
                Some(ContextValue::String(flag)) => {
                    format!("; did you mean `{}`?", flag.trim_start_matches('-'))
                }
                _ => format!("; `millrace bench {kind} --help` lists all"),
            };
            bail!("{place}: unknown key `{name}`{hint}");
        }
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        bail!(
            "{place}: `{name}`: {}",
            reason.trim_start_matches("error: ")
        )
    }

    fn place(&self, at: Range<usize>) -> String {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Compression;
    use crate::scenario::{Kind, Scenario};
    use crate::sizes::Sizes;

    fn line_of(text: &str) -> Result<Vec<String>, String> {
        let path = Path::new("s.toml");
        let line = File { path, text }.command_line();
        line.map(|(line, _)| line)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_flags() {
        let text = "kind = \"e2e\"\nabout = \"x\"\nrate = 1_000\nsize = \"100..200\"\n\
                    no-verify = true\nfind-max = false\ngenerator-cores = [0, 2]\n";
        let line = line_of(text).expect("well formed");
        let flags = [
            "--generator-cores=0,2",
            "--no-verify",
            "--rate=1000",
            "--size=100..200",
        ];
        let mut sorted = line[2..].to_vec();
        sorted.sort();
        assert_eq!(
            (line[1].as_str(), sorted),
            ("e2e", flags.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn what_is_wrong_has_its_line_and_its_nearest_name() {
        for (text, message) in [
            (
                "kind = \"produce\"\n\nconections = 4\n",
                "s.toml:3: unknown key `conections`; did you mean `connections`?",
            ),
            (
                "kind = \"produce\"\nrate = \"fast\"\n",
                "s.toml:2: `rate`: invalid value 'fast' for '--rate <PER_S>': invalid digit found \
                 in string",
            ),
            (
                "kind = \"produce\"\nzzzzzz = \"1GiB\"\n",
                "s.toml:2: unknown key `zzzzzz`; `millrace bench produce --help` lists all",
            ),
            (
                "kind = \"fly\"\n",
                "s.toml:1: `kind` is one of produce, consume, e2e",
            ),
            (
                "rate = 4\n",
                "s.toml: `kind` is missing; it is one of produce, consume, e2e",
            ),
            (
                "kind = \"produce\"\n[deep]\nrate = 4\n",
                "s.toml:2: `deep` is a text, a whole number, true or false, or a list of them",
            ),
        ] {
            assert_eq!(line_of(text), Err(message.to_owned()));
        }
        let syntax = line_of("kind = \"produce\"\nrate 4\n").expect_err("no TOML");
        assert!(syntax.starts_with("s.toml:2: "), "{syntax}");
    }

    #[test]
    fn flags_override_the_file() {
        let directory = std::env::temp_dir().join(format!("scenario-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("burst.toml");
        fs::write(&path, "kind = \"produce\"\nrate = 5\nsize = 64\n").expect("written");
        let args = RunArgs {
            file: path,
            flags: ["--rate", "7", "--compression=lz4"]
                .map(str::to_owned)
                .to_vec(),
        };
        let file = read(&args).expect("well formed");
        let BenchCommand::Produce(load) = file.command else {
            panic!("produce")
        };
        assert_eq!((load.rate, load.size), (7, Sizes::Fixed(64)));
        assert_eq!(
            (load.compression, file.name.as_str()),
            (Compression::Lz4, "burst")
        );
        let wrong = RunArgs {
            flags: vec!["--rtae=1".into()],
            ..args
        };
        let error = read(&wrong).err().expect("no such flag");
        assert!(error.downcast_ref::<clap::Error>().is_some(), "{error}");
        fs::remove_dir_all(&directory).expect("removed");
    }

    /// Every file beside the results is a scenario that can be run.
    #[test]
    fn the_scenarios_of_this_project_are_right() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../perf/scenarios");
        let mut found = 0;
        for entry in fs::read_dir(directory).expect("it is there") {
            let path = entry.expect("listed").path();
            let name = path.display().to_string();
            let args = RunArgs {
                file: path,
                flags: Vec::new(),
            };
            let file = read(&args).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let scenario = match &file.command {
                BenchCommand::Produce(load) => Scenario::of(Kind::Produce, load),
                BenchCommand::E2e(load) => Scenario::of(Kind::EndToEnd, load),
                BenchCommand::Consume(args) => Scenario::of_consume(args),
                _ => panic!("{name}: not a kind"),
            };
            scenario.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(file.about.is_some(), "{name} does not say what it is about");
            found += 1;
        }
        assert!(found >= 8, "{found} scenarios");
    }
}
