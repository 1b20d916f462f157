//! Plan and immutability: HANDOVER.md, behaviour 1 to 8, against the bookkeeping.

use std::collections::BTreeMap;

use handover::plan::{Book, PlanError, Run, uncovered};
use proptest::prelude::*;

type Name = &'static str;

fn willing(_: Name) -> Result<(), PlanError<Name>> {
    Ok(())
}

/// A guest's memory, its space, two domains that share it, a device in each.
fn book() -> Book<Name> {
    let mut book = Book::new();
    book.register("ram", 1, &[]).unwrap();
    book.register("space", 2, &["ram"]).unwrap();
    book.register("domain a", 3, &["space"]).unwrap();
    book.register("domain b", 4, &["space"]).unwrap();
    book.register("device a", 5, &["domain a"]).unwrap();
    book.register("device b", 6, &["domain b"]).unwrap();
    for name in ["ram", "space", "domain a", "domain b", "device a", "device b"] {
        book.mark(name, true).unwrap();
    }
    book
}

#[test]
fn law_1_only_what_is_marked_is_preserved() {
    let mut book = book();
    book.mark("domain a", false).unwrap();
    book.mark("device b", false).unwrap();
    book.begin().unwrap();
    let before = book.clone();
    assert_eq!(
        book.preserve("device a", &mut willing),
        Err(PlanError::Unmarked { object: "domain a", needed_by: "device a" })
    );
    assert_eq!(
        book.preserve("device b", &mut willing),
        Err(PlanError::Unmarked { object: "device b", needed_by: "device b" })
    );
    assert_eq!(book, before);
    let text = PlanError::Unmarked { object: "domain a", needed_by: "device a" }.to_string();
    assert!(text.contains("device a") && text.contains("domain a"), "{text}");
}

#[test]
fn law_2_uncovered_memory_is_refused_and_asked_for_live() {
    let objects =
        [Run { base: 0x1000, bytes: 0x3000 }, Run { base: 0x4000, bytes: 0x1000 }, Run { base: 0x9000, bytes: 0x1000 }];
    let run = |base, bytes| Run { base, bytes };
    assert_eq!(uncovered(run(0x1000, 0x4000), &objects), None);
    assert_eq!(uncovered(run(0x9000, 0x1000), &objects), None);
    assert_eq!(uncovered(run(0x4000, 0x2000), &objects), Some(run(0x5000, 0x1000)));
    assert_eq!(uncovered(run(0, 0x2000), &objects), Some(run(0, 0x1000)));
    assert_eq!(uncovered(run(0x4000, 0x6000), &objects), Some(run(0x5000, 0x4000)));
    assert_eq!(uncovered(run(0x6000, 0x1000), &objects), Some(run(0x6000, 0x1000)));
    assert_eq!(uncovered(run(0x1000, 0), &objects), None);
    assert_eq!(uncovered(run(u64::MAX, u64::MAX), &objects), None, "an empty run at the end of the address space");

    let mut book = book();
    book.begin().unwrap();
    let mut mapped = run(0x4000, 0x2000);
    let ask = |object, mapped: Run| match uncovered(mapped, &objects) {
        Some(run) if object == "space" => Err(PlanError::Uncovered { object, run }),
        _ => Ok(()),
    };
    let before = book.clone();
    assert_eq!(
        book.preserve("device a", &mut |object| ask(object, mapped)),
        Err(PlanError::Uncovered { object: "space", run: run(0x5000, 0x1000) })
    );
    assert_eq!(book, before);
    // Unmapped meanwhile: the next attempt asks again.
    mapped = run(0x4000, 0x1000);
    assert_eq!(book.preserve("device a", &mut |object| ask(object, mapped)), Ok(()));
}

