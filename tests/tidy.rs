//! Style as a failing test: the arrows between crates, the unsafe rooms, sizes, and what must never
//! be committed. Every check is a function over text, and each is shown to fail below.

use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a line, at most.
const COLUMNS_MAX: usize = 100;
/// Lines of a function from its `fn` to its closing brace, at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file, at most: past it the file wants a second noun.
const FILE_LINES_MAX: usize = 800;
/// How far above an unsafe block its `SAFETY:` line may stand: the statement may be a long one.
const SAFETY_DISTANCE_LINES_MAX: usize = 12;
/// Files and directories that nobody writes by hand.
const NOT_OURS: [&str; 4] = [".git", "target", "millrace-data", "Cargo.lock"];
/// The only places where unsafe code may live.
const UNSAFE_ROOMS: [&str; 2] = ["storage/src/buf.rs", "net/src/uring/"];
/// Rooms of `net/src/` that must know nothing of each other.
const PROTOCOL_ROOMS: [&str; 6] = ["kafka", "amqp", "resp", "sqs", "stomp", "mqtt"];
/// Path prefix of a crate, and the workspace crates that it must not name.
const ARROWS: [(&str, &[&str]); 4] = [
    ("storage/", &["engine", "net", "bench"]),
    ("engine/", &["net", "bench"]),
    ("net/", &["bench"]),
    ("bench-harness/", &["storage", "engine", "net"]),
];
/// What a state machine must not do for itself: its driver does it.
const DRIVERS_WORK: [&str; 5] = [
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "TcpStream",
    "io_uring",
];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    rule: String,
}

fn finding(line: usize, rule: impl Into<String>) -> Finding {
    Finding {
        line,
        rule: rule.into(),
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut report = Vec::new();
    let mut rust_files = 0;
    for file in files_below(root) {
        let Ok(text) = fs::read_to_string(&file) else {
            continue; // Not text: a stored corpus or a picture.
        };
        let path = file.strip_prefix(root).expect("walked from the root");
        let path = path.to_str().expect("our names are UTF-8");
        rust_files += usize::from(path.ends_with(".rs"));
        for Finding { line, rule } in check_file(path, &text) {
            report.push(format!("{path}:{line}: {rule}"));
        }
    }
    assert!(rust_files > 15, "the walk found the tree");
    assert!(report.is_empty(), "\n{}\n", report.join("\n"));
}

fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = machine_paths(text);
    if path.ends_with("Cargo.toml") {
        findings.extend(arrows(path, text));
    }
    if path.ends_with(".rs") || path.ends_with(".sh") {
        findings.extend(columns(text));
        findings.extend(file_length(text));
    }
    if path.ends_with(".rs") {
        let code = blanked(text);
        findings.extend(module_doc(text));
        findings.extend(arrows(path, &code));
        findings.extend(strangers(path, &code));
        findings.extend(drivers_work(path, &code));
        findings.extend(unsafe_rooms(path, text, &code));
        findings.extend(function_lengths(&code));
        findings.extend(unfinished(&code));
    }
    findings
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("the tree is readable") {
            let entry = entry.expect("the tree is readable");
            let name = entry.file_name();
            let kind = entry.file_type().expect("the tree is readable");
            if NOT_OURS.iter().any(|not_ours| name == *not_ours) {
                continue;
            }
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// Paths that exist on one machine only. Spelled in halves, so that this file passes.
fn machine_paths(text: &str) -> Vec<Finding> {
    let needles = [
        concat!("/wo", "rk/"),
        concat!("/tm", "p/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    numbered(text)
        .filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)))
        .map(|(number, _)| finding(number, "a path of one machine"))
        .collect()
}

fn columns(text: &str) -> Vec<Finding> {
    numbered(text)
        .filter(|(_, line)| line.chars().count() > COLUMNS_MAX)
        .map(|(number, _)| finding(number, format!("more than {COLUMNS_MAX} columns")))
        .collect()
}

fn file_length(text: &str) -> Vec<Finding> {
    let lines = text.lines().count();
    let long = (lines > FILE_LINES_MAX).then(|| {
        finding(
            lines,
            format!("{lines} lines: past {FILE_LINES_MAX} a file wants a second noun"),
        )
    });
    long.into_iter().collect()
}

fn module_doc(text: &str) -> Vec<Finding> {
    let documented = text.lines().next().is_some_and(|l| l.starts_with("//! "));
    let missing = (!documented).then(|| finding(1, "the file does not open with a module doc"));
    missing.into_iter().collect()
}

/// `net -> engine -> storage`, and the load generator alone. Reads code and `Cargo.toml` alike.
fn arrows(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (prefix, forbidden) in ARROWS.iter().filter(|(p, _)| path.starts_with(p)) {
        for (number, line) in numbered(text) {
            for other in *forbidden {
                let named = has_word(line, &format!("millrace_{other}"))
                    || has_word(line, &format!("millrace-{other}"));
                if named {
                    findings.push(finding(number, format!("{prefix} must not name {other}")));
                }
            }
        }
    }
    findings
}

fn strangers(path: &str, code: &str) -> Vec<Finding> {
    let Some(own) = PROTOCOL_ROOMS
        .iter()
        .find(|room| path.starts_with(&format!("net/src/{room}/")))
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        for other in PROTOCOL_ROOMS.iter().filter(|room| *room != own) {
            if line.contains(&format!("crate::{other}")) {
                findings.push(finding(number, format!("{own} must not know {other}")));
            }
        }
    }
    findings
}

