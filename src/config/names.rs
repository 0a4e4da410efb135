//! The nearest right name for a wrong one.

/// Edits that still count as a slip: a third of the name, at least two.
fn distance_max(name: &str) -> usize {
    (name.chars().count() / 3).max(2)
}

/// The candidate that `name` was probably meant to be.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max(name))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, removals and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let names = ["file_bytes", "files", "backend", "groups_in_flight_max"];
        assert_eq!(nearest("flie_bytes", names), Some("file_bytes"));
        assert_eq!(nearest("file", names), Some("files"));
        assert_eq!(
            nearest("group_in_flight_max", names),
            Some("groups_in_flight_max")
        );
        assert_eq!(nearest("zzzzzz", names), None);
    }

    #[test]
    fn distances_count_edits() {
        for (a, b, edits) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), edits);
            assert_eq!(distance(b, a), edits);
        }
    }
}