#[test]
fn law_3_a_shared_space_is_asked_once_and_counted() {
    let mut book = book();
    book.begin().unwrap();
    let mut asked: BTreeMap<Name, u32> = BTreeMap::new();
    let mut verdict = |object| {
        *asked.entry(object).or_default() += 1;
        Ok(())
    };
    book.preserve("device a", &mut verdict).unwrap();
    book.preserve("device b", &mut verdict).unwrap();
    assert_eq!(asked["space"], 1);
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");
    assert_eq!((book.holds("space"), book.holds("domain a")), (2, 1));
    book.release("device a").unwrap();
    assert_eq!(book.mutable("domain a"), Ok(()));
    assert_eq!(book.mutable("space"), Err(PlanError::Busy { object: Some("space") }));
    book.release("device b").unwrap();
    assert_eq!(book.mutable("space"), Ok(()));
}

#[test]
fn law_4_a_frozen_object_is_busy() {
    let mut book = book();
    book.begin().unwrap();
    book.preserve("device a", &mut willing).unwrap();
    let before = book.clone();
    for held in ["device a", "domain a", "space", "ram"] {
        assert_eq!(book.mutable(held), Err(PlanError::Busy { object: Some(held) }));
        assert!(book.unregister(held).is_err());
    }
    assert_eq!(book.mutable("domain b"), Ok(()));
    assert_eq!(book.mutable("nothing"), Err(PlanError::Unknown { object: "nothing" }));
    assert_eq!(book.register("late", 9, &[]), Err(PlanError::Busy { object: None }));
    assert_eq!(book.mark("space", false), Err(PlanError::Busy { object: None }));
    assert_eq!(book, before);
}

#[test]
fn law_5_the_set_is_frozen_before_it_is_counted() {
    let mut book = book();
    book.begin().unwrap();
    book.preserve("space", &mut willing).unwrap();
    book.preserve("device a", &mut willing).unwrap();
    let count = book.freeze().unwrap();
    let before = book.clone();
    assert_eq!(book.preserve("device b", &mut willing), Err(PlanError::Busy { object: Some("device b") }));
    assert_eq!(book.release("device a"), Err(PlanError::Busy { object: Some("device a") }));
    assert_eq!(book.cancel(), Err(PlanError::Busy { object: None }));
    assert_eq!(book, before);
    assert_eq!(book.preserved().count(), count);
    assert_eq!(book.preserved().collect::<Vec<_>>(), [("space", 2), ("device a", 5)]);
    book.end().unwrap();
    assert_eq!(book.preserved().count(), 0);
}

#[test]
fn law_6_twice_is_busy_and_a_token_is_one_objects() {
    let mut book = book();
    assert_eq!(book.register("space", 7, &[]), Err(PlanError::Taken { object: "space", token: 7 }));
    assert_eq!(book.register("other", 2, &[]), Err(PlanError::Taken { object: "other", token: 2 }));
    assert_eq!(book.register("other", 0, &[]), Err(PlanError::Taken { object: "other", token: 0 }));
    assert_eq!(book.register("other", 7, &["nothing"]), Err(PlanError::Unknown { object: "nothing" }));
    assert_eq!(book.by_token(2), Some("space"));
    book.begin().unwrap();
    assert_eq!(book.begin(), Err(PlanError::Busy { object: None }));
    book.preserve("device a", &mut willing).unwrap();
    let before = book.clone();
    assert_eq!(book.preserve("device a", &mut willing), Err(PlanError::Busy { object: Some("device a") }));
    assert_eq!(book, before);
}

#[test]
fn law_7_what_cannot_be_preserved_is_refused_by_name() {
    let mut book = book();
    book.begin().unwrap();
    let before = book.clone();
    let mut verdict = |object: Name| {
        if object == "device a" { Err(PlanError::Unsupported { object, what: "its PASID table" }) } else { Ok(()) }
    };
    let error = book.preserve("device a", &mut verdict).unwrap_err();
    assert_eq!(error, PlanError::Unsupported { object: "device a", what: "its PASID table" });
    assert!(error.to_string().contains("device a") && error.to_string().contains("PASID"));
    assert_eq!(book, before);
}

