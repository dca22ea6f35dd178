//! Every input that fuzzing found worth keeping, once more: a decoder that panicked at one would panic here.

use ublk_tests::fuzz::{Corpus, TARGETS, corpus};

#[test]
fn every_decoder_holds_with_its_golden_files_and_all_kept_inputs() {
    for target in TARGETS {
        let samples = target.samples();
        assert!(!samples.is_empty(), "{} has nothing to start from", target.name);
        for sample in &samples {
            let outcome = (target.run)(sample);
            assert!(outcome.accepted || target.name == "control" || target.name == "nbd", "{}: a sample", target.name);
        }
        // loading runs them all
        let kept = Corpus::load(target, &[corpus::kept()]).unwrap_or_else(|e| panic!("{}: {e}", target.name));
        assert!(kept.inputs.len() > samples.len(), "{} keeps nothing", target.name);
    }
}

#[test]
fn kept_inputs_are_those_of_a_target_and_named_after_their_bytes() {
    for entry in corpus::kept().read_dir().unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let target = TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target {name}"));
        let scratch = tempfile::tempdir().unwrap();
        for path in corpus::files(&entry.path()).unwrap() {
            let bytes = corpus::read(&path).unwrap();
            let again = corpus::save(scratch.path(), target, &bytes).unwrap().expect("short enough to be kept");
            assert_eq!(again.file_name(), path.file_name(), "{}", path.display());
        }
    }
}

/// Found by fuzzing: adoption put a header before such a slot's records that no decoder would take.
#[test]
fn a_slot_with_numbers_that_no_batch_has_is_refused() {
    let staging = TARGETS.iter().find(|target| target.name == "staging").unwrap();
    let outcome = (staging.run)(include_bytes!("data/slot-numbers-that-no-batch-has.bin"));
    assert!(!outcome.accepted);
}
