//! HANDOVER.md numbers 25 behaviours. docs/handover.md says for each by which test it is shown: a function whose name begins with
//! `law_` and the number, or an end-to-end case. Here nobody looks whether the test is any good; only that it is there, and that the table
//! leaves none out.

use std::collections::BTreeMap;

use baton_tests::cases;

/// Where the table is.
const TABLE: &str = "docs/handover.md";
/// The heading above it.
const HEADING: &str = "## Behaviours of HANDOVER.md";
const COUNT: u32 = 25;

/// What is wrong with the table in these files.
pub fn check(files: &[(String, String)]) -> Vec<String> {
    let cases: Vec<&str> = cases::ALL.iter().map(|case| case.name).collect();
    let table = files.iter().find(|(path, _)| path == TABLE).map_or("", |(_, text)| text);
    let sources: Vec<&str> =
        files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| text.as_str()).collect();
    judge(table, &sources, &cases)
}

fn judge(text: &str, sources: &[&str], cases: &[&str]) -> Vec<String> {
    let rows = rows(text);
    let tests: Vec<&str> = sources.iter().flat_map(|source| tests(source)).collect();
    let mut wrong = Vec::new();
    for number in 1..=COUNT {
        let Some(proof) = rows.get(&number) else {
            wrong.push(format!("{TABLE}: there is no row for behaviour {number}"));
            continue;
        };
        let words: Vec<&str> = quoted(proof).collect();
        let named = || words.iter().filter(|word| number_of(word).is_some());
        for name in named() {
            if number_of(name) != Some(number) {
                wrong.push(format!("{TABLE}, behaviour {number}: {name} is another behaviour's"));
            } else if !tests.contains(name) {
                wrong.push(format!("{TABLE}, behaviour {number}: there is no test {name}"));
            }
        }
        let emulated: Vec<&str> = proof.split("e2e `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
        let unknown = emulated.iter().filter(|name| !cases.contains(name));
        wrong.extend(unknown.map(|name| format!("{TABLE}, behaviour {number}: there is no end-to-end case {name}")));
        if named().next().is_none() && emulated.is_empty() && !proof.contains("*open*") {
            wrong.push(format!("{TABLE}, behaviour {number}: neither a test nor *open*"));
        }
        let missing = tests.iter().filter(|test| number_of(test) == Some(number) && !words.contains(test));
        wrong.extend(missing.map(|test| format!("{TABLE}, behaviour {number}: {test} is not in the table")));
    }
    wrong
}

/// The last column of each numbered row below the heading.
fn rows(text: &str) -> BTreeMap<u32, &str> {
    let below = text.split_once(HEADING).map_or("", |(_, below)| below);
    let table = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').splitn(3, '|').map(str::trim);
            let number = cells.next()?.parse().ok()?;
            cells.next()?;
            Some((number, cells.next()?))
        })
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The behaviour that a test says it shows.
fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("law_")?.split('_').next()?.parse().ok()
}

/// Tests that bear a behaviour's number.
fn tests(source: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    source.lines().filter_map(move |line| {
        let line = line.trim_start();
        let was = marked;
        marked = line == "#[test]" || (was && line.starts_with("#["));
        let name = line.strip_prefix("fn ")?.split('(').next()?;
        (was && number_of(name).is_some()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "#[test]\nfn law_1_one() {}\n    #[test]\n    #[cfg(unix)]\n    fn law_2_two(x in 0..1) {}\nfn law_3_no_test() {}\n";

    /// A table whose rows beyond those given are open.
    fn table(rows: &[&str]) -> String {
        let open = (rows.len() + 1..=COUNT as usize).map(|number| format!("| {number} | x | *open* |\n"));
        let given = rows.iter().enumerate().map(|(index, proof)| format!("| {} | x | {proof} |\n", index + 1));
        format!(
            "| 7 | above | - |\n\n{HEADING} and more\n\n| # | b | p |\n|---|---|---|\n{}",
            given.chain(open).collect::<String>()
        )
    }

    #[test]
    fn each_row_names_what_is_there() {
        let judge = |rows: &[&str]| judge(&table(rows), &[SOURCE], &["upgrade"]);
        assert_eq!(judge(&["here: `a.rs` `law_1_one`", "`law_2_two`, e2e `upgrade`"]), Vec::<String>::new());
        for (rows, words) in [
            (["`law_1_one`", "e2e `upgrade`"], "law_2_two is not in the table"),
            (["`law_1_one`, `law_1_gone`", "`law_2_two`"], "there is no test law_1_gone"),
            (["`law_1_one`, `law_2_two`", "`law_2_two`"], "law_2_two is another behaviour's"),
            (["`law_1_one`, e2e `nothing`", "`law_2_two`"], "no end-to-end case nothing"),
        ] {
            let wrong = judge(&rows);
            assert!(wrong.len() == 1 && wrong[0].contains(words), "{wrong:?}");
        }
        let wrong = judge(&["`law_1_one`", "`law_2_two`", "`law_3_no_test`"]);
        assert!(wrong.len() == 1 && wrong[0].contains("there is no test law_3_no_test"), "{wrong:?}");
        let wrong = judge(&["`law_1_one`", "`law_2_two`", "by reading"]);
        assert!(wrong.len() == 1 && wrong[0].contains("behaviour 3: neither"), "{wrong:?}");
    }

    #[test]
    fn no_row_may_be_missing() {
        assert_eq!(judge("", &[], &[]).len(), COUNT as usize);
    }
}
