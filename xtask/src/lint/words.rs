//! What must not stand in a tracked file: it would tie the project to one machine, or pretend to be done.

use baton_tests::paths;

/// A word and why not. Written in two halves, so that this file may have them.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    ("/ro", "ot/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("deb.deb", "ian.org", "a registry's host: take the machine's own configuration"),
    ("static.rust", "-lang.org", "a registry's host: take the machine's own configuration"),
    ("index.crates", ".io", "a registry's host: take the machine's own configuration"),
    ("to", "do!(", "unfinished code"),
    ("unimple", "mented!(", "unfinished code"),
    ("#![fea", "ture(", "stable Rust only"),
];

/// What is wrong with a file.
pub fn check(path: &str, text: &str) -> Vec<String> {
    let root = paths::root().to_string_lossy().into_owned();
    let forbidden = FORBIDDEN.iter().map(|(one, two, why)| (format!("{one}{two}"), *why));
    let forbidden: Vec<_> = forbidden.chain([(root, "a path of one machine")]).collect();
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (word, why) in &forbidden {
            if line.contains(word) {
                wrong.push(format!("{path} line {}: {word}: {why}", number + 1));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn words_are_found_with_their_line() {
        let text = format!("fine\n    {}{}\n", "to", "do!()");
        let wrong = check("some.rs", &text);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with("some.rs line 2"));
        assert!(check("some.rs", "a list of things to do!").is_empty());
    }
}