#[test]
fn needs_protect_what_is_needed() {
    let mut book = book();
    assert_eq!(book.unregister("space"), Err(PlanError::Needed { object: "space", by: "domain a" }));
    for name in ["device a", "device b", "domain a", "domain b", "space", "ram"] {
        book.unregister(name).unwrap();
    }
    assert_eq!(book, Book::new());
}

/// What a test does to a book between begin and cancel.
#[derive(Clone, Debug)]
enum Step {
    Preserve(usize),
    Release(usize),
    Refuse(usize),
    Change(usize),
}

const NAMES: [Name; 6] = ["ram", "space", "domain a", "domain b", "device a", "device b"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4, 0..NAMES.len()).prop_map(|(what, name)| match what {
        0 => Step::Release(name),
        1 => Step::Refuse(name),
        2 => Step::Change(name),
        _ => Step::Preserve(name),
    });
    prop::collection::vec(step, 0..20)
}

/// The holds of each object, from the definition: preserved objects that reach it.
fn model(preserved: &[Name]) -> BTreeMap<Name, u32> {
    let reach: &[(Name, &[Name])] = &[
        ("ram", &["ram"]),
        ("space", &["space", "ram"]),
        ("domain a", &["domain a", "space", "ram"]),
        ("domain b", &["domain b", "space", "ram"]),
        ("device a", &["device a", "domain a", "space", "ram"]),
        ("device b", &["device b", "domain b", "space", "ram"]),
    ];
    let mut holds = BTreeMap::new();
    for name in preserved {
        for held in reach.iter().find(|(from, _)| from == name).unwrap().1 {
            *holds.entry(*held).or_default() += 1;
        }
    }
    holds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Law 8: a thousand plans, each doing something else, each cancelled or ended, and the book is what it was.
    #[test]
    fn law_8_a_thousand_plans_leave_no_trace(plans in prop::collection::vec((steps(), any::<bool>()), 1..16)) {
        let mut book = book();
        let before = book.clone();
        for (plan, frozen) in plans.iter().cycle().take(1000) {
            book.begin().unwrap();
            let mut preserved: Vec<Name> = Vec::new();
            for step in plan {
                match *step {
                    Step::Preserve(at) => {
                        let done = book.preserve(NAMES[at], &mut willing);
                        prop_assert_eq!(done.is_ok(), !preserved.contains(&NAMES[at]));
                        if done.is_ok() { preserved.push(NAMES[at]); }
                    }
                    Step::Release(at) => {
                        let done = book.release(NAMES[at]);
                        prop_assert_eq!(done.is_ok(), preserved.contains(&NAMES[at]));
                        preserved.retain(|name| *name != NAMES[at]);
                    }
                    Step::Refuse(at) => {
                        let earlier = book.clone();
                        let refused = book.preserve(NAMES[at], &mut |object| Err(PlanError::Unsupported { object, what: "anything" }));
                        // Nothing to ask for when all of it is held already.
                        let asked = model(&preserved).len() < model(&[preserved.as_slice(), &[NAMES[at]]].concat()).len();
                        if asked || preserved.contains(&NAMES[at]) {
                            prop_assert!(refused.is_err());
                            prop_assert_eq!(&book, &earlier);
                        } else {
                            preserved.push(NAMES[at]);
                        }
                    }
                    Step::Change(at) => prop_assert_eq!(book.mutable(NAMES[at]).is_err(), model(&preserved).contains_key(NAMES[at])),
                }
                let holds = model(&preserved);
                for name in NAMES {
                    prop_assert_eq!(book.holds(name), holds.get(name).copied().unwrap_or(0), "{}", name);
                }
            }
            if *frozen {
                prop_assert_eq!(book.freeze(), Ok(preserved.len()));
                book.end().unwrap();
            } else {
                book.cancel().unwrap();
            }
            prop_assert_eq!(&book, &before);
        }
    }
}