fn drivers_work(path: &str, code: &str) -> Vec<Finding> {
    let bound = ["storage/src/", "engine/src/", "net/src/"];
    if !bound.iter().any(|room| path.starts_with(room)) || path.starts_with("net/src/uring/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        for word in DRIVERS_WORK.iter().filter(|word| has_word(line, word)) {
            findings.push(finding(number, format!("{word} is the driver's work")));
        }
    }
    findings
}

fn unsafe_rooms(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let room = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        if !has_word(line, "unsafe") {
            continue;
        }
        let reach = &lines[number.saturating_sub(SAFETY_DISTANCE_LINES_MAX + 1)..number];
        let argued = reach
            .iter()
            .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
        if !room {
            findings.push(finding(number, "unsafe code outside of its rooms"));
        } else if !argued {
            findings.push(finding(number, "unsafe code without its SAFETY line"));
        }
    }
    findings
}

fn unfinished(code: &str) -> Vec<Finding> {
    let marks = ["todo!", "unimplemented!", "#[ignore", "dbg!"];
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        for mark in marks.iter().filter(|mark| line.contains(*mark)) {
            findings.push(finding(number, format!("{mark} is unfinished work")));
        }
    }
    findings
}

fn function_lengths(code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (position, _) in code.match_indices("fn ") {
        let starts_word = !code[..position].ends_with(is_word);
        let named = code[position + 3..].starts_with(is_word);
        if !starts_word || !named {
            continue;
        }
        let Some(end) = body_end(&code[position..]) else {
            continue; // Declared, not defined: a trait's method.
        };
        let lines = code[position..position + end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            let number = code[..position].matches('\n').count() + 1;
            let rule = format!("a function of {lines} lines, more than {FUNCTION_LINES_MAX}");
            findings.push(finding(number, rule));
        }
    }
    findings
}

/// Where the body of the function that `code` begins with ends; `None` if it has none.
fn body_end(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (position, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b';' if brackets == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(position + 1),
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
    })
}

/// `text` with the insides of comments and literals turned to spaces, line by line as before.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let quiet = quiet_length(rest, out.chars().next_back());
        if quiet == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        out.extend(
            rest[..quiet]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' }),
        );
        rest = &rest[quiet..];
    }
    out
}

/// Bytes of the comment or literal that `rest` begins with; 0 if it begins with code.
fn quiet_length(rest: &str, before: Option<char>) -> usize {
    let until = |from: usize, end: &str| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return string_length(rest);
    }
    if rest.starts_with('r') && !before.is_some_and(|c| is_word(c) && c != 'b' && c != 'c') {
        let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return until(2 + hashes, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    if rest.starts_with("'\\") {
        return until(3, "'");
    }
    // A quote that closes after one character is a literal; else it opens a lifetime.
    let mut chars = rest.char_indices().skip(2);
    match chars.next() {
        Some((at, '\'')) if rest.starts_with('\'') => at + 1,
        _ => 0,
    }
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

mod each_check_can_fail {
    use super::*;

    fn rules(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|f| f.rule.as_str()).collect()
    }

    #[test]
    fn blanking_keeps_code_and_lines_and_drops_the_rest() {
        let text =
            "a(\"x}\\\"{\"); // {\nlet c = '{'; fn f<'a>() {} /* { /* } */ \n { */ b r#\"{\"#";
        let code = blanked(text);
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
        assert_eq!(code.matches('{').count(), 1);
        assert!(code.contains("fn f<'a>() {}") && code.contains(" b "));
        assert_eq!(blanked("'\\'' {").trim(), "{");
    }

    #[test]
    fn an_arrow_pointing_up_is_found() {
        let up = arrows("storage/src/x.rs", "use millrace_engine::event;\n");
        assert_eq!(up, [finding(1, "storage/ must not name engine")]);
        assert_eq!(
            arrows("engine/Cargo.toml", "a\nmillrace-net = {}\n")[0].line,
            2
        );
        assert_eq!(
            arrows("bench-harness/src/x.rs", "millrace_net::x()").len(),
            1
        );
        assert!(arrows("net/src/x.rs", "use millrace_engine::event;").is_empty());
    }

    #[test]
    fn rooms_that_know_each_other_are_found() {
        let met = strangers("net/src/kafka/session.rs", "use crate::amqp::frame;");
        assert_eq!(rules(&met), ["kafka must not know amqp"]);
        assert!(strangers("net/src/session.rs", "use crate::amqp::frame;").is_empty());
        assert!(strangers("net/src/kafka/x.rs", "use crate::kafka::frame;").is_empty());
    }

    #[test]
    fn a_state_machine_with_a_clock_is_found() {
        let clock = drivers_work("engine/src/shard.rs", "let t = Instant::now();");
        assert_eq!(rules(&clock), ["Instant::now is the driver's work"]);
        assert!(drivers_work("net/src/uring/driver.rs", "Instant::now()").is_empty());
        assert!(drivers_work("src/serve.rs", "Instant::now()").is_empty());
    }

    #[test]
    fn unsafe_code_needs_a_room_and_an_argument() {
        let block = "let x =\n    unsafe { y() };\n";
        let outside = unsafe_rooms("engine/src/x.rs", block, &blanked(block));
        assert_eq!(outside, [finding(2, "unsafe code outside of its rooms")]);
        let bare = unsafe_rooms("storage/src/buf.rs", block, &blanked(block));
        assert_eq!(bare, [finding(2, "unsafe code without its SAFETY line")]);
        let argued = format!("// SAFETY: y is fine.\n{block}");
        assert!(unsafe_rooms("net/src/uring/ring.rs", &argued, &blanked(&argued)).is_empty());
        let word = "// unsafe\n#![deny(unsafe_code)]\nlet s = \"unsafe\";\n";
        assert!(unsafe_rooms("engine/src/x.rs", word, &blanked(word)).is_empty());
    }

    #[test]
    fn sizes_are_counted() {
        assert_eq!(columns(&"x".repeat(101)).len(), 1);
        assert!(columns(&"é".repeat(100)).is_empty());
        assert_eq!(file_length(&"x\n".repeat(801)).len(), 1);
        assert!(file_length(&"x\n".repeat(800)).is_empty());
        let function = |lines: usize| format!("fn f() {{\n{}}}\n", "x;\n".repeat(lines - 2));
        assert!(function_lengths(&function(70)).is_empty());
        let long = format!("\ntrait T {{ fn g(a: [u8; 2]); }}\n{}", function(71));
        assert_eq!(function_lengths(&long)[0].line, 3);
        assert_eq!(function_lengths(&long).len(), 1);
    }

    #[test]
    fn unfinished_and_undocumented_files_are_found() {
        assert_eq!(unfinished("todo!()")[0].line, 1);
        assert_eq!(unfinished("a\n#[ignore = \"x\"]\n")[0].line, 2);
        assert!(unfinished(&blanked("// todo!()\n")).is_empty());
        assert_eq!(module_doc("use x;\n").len(), 1);
        assert!(module_doc("//! What it owns.\n").is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        assert_eq!(
            machine_paths(concat!("a\ncd /wo", "rk/x")),
            [finding(2, "a path of one machine")]
        );
        assert!(machine_paths("target/debug/x").is_empty());
    }
}
